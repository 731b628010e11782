package broker

import (
	"context"
	"encoding/json"
	"time"
)

// Access says whether a grant can change anything.
type Access string

// The two sorts of access. A grant that does not say is Write: the strict side.
const (
	Read  Access = "read"
	Write Access = "write"
)

// OnReuse says what becomes of a grant's credentials when somebody else offers
// the token that bought them.
type OnReuse string

// What a second presentation of a token does. It is journalled and counted in
// either case.
const (
	OnReuseKeep   OnReuse = ""       // nothing more
	OnReuseRevoke OnReuse = "revoke" // it is taken back, and its job session ends
)

// Grant is a named thing a job can ask for, as the operator defined it. It is
// immutable and stored with each lease, so that a later edit does not change
// how a credential is taken back.
type Grant struct {
	Name    string            `json:"name"`
	Kind    string            `json:"kind"`
	Target  string            `json:"target"` // the kind's own name, for kinds that need none
	MaxTTL  time.Duration     `json:"max_ttl"`
	MaxLive int               `json:"max_live,omitempty"` // live leases of this grant, over all jobs; 0: no cap
	Access  Access            `json:"access"`
	OnReuse OnReuse           `json:"on_reuse,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Params  json.RawMessage   `json:"params,omitempty"` // the kind's settings, as a JSON object; checked when loaded
}

// Takeback says what revoking a credential achieves.
type Takeback string

// How a credential ends before its expiry.
const (
	TakebackNow    Takeback = "now"    // it stops working when it is revoked
	TakebackExpiry Takeback = "expiry" // it cannot be revoked, and ends by itself at its expiry
	TakebackNever  Takeback = "never"  // it outlives us: a static secret that was read
)

// Order is all that a minter may know of a request.
type Order struct {
	Lease    LeaseID
	Grant    Grant     // what policy allows, not what was asked
	NotAfter time.Time // whole seconds; the credential must not work after it
	For      Identity
}

// Field is one part of a credential: a user name, a password, an endpoint.
type Field struct {
	Name   string   // key under "fields" in the answer: lower case, [a-z0-9_]
	Env    []string // names under "env" in the answer, where tools look for it
	Value  Secret
	Public bool // not secret: a client need not mask it (host, user name)
}

// Credential is what a minter made.
type Credential struct {
	Fields   []Field
	Takeback Takeback
	ServerID string // the target's own identity (system_identifier and database …): "not found" counts as revoked only there; empty if it has none
}

// Held is a credential that a target says it holds, recognised by our name
// for it.
type Held struct {
	Handle  Handle
	Expires time.Time // as the name says
	Overdue bool      // past Expires by the target's own clock
}

// Minter makes and takes back the credentials of one target. Safe for
// concurrent use.
type Minter interface {
	// Plan fixes the credential's name before anything is made. It is pure:
	// the same order gives the same handle, and nothing is contacted.
	Plan(Order) (Handle, error)
	// Mint makes the credential under the planned handle. On error the
	// caller revokes by handle: Mint need not clean up.
	Mint(context.Context, Order, Handle) (Credential, error)
	// Revoke takes the credential back. It is idempotent, undoes a crashed
	// or half-done Mint, and treats what was never made as revoked, but only
	// on the server that the lease names: on another it does nothing, and the
	// error wraps [ErrOtherServer]. A credential that cannot be taken back is
	// an error that wraps [ErrExpiresOnly]. What may take long comes last, after
	// a call of [Disarmed]; done again it goes on where it broke off.
	Revoke(context.Context, Lease) error
	// Held lists what the target holds under names of this deployment that
	// match in full: empty where there are none, nil where the target cannot
	// hold or list any.
	Held(context.Context) ([]Held, error)
}

// Signer signs the tokens that Daypass issues itself.
type Signer interface {
	// Sign returns a compact JWS (RS256, header typ as given) over the JSON
	// payload, with the key that is due for signing now.
	Sign(ctx context.Context, typ string, payload []byte) (Secret, error)
}

// Kind is one sort of credential: its name, what its grants and targets must
// say, and how a target's minter is made. A kind is registered in
// broker/mint/kinds.go and nowhere else.
type Kind struct {
	Name string
	// Targeted kinds need an entry under targets in the configuration; the
	// others mint by themselves and their target is the kind's name.
	Targeted bool
	// Takeback is what giving back achieves for each credential of the kind,
	// so that a job can be told before it asks for one. Empty: it depends.
	Takeback Takeback
	// Revokers is how many revocations of one target its minter works on at
	// once, beside listing; 0: 4.
	Revokers int
	// CheckGrant reports every fault of a grant's params, naming the field
	// (errors.Join of several); nil if there is none.
	CheckGrant func(Grant) error
	// Open makes the minter. It contacts nothing: a target that is down must
	// not stop the broker.
	Open func(TargetConfig) (Minter, error)
}

// TargetConfig is what a kind gets to know of its target and of us.
type TargetConfig struct {
	Name       string
	Deployment string          // four letters or digits; marks what is ours
	URL        string          // our own issuer URL
	Admin      SecretSource    // nil for kinds that are not Targeted
	Params     json.RawMessage // the kind's settings of the target, as a JSON object; Open checks them
	Signer     Signer
	Now        func() time.Time
}

// Checker is a [Minter] that can say whether its target is reachable and its
// admin credential sufficient, without making anything. `daypassd check
// --connect` uses it.
type Checker interface{ Check(context.Context) error }
