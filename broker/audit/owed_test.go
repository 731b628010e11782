package audit

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Stores are rebuilt from these records: what is counted only, or merged with
// another, would open a session again.
func TestWhatBecameOfSessionsAndLeasesOnAFullDiskIsWrittenOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d, dir := onBadDisk(t)
		d.set(func(d *badDisk) { d.full = true })
		const each = 20
		about := broker.Job{Repository: "acme/shop", RepositoryID: "5678", OwnerID: "1234"}
		for i := range each {
			for _, r := range []broker.Record{
				{Event: broker.EventShut, Issuer: "ci", Job: &about, Session: &broker.Session{ID: broker.SessionID(fmt.Sprint("session", i)), Closing: true}},
				{Event: broker.EventRevoked, Issuer: "ci", Reason: "given_back", Leases: []broker.Lease{{ID: broker.LeaseID(fmt.Sprint("lease", i)), Handle: broker.Handle(fmt.Sprint("handle", i))}}},
			} {
				if err := j.Append(t.Context(), r); err == nil {
					t.Fatal("appended to a full disk")
				}
				j.Note(r)
				j.Note(r) // told twice is one record
			}
		}
		d.set(func(d *badDisk) { d.full = false })
		time.Sleep(2*noteWindow + maxBackoff)
		mustClose(t, j)
		sessions, leases := map[broker.SessionID]bool{}, map[broker.LeaseID]bool{}
		for _, e := range history(t, dir) {
			switch e.Event {
			case broker.EventShut:
				sessions[e.Session.ID] = e.Session.Closing
			case broker.EventRevoked:
				leases[e.Leases[0].ID] = true
			}
		}
		if len(sessions) != each || len(leases) != each {
			t.Errorf("the journal tells of %d sessions and %d leases, want %d of each", len(sessions), len(leases), each)
		}
	})
}
