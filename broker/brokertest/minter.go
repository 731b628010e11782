package brokertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// MinterSuite says how to test a credential kind.
type MinterSuite struct {
	Kind  broker.Kind
	Grant broker.Grant
	// Config is the target's configuration; the suite sets the deployment.
	Config broker.TargetConfig
	// Works uses a credential as a job would. An error means it was refused.
	Works func(context.Context, broker.Credential) error
	// Target reaches into the target; nil for kinds that hold nothing there
	// and cannot take back.
	Target *MinterTarget
}

// MinterTarget reaches into a target behind the minter's back.
type MinterTarget struct {
	Exists func(ctx context.Context, name string) (bool, error)
	// Expiry is the credential's native expiry in the target.
	Expiry func(ctx context.Context, h broker.Handle) (time.Time, error)
	// Plant makes the least that can bear a name: somebody else's account, or
	// what a mint that broke off left behind.
	Plant func(ctx context.Context, name string) error
	// Down and Up take the target away and give it back.
	Down, Up func(ctx context.Context) error
	// Session opens a session as a job does, and returns a way to use it: an
	// error means that it has ended. The test's end may close it.
	Session func(context.Context, broker.Credential) (use func(context.Context) error, err error)
	// Addr is where the target listens, and Through the admin secret of who
	// reaches it by another way: see [Cutter].
	Addr    string
	Through func(*net.TCPAddr) broker.SecretSource
}

// The deployments of the suite: ours, and a neighbour in the same target.
const (
	suiteDeployment     = "test"
	neighbourDeployment = "near"
)

// TestMinter checks that a kind keeps the contract of [broker.Minter] against
// a real target.
func TestMinter(t *testing.T, s MinterSuite) {
	t.Helper()
	if err := s.Kind.CheckGrant(s.Grant); err != nil {
		t.Fatalf("the suite's grant: %v", err)
	}
	r := minterRun{MinterSuite: s}
	r.minter = r.open(t, suiteDeployment)
	t.Run("planning is pure", r.planIsPure)
	t.Run("planning another lease gives another handle", r.plansDiffer)
	t.Run("a handle that was not planned is refused", r.strangeHandle)
	t.Run("what is minted works and says how it ends", r.works)
	t.Run("fields are named for machines and secrets are marked", r.fields)
	if s.Target == nil {
		t.Run("revoking says that it only expires, and nothing is held", r.expiresOnly)
		return
	}
	t.Run("the target knows the expiry", r.expiryIsNative)
	t.Run("what is revoked works no more", r.revoke)
	t.Run("revoking twice is as good as once", r.revokeTwice)
	t.Run("revoking what never was succeeds", r.revokeNothing)
	t.Run("revoking undoes a mint that broke off", r.revokeHalf)
	t.Run("names that are not ours in full are left alone", r.foreignNames)
	t.Run("another deployment's credentials are left alone", r.neighbour)
	t.Run("on another server nothing counts as revoked", r.wrongServer)
	t.Run("what is held is listed until it is revoked", r.held)
	t.Run("what is overdue by its name is held as overdue", r.overdue)
	t.Run("an order that is past is not minted", r.pastOrder)
	t.Run("many mints and revocations at once all succeed", r.concurrent)
	t.Run("revoking from several brokers at once succeeds", r.concurrentRevoke)
	t.Run("a mint that is cancelled anywhere is undone by revoking", r.cancelled)
	t.Run("a broker that died after a mint leaves nothing behind", r.crashed)
	t.Run("one order is not minted twice", r.twice)
	t.Run("only the target's clock says what has expired", r.clocks)
	t.Run("open sessions end when their credential is taken back", r.sessions)
	t.Run("a credential that is said to work no more does not", r.disarmed)
	t.Run("a target lost at any step of a mint leaves nothing behind", r.mintIsCut)
	t.Run("a target lost at any step of a revocation is revoked on later", r.revokeIsCut)
	t.Run("a target lost at any step of listing is an error", r.heldIsCut)
	t.Run("a target that is down is an error, and then it recovers", r.outage)
}

type minterRun struct {
	MinterSuite
	minter broker.Minter
}

func (r *minterRun) open(t *testing.T, deployment string) broker.Minter {
	t.Helper()
	return r.openWith(t, deployment, r.Config)
}

func (r *minterRun) openWith(t *testing.T, deployment string, c broker.TargetConfig) broker.Minter {
	t.Helper()
	c.Deployment = deployment
	m, err := r.Kind.Open(c)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { closeMinter(m) })
	return m
}

// closeMinter lets a minter go that keeps connections.
func closeMinter(m broker.Minter) {
	if c, ok := m.(io.Closer); ok {
		_ = c.Close()
	}
}

// order asks for a credential of a job whose claims are as hostile as a
// verified token can make them.
func (r *minterRun) order(t *testing.T, ttl time.Duration) broker.Order {
	t.Helper()
	id, err := broker.NewLeaseID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return broker.Order{
		Lease: id, Grant: r.Grant, NotAfter: time.Now().Add(ttl).Truncate(time.Second),
		For: broker.Identity{
			Issuer: "ci", URL: "https://ci.example.com", Subject: `'; DROP ROLE postgres; --`,
			Job: broker.Job{
				Repository: `acme/'; DROP TABLE "x"; -- \' $$ {{.}} %s ` + "\n\x00é\U0001F600", RepositoryID: "5678",
				Ref: `refs/heads/'"\$(id)`, Run: "1",
			},
		},
	}
}

// issued is a credential and the lease it would have.
type issued struct {
	order      broker.Order
	lease      broker.Lease
	credential broker.Credential
}

func (r *minterRun) mint(t *testing.T, m broker.Minter, ttl time.Duration) issued {
	t.Helper()
	made, err := r.tryMint(t.Context(), m, r.order(t, ttl))
	if err != nil {
		t.Fatalf("mint: %v", err)
	}
	return made
}

func (r *minterRun) tryMint(ctx context.Context, m broker.Minter, o broker.Order) (issued, error) {
	h, err := m.Plan(o)
	if err != nil {
		return issued{}, fmt.Errorf("plan: %w", err)
	}
	made := issued{order: o, lease: broker.Lease{ID: o.Lease, Handle: h, Grant: o.Grant, NotAfter: o.NotAfter, Opened: time.Now()}}
	made.credential, err = m.Mint(ctx, o, h)
	made.lease.ServerID = made.credential.ServerID
	return made, err
}

func (r *minterRun) planIsPure(t *testing.T) {
	ctx := t.Context()
	o := r.order(t, time.Minute)
	first, err := r.minter.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if again, err := r.open(t, suiteDeployment).Plan(o); err != nil || again != first {
			t.Errorf("planned %q, then %q, %v", first, again, err)
		}
	}
	if r.Target != nil {
		r.wantExists(ctx, t, string(first), false)
	}
}

func (r *minterRun) plansDiffer(t *testing.T) {
	a, err1 := r.minter.Plan(r.order(t, time.Minute))
	b, err2 := r.minter.Plan(r.order(t, time.Minute))
	if a == b || err1 != nil || err2 != nil {
		t.Errorf("planned %q and %q: %v, %v", a, b, err1, err2)
	}
	if _, _, ours := broker.ParseHandle(suiteDeployment, string(a)); !ours {
		t.Errorf("%q is not a name of ours", a)
	}
}

func (r *minterRun) strangeHandle(t *testing.T) {
	o, other := r.order(t, time.Minute), r.order(t, time.Minute)
	h, err := r.minter.Plan(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.minter.Mint(t.Context(), o, h); err == nil {
		t.Error("a handle of another order was minted")
	}
}

func (r *minterRun) works(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	if err := r.Works(t.Context(), made.credential); err != nil {
		t.Errorf("a fresh credential does not work: %v", err)
	}
	want := broker.TakebackNow
	if r.Target == nil {
		want = broker.TakebackExpiry
	}
	if made.credential.Takeback != want {
		t.Errorf("takeback %q, want %q", made.credential.Takeback, want)
	}
	if r.Target != nil && made.credential.ServerID == "" {
		t.Error("the target's identity is not known")
	}
}

func (r *minterRun) fields(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	secrets := 0
	env := map[string]bool{}
	for _, f := range made.credential.Fields {
		if f.Name == "" || strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || f.Name == "data" {
			t.Errorf("field %q is badly named", f.Name)
		}
		if f.Value.IsZero() {
			t.Errorf("field %q is empty", f.Name)
		}
		for _, e := range f.Env {
			if env[e] {
				t.Errorf("%s is set twice", e)
			}
			env[e] = true
		}
		if !f.Public {
			secrets++
		}
	}
	if secrets == 0 {
		t.Error("no field is secret")
	}
	again := r.mint(t, r.minter, time.Minute)
	for i, f := range made.credential.Fields {
		if !f.Public && f.Value.Equal(again.credential.Fields[i].Value) {
			t.Errorf("two credentials share their secret %q", f.Name)
		}
	}
}

func (r *minterRun) expiresOnly(t *testing.T) {
	made := r.mint(t, r.minter, time.Minute)
	if err := r.minter.Revoke(t.Context(), made.lease); !errors.Is(err, broker.ErrExpiresOnly) {
		t.Errorf("revoking gave %v, want ErrExpiresOnly", err)
	}
	if held, err := r.minter.Held(t.Context()); held != nil || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
}
