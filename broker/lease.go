package broker

import (
	"context"
	"time"
)

// LeaseState is where a lease stands.
type LeaseState string

// The life of a lease. One that is over is not kept.
const (
	LeasePending  LeaseState = "pending"  // opened; its credential may or may not exist
	LeaseActive   LeaseState = "active"   // its credential was made
	LeaseRevoking LeaseState = "revoking" // it is to go; retried until it is gone
)

// Lease is the record that a credential exists, or may. It holds no secret,
// and all that is needed to take the credential back.
type Lease struct {
	ID       LeaseID    `json:"id"`
	Handle   Handle     `json:"handle"`
	Grant    Grant      `json:"grant"` // as it was when the lease was opened
	ServerID string     `json:"server_id,omitempty"`
	Takeback Takeback   `json:"takeback,omitempty"`
	Session  SessionID  `json:"session"`
	Request  string     `json:"request"`
	Rule     string     `json:"rule"`
	Issuer   string     `json:"issuer"`
	Place    string     `json:"place"`                // see Identity.Place: limits and filters go by it
	Repo     string     `json:"repository,omitempty"` // for people
	Run      string     `json:"run,omitempty"`
	State    LeaseState `json:"state"`
	Opened   time.Time  `json:"opened"`
	NotAfter time.Time  `json:"not_after"`
	Due      time.Time  `json:"due"`                // when a sweeper takes it up: pending leases soon, active ones at NotAfter
	Attempts int        `json:"attempts,omitempty"` // failed revocations
	LastErr  string     `json:"last_error,omitempty"`
}

// Minted is what becomes known of a lease when its credential is made.
type Minted struct {
	ID       LeaseID
	ServerID string
	Takeback Takeback
}

// Caps bound the live leases of one place (see [Identity.Place]) and those that
// rules of policy gave, by the rule's id. Those of one grant are bounded by
// [Grant.MaxLive]. What is 0 or missing has no bound.
type Caps struct {
	LivePerPlace int
	LivePerRule  map[string]int
}

// Leases is where leases are kept. Each method is atomic and durable as far as
// the store is: after an error the caller assumes that it may have happened.
// Every lease counts as live until it is closed.
type Leases interface {
	// Open stores leases as pending, all or none. It refuses with
	// [RateLimited] where a cap would be passed, and where their session
	// refuses them with what [Session.Refuses] says, or with [ErrNoSession]
	// where it is unknown.
	Open(ctx context.Context, leases []Lease, caps Caps) error
	// Activate marks pending leases as active and due at their NotAfter, all
	// or none. It fails with what [Session.Refuses] says where their session
	// refuses them by now, or with [ErrClosing] where it is gone or a lease is
	// no longer pending.
	Activate(ctx context.Context, made []Minted) error
	// Postpone stores that revoking l has to be tried again: state
	// revoking, its Due, Attempts and LastErr. A lease that is gone stays
	// gone, without an error.
	Postpone(ctx context.Context, l Lease) error
	// Close forgets a lease whose credential is gone. Idempotent.
	Close(ctx context.Context, id LeaseID) error
}

// LeaseFilter picks leases; zero fields pick all.
type LeaseFilter struct {
	Session SessionID
	Place   string
	Grant   string
	Rule    string
	Target  string
}

// LeaseBook is where leases are looked up.
type LeaseBook interface {
	// Lease returns one lease, or [ErrNoLease].
	Lease(ctx context.Context, id LeaseID) (Lease, error)
	// List returns the leases a filter picks, oldest first.
	List(ctx context.Context, f LeaseFilter) ([]Lease, error)
	// Due returns up to limit leases of a target whose Due is not after at,
	// most overdue first. Two brokers may be given the same lease; the work
	// on it is idempotent.
	Due(ctx context.Context, target string, at time.Time, limit int) ([]Lease, error)
	// Live counts the leases that each of several filters picks, in their
	// order.
	Live(ctx context.Context, f ...LeaseFilter) ([]int, error)
}
