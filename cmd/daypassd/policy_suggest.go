package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/policy"
	history "github.com/daypass-dev/daypass/policy/recorded"
)

// policySuggest is what a run of policy suggest was asked for.
type policySuggest struct {
	config, policies, journal string
	request, output           string
	grants                    []string
}

func policySuggestCommand(p process) *cobra.Command {
	var x policySuggest
	cmd := &cobra.Command{
		Use:   "suggest --config F --request-id R [--grant GRANT]… [--policies DIR] [--journal PATH]",
		Short: "Make a rule of a denied request, ready to be reviewed",
		Long: `Suggest reads a denied request from the journal and writes the rule that would have
allowed it, and no other: the repository's ids are pinned, and its branch, environment,
event, workflow and runner are those of the request. Comments mark what somebody who
may only push a branch chose. It says which file the rule goes into, and what lint says
of it; the file's owner and the day of its review are left to fill in. Nothing is
changed.

The rule was tried before it is shown: it loads where it would go, and the request is
allowed by it. There is none for a grant that does not exist, for a request whose
claims were not journalled, and for one that a rule denies.

It exits with 0, with 1 if lint would fail because of the rule, and with 2 if there is
nothing to suggest.`,
		Example: `  daypassd policy suggest --config daypass.yaml --request-id req_k3v7q2mzn5xwdabc
  daypassd policy suggest --config daypass.yaml --request-id req_k3v7q2mzn5xwdabc --grant orders-db --output json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(x.output); err != nil {
				return err
			}
			if x.request == "" {
				return usageError{fmt.Errorf("--request-id is missing: which request was denied?")}
			}
			made, folder, err := x.run(time.Now())
			if err != nil {
				return unanswered(err)
			}
			if err := x.write(p.stdout, made, folder); err != nil {
				return unanswered(err)
			}
			if len(made.Findings.Failing()) > 0 {
				return silent{exitFailed}
			}
			return nil
		},
	}
	f := cmd.Flags()
	configFlag(cmd, &x.config)
	f.StringVar(&x.request, "request-id", "", "`id` of a request that a broker denied and journalled")
	f.StringArrayVar(&x.grants, "grant", nil, "only this `grant` of those it was denied; may be given again")
	f.StringVar(&x.policies, "policies", "", "the `folder` of policies that the rule is for; default: the configuration's")
	f.StringVar(&x.journal, "journal", "", "the journal's `folder`; default: that of the configuration's data_dir")
	outputFlag(cmd, &x.output)
	return cmd
}

// run returns the suggestion and the folder that it is for.
func (x policySuggest) run(now time.Time) (history.Suggestion, *policy.Folder, error) {
	var dirs []string
	if x.policies != "" {
		dirs = []string{x.policies}
	}
	source, err := openPolicySource(x.config, dirs)
	if err != nil {
		return history.Suggestion{}, nil, err
	}
	request, err := findRequest(source.journalOf(x.journal), x.request)
	if err != nil {
		return history.Suggestion{}, nil, err
	}
	claims, err := source.recordedClaims()
	if err != nil {
		return history.Suggestion{}, nil, err
	}
	lint, err := source.lintConfig(now)
	if err != nil {
		return history.Suggestion{}, nil, err
	}
	folder := source.folders[0]
	made, err := history.Suggest(history.Suggesting{
		Record: request.record, Grants: x.grants, Folder: folder, Known: source.known, Claims: claims, Lint: lint,
	})
	return made, folder, err
}

func (x policySuggest) write(w io.Writer, made history.Suggestion, folder *policy.Folder) error {
	if x.output == "json" {
		type finding struct {
			ID       string `json:"id"`
			Name     string `json:"name"`
			Severity string `json:"severity"`
			Message  string `json:"message"`
			Fix      string `json:"fix"`
		}
		found := []finding{}
		for _, f := range made.Findings {
			found = append(found, finding{f.ID, f.Name, string(f.Severity), f.Message, f.Fix})
		}
		return printJSON(w, struct {
			history.Suggestion
			Findings []finding `json:"lint"`
		}{made, found})
	}
	var b strings.Builder
	comment := func(format string, args ...any) { // on one line, whatever is in it
		b.WriteString("# " + strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ") + "\n")
	}
	comment("Suggested for request %s, which was denied %s.", plainID(made.Request), strings.Join(made.Grants, " and "))
	for _, f := range made.Findings {
		comment("lint: %s %s %s: %s; %s", f.Severity, f.ID, f.Name, f.Message, f.Fix)
	}
	if len(made.Findings) == 0 {
		comment("lint: nothing new")
	}
	for _, note := range made.Notes {
		comment("note: %s", note)
	}
	for _, part := range made.Parts {
		where := "add to " + folder.Name(part.File)
		if part.New {
			where = "the new file " + folder.Name(part.File)
		}
		fmt.Fprintf(&b, "\n# ---- %s\n%s", where, part.Text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// plainID writes a request's id without anything that a terminal acts on.
func plainID(id string) string { return strings.Trim(quoted(id), `"`) }
