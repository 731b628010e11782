package lease

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// The rules of a lease's life, which both stores share.

// opening is a checked set of leases that are to be opened together.
type opening struct {
	session broker.SessionID
	place   string
	leases  []broker.Lease
	grants  map[string]demand // those with a cap
	rules   map[string]demand // likewise
}

// demand is how many leases of a grant or rule are asked for, and how many may
// live.
type demand struct{ more, most int }

// checkOpening refuses what the broker never asks for: leases of several jobs
// at once, or such as are not pending.
func checkOpening(leases []broker.Lease, caps broker.Caps) (opening, error) {
	if len(leases) == 0 {
		return opening{}, fault(errors.New("open: no leases"))
	}
	o := opening{session: leases[0].Session, place: leases[0].Place, leases: leases,
		grants: make(map[string]demand), rules: make(map[string]demand)}
	seen := make(map[broker.LeaseID]bool)
	for _, l := range leases {
		switch {
		case l.ID == "" || seen[l.ID]:
			return opening{}, fault(fmt.Errorf("open: lease id %q is empty or there twice", l.ID))
		case l.Session != o.session || l.Place != o.place:
			return opening{}, fault(errors.New("open: leases of several job sessions or places"))
		case l.State != broker.LeasePending:
			return opening{}, fault(fmt.Errorf("open: lease %s is %s, not pending", l.ID, l.State))
		}
		seen[l.ID] = true
		if g := l.Grant; g.MaxLive > 0 {
			o.grants[g.Name] = demand{more: o.grants[g.Name].more + 1, most: g.MaxLive}
		}
		if most := caps.LivePerRule[l.Rule]; most > 0 {
			o.rules[l.Rule] = demand{more: o.rules[l.Rule].more + 1, most: most}
		}
	}
	return o, nil
}

// activated is a pending lease whose credential was made.
func activated(l broker.Lease, m broker.Minted) (broker.Lease, error) {
	if l.State != broker.LeasePending {
		return broker.Lease{}, broker.ErrClosing
	}
	l.State, l.ServerID, l.Takeback, l.Due = broker.LeaseActive, m.ServerID, m.Takeback, l.NotAfter
	return l, nil
}

// postponed is what is kept of a lease whose revocation has to be tried again.
func postponed(kept, asked broker.Lease) broker.Lease {
	kept.State, kept.Due, kept.Attempts, kept.LastErr = broker.LeaseRevoking, asked.Due, asked.Attempts, asked.LastErr
	return kept
}

// ending is what a session comes to: it is given back, or, by an alarm, its token
// was reused.
type ending struct {
	at     time.Time
	reused bool
}

// of is the session afterwards; leases are those that it has.
func (e ending) of(s broker.Session, leases []broker.Lease) broker.Session {
	if !e.reused {
		s.Closing = true
		return s
	}
	s.Reused = true
	if slices.ContainsFunc(leases, e.takes) {
		s.OnReuse = broker.OnReuseRevoke
	}
	return s
}

// takes reports whether a lease becomes due.
func (e ending) takes(l broker.Lease) bool {
	return !e.reused || l.Grant.OnReuse == broker.OnReuseRevoke
}

// told is a session that was not there yet when the alarm was raised: nobody has
// its token.
func told(id broker.SessionID, until time.Time) broker.Session {
	return broker.Session{ID: id, Expires: until, Reused: true}
}

// started is a new session where another is kept by its id, which may only be
// one that was told of an alarm.
func started(s, kept broker.Session) (broker.Session, error) {
	if !kept.Opened.IsZero() {
		return s, fault(errors.New("start: the job session exists"))
	}
	s.Reused = true
	return s, s.Ended()
}

// refusal says why a session's leases cannot be had, or nil.
func refusal(s broker.Session, leases ...broker.Lease) error {
	for _, l := range leases {
		if err := s.Refuses(l.Grant); err != nil {
			return err
		}
	}
	return s.Ended()
}

// hastened is a lease of a session that ends: due at once, unless it is
// being revoked already or was due before.
func hastened(l broker.Lease, at time.Time) (broker.Lease, bool) {
	if l.State == broker.LeaseRevoking || !l.Due.After(at) {
		return l, false
	}
	l.Due = at
	return l, true
}

// extended is a session with a fresh identity of the same job.
func extended(s broker.Session, fresh broker.Identity, until time.Time) broker.Session {
	s.For = fresh
	if until.After(s.Expires) {
		s.Expires = until
	}
	return s
}

func picks(f broker.LeaseFilter, l broker.Lease) bool {
	return (f.Session == "" || f.Session == l.Session) &&
		(f.Place == "" || f.Place == l.Place) &&
		(f.Grant == "" || f.Grant == l.Grant.Name) &&
		(f.Rule == "" || f.Rule == l.Rule) &&
		(f.Target == "" || f.Target == l.Grant.Target)
}

func oldestFirst(leases []broker.Lease) []broker.Lease {
	slices.SortFunc(leases, func(a, b broker.Lease) int {
		return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID))
	})
	return leases
}

func mostOverdueFirst(leases []broker.Lease) []broker.Lease {
	slices.SortFunc(leases, func(a, b broker.Lease) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
	})
	return leases
}

// fault is a call that the broker's own code should not have made.
func fault(err error) error {
	return &broker.Error{Code: broker.Internal, Reason: "lease_store", Err: err, Public: "something went wrong on our side"}
}
