package daypass

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Config is what a [Client] is made of. Only URL is needed, and Source to
// exchange or extend.
type Config struct {
	URL       string        // the broker's; a path is kept
	Audience  string        // what CI tokens must name; default: URL without a slash at its end
	Source    Source        // where CI tokens come from; see [Detect]
	HTTP      *http.Client  // default: proxies from the environment, TLS 1.2 or later. Redirects and cookies are switched off in any case
	CACert    string        // a PEM file of roots to trust beside the system's; not with HTTP
	Timeout   time.Duration // of one attempt; default 30 s. The context bounds the whole
	PlainHTTP bool          // allow http:// to hosts other than loopback: whoever is on the way reads the credentials
	UserAgent string        // default "daypass-go/1"
}

// Client speaks to one broker. Make it with [New] or [FromEnv]; it is safe for
// concurrent use.
type Client struct {
	base     string // without a slash at its end
	audience string
	source   Source
	t        transport
	retry    retryPolicy
}

// New makes a client. It contacts nothing.
func New(c Config) (*Client, error) {
	plain := httpsOrLoopback
	if c.PlainHTTP {
		plain = httpAnywhere
	}
	u, err := checkURL(c.URL, "the broker's URL", plain)
	if err != nil {
		return nil, err
	}
	if u.RawQuery != "" || u.ForceQuery {
		return nil, errors.New("the broker's URL must have no query")
	}
	if c.HTTP != nil && c.CACert != "" {
		return nil, errors.New("give HTTP or CACert, not both")
	}
	if c.HTTP == nil {
		c.HTTP = newHTTPClient(nil)
		if c.CACert != "" {
			roots, err := rootsWith(c.CACert)
			if err != nil {
				return nil, err
			}
			c.HTTP = newHTTPClient(roots)
		}
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	if c.UserAgent == "" {
		c.UserAgent = userAgent
	}
	if c.Audience == "" {
		c.Audience = strings.TrimRight(c.URL, "/")
	}
	return &Client{
		base: strings.TrimRight(u.String(), "/"), audience: c.Audience, source: c.Source,
		t: transport{http: safeHTTP(c.HTTP), timeout: c.Timeout, agent: c.UserAgent}, retry: defaultRetry,
	}, nil
}

// FromEnv makes a client from DAYPASS_URL, DAYPASS_AUDIENCE and
// DAYPASS_CACERT, with the source that [Detect] finds. getenv is [os.Getenv]
// where nil.
func FromEnv(getenv func(string) string) (*Client, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	if getenv("DAYPASS_URL") == "" {
		return nil, errors.New("DAYPASS_URL is not set")
	}
	source, err := Detect(getenv)
	if err != nil {
		return nil, err
	}
	return New(Config{
		URL: getenv("DAYPASS_URL"), Audience: getenv("DAYPASS_AUDIENCE"),
		CACert: getenv("DAYPASS_CACERT"), Source: source,
	})
}

// URL returns the broker's URL, without a slash at its end.
func (c *Client) URL() string { return c.base }

// Audience returns what CI tokens must name.
func (c *Client) Audience() string { return c.audience }

// Exchange trades a CI token for credentials and a job session. With no grants
// it opens a session only. All grants are given or none. The caller owes
// [Client.GiveBack].
//
// A token buys one exchange, so what may be retried depends on the source. A
// Fresh one gives every attempt a token of its own: lost answers, 408, 429 and
// 5xx are retried, and so are token_stale and token_expired. What an
// unanswered attempt may have made is lost, and expires by itself. A source
// that is not Fresh has one token for the whole job: only what never left this
// machine is sent again, and what the broker itself invites to send again (429
// or 503 with Retry-After, as a problem document of its own). Any other
// attempt without an answer ends in [ErrOutcomeUnknown]; a token that is
// spent, stale or expired in [ErrNewJob]. Waits honour Retry-After up to 30 s
// and never pass the context's deadline.
//
// Where the broker could not make a credential, the session it opened is used
// to ask again. If that fails as well, the [*Error] has code [MintFailed] and
// a Session, with which the caller may ask on or which it gives back.
func (c *Client) Exchange(ctx context.Context, grants ...Grant) (*Answer, error) {
	if c.source == nil {
		return nil, errNoSource
	}
	var got *Answer
	err := c.withToken(ctx, func(ctx context.Context, token Secret) error {
		a, err := c.ask(ctx, "/v1/exchange", token, grants, opensSession)
		got = a
		return err
	})
	if err == nil {
		return got, nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != MintFailed || e.Session == nil {
		return nil, err
	}
	more, err := c.Credentials(ctx, e.Session.Token, grants...)
	if err != nil {
		e.Err = err
		return nil, e
	}
	more.Session = *e.Session
	return more, nil
}

// DryRun asks whether the grants would be given, and by which rules. It makes
// nothing and does not consume the token. A nil error is a yes to all of them.
func (c *Client) DryRun(ctx context.Context, grants ...Grant) (*Preview, error) {
	if c.source == nil {
		return nil, errNoSource
	}
	var got *Preview
	err := c.withToken(ctx, func(ctx context.Context, token Secret) error {
		p, err := c.preview(ctx, token, grants)
		got = p
		return err
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

var errNoSource = errors.New("daypass: this client has no source of CI tokens")

// withToken calls use with a CI token, retrying as the source allows, and says
// where only a new job can help.
func (c *Client) withToken(ctx context.Context, use func(context.Context, Secret) error) error {
	mode := told
	if c.source.Fresh() {
		mode = always
	}
	var before error // the failed attempt before the last one
	var last error
	err := c.retry.run(ctx, mode, func(ctx context.Context) error {
		token, err := c.source.Token(ctx, c.audience)
		if err != nil {
			return &sourceError{err}
		}
		before, last = last, use(ctx, token)
		return last
	})
	e, ok := errors.AsType[*Error](err)
	if !ok || mode == always {
		return err
	}
	switch {
	case e.Code == TokenReused && before != nil:
		return fmt.Errorf("%w: %w; the attempt before ended with: %w", ErrNewJob, err, before)
	case e.Code == TokenReused || e.Code == TokenStale || e.Code == TokenExpired:
		return fmt.Errorf("%w: %w", ErrNewJob, err)
	case e.Sent && (e.Code == NoAnswer || e.Code == NotDaypass && e.Status >= 500):
		return fmt.Errorf("%w, and the token may be spent: %w", ErrOutcomeUnknown, err)
	}
	return err
}

// Credentials asks for more on a job session. Lost answers are retried: what
// they made belongs to the session and is given back with it.
func (c *Client) Credentials(ctx context.Context, session Secret, grants ...Grant) (*Answer, error) {
	var got *Answer
	err := c.retry.run(ctx, always, func(ctx context.Context) error {
		a, err := c.ask(ctx, "/v1/credentials", session, grants, onSession)
		got = a
		return err
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

// Extend shows a fresh CI token of the same job, so that the session mints for
// longer, and returns until when.
func (c *Client) Extend(ctx context.Context, session Secret) (time.Time, error) {
	if c.source == nil {
		return time.Time{}, errNoSource
	}
	var until time.Time
	err := c.withToken(ctx, func(ctx context.Context, token Secret) error {
		var body struct {
			Session struct {
				ExpiresAt time.Time `json:"expires_at"`
			} `json:"session"`
		}
		err := c.call(ctx, http.MethodPost, "/v1/session/extend", session, map[string]string{"token": token.Reveal()}, &body)
		until = body.Session.ExpiresAt
		return err
	})
	return until, err
}

// Session returns what a job session stands for and what lives under it.
func (c *Client) Session(ctx context.Context, session Secret) (*SessionInfo, error) {
	info := new(SessionInfo)
	err := c.retry.run(ctx, always, func(ctx context.Context) error {
		*info = SessionInfo{}
		return c.call(ctx, http.MethodGet, "/v1/session", session, nil, info)
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// GiveBack ends the session and takes back everything under it. It returns how
// each lease ends. It is idempotent; a session that is over already is an
// [*Error] with [SessionExpired].
func (c *Client) GiveBack(ctx context.Context, session Secret) ([]Ending, error) {
	return c.end(ctx, "/v1/session", session)
}

// Revoke takes one credential of the session back and returns how its lease
// ends. One that is not the session's, or is gone, is an [*Error] with
// [NotFound].
func (c *Client) Revoke(ctx context.Context, session Secret, leaseID string) (Ending, error) {
	ends, err := c.end(ctx, "/v1/leases/"+url.PathEscape(leaseID), session)
	if err != nil {
		return Ending{}, err
	}
	if len(ends) != 1 || ends[0].LeaseID != leaseID {
		return Ending{}, &Error{Code: NotDaypass, Status: http.StatusOK, Sent: true, Detail: "the answer is about another lease"}
	}
	return ends[0], nil
}

func (c *Client) end(ctx context.Context, path string, session Secret) ([]Ending, error) {
	var body struct {
		Leases []Ending `json:"leases"`
	}
	err := c.retry.run(ctx, always, func(ctx context.Context) error {
		body.Leases = nil
		return c.call(ctx, http.MethodDelete, path, session, nil, &body)
	})
	if err != nil {
		return nil, err
	}
	return body.Leases, nil
}
