package daypass

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Preview is what a dry run says a job would get.
type Preview struct {
	RequestID string
	Permits   []Permit // in the order asked for; where nothing was, all that the job may have
}

// Permit is what policy would give for one grant.
type Permit struct {
	Grant string
	Rule  string        // the rule that gives it, as file/name
	TTL   time.Duration // how long the credential would live
	Kind  string        // the sort of credential; empty from a broker that does not say

	Takeback Takeback // what giving it back would achieve; empty where that is not known beforehand
}

type wirePreview struct {
	RequestID string       `json:"request_id"`
	Session   *wireSession `json:"session"`
	DryRun    bool         `json:"dry_run"`
	Grants    []struct {
		Name string `json:"name"`
		Rule string `json:"rule"`
		TTL  string `json:"ttl"`
		Kind string `json:"kind"`

		Takeback Takeback `json:"takeback"`
	} `json:"grants"`
}

// preview makes one attempt at a dry run and checks what came.
func (c *Client) preview(ctx context.Context, bearer Secret, grants []Grant) (*Preview, error) {
	r := request(grants)
	r.DryRun = true
	var got wirePreview
	if err := c.call(ctx, call{method: http.MethodPost, path: "/v1/exchange", bearer: bearer, body: r}, &got); err != nil {
		return nil, err
	}
	p, err := got.check(grants)
	if err != nil {
		return nil, c.useless(ctx, err, got.RequestID, got.Session)
	}
	return p, nil
}

// check is strict: whoever asked for a dry run must not be told yes by what
// was none, or by an answer to other grants.
func (w wirePreview) check(grants []Grant) (*Preview, error) {
	if !w.DryRun || w.Session != nil {
		return nil, errors.New("a dry run was asked for, and the answer is not to one")
	}
	if len(grants) > 0 && len(w.Grants) != len(grants) {
		return nil, fmt.Errorf("%d grants asked for, %d answered", len(grants), len(w.Grants))
	}
	p := &Preview{RequestID: w.RequestID}
	for i, g := range w.Grants {
		if g.Name == "" || len(grants) > 0 && g.Name != grants[i].Name {
			return nil, fmt.Errorf("grant %d of the answer is not the one that was asked for", i+1)
		}
		ttl, err := time.ParseDuration(g.TTL)
		if err != nil || ttl <= 0 {
			return nil, fmt.Errorf("the answer does not say how long %s would live", g.Name)
		}
		p.Permits = append(p.Permits, Permit{Grant: g.Name, Rule: g.Rule, TTL: ttl, Kind: g.Kind, Takeback: g.Takeback})
	}
	return p, nil
}
