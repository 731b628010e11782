package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	daypass "github.com/daypass-dev/daypass/clients/go"
)

func (a *app) whoamiCommand() *cobra.Command {
	var sessionFile string
	c := &cobra.Command{
		Use:   "whoami [--session-file FILE] [-o text|json]",
		Short: "Show what the job's token says, or what a session stands for",
		Long: `Whoami decodes the job's CI token and shows what it says. Nothing is verified,
nothing is sent to the broker, and the token is neither used up nor printed.

With --session-file the broker is asked what it verified, and what lives under
the session.`,
		Example: `  daypass whoami
  daypass whoami --session-file "$RUNNER_TEMP/daypass" -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), a.timeout)
			defer cancel()
			return failed(a.whoami(ctx, sessionFile), exitFailed)
		},
	}
	a.outputFlag(c, "text (the default) or json")
	c.Flags().StringVar(&sessionFile, "session-file", a.getenv("DAYPASS_SESSION_FILE"), "`file` that a session is kept in (DAYPASS_SESSION_FILE)")
	return c
}

func (a *app) whoami(ctx context.Context, sessionFile string) error {
	format, err := a.format("text", "json")
	if err != nil {
		return err
	}
	if sessionFile != "" {
		return a.whoamiSession(ctx, sessionFile, format)
	}
	source, err := daypass.Detect(a.getenv)
	if err != nil {
		return err
	}
	audience := a.audience
	if audience == "" {
		audience = strings.TrimRight(a.url, "/")
	}
	if audience == "" && source.Fresh() {
		return usage("set --url or --audience: the CI provider is asked for a token that names it")
	}
	token, err := source.Token(ctx, audience)
	if err != nil {
		return err
	}
	c, err := decode(token)
	if err != nil {
		return err
	}
	if format == "json" {
		return a.printJSON(c)
	}
	if err := a.table(c.rows()); err != nil {
		return err
	}
	a.note("this is what the token says; nobody has verified it here")
	return nil
}

// said is what a token says about its job, under neutral names. GitHub's and
// GitLab's claims are known; others show at least issuer and subject.
type said struct {
	Verified    bool      `json:"verified"` // always false: only a broker verifies
	Issuer      string    `json:"issuer"`
	Subject     string    `json:"subject"`
	Repository  string    `json:"repository,omitempty"`
	ID          string    `json:"repository_id,omitempty"`
	OwnerID     string    `json:"owner_id,omitempty"`
	Ref         string    `json:"ref,omitempty"`
	Environment string    `json:"environment,omitempty"`
	Event       string    `json:"event,omitempty"`
	Workflow    string    `json:"workflow,omitempty"`
	Audience    []string  `json:"audience"`
	IssuedAt    time.Time `json:"issued_at,omitzero"`
	Expires     time.Time `json:"expires_at,omitzero"`
}

// decode reads a JWT's claims without verifying anything. Its errors do not
// repeat the token.
func decode(token daypass.Secret) (said, error) {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return said{}, errors.New("the CI token is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return said{}, errors.New("the CI token is not a JWT: its claims are not base64url")
	}
	var c claims
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if d.Decode(&c) != nil {
		return said{}, errors.New("the CI token is not a JWT: its claims are not JSON")
	}
	return said{
		Issuer: c.text("iss"), Subject: c.text("sub"), Repository: c.text("repository", "project_path"),
		ID: c.text("repository_id", "project_id"), OwnerID: c.text("repository_owner_id", "namespace_id"),
		Ref: c.text("ref"), Environment: c.text("environment"), Event: c.text("event_name", "pipeline_source"),
		Workflow: c.text("job_workflow_ref", "ci_config_ref_uri"),
		Audience: c.audience(), IssuedAt: c.time("iat"), Expires: c.time("exp"),
	}, nil
}

// claims are what a token says, in JSON's types.
type claims map[string]any

// text returns the first of the claims that is text or a number.
func (c claims) text(names ...string) string {
	for _, n := range names {
		switch v := c[n].(type) {
		case string:
			return v
		case json.Number:
			return v.String()
		}
	}
	return ""
}

// time reads seconds since 1970; zero for what are none.
func (c claims) time(name string) time.Time {
	n, ok := c[name].(json.Number)
	f, err := n.Float64()
	if !ok || err != nil || f < 0 || f > 1e11 {
		return time.Time{}
	}
	return time.Unix(int64(f), 0).UTC()
}

// audience reads aud, which is one text or a list.
func (c claims) audience() []string {
	switch aud := c["aud"].(type) {
	case string:
		return []string{aud}
	case []any:
		var list []string
		for _, v := range aud {
			list = append(list, fmt.Sprint(v))
		}
		return list
	}
	return nil
}

func (s said) rows() [][2]string {
	rows := [][2]string{
		{"issuer", s.Issuer}, {"subject", s.Subject}, {"repository", s.Repository}, {"repository id", s.ID},
		{"owner id", s.OwnerID}, {"ref", s.Ref}, {"environment", s.Environment}, {"event", s.Event},
		{"workflow", s.Workflow}, {"audience", strings.Join(s.Audience, ", ")},
	}
	for _, t := range []struct {
		name string
		at   time.Time
	}{{"issued at", s.IssuedAt}, {"expires at", s.Expires}} {
		if !t.at.IsZero() {
			rows = append(rows, [2]string{t.name, t.at.Format(time.RFC3339)})
		}
	}
	return rows
}

func (a *app) whoamiSession(ctx context.Context, path, format string) error {
	s, err := loadSession(path)
	if err != nil {
		return err
	}
	client, err := a.sessionClient(s, nil)
	if err != nil {
		return err
	}
	info, err := client.Session(ctx, s.secret())
	if err != nil {
		return err
	}
	if format == "json" {
		return a.printJSON(info)
	}
	id := info.Identity
	rows := [][2]string{
		{"issuer", id.Issuer}, {"subject", id.Subject}, {"repository", id.Repository}, {"repository id", id.RepositoryID},
		{"ref", id.Ref}, {"environment", id.Environment}, {"event", id.Event}, {"run", id.Run}, {"run url", id.RunURL},
		{"mints until", info.Session.ExpiresAt.UTC().Format(time.RFC3339)},
	}
	if info.Session.Closing {
		rows = append(rows, [2]string{"closing", "yes"})
	}
	for _, l := range info.Leases {
		rows = append(rows, [2]string{"lease", fmt.Sprintf("%s %s %s until %s", l.LeaseID, l.Grant, l.State, l.ExpiresAt.UTC().Format(time.RFC3339))})
	}
	return a.table(rows)
}

// table prints names and values in two columns, leaving out what is empty.
func (a *app) table(rows [][2]string) error {
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", r[0], clean(r[1]))
		}
	}
	return w.Flush()
}

func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(b), "##[", `##\u005b`) // see clean; it can only be within text
	_, err = io.WriteString(a.Stdout, text+"\n")
	return err
}
