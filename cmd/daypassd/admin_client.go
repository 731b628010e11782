package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// adminClient speaks to the admin listener that a configuration names.
type adminClient struct {
	base     string
	token    broker.Secret
	operator string // for the journal; empty: unknown
	http     *http.Client
}

func dialAdmin(config string) (*adminClient, error) {
	c, err := loadConfig(config)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.DataDir, adminTokenFile)
	token, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the admin token, which daypassd serve makes: %w", err)
	}
	return &adminClient{
		base:     "http://" + c.Admin.Listen,
		token:    broker.NewSecret(strings.TrimSpace(string(token))),
		operator: operatorName(),
		http:     &http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: nil}},
	}, nil
}

var operatorRE = regexp.MustCompile(`\A[A-Za-z0-9._@+-]{1,64}\z`)

// operatorName is who runs the command, where that can be said.
func operatorName() string {
	u, err := user.Current()
	if err != nil || !operatorRE.MatchString(u.Username) {
		return ""
	}
	return u.Username
}

// call makes one request without a body, and decodes its answer into into.
func (a *adminClient) call(ctx context.Context, method, path string, into any) error {
	return a.send(ctx, method, path, nil, into)
}

// send makes one request, with a body unless it is nil.
func (a *adminClient) send(ctx context.Context, method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("ask the broker: %w", err)
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, content)
	if err != nil {
		return fmt.Errorf("ask the broker: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.operator != "" {
		req.Header.Set("Daypass-Operator", a.operator)
	}
	return a.do(req, into)
}

func (a *adminClient) do(req *http.Request, into any) error {
	resp, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the broker on %s (is daypassd serve running?): %w", a.base, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read the broker's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var problem struct {
			Code   string `json:"code"`
			Detail string `json:"detail"`
		}
		if json.Unmarshal(body, &problem) == nil && problem.Code != "" {
			return problemError{problem.Code, problem.Detail}
		}
		return fmt.Errorf("the broker answered %s", resp.Status)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the broker's answer: %w", err)
	}
	return nil
}

// problemError is what the broker refused, in its words.
type problemError struct{ code, detail string }

func (p problemError) Error() string { return p.code + ": " + p.detail }
