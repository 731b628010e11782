package broker

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"
)

// Config is what a [Broker] is made of. All fields are needed unless said
// otherwise; [New] refuses nils.
type Config struct {
	Verifier Verifier
	Policy   Policy
	Replay   Replay
	Journal  Journal
	Leases   Leases
	Book     LeaseBook
	Sessions Sessions
	Alarms   Alarms
	Answers  Answers
	Encode   func(Answer) ([]byte, error) // an answer as a client reads it, to be sealed
	Targets  map[string]Minter            // by the name that grants use
	About    map[string]TargetInfo        // by the same; may lack targets
	Takeback map[string]Takeback          // by kind: what a dry run says of giving back; may lack kinds
	Limits   Limits
	Revoking Revoking // default: by itself
	Meter    Meter
	Log      *slog.Logger
	Now      func() time.Time
	Rand     io.Reader // a cryptographic source

	MintTimeout   time.Duration // for all of one exchange's mints; default 20 s
	RevokeTimeout time.Duration // for one revocation; default 20 s
}

// Revoking says who takes credentials back.
type Revoking string

// Who does.
const (
	RevokingAlways Revoking = ""       // sweepers, when they are due; and whoever asks
	RevokingAsked  Revoking = "paused" // only whoever asks, job or operator: for a start from a backup of the state
)

// Limits keep one repository from taking what others need. 0 means no limit.
type Limits struct {
	ExchangesPerMinute int // per repository and broker; only what policy allows is counted
	LivePerPlace       int // live leases per repository, over all brokers
}

// Meter counts what operators watch. Implementations are safe for concurrent
// use and do not block. Label values are configured names and fixed words,
// never text from a token.
type Meter interface {
	// Exchanged counts an exchange or a request on a session. issuer is the
	// configured name, empty where no token was verified; outcome is
	// "issued", or the reason of the refusal.
	Exchanged(issuer, outcome string)
	// Minted measures one mint by kind; outcome is "ok" or "failed".
	Minted(kind, outcome string, took time.Duration)
	// Revoked counts revocations by kind; outcome is "ok" or "failed".
	Revoked(kind, outcome string)
	// Reported counts what a rule that only reports would have done about a
	// grant; rule is its id.
	Reported(rule string, effect Effect)
	// Swept is told after each sweep how many leases are live, and how long
	// the most overdue one has been waiting.
	Swept(live int, lag time.Duration)
	// Found counts what looking at a target brought up: "orphan",
	// "vanished" or "target_changed".
	Found(target, what string)
	// Reached is told of each target, every few seconds, how long it has been
	// lost; 0: it answers.
	Reached(target string, lost time.Duration)
}

// Answer is what a job gets.
type Answer struct {
	Request  string
	Token    Secret // the job session's, when it was opened by this request
	Session  Session
	Granted  []Granted
	Decision Decision
	DryRun   bool
	Sealed   *Sealed // instead of all above that is secret, for a request with a Recipient
}

// Granted is one credential of an answer.
type Granted struct {
	Lease      Lease
	Credential Credential
}

// Broker exchanges CI tokens for credentials, and takes them back. Safe for
// concurrent use.
type Broker struct {
	verifier Verifier
	policy   Policy
	replay   Replay
	journal  Journal
	leases   Leases
	book     LeaseBook
	sessions Sessions
	alarms   Alarms
	answers  Answers
	encode   func(Answer) ([]byte, error)
	lanes    map[string]*lane // by target
	limits   Limits
	revoking Revoking
	meter    Meter
	log      *slog.Logger
	now      func() time.Time
	rand     io.Reader

	takebacks map[string]Takeback // by kind

	mintTimeout, revokeTimeout time.Duration

	rate      *rateLimit // exchanges and requests on sessions
	told      *rateLimit // records that one token can bring about at will
	underWay  revocations
	issuing   atomic.Int64 // exchanges that are past their intent
	requested requested
	stuck     stuckLeases
}

// New makes a broker. It contacts nothing.
func New(c Config) (*Broker, error) {
	if err := c.missing(); err != nil {
		return nil, err
	}
	b := &Broker{
		verifier: c.Verifier, policy: c.Policy, replay: c.Replay, journal: c.Journal,
		leases: c.Leases, book: c.Book, sessions: c.Sessions, alarms: c.Alarms, answers: c.Answers, encode: c.Encode, lanes: make(map[string]*lane, len(c.Targets)),
		limits: c.Limits, revoking: c.Revoking, meter: c.Meter, log: c.Log, now: c.Now, rand: c.Rand,
		takebacks:     maps.Clone(c.Takeback),
		mintTimeout:   cmp.Or(c.MintTimeout, 20*time.Second),
		revokeTimeout: cmp.Or(c.RevokeTimeout, 20*time.Second),
		rate:          newRateLimit(c.Limits.ExchangesPerMinute),
		told:          newRateLimit(toldPerMinute),
	}
	for name, m := range c.Targets {
		b.lanes[name] = newLane(name, m, c.About[name], b.revokeTimeout, c.Now)
	}
	return b, nil
}

// missing names every part that is not there.
func (c Config) missing() error {
	var faults []error
	for _, part := range []struct {
		name   string
		absent bool
	}{
		{"Verifier", c.Verifier == nil}, {"Policy", c.Policy == nil}, {"Replay", c.Replay == nil},
		{"Journal", c.Journal == nil}, {"Leases", c.Leases == nil}, {"Book", c.Book == nil},
		{"Sessions", c.Sessions == nil}, {"Alarms", c.Alarms == nil}, {"Answers", c.Answers == nil}, {"Encode", c.Encode == nil}, {"Meter", c.Meter == nil}, {"Log", c.Log == nil},
		{"Now", c.Now == nil}, {"Rand", c.Rand == nil},
	} {
		if part.absent {
			faults = append(faults, fmt.Errorf("broker: %s is missing", part.name))
		}
	}
	for name, m := range c.Targets {
		if m == nil {
			faults = append(faults, fmt.Errorf("broker: target %q has no minter", name))
		}
	}
	return errors.Join(faults...)
}
