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
// A token buys one exchange, and its answer is sealed to a key that is made
// for this call: nobody else can read it, and for two minutes the same token
// with the same key gets the same answer again. So a lost answer, a 408, a 429
// and a 5xx are retried with the same token, which makes nothing twice, and
// while the broker is still at work on an earlier attempt it is waited for. A
// Fresh source is asked for another token only where the old one can do no
// more good: it is stale or expired, the broker says that nothing was made
// though the token may be spent, or the answer is kept no longer (what it had,
// if anything, expires by itself). Waits honour Retry-After up to 30 s and
// never pass the context's deadline.
//
// Where the attempts run out and one of them may have been served, the error
// is [ErrOutcomeUnknown]; where the job's only token is spent, stale or
// expired, [ErrNewJob]. An answer in clear is refused.
//
// Where the broker could not make a credential, the session it opened is used
// to ask again. If that fails as well, the [*Error] has code [MintFailed] and
// a Session, with which the caller may ask on or which it gives back.
func (c *Client) Exchange(ctx context.Context, grants ...Grant) (*Answer, error) {
	to, err := newRecipient()
	if err != nil {
		return nil, err
	}
	key, err := to.secret()
	if err != nil {
		return nil, err
	}
	var got *Answer
	err = c.withToken(ctx, again, func(ctx context.Context, token Secret) error {
		names, err := namesOfToken(token)
		if err != nil {
			return err // before it is spent on an answer that could not be opened
		}
		got, err = c.ask(ctx, order{path: "/v1/exchange", bearer: token, grants: grants, to: to, names: names})
		return err
	})
	if err == nil {
		got.Session.Key = key
		return got, nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Session == nil {
		return nil, err
	}
	e.Session.Key = key
	if e.Code != MintFailed {
		return nil, err
	}
	more, err := c.Credentials(ctx, *e.Session, grants...)
	if err != nil {
		e.Err = err
		return nil, e
	}
	more.Session = *e.Session
	return more, nil
}

// DryRun asks whether the grants would be given, and by which rules; without
// grants, which ones the job may have and for how long. It makes nothing and
// does not consume the token. A nil error is a yes to all that was asked for,
// or the whole list, which may be empty.
func (c *Client) DryRun(ctx context.Context, grants ...Grant) (*Preview, error) {
	var got *Preview
	err := c.withToken(ctx, nothing, func(ctx context.Context, token Secret) (err error) {
		got, err = c.preview(ctx, token, grants)
		return err
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

var errNoSource = errors.New("daypass: this client has no source of CI tokens")

// withToken runs an errand that is named by a CI token.
func (c *Client) withToken(ctx context.Context, lost fetch, send func(context.Context, Secret) error) error {
	if c.source == nil {
		return errNoSource
	}
	e := errand{retry: c.retry, lost: lost, send: send, draw: func(ctx context.Context) (Secret, error) {
		token, err := c.source.Token(ctx, c.audience)
		if err != nil {
			return Secret{}, fmt.Errorf("get a CI token: %w", err)
		}
		return token, nil
	}}
	if c.source.Fresh() {
		e.supply = renewable
	}
	return e.run(ctx)
}

// Credentials asks for more on a job session. Each call has an Idempotency-Key
// of its own, with which a lost answer is fetched again: nothing is made
// twice. On a session without a Key, which another client opened, answers are
// in clear, and what a lost one made is given back with the session.
func (c *Client) Credentials(ctx context.Context, session Session, grants ...Grant) (*Answer, error) {
	to, err := recipientOf(session.Key)
	if err != nil {
		return nil, err
	}
	var got *Answer
	attempt := func(ctx context.Context, key Secret) (err error) {
		got, err = c.ask(ctx, order{path: "/v1/credentials", bearer: session.Token, key: key, grants: grants,
			to: to, names: []requestName{nameOnSession(session.Token, key)}})
		return err
	}
	if to.none() {
		err = c.retry.run(ctx, transient, func(ctx context.Context) error { return attempt(ctx, Secret{}) })
	} else {
		e := errand{retry: c.retry, supply: endless, lost: again, send: attempt,
			draw: func(context.Context) (Secret, error) { return newIdempotencyKey(), nil }}
		err = e.run(ctx)
	}
	if err != nil {
		return nil, err
	}
	return got, nil
}

// Extend shows a fresh CI token of the same job, so that the session mints for
// longer, and returns until when. It spends the token.
func (c *Client) Extend(ctx context.Context, session Secret) (time.Time, error) {
	var until time.Time
	err := c.withToken(ctx, never, func(ctx context.Context, token Secret) error {
		var body struct {
			Session struct {
				ExpiresAt time.Time `json:"expires_at"`
			} `json:"session"`
		}
		err := c.call(ctx, call{method: http.MethodPost, path: "/v1/session/extend", bearer: session,
			body: map[string]string{"token": token.Reveal()}}, &body)
		until = body.Session.ExpiresAt
		return err
	})
	return until, err
}

// Session returns what a job session stands for and what lives under it.
func (c *Client) Session(ctx context.Context, session Secret) (*SessionInfo, error) {
	info := new(SessionInfo)
	err := c.retry.run(ctx, transient, func(ctx context.Context) error {
		*info = SessionInfo{}
		return c.call(ctx, call{method: http.MethodGet, path: "/v1/session", bearer: session}, info)
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
	err := c.retry.run(ctx, transient, func(ctx context.Context) error {
		body.Leases = nil
		return c.call(ctx, call{method: http.MethodDelete, path: path, bearer: session}, &body)
	})
	if err != nil {
		return nil, err
	}
	return body.Leases, nil
}
