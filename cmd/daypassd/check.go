package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
asked for their keys, Redis whether it is fit, and targets whether the admin
credential is enough and each grant could be made. Environment variables and
files that hold admin credentials have to be there for that.`,
		Example: `  daypassd check --config daypass.yaml
  daypassd check --config daypass.yaml --connect --output json`,
		Args: noArgs,
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
	ctx, done := context.WithTimeout(ctx, checkWithin)
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
	g, gatesErr := newGates(time.Now)
	issuersErr = errors.Join(issuersErr, gatesErr)
	if issuersErr == nil {
		g.issuers = set.Issuers()
	}
	var targetsErr error
	if err == nil {
		f.add("issuers", issuersErr)
		g.targets, targetsErr = openTargets(c, p, noSigner{})
	}
	c = f.addPolicy(c, g, targetsErr)
	if err != nil || issuersErr != nil {
		return f
	}
	f.add("data_dir "+c.DataDir, writable(c.DataDir))
	f.add("targets", targetsErr)
	if !connect {
		return f
	}
	f.addIssuers(ctx, set)
	f.addState(ctx, c, p)
	f.addTargets(ctx, c, g.targets)
	return f
}

// addPolicy sends grants and policies through the gates of a reload, as far as
// what they refer to is sound. It returns the configuration with all grants.
func (f *findings) addPolicy(c *Config, g gates, targetsErr error) *Config {
	if targetsErr != nil {
		g.targets = nil
	}
	m := gather(c)
	_, verdicts := g.pass(m)
	for _, v := range verdicts {
		part := v.gate
		switch {
		case part == "policies":
			part += " " + c.Policies
		case part == "grants" && c.Grants.Folder != "":
			part += " " + c.Grants.Folder
		}
		f.add(part, v.err)
	}
	return m.config
}

// checkWithin bounds the check of one part that may not answer.
const checkWithin = 15 * time.Second

// addState asks Redis whether it is fit. Its records are not looked at: what
// authenticates them is in the key ring, which check does not open.
func (f *findings) addState(ctx context.Context, c *Config, p process) {
	if c.State.Embedded {
		return
	}
	ctx, done := context.WithTimeout(ctx, checkWithin)
	defer done()
	f.add("state "+c.State.Redis.where(), checkRedis(ctx, c, p))
}

// checkRedis asks what needs no key. A broker's own probe with a wrong one would
// destroy what brokers that serve have written.
func checkRedis(ctx context.Context, c *Config, p process) error {
	secrets, err := c.State.Redis.secrets(p)
	if err != nil {
		return err
	}
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	once, err := openReplay(c, secrets, key, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(once.Fit(ctx), once.Close())
}

// where names the servers; a password in the URL is a fault of the
// configuration, which ends the check before this.
func (r RedisConfig) where() string {
	if r.Mode == "sentinel" {
		return fmt.Sprintf("%s by %s", r.Master, strings.Join(r.Sentinels, ", "))
	}
	return r.URL
}

// grantChecker is a [broker.Checker] that also knows whether a grant could be
// made.
type grantChecker interface {
	CheckGrant(context.Context, broker.Grant) error
}

// addTargets asks each target, and each that is well for each of its grants.
func (f *findings) addTargets(ctx context.Context, c *Config, targets map[string]broker.Minter) {
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		checker, ok := targets[name].(broker.Checker)
		if !ok {
			continue
		}
		err := within(ctx, checker.Check)
		f.add("target "+name, err)
		byGrant, ok := targets[name].(grantChecker)
		if err != nil || !ok {
			continue
		}
		for _, grant := range slices.Sorted(maps.Keys(c.Grants.Named)) {
			if g := c.Grants.Named[grant]; g.brokerTarget() == name {
				f.add("grant "+grant, within(ctx, func(ctx context.Context) error {
					return byGrant.CheckGrant(ctx, c.brokerGrant(grant, g))
				}))
			}
		}
	}
}

func within(ctx context.Context, do func(context.Context) error) error {
	ctx, done := context.WithTimeout(ctx, checkWithin)
	defer done()
	return do(ctx)
}

// noSigner stands where check must not open the key ring.
type noSigner struct{}

func (noSigner) Sign(context.Context, string, []byte) (broker.Secret, error) {
	return broker.Secret{}, errors.New("check signs nothing")
}

// writable says why a folder, or the one it would be made in, cannot be written.
func writable(dir string) error {
	dir = existing(dir)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	}
	probe, err := os.CreateTemp(dir, ".daypass-check-")
	if err != nil {
		return cannotWrite(dir, err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// existing is a folder, or the nearest above it that there is.
func existing(dir string) string {
	for {
		_, err := os.Stat(dir)
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// cannotWrite says for whom a folder cannot be written, and what to do.
func cannotWrite(dir string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("cannot be written: %w", err)
	}
	return fmt.Errorf("cannot be written by user %d: give daypassd's user the right to write to %s, or name another data_dir", os.Getuid(), dir)
}
