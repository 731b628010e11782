package access

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

// Period is a part of time. Both ends belong to it.
type Period struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Entry is a record of a broker's journal.
type Entry struct {
	Chain  string // the broker whose journal it is from
	Seq    uint64 // its number there; 1 is the first that the broker ever wrote
	Record broker.Record
}

// History gathers from journals which policy was in force when, and what was used.
// The entries of each chain have to come in order. The zero History has seen none.
type History struct {
	Now time.Time // what still is in force lasts until then

	chains map[string]*chain
	uses   map[useKey]time.Time
}

// chain is what is known of one broker.
type chain struct {
	first    time.Time // of its records
	running  string    // the version in force
	since    time.Time
	known    map[string][]Period
	complete bool // nothing of it is missing from its beginning
}

// useKey is a permission as it is used: by rule and grant.
type useKey struct{ rule, grant string }

// Add looks at one entry.
func (h *History) Add(e Entry) {
	if h.chains == nil {
		h.chains, h.uses = map[string]*chain{}, map[useKey]time.Time{}
	}
	r, c := e.Record, h.chains[e.Chain]
	if c == nil {
		c = &chain{first: r.At, known: map[string][]Period{}, complete: e.Seq == 1}
		h.chains[e.Chain] = c
	}
	switch r.Event {
	case broker.EventPolicy:
		c.end(r.At)
		c.running, c.since = r.Policy, r.At
	case broker.EventStopped, broker.EventStarted: // without having stopped, it crashed before
		c.end(r.At)
	case broker.EventIntent, broker.EventDenied, broker.EventRefused:
		c.decided(r)
	}
	if r.Event == broker.EventIssued {
		for i := range min(len(r.Rules), len(r.Grants)) {
			key := useKey{r.Rules[i], r.Grants[i]}
			if r.At.After(h.uses[key]) {
				h.uses[key] = r.At
			}
		}
	}
}

// end is the end of what is in force.
func (c *chain) end(at time.Time) {
	if c.running != "" {
		c.known[c.running] = append(c.known[c.running], Period{c.since, later(c.since, at)})
		c.running = ""
	}
}

// decided takes a decision for what it shows: that its version was in force, even
// if the journal does not say since when, or a reload has overtaken it.
func (c *chain) decided(r broker.Record) {
	switch {
	case r.Policy == "" || r.Policy == c.running:
	case c.running == "" && len(c.known) == 0 && !c.complete: // what was loaded is in a file that is not here
		c.running, c.since = r.Policy, c.first
	default:
		c.known[r.Policy] = append(c.known[r.Policy], Period{r.At, r.At})
	}
}

func later(a, b time.Time) time.Time {
	if b.Before(a) {
		return a
	}
	return b
}

// Version is a policy version and when it was in force, on any broker.
type Version struct {
	Version string   `json:"version"`
	Periods []Period `json:"periods"`
}

// Versions returns the versions that were in force in a span, in the order in
// which they came, each only as long as that lasted.
func (h *History) Versions(span Period) []Version {
	all := map[string][]Period{}
	for _, c := range h.chains {
		known := map[string][]Period{}
		for version, periods := range c.known {
			known[version] = slices.Clone(periods)
		}
		if c.running != "" {
			known[c.running] = append(known[c.running], Period{c.since, later(c.since, h.Now)})
		}
		for version, periods := range known {
			for _, p := range periods {
				if p, ok := p.within(span); ok {
					all[version] = append(all[version], p)
				}
			}
		}
	}
	var versions []Version
	for version, periods := range all {
		versions = append(versions, Version{version, union(periods)})
	}
	slices.SortFunc(versions, func(a, b Version) int {
		return cmp.Or(a.Periods[0].From.Compare(b.Periods[0].From), strings.Compare(a.Version, b.Version))
	})
	return versions
}

// within is the part of a period that lies in a span.
func (p Period) within(span Period) (Period, bool) {
	if p.From.Before(span.From) {
		p.From = span.From
	}
	if p.To.After(span.To) {
		p.To = span.To
	}
	return Period{p.From.UTC(), p.To.UTC()}, !p.To.Before(p.From)
}

// union is sorted periods, of which none touches another.
func union(periods []Period) []Period {
	periods = slices.Clone(periods)
	slices.SortFunc(periods, func(a, b Period) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })
	var all []Period
	for _, p := range periods {
		if n := len(all); n > 0 && !p.From.After(all[n-1].To) {
			all[n-1].To = later(all[n-1].To, p.To)
			continue
		}
		all = append(all, p)
	}
	return all
}

// Gaps says why the journals tell less than all of what was since a moment.
func (h *History) Gaps(since time.Time) []string {
	var gaps []string
	var earliest time.Time
	for _, name := range slices.Sorted(maps.Keys(h.chains)) {
		c := h.chains[name]
		if !c.complete && c.first.After(since) {
			gaps = append(gaps, fmt.Sprintf("the journal of %s begins at %s: earlier files are not here", name, c.first.UTC().Format(time.RFC3339)))
		}
		if earliest.IsZero() || c.first.Before(earliest) {
			earliest = c.first
		}
	}
	switch {
	case earliest.IsZero():
		gaps = append(gaps, "the journal is empty")
	case len(gaps) == 0 && earliest.After(since):
		gaps = append(gaps, fmt.Sprintf("the journal begins at %s: nothing is known of before", earliest.UTC().Format(time.RFC3339)))
	}
	return gaps
}

// Spanning is the question who could have what in a span of time.
type Spanning struct {
	Span    Period
	Filter  Filter
	History *History
	// Book returns a version as it was, with the grants of its time.
	Book func(version string) (*policy.Book, error)
}

// Span is the answer.
type Span struct {
	Span     Period    `json:"span"`
	Rows     []Row     `json:"permissions"`
	Versions []Version `json:"versions"`
	Gaps     []string  `json:"gaps,omitempty"` // why the answer may lack something
}

// List answers it: with each permission of any version that was in force, once,
// and when it could be had.
func (s Spanning) List() Span {
	out := Span{Span: s.Span, Rows: []Row{}, Versions: s.History.Versions(s.Span), Gaps: s.History.Gaps(s.Span.From)}
	if s.Span.To.After(s.History.Now) {
		out.Gaps = append(out.Gaps, "the span ends in the future: nothing is known from "+s.History.Now.UTC().Format(time.RFC3339)+" on")
	}
	at := map[string]int{}
	for _, v := range out.Versions {
		book, err := s.Book(v.Version)
		if err != nil {
			out.Gaps = append(out.Gaps, fmt.Sprintf("version %s, in force %s, cannot be read: %s", v.Version, spoken(v.Periods), firstLine(err)))
			continue
		}
		for _, row := range within(book, s.Filter, v.Periods) {
			key := row.key()
			i, known := at[key]
			if !known {
				at[key] = len(out.Rows)
				out.Rows = append(out.Rows, row)
				continue
			}
			periods := union(append(out.Rows[i].Periods, row.Periods...))
			out.Rows[i] = row // owner and place in the file are those of the latest
			out.Rows[i].Periods = periods
		}
	}
	slices.SortStableFunc(out.Rows, func(a, b Row) int {
		return cmp.Or(compare(a, b), comparePeriods(a.Periods, b.Periods))
	})
	return out
}

func comparePeriods(a, b []Period) int {
	if len(a) == 0 || len(b) == 0 {
		return cmp.Compare(len(b), len(a))
	}
	return a[0].From.Compare(b[0].From)
}

// within lists a version's permissions with the part of the periods in which they
// could be had: until their rule's last day.
func within(book *policy.Book, f Filter, periods []Period) []Row {
	rows := list(book, f, periods[0].From, periods[len(periods)-1].To)
	for i := range rows {
		for _, p := range periods {
			if end := rows[i].ended; !end.IsZero() && !end.After(p.To) {
				p.To = end
			}
			if !p.To.Before(p.From) {
				rows[i].Periods = append(rows[i].Periods, p)
			}
		}
	}
	return slices.DeleteFunc(rows, func(r Row) bool { return len(r.Periods) == 0 })
}

// key tells permissions apart by what they give, to whom and under which
// conditions.
func (r Row) key() string {
	r.Owner, r.ReviewBy, r.File, r.Line, r.Periods, r.Repository, r.ended = "", "", "", 0, nil, "", time.Time{}
	r.Except = slices.Clone(r.Except)
	for i := range r.Except {
		r.Except[i].until = time.Time{}
	}
	return fmt.Sprintf("%q", []any{r})
}

func spoken(periods []Period) string {
	var all []string
	for _, p := range periods {
		all = append(all, p.From.Format(time.RFC3339)+" to "+p.To.Format(time.RFC3339))
	}
	return strings.Join(all, ", ")
}

func firstLine(err error) string {
	if err == nil {
		err = errors.New("unknown")
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
