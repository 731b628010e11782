package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/issuers"
)

func checkCommand(p process) *cobra.Command {
	var config, output string
	var connect bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and the policies; with --connect also what they name",
		Long: `Check the configuration and the policies, and report every fault at once. Nothing
is contacted and nothing is written, unless --connect is given: then issuers are
asked for their keys, and targets whether the admin credential is enough.`,
		Example: `  daypassd check --config daypass.yaml
  daypassd check --config daypass.yaml --connect --output json`,
		Args: argsOf(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			findings := check(cmd.Context(), config, p, connect)
			if err := findings.print(p.stdout, output); err != nil {
				return err
			}
			return findings.err()
		},
	}
	configFlag(cmd, &config)
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&connect, "connect", false, "also contact issuers, state and targets")
	return cmd
}

// finding is what was looked at and what is wrong with it.
type finding struct {
	Part  string `json:"part"`
	Fault string `json:"fault,omitempty"`
}

type findings []finding

func (f *findings) add(part string, err error) {
	one := finding{Part: part}
	if err != nil {
		one.Fault = err.Error()
	}
	*f = append(*f, one)
}

func (f findings) err() error {
	faulty := 0
	for _, one := range f {
		if one.Fault != "" {
			faulty++
		}
	}
	switch faulty {
	case 0:
		return nil
	case 1:
		return errors.New("1 part has faults")
	}
	return fmt.Errorf("%d parts have faults", faulty)
}

func (f findings) print(w io.Writer, output string) error {
	if output == "json" {
		return printJSON(w, map[string]any{"checks": f})
	}
	for _, one := range f {
		if one.Fault == "" {
			fmt.Fprintf(w, "ok      %s\n", one.Part)
		} else {
			fmt.Fprintf(w, "FAULTY  %s\n%s\n", one.Part, one.Fault)
		}
	}
	return nil
}

// addIssuers fetches each issuer's keys once.
func (f *findings) addIssuers(ctx context.Context, set *issuers.Set) {
	ctx, done := context.WithTimeout(ctx, 15*time.Second)
	defer done()
	set.Fetch(ctx)
	for _, s := range set.Status() {
		f.add("keys of issuer "+s.Name+" "+s.URL, s.Err)
	}
}

// check looks at a configuration as serve would, without opening what serve
// owns: the journal and the key ring are not touched.
func check(ctx context.Context, config string, p process, connect bool) findings {
	var f findings
	quiet := slog.New(slog.DiscardHandler)
	c, err := loadConfig(config)
	f.add("configuration "+config, err)
	if c == nil {
		return f
	}
	set, issuersErr := openIssuers(c, "", quiet)
	if err == nil {
		f.add("issuers", issuersErr)
	}
	if issuersErr == nil {
		_, policyErr := loadPolicy(c, set)
		f.add("policies "+c.Policies, policyErr)
	}
	if err != nil || issuersErr != nil {
		return f
	}
	f.add("data_dir "+c.DataDir, writable(c.DataDir))
	targets, err := openTargets(c, p, noSigner{})
	f.add("targets", err)
	if !connect {
		return f
	}
	f.addIssuers(ctx, set)
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if checker, ok := targets[name].(broker.Checker); ok {
			ctx, done := context.WithTimeout(ctx, 15*time.Second)
			f.add("target "+name, checker.Check(ctx))
			done()
		}
	}
	return f
}

// noSigner stands where check must not open the key ring.
type noSigner struct{}

func (noSigner) Sign(context.Context, string, []byte) (broker.Secret, error) {
	return broker.Secret{}, errors.New("check signs nothing")
}

// writable says why a folder, or the one it would be made in, cannot be written.
func writable(dir string) error {
	for {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, os.ErrNotExist) && filepath.Dir(dir) != dir:
			dir = filepath.Dir(dir)
			continue
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a folder", dir)
		}
		probe, err := os.CreateTemp(dir, ".daypass-check-")
		if err != nil {
			return fmt.Errorf("cannot be written: %w", err)
		}
		return errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
}
