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
	grants  map[string]grantDemand // those with a cap
}

// grantDemand is how many leases of a grant are asked for, and how many may
// live.
type grantDemand struct{ more, most int }

// checkOpening refuses what the broker never asks for: leases of several jobs
// at once, or such as are not pending.
func checkOpening(leases []broker.Lease) (opening, error) {
	if len(leases) == 0 {
		return opening{}, fault(errors.New("open: no leases"))
	}
	o := opening{session: leases[0].Session, place: leases[0].Place, leases: leases, grants: make(map[string]grantDemand)}
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
			d := o.grants[g.Name]
			o.grants[g.Name] = grantDemand{more: d.more + 1, most: g.MaxLive}
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

// hastened is a lease of a session that was shut: due at once, unless it is
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
