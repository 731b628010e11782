package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestTheIntentSaysAllThatACrashNeeds: what was spent, for how long that has to
// be remembered, what may have been made and under which name.
func TestTheIntentSaysAllThatACrashNeeds(t *testing.T) {
	r := newRig(t, nil)
	id := job("1", "job-1")
	request := ask("db", "queue")
	answer, err := r.Exchange(context.Background(), r.token(id), request)
	if err != nil {
		t.Fatal(err)
	}
	intents := r.journal.of(broker.EventIntent)
	if len(intents) != 1 {
		t.Fatalf("%d intents", len(intents))
	}
	in := intents[0]
	if in.Request != request.ID || in.Policy != "v1" || in.Issuer != "ci" || in.Subject != id.Subject ||
		!in.Keep.Equal(id.KeepUntil) || !reflect.DeepEqual(in.Job, &id.Job) ||
		!slices.Equal(in.Rules, []string{"rules.yaml/all", "rules.yaml/all"}) || !slices.Equal(in.Grants, []string{"db", "queue"}) {
		t.Errorf("the intent is %+v", in)
	}
	if in.Token != answer.Session.For.Token || in.Token.IsZero() {
		t.Errorf("it names the token %v, want %v", in.Token, answer.Session.For.Token)
	}
	for i, l := range in.Leases {
		made := answer.Granted[i].Lease
		if l.ID != made.ID || l.Handle != made.Handle || l.State != broker.LeasePending || !l.NotAfter.Equal(made.NotAfter) ||
			l.Session != answer.Session.ID || string(l.Grant.Params) != string(made.Grant.Params) || l.Due.After(time.Now().Add(time.Minute)) {
			t.Errorf("lease %d is %+v, made was %+v", i, l, made)
		}
	}
	if in.Session == nil || in.Session.ID != answer.Session.ID || !in.Session.Expires.Equal(id.Expires) {
		t.Errorf("its session is %+v", in.Session)
	}
	issued := r.journal.of(broker.EventIssued)
	if len(issued) != 1 || len(issued[0].Leases) != 2 || issued[0].Leases[0].State != broker.LeaseActive ||
		issued[0].Token != in.Token || issued[0].Leases[1].ServerID != "server of right" || issued[0].Policy != "v1" {
		t.Errorf("issued is %+v", issued)
	}
}

// TestOnlyListedClaimsAreJournalled, wherever a record might carry a claim.
func TestOnlyListedClaimsAreJournalled(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db")
	want := broker.Claims{"ref": "refs/heads/main", "run_id": json.Number("7"), "env_name": "prod", "env_tier": "gold"}
	in := r.journal.of(broker.EventIntent)[0]
	if !reflect.DeepEqual(in.Claims, want) || !reflect.DeepEqual(in.Session.For.Claims, want) {
		t.Errorf("the intent has %v and %v, want %v", in.Claims, in.Session.For.Claims, want)
	}
	everythingThatIsJournalled(t, r, first)
	if strings.Contains(r.journal.all(), "someone@example.com") {
		t.Error("the journal holds a claim that is not listed")
	}
}

// everythingThatIsJournalled makes a record of each event that package broker
// writes.
func everythingThatIsJournalled(t *testing.T, r *rig, first broker.Answer) {
	t.Helper()
	ctx := context.Background()
	used := r.token(job("1", "job-1"))
	must := func(_ any, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	mustNot := func(_ any, err error) {
		if err == nil {
			t.Fatal("it went well")
		}
	}
	must(r.Exchange(ctx, used, ask("db")))
	mustNot(r.Exchange(ctx, used, ask("db")))                                // reused
	mustNot(r.Exchange(ctx, broker.NewSecret("token-of-nobody"), ask("db"))) // refused
	mustNot(r.Exchange(ctx, r.token(job("1", "job-1")), ask("nothing")))     // denied
	mustNot(r.Exchange(ctx, r.token(job("99", "job-1")), ask("nothing")))    // denied, a stranger
	r.course.breaks("mint db", errBroken)
	mustNot(r.More(ctx, first.Token, ask("db"))) // undone
	r.course.breaks("mint db", nil)
	later := job("1", "job-1")
	later.Expires, later.KeepUntil = later.Expires.Add(time.Hour), later.KeepUntil.Add(time.Hour)
	must(r.Extend(ctx, first.Token, r.token(later), "req_ext")) // extended
	r.course.breaks("revoke db", errBroken)
	must(r.GiveBack(ctx, first.Token, "req_back")) // shut, unrevoked
	r.course.breaks("revoke db", nil)
	must(r.RevokeLease(ctx, first.Granted[0].Lease.ID, broker.Act{Request: "req_op", By: "unix user ops"})) // operator, revoked
	r.left.foreign = []broker.Held{orphan(t, 1)}
	r.SweepTarget(ctx, "left") // orphan
	for _, e := range []broker.Event{broker.EventIntent, broker.EventIssued, broker.EventReused, broker.EventRefused, broker.EventDenied,
		broker.EventUndone, broker.EventExtended, broker.EventShut, broker.EventAlarm, broker.EventUnrevoked, broker.EventOperator, broker.EventRevoked, broker.EventOrphan} {
		if len(r.journal.of(e)) == 0 {
			t.Errorf("nothing is journalled as %s", e)
		}
	}
}

// TestNoSecretIsJournalledOrLogged compares all that was written with all that
// was ever secret: CI tokens, session tokens, credentials, those of failed
// mints too.
func TestNoSecretIsJournalledOrLogged(t *testing.T) {
	r := newRig(t, nil)
	first := r.exchange("db", "queue")
	everythingThatIsJournalled(t, r, first)
	if len(r.left.given) < 3 || len(r.booth.issued) < 5 {
		t.Errorf("only %d keys and %d tokens were ever given", len(r.left.given), len(r.booth.issued))
	}
	r.noSecretIsWritten(first.Token, broker.NewSecret("token-of-nobody"))
}

// TestASecretInACausesErrorStaysOut: a driver that puts a Secret into its error
// writes no more than that it is one.
func TestASecretInACausesErrorStaysOut(t *testing.T) {
	r := newRig(t, nil)
	password := broker.NewSecret("password-of-the-admin")
	leak := errors.Join(errors.New("login failed"), secretError{password})
	r.course.breaks("mint db", leak)
	r.course.breaks("revoke db", leak)
	_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db"))
	r.refused(err, broker.MintFailed)
	r.noSecretIsWritten(password)
	if strings.Contains(err.Error(), password.Reveal()) {
		t.Errorf("the error shows it: %v", err)
	}
}

// secretError is a driver's error that holds what it tried with.
type secretError struct{ with broker.Secret }

func (e secretError) Error() string { return "tried with " + e.with.String() }

// TestAStrangersWordsStayOut: what somebody unknown asks for is neither told
// back nor written down, and nobody waits for the note.
func TestAStrangersWordsStayOut(t *testing.T) {
	r := newRig(t, nil)
	r.statute.answer = func(d broker.Decision) broker.Decision { // a policy that tells too much
		d.Denials = []broker.Denial{{Grant: "db", Rule: "rules.yaml/all", Failed: []broker.Mismatch{{Claim: "ref", Saw: "x", Wanted: "refs/heads/main"}}}}
		return d
	}
	_, err := r.Exchange(context.Background(), r.token(job("99", "job-1")), ask("db\nforged line"))
	e := r.refused(err, broker.Denied)
	if len(e.Denials) != 0 || broker.ReasonOf(err) != "denied_stranger" {
		t.Errorf("the stranger is told %+v", e)
	}
	if r.course.happened(string(broker.EventDenied)) != 0 || r.course.happened("note denied") != 1 {
		t.Error("the stranger's denial is waited for")
	}
	rec := r.journal.of(broker.EventDenied)
	if len(rec) != 1 || len(rec[0].Grants)+len(rec[0].Denials)+len(rec[0].Claims) != 0 || rec[0].Policy != "v1" || rec[0].Reason != "denied_stranger" {
		t.Errorf("journalled as %+v", rec)
	}
}

// TestAKnownCallersDenialIsExplained to it, and kept with what may be kept.
func TestAKnownCallersDenialIsExplained(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("nothing"))
	e := r.refused(err, broker.Denied)
	if len(e.Denials) != 1 || e.Denials[0].Failed[1].Saw != "someone@example.com" {
		t.Errorf("it is told %+v", e.Denials)
	}
	rec := r.journal.of(broker.EventDenied)
	if len(rec) != 1 || len(rec[0].Denials) != 1 || rec[0].Denials[0].Failed[0].Saw != "refs/heads/main" {
		t.Fatalf("journalled as %+v", rec)
	}
	if saw := rec[0].Denials[0].Failed[1].Saw; saw == "someone@example.com" || saw == nil {
		t.Errorf("a claim that is not listed is journalled as %v", saw)
	}
	if !slices.Equal(rec[0].Grants, []string{"nothing"}) || rec[0].Claims["ref"] != "refs/heads/main" || rec[0].Claims["user_email"] != nil {
		t.Errorf("journalled as %+v", rec[0])
	}
}

// TestADenialIsGivenWhileTheJournalIsDown: a no needs no journal.
func TestADenialIsGivenWhileTheJournalIsDown(t *testing.T) {
	r := newRig(t, nil)
	r.journal.close(errors.New("no space left on device"))
	_, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("nothing"))
	r.refused(err, broker.Denied)
}

// TestAJournalThatHangsHoldsNobodyForEver, neither who is denied nor who gives
// back.
func TestAJournalThatHangsHoldsNobodyForEver(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		at string
		do func(*rig, broker.Answer)
	}{
		"who is denied": {"denied", func(r *rig, _ broker.Answer) {
			_, _ = r.Exchange(context.Background(), r.token(job("1", "j")), ask("nothing"))
		}},
		"who gives back": {"shut", func(r *rig, a broker.Answer) { _, _ = r.GiveBack(context.Background(), a.Token, "req") }},
		"who is given": {"issued", func(r *rig, _ broker.Answer) {
			_, _ = r.Exchange(context.Background(), r.token(job("1", "j")), ask("db"))
		}},
		"who asks": {"intent", func(r *rig, _ broker.Answer) {
			_, _ = r.Exchange(context.Background(), r.token(job("1", "j")), ask("db"))
		}},
		"who extends": {"extended", func(r *rig, a broker.Answer) {
			_, _ = r.Extend(context.Background(), a.Token, r.token(job("1", "job-1")), "req")
		}},
		"the operator": {"operator", func(r *rig, a broker.Answer) {
			_, _ = r.RevokeLease(context.Background(), a.Granted[0].Lease.ID, broker.Act{Request: "req", By: "op"})
		}},
		"what is revoked": {"revoked", func(r *rig, a broker.Answer) { _, _ = r.GiveBack(context.Background(), a.Token, "req") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				first := r.exchange("db")
				r.course.meanwhile(c.at, hang)
				time.Sleep(time.Second)
				began := time.Now()
				c.do(r, first)
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %v", took)
				}
				if r.course.happened(c.at) == 0 {
					t.Error("the journal was not asked")
				}
			})
		})
	}
}
