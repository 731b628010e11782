package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/cases"
)

// policyExplain is what a run of policy explain was asked for.
type policyExplain struct {
	config, output            string
	claims, token             string // files
	issuer, grant, at         string
	request, journal          string
	unverified, currentPolicy bool
}

func policyExplainCommand(p process) *cobra.Command {
	var x policyExplain
	cmd := &cobra.Command{
		Use:   "explain [--config F] [DIR] (--claims FILE | --token-file FILE | --request-id R) --grant GRANT[?ttl=30m]",
		Short: "Say why a job may have a grant, or what is in the way",
		Long: `Explain says how policy decides for one job: which rule gives a grant and what
bounds its life, or the nearest rules with what each condition wanted and saw, the
rules that deny it, and what rules that only report would do. It shows expressions
and rules that deny: what it prints is for those who may read the policy.

Whose job it is comes from one of

  --claims FILE      the claims of a token, as a JSON object, with --issuer;
  --token-file FILE  a token, which is verified by the issuers of --config. It asks
                     the issuer for its keys. --unverified believes it instead;
  --request-id R     a request that a broker journalled: its claims, at its time,
                     under the policy version that decided it. --current, or DIR,
                     decides it by another. Claims that were not journalled are not
                     known, and what depends on them cannot be said.

Without --config issuers are called as their profiles (github, gitlab), and grants
are not checked.

It exits with 0 if all grants are allowed, 1 if one is denied, and 2 if that could
not be found out.`,
		Example: `  daypassd policy explain ./policies --issuer github --claims claims.json --grant orders-db
  daypassd policy explain --config daypass.yaml --token-file token --grant 'orders-db?ttl=1h'
  daypassd policy explain --config daypass.yaml --request-id req_k3v7q2mzn5xwdabc`,
		RunE: func(cmd *cobra.Command, dirs []string) error {
			if err := checkOutput(x.output); err != nil {
				return err
			}
			denied, err := x.run(cmd.Context(), p.stdout, dirs)
			switch {
			case err != nil:
				return unanswered(err)
			case denied:
				return silent{exitFailed}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&x.config, "config", "", "a server's configuration: its issuers, its grants, and without DIR its policies")
	f.StringVar(&x.claims, "claims", "", "`file` with a token's claims as a JSON object")
	f.StringVar(&x.token, "token-file", "", "`file` with a token")
	f.BoolVar(&x.unverified, "unverified", false, "believe the token, whoever signed it, and whether or not it has expired")
	f.StringVar(&x.issuer, "issuer", "", "the issuer's `name`")
	f.StringVar(&x.grant, "grant", "", "the `grant`, as GRANT[?ttl=30m]; with --request-id those of the request")
	f.StringVar(&x.at, "at", "", "decide as at this `time`, such as 2026-12-01T00:00:00Z; default: now, or when the request was made")
	f.StringVar(&x.request, "request-id", "", "`id` of a request that a broker journalled")
	f.StringVar(&x.journal, "journal", "", "the journal's `folder`; default: that of the configuration's data_dir")
	f.BoolVar(&x.currentPolicy, "current", false, "decide a journalled request by the configuration's policies instead of those of its time")
	outputFlag(cmd, &x.output)
	return cmd
}

// unanswered is exit code 2 for whatever kept a question from being answered: 1
// says that the answer is no.
func unanswered(err error) error {
	if _, usage := errors.AsType[usageError](err); usage {
		return err
	}
	return coded{exitUsage, err}
}

// explained is what is printed.
type explained struct {
	Source       string               `json:"source"` // claims, token, unverified_token or journal
	Note         string               `json:"note,omitempty"`
	Recorded     *recorded            `json:"recorded,omitempty"`
	Explanations []policy.Explanation `json:"explanations"`
}

// run reports whether a grant is denied.
func (x policyExplain) run(ctx context.Context, w io.Writer, dirs []string) (bool, error) {
	if err := x.check(dirs); err != nil {
		return false, err
	}
	out, err := x.explain(ctx, dirs)
	if err != nil {
		return false, err
	}
	denied := slices.ContainsFunc(out.Explanations, func(e policy.Explanation) bool { return !e.Allowed })
	if x.output == "json" {
		return denied, printJSON(w, out)
	}
	return denied, out.print(w)
}

func (x policyExplain) check(dirs []string) error {
	sources := 0
	for _, s := range []string{x.claims, x.token, x.request} {
		if s != "" {
			sources++
		}
	}
	bad := func(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
	switch {
	case sources != 1:
		return bad("give one of --claims, --token-file and --request-id")
	case len(dirs) > 1:
		return bad("name one policy folder, not %d", len(dirs))
	case x.request == "" && x.grant == "":
		return bad("--grant is missing: what does the job ask for?")
	case x.request == "" && (x.journal != "" || x.currentPolicy):
		return bad("--journal and --current go with --request-id")
	case x.request != "" && x.config == "":
		return bad("--request-id needs --config, which says where journal and versions are")
	case x.request != "" && (x.issuer != "" || x.unverified):
		return bad("the journal says whose request it was: --issuer and --unverified go with --claims and --token-file")
	case x.currentPolicy && len(dirs) > 0:
		return bad("--current is the configuration's own folder: leave it or DIR out")
	case x.claims != "" && x.issuer == "":
		return bad("--issuer is missing: claims alone do not say whose they are")
	case x.claims != "" && x.unverified:
		return bad("--unverified goes with --token-file")
	case x.token != "" && x.config == "" && !x.unverified:
		return bad("a token is verified by the issuers of --config; --unverified believes it instead")
	}
	return nil
}

func (x policyExplain) explain(ctx context.Context, dirs []string) (explained, error) {
	at := time.Now()
	if x.at != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, x.at); err != nil {
			return explained{}, usageError{fmt.Errorf("--at is %q; it must be a time such as 2026-12-01T00:00:00Z", x.at)}
		}
	}
	if x.request != "" {
		return x.explainRequest(dirs, at)
	}
	want, err := cases.ParseWant(x.grant)
	if err != nil {
		return explained{}, usageError{err}
	}
	source, err := openPolicySource(x.config, dirs)
	if err != nil {
		return explained{}, err
	}
	book, err := source.book()
	if err != nil {
		return explained{}, fmt.Errorf("the policy has faults:\n%w", err)
	}
	out := explained{}
	id, err := x.identity(ctx, source, &out)
	if err != nil {
		return explained{}, err
	}
	out.Explanations = []policy.Explanation{book.Explain(id, want, at)}
	return out, nil
}

// identity is the job that the files name.
func (x policyExplain) identity(ctx context.Context, source *policySource, out *explained) (broker.Identity, error) {
	file := x.claims + x.token // one of them is empty
	raw, err := readSmall(file)
	if err != nil {
		return broker.Identity{}, err
	}
	if x.claims != "" {
		out.Source = "claims"
		claims, err := issuers.ReadClaims(raw)
		if err != nil {
			return broker.Identity{}, fmt.Errorf("%s: %w", file, err)
		}
		return claimed(x.issuer, claims), nil
	}
	token := broker.NewSecret(strings.TrimSpace(string(raw)))
	if !x.unverified {
		out.Source = "token"
		return x.verified(ctx, source, token)
	}
	out.Source = "unverified_token"
	out.Note = "the token was NOT verified: anybody can have written it"
	claims, err := issuers.ReadUnverified(token)
	if err != nil {
		return broker.Identity{}, fmt.Errorf("%s: %w", file, err)
	}
	name, err := x.issuerOf(claims, source)
	return claimed(name, claims), err
}

// claimed is a job that nobody has vouched for.
func claimed(issuer string, claims broker.Claims) broker.Identity {
	subject, _ := claims["sub"].(string)
	return broker.Identity{Issuer: issuer, Subject: subject, Claims: claims}
}

// verified asks the issuers as a broker would.
func (x policyExplain) verified(ctx context.Context, source *policySource, token broker.Secret) (broker.Identity, error) {
	ctx, done := context.WithTimeout(ctx, checkWithin)
	defer done()
	id, err := source.set.Verify(ctx, token)
	switch code := broker.CodeOf(err); {
	case err != nil && code == broker.TokenExpired:
		return id, fmt.Errorf("%w; --unverified explains it all the same", err)
	case err != nil:
		return id, err
	case x.issuer != "" && x.issuer != id.Issuer:
		return id, fmt.Errorf("the token is of issuer %s, and --issuer says %s", id.Issuer, x.issuer)
	}
	return id, nil
}

// issuerOf is the name of the issuer that a token says it is from.
func (x policyExplain) issuerOf(claims broker.Claims, source *policySource) (string, error) {
	if x.issuer != "" {
		return x.issuer, nil
	}
	url, _ := claims["iss"].(string)
	if source.set != nil {
		for name, info := range source.set.Issuers() {
			if info.URL == url {
				return name, nil
			}
		}
	} else {
		profiles, err := issuers.Profiles()
		if err != nil {
			return "", err
		}
		for name, p := range profiles {
			if p.URL == url {
				return name, nil
			}
		}
	}
	return "", usageError{errors.New("the token's issuer is none that is known: say with --issuer which one it is to stand for")}
}

// readSmall reads a file that is no larger than a token or its claims are.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 64 << 10
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(raw) > most {
		err = fmt.Errorf("%s is larger than 64 KiB, and no token or its claims", path)
	}
	return raw, err
}

// print writes what was found for a terminal.
func (e explained) print(w io.Writer) error {
	if e.Note != "" {
		if _, err := fmt.Fprintf(w, "%s\n\n", e.Note); err != nil {
			return err
		}
	}
	if e.Recorded != nil {
		if err := e.Recorded.print(w); err != nil {
			return err
		}
	}
	for i, one := range e.Explanations {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := one.WriteText(w); err != nil {
			return err
		}
	}
	return nil
}
