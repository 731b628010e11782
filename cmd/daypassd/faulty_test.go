package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// faultyServers is set, to a file with the servers' URLs, where this program is
// to be a daypassd whose parts fail as the names of grants say. What a release
// runs has no such thing in it: the parts are wrapped here.
const faultyServers = "DAYPASS_TEST_FAULTY_SERVERS"

// The ways to fail.
const (
	faultKill  = "kill"  // wait at this point for a kill -9
	faultError = "error" // fail
	faultStall = "stall" // go on after five seconds
)

const stallFor = 5 * time.Second

var errFault = errors.New("failed by the test")

// mishaps know which leases are to meet which fault: a grant is named
// POINT-WAY. Each meets it once, and only in the process that planned it, so
// that others can clean up after it.
type mishaps struct {
	out io.Writer // is told of each

	mu     sync.Mutex        // guards what follows
	grants map[string]string // by whatever a point knows of a lease: id, handle, token
	met    map[string]bool
}

func (f *mishaps) plan(grant string, names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range names {
		f.grants[n] = grant
	}
}

// due returns the way to fail at a point, or "".
func (f *mishaps) due(point, name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	grant := f.grants[name]
	way, ok := strings.CutPrefix(grant, point+"-")
	if !ok || f.met[grant+name] || way != faultKill && way != faultError && way != faultStall {
		return ""
	}
	f.met[grant+name] = true
	fmt.Fprintf(f.out, "MET %s\n", grant)
	return way
}

// at fails, or does not.
func (f *mishaps) at(point, name string) error {
	switch f.due(point, name) {
	case faultKill:
		select {}
	case faultError:
		return errFault
	case faultStall:
		time.Sleep(stallFor)
	}
	return nil
}

// around does something between two points. What fails after it was done has
// been done: the answer is lost.
func (f *mishaps) around(point, name string, do func() error) error {
	if err := f.at(point+"-before", name); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return f.at(point+"-after", name)
}

type faultyPolicy struct {
	broker.Policy
	f *mishaps
}

func (p faultyPolicy) Decide(id broker.Identity, wants []broker.Want, at time.Time) (broker.Decision, error) {
	if len(wants) > 0 {
		p.f.plan(wants[0].Name, string(id.Token[:]))
	}
	return p.Policy.Decide(id, wants, at)
}

type faultyReplay struct {
	broker.Replay
	f *mishaps
}

func (r faultyReplay) Claim(ctx context.Context, c broker.Claim) error {
	return r.f.around("claim", string(c.Token[:]), func() error { return r.Replay.Claim(ctx, c) })
}

type faultyJournal struct {
	broker.Journal
	f *mishaps
}

func (j faultyJournal) Append(ctx context.Context, r broker.Record) error {
	do := func() error { return j.Journal.Append(ctx, r) }
	if len(r.Leases) == 0 || r.Event != broker.EventIntent && r.Event != broker.EventIssued {
		return do()
	}
	return j.f.around(string(r.Event), string(r.Leases[0].ID), do)
}

type faultyLeases struct {
	broker.Leases
	f *mishaps
}

func (l faultyLeases) Open(ctx context.Context, leases []broker.Lease, caps broker.Caps) error {
	return l.f.around("open", string(leases[0].ID), func() error { return l.Leases.Open(ctx, leases, caps) })
}

func (l faultyLeases) Activate(ctx context.Context, made []broker.Minted) error {
	return l.f.around("activate", string(made[0].ID), func() error { return l.Leases.Activate(ctx, made) })
}

func (l faultyLeases) Close(ctx context.Context, id broker.LeaseID) error {
	return l.f.around("close", string(id), func() error { return l.Leases.Close(ctx, id) })
}

type faultyMinter struct {
	broker.Minter
	f *mishaps
}

func (m faultyMinter) Plan(o broker.Order) (broker.Handle, error) {
	h, err := m.Minter.Plan(o)
	if err == nil {
		m.f.plan(o.Grant.Name, string(o.Lease), string(h))
	}
	return h, err
}

func (m faultyMinter) Mint(ctx context.Context, o broker.Order, h broker.Handle) (made broker.Credential, err error) {
	err = m.f.around("mint", string(o.Lease), func() error {
		made, err = m.Minter.Mint(ctx, o, h)
		for _, field := range made.Fields {
			if field.Name == "url" { // somebody gets hold of it, answer or no answer
				fmt.Fprintf(m.f.out, "MADE %s %s\n", o.Grant.Name, field.Value.Reveal())
			}
		}
		return err
	})
	return made, err
}

func (m faultyMinter) Revoke(ctx context.Context, l broker.Lease) error {
	return m.f.around("revoke", string(l.ID), func() error { return m.Minter.Revoke(ctx, l) })
}

// serveFaulty is `daypassd serve` with wrapped parts, and with a wire between
// it and each server that fails at the statements of its choice.
func serveFaulty(list string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := &mishaps{out: os.Stdout, grants: map[string]string{}, met: map[string]bool{}}
	if err := serveWith(ctx, f, list, args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return exitOK
}

func serveWith(ctx context.Context, f *mishaps, list, config string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	servers := map[string]string{}
	if err := json.Unmarshal(data, &servers); err != nil {
		return err
	}
	for name, admin := range servers {
		if servers[name], err = behindWire(f, admin); err != nil {
			return err
		}
	}
	p := process{stdout: os.Stdout, stderr: os.Stderr, env: func(name string) (string, bool) { v, ok := servers[name]; return v, ok }}
	log, err := newLog(os.Stderr, "info")
	if err != nil {
		return err
	}
	c, err := loadConfig(config)
	if err != nil {
		return err
	}
	d, err := assemble(ctx, c, p, log)
	if err != nil {
		return err
	}
	if err := d.wrap(f); err != nil {
		return errors.Join(err, d.close(ctx))
	}
	return errors.Join(d.serve(ctx), d.close(ctx))
}

// wrap puts faulty parts in the place of a daemon's own.
func (d *daemon) wrap(f *mishaps) error {
	c := d.brokerConfig()
	c.Policy, c.Replay, c.Journal, c.Leases = faultyPolicy{c.Policy, f}, faultyReplay{c.Replay, f}, faultyJournal{c.Journal, f}, faultyLeases{c.Leases, f}
	targets := map[string]broker.Minter{}
	for name, m := range c.Targets {
		targets[name] = faultyMinter{m, f}
	}
	c.Targets = targets
	var err error
	if d.broker, err = broker.New(c); err != nil {
		return err
	}
	return d.openHandlers(context.Background(), process{})
}
