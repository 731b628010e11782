package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/cases"
)

// policyTest is what a run of policy test was asked for.
type policyTest struct {
	config, output, only string
	coverage             bool
	minCoverage          int
}

func policyTestCommand(p process) *cobra.Command {
	var t policyTest
	cmd := &cobra.Command{
		Use:   "test [--config F] [DIR…]",
		Short: "Try the test cases that lie beside the policies",
		Long: `Try the test cases of policy folders: the files in them that end in _test.yaml.
Each case says what a job's token holds and what it asks for, and whether policy is
to allow or deny it. A case that fails is explained: the nearest rule, and what each
of its conditions wanted and saw.

Without --config issuers are called as their profiles (github, gitlab), and grants
are not checked. Without DIR the configuration's own folder is tried.

It exits with 1 if a case failed or has a fault, if there is no case, or if less is
covered than --min-coverage asks for.`,
		Example: `  daypassd policy test ./policies
  daypassd policy test --config daypass.yaml --output junit > policy.xml
  daypassd policy test --run payments --coverage ./policies`,
		RunE: func(_ *cobra.Command, dirs []string) error {
			if t.output != "text" && t.output != "json" && t.output != "junit" {
				return usageError{fmt.Errorf("--output is %q; it must be text, json or junit", t.output)}
			}
			if t.minCoverage < 0 || t.minCoverage > 100 {
				return usageError{fmt.Errorf("--min-coverage is %d; it must be between 0 and 100", t.minCoverage)}
			}
			return t.run(p.stdout, dirs)
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.config, "config", "", "a server's configuration: its issuers, its grants, and without DIR its policies")
	f.StringVar(&t.output, "output", "text", "text, json or junit")
	f.StringVar(&t.only, "run", "", "only cases whose file and name, joined by a slash, hold this `text`")
	f.BoolVar(&t.coverage, "coverage", false, "also say which rules and conditions no case has shown")
	f.IntVar(&t.minCoverage, "min-coverage", 0, "fail if less than so many `percent` of rules and conditions are shown")
	return cmd
}

// run tries each folder by itself.
func (t policyTest) run(w io.Writer, dirs []string) error {
	source, err := openPolicySource(t.config, dirs)
	if err != nil {
		return err
	}
	claims, err := issuers.Fixtures()
	if err != nil {
		return err
	}
	var reports []cases.Report
	for _, folder := range source.folders {
		book, err := folder.Book(source.known)
		if err != nil {
			return fmt.Errorf("the policy has faults:\n%w", err)
		}
		reports = append(reports, cases.Run(book, casesOf(folder), cases.Options{Fixtures: claims, Only: t.only}))
	}
	if err := t.write(w, reports); err != nil {
		return err
	}
	return t.judge(reports)
}

// casesOf are the folder's cases by the names that people find them under.
func casesOf(f *policy.Folder) map[string][]byte {
	files := map[string][]byte{}
	for path, text := range f.Cases() {
		files[f.Name(path)] = text
	}
	return files
}

func (t policyTest) write(w io.Writer, reports []cases.Report) error {
	switch t.output {
	case "junit":
		return cases.Join(reports...).WriteJUnit(w)
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"folders": reports})
	}
	for _, r := range reports {
		if err := r.WriteText(w); err != nil {
			return err
		}
		if t.coverage {
			if err := r.Coverage.WriteText(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge is what the exit code says. The report has said why.
func (t policyTest) judge(reports []cases.Report) error {
	tried := 0
	for _, r := range reports {
		tried += len(r.Results)
		if len(r.Faults) > 0 || r.Failed() > 0 {
			return silent{exitFailed}
		}
	}
	if tried == 0 && t.only != "" {
		return fmt.Errorf("no test case has %q in its file or name", t.only)
	}
	if tried == 0 {
		return errors.New("no test case: write one in a file that ends in _test.yaml")
	}
	for _, r := range reports {
		if r.Coverage.Percent < t.minCoverage {
			return fmt.Errorf("coverage is %d%%, below the %d%% of --min-coverage; --coverage says what is missing", r.Coverage.Percent, t.minCoverage)
		}
	}
	return nil
}
