package daypass

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// GitHub is the source of a GitHub Actions job: it asks requestURL
// (ACTIONS_ID_TOKEN_REQUEST_URL) for a new token each time, and shows bearer
// (ACTIONS_ID_TOKEN_REQUEST_TOKEN) to that URL only. It is Fresh. The URL must
// be https, or http on loopback; redirects are refused.
func GitHub(requestURL string, bearer Secret) (Source, error) {
	u, err := checkURL(requestURL, "ACTIONS_ID_TOKEN_REQUEST_URL", httpsOrLoopback)
	if err != nil {
		return nil, err
	}
	if _, err := checkToken(bearer.Reveal()); err != nil {
		return nil, fmt.Errorf("ACTIONS_ID_TOKEN_REQUEST_TOKEN: %w", err)
	}
	t := transport{http: safeHTTP(newHTTPClient(nil)), timeout: 15 * time.Second, agent: userAgent}
	return &github{url: *u, bearer: bearer, t: t, policy: defaultRetry}, nil
}

type github struct {
	url    url.URL
	bearer Secret
	t      transport
	policy retryPolicy
}

func (g *github) Fresh() bool { return true }

func (g *github) Token(ctx context.Context, audience string) (Secret, error) {
	u := g.url
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "audience=" + url.QueryEscape(audience)
	var token string
	err := g.policy.run(ctx, transient, func(ctx context.Context) error {
		a, err := g.t.send(ctx, message{method: http.MethodGet, url: u.String(), bearer: g.bearer})
		if err != nil {
			return err
		}
		var body struct {
			Value string `json:"value"`
		}
		if a.status != http.StatusOK || json.Unmarshal(a.body, &body) != nil {
			// What the endpoint said is not repeated: it is not ours to show.
			return &Error{Code: NoToken, Status: a.status, Sent: true, RetryAfter: a.retryAfter,
				Detail: fmt.Sprintf("GitHub's ID token endpoint answered with HTTP status %d", a.status)}
		}
		token = body.Value
		return nil
	})
	if err != nil {
		return Secret{}, fmt.Errorf("ask GitHub for an ID token: %w", err)
	}
	return checkToken(token)
}
