package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/audit"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/cases"
	history "github.com/daypass-dev/daypass/policy/recorded"
)

// recorded is what a journal tells of one request.
type recorded struct {
	Request  string            `json:"request_id"`
	Event    broker.Event      `json:"event"`
	At       time.Time         `json:"at"`
	Policy   string            `json:"policy,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	Issuer   string            `json:"issuer,omitempty"`
	Job      *broker.Job       `json:"job,omitempty"`
	Grants   []string          `json:"grants,omitempty"` // asked for and given, or those that were denied
	Rules    []string          `json:"rules,omitempty"`  // that gave them
	DeniedBy []broker.Reported `json:"denied_by,omitempty"`
	Count    int               `json:"count,omitempty"` // of as many it is the first
	Version  string            `json:"explained_under"`

	record broker.Record
}

// explainRequest decides a journalled request again: under the version that
// decided it, or another.
func (x policyExplain) explainRequest(dirs []string, at time.Time) (explained, error) {
	source := &policySource{}
	if err := source.readKnown(x.config); err != nil {
		return explained{}, err
	}
	journal := x.journal
	if journal == "" {
		journal = filepath.Join(source.config.DataDir, "journal")
	}
	r, err := findRequest(journal, x.request)
	if err != nil {
		return explained{}, err
	}
	book, err := x.bookFor(r, source, dirs)
	if err != nil {
		return explained{}, err
	}
	r.Version = book.Version()
	if x.at == "" {
		at = r.At
	}
	wants, err := x.wants(r)
	if err != nil {
		return explained{}, err
	}
	out := explained{Source: "journal", Recorded: r}
	id := r.identity()
	for _, w := range wants {
		out.Explanations = append(out.Explanations, book.Explain(id, w, at))
	}
	return out, nil
}

// bookFor is the policy that decided the request, unless another is asked for.
func (x policyExplain) bookFor(r *recorded, source *policySource, dirs []string) (*policy.Book, error) {
	if x.currentPolicy || len(dirs) > 0 {
		current, err := openPolicySource(x.config, dirs)
		if err != nil {
			return nil, err
		}
		return current.book()
	}
	hash, ok := strings.CutPrefix(r.Policy, "sha256:")
	if !ok {
		return nil, errors.New("the request was refused before policy decided it; --current decides it by the policies of now")
	}
	files, err := audit.ReadVersion(filepath.Join(source.config.DataDir, "versions"), hash)
	if err != nil {
		return nil, fmt.Errorf("the policy version that decided it: %w; --current decides it by the policies of now", err)
	}
	folder, known, err := policy.Restore(r.Policy, files)
	if err != nil {
		return nil, err
	}
	return folder.Book(known)
}

// wants are the grants of the request. What a job asked for beyond what it got
// is not journalled, so a grant that was given counts as asked for that long.
func (x policyExplain) wants(r *recorded) ([]broker.Want, error) {
	if x.grant != "" {
		w, err := cases.ParseWant(x.grant)
		if err != nil {
			return nil, usageError{err}
		}
		return []broker.Want{w}, nil
	}
	var wants []broker.Want
	for _, name := range r.Grants {
		if name == broker.UnknownGrant {
			continue
		}
		w := broker.Want{Name: name}
		for _, l := range r.record.Leases {
			if l.Grant.Name == name {
				w.TTL = history.Life(l)
			}
		}
		wants = append(wants, w)
	}
	if len(wants) == 0 {
		return nil, usageError{errors.New("the journal names no grant of this request: say with --grant which one to explain")}
	}
	return wants, nil
}

// identity is the job as far as it was journalled. What is not there may have
// been in the token.
func (r *recorded) identity() broker.Identity {
	if s := r.record.Session; s != nil {
		return s.For
	}
	id := broker.Identity{Issuer: r.Issuer, Subject: r.record.Subject, Claims: r.record.Claims, Trimmed: true}
	if id.Claims == nil {
		id.Claims = broker.Claims{}
	}
	return id
}

// findRequest reads a journal and returns what says most of a request: what was
// decided, rather than what came of it.
func findRequest(dir, request string) (*recorded, error) {
	telling := []broker.Event{broker.EventIntent, broker.EventDenied, broker.EventRefused, broker.EventReused}
	var best *broker.Record
	records := 0
	for entry, err := range audit.Read(dir) {
		if fault, torn := errors.AsType[*audit.Fault](err); torn && fault.Kind == audit.TornTail {
			break // a broker is writing that line now
		}
		if err != nil {
			return nil, fmt.Errorf("%w; daypassd audit verify says more", err)
		}
		records++
		if entry.Request != request || !slices.Contains(telling, entry.Event) {
			continue
		}
		if best == nil || slices.Index(telling, entry.Event) < slices.Index(telling, best.Event) {
			found := entry.Record
			best = &found
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no decision on request %q is among the %d records of %s; of strangers and of repeated refusals only the first in a minute is written out", request, records, dir)
	}
	return &recorded{
		Request: best.Request, Event: best.Event, At: best.At.UTC(), Policy: best.Policy, Reason: best.Reason, Issuer: best.Issuer,
		Job: best.Job, Grants: best.Grants, Rules: best.Rules, DeniedBy: best.DeniedBy, Count: best.Count, record: *best,
	}, nil
}

// print writes what was recorded, above what is explained of it.
func (r *recorded) print(w io.Writer) error {
	var b strings.Builder
	word := map[broker.Event]string{broker.EventIntent: "allowed", broker.EventDenied: "denied"}[r.Event]
	if word == "" {
		word = "refused before policy decided"
	}
	fmt.Fprintf(&b, "request %s, recorded at %s: %s", r.Request, r.At.Format(time.RFC3339), word)
	if r.Reason != "" {
		fmt.Fprintf(&b, " (%s)", r.Reason)
	}
	b.WriteString("\n")
	if r.Count > 1 {
		fmt.Fprintf(&b, "it is the first of %d that were alike; of the others nothing is known\n", r.Count)
	}
	if r.Job != nil {
		fmt.Fprintf(&b, "job: repository %s (id %s, owner %s)\n", quoted(r.Job.Repository), quoted(r.Job.RepositoryID), quoted(r.Job.OwnerID))
	}
	if len(r.record.Claims) == 0 && r.record.Session == nil {
		b.WriteString("no claim was journalled, as of every stranger: nothing can be said of conditions\n")
	}
	if r.Version != r.Policy {
		fmt.Fprintf(&b, "below it is decided under another version than the one recorded, %s\n", r.Policy)
	}
	_, err := fmt.Fprintf(w, "%s\n", b.String())
	return err
}

// quoted makes a token's text fit for a terminal.
func quoted(s string) string {
	if s == "" {
		return "-"
	}
	return fmt.Sprintf("%+q", s)
}
