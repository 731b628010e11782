package broker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestARefusedRequestTouchesNothing holds promise 4: what is refused before
// the claim reaches no target, and the token can still buy its exchange.
func TestARefusedRequestTouchesNothing(t *testing.T) {
	stranger, known := job("99", "job-1"), job("1", "job-1")
	down := errors.New("connection refused by 10.0.0.1")
	for name, c := range map[string]struct {
		id      broker.Identity
		request broker.Request
		config  func(*broker.Config)
		breaks  func(*rig)
		heal    func(*rig)
		want    broker.Code
		reason  string
		retry   bool
	}{
		"a grant that does not exist":     {id: known, request: ask("nothing"), want: broker.Denied},
		"one grant of two is not allowed": {id: known, request: ask("db", "nothing"), want: broker.Denied},
		"a stranger asks for a grant":     {id: stranger, request: ask("db"), want: broker.Denied, reason: "denied_stranger"},
		"a stranger asks for a session":   {id: stranger, request: ask(), want: broker.Denied, reason: "denied_stranger"},
		"a grant without a name":          {id: known, request: ask(""), want: broker.BadRequest},
		"a grant asked for twice":         {id: known, request: ask("db", "queue", "db"), want: broker.BadRequest},
		"a ttl below zero": {id: known, want: broker.BadRequest,
			request: broker.Request{ID: "req_1", Wants: []broker.Want{{Name: "db", TTL: -time.Second}}}},
		"the policy cannot decide": {id: known, request: ask("db"), want: broker.Internal,
			breaks: func(r *rig) { r.course.breaks("decide", down) },
			heal:   func(r *rig) { r.course.breaks("decide", nil) }},
		"the policy allows fewer grants than were asked for": {id: known, request: ask("db", "queue"), want: broker.Internal,
			breaks: func(r *rig) {
				r.statute.answer = func(d broker.Decision) broker.Decision { d.Permits = d.Permits[:1]; return d }
			},
			heal: func(r *rig) { r.statute.answer = nil }},
		"the policy allows more grants than were asked for": {id: known, request: ask("db"), want: broker.Internal,
			breaks: func(r *rig) {
				r.statute.answer = func(d broker.Decision) broker.Decision {
					d.Permits = append(d.Permits, d.Permits...)
					return d
				}
			},
			heal: func(r *rig) { r.statute.answer = nil }},
		"the policy permits and says no all the same": {id: known, request: ask("db"), want: broker.Denied,
			breaks: func(r *rig) {
				r.statute.answer = func(d broker.Decision) broker.Decision { d.Allowed = false; return d }
			},
			heal: func(r *rig) { r.statute.answer = nil }},
		"the policy permits longer than the grant allows": {id: known, request: ask("db"), want: broker.Internal, reason: "plan",
			breaks: func(r *rig) {
				r.statute.answer = func(d broker.Decision) broker.Decision { d.Permits[0].TTL = 2 * time.Hour; return d }
			},
			heal: func(r *rig) { r.statute.answer = nil }},
		"the policy permits for no time at all": {id: known, request: ask("db"), want: broker.Internal, reason: "plan",
			breaks: func(r *rig) {
				r.statute.answer = func(d broker.Decision) broker.Decision { d.Permits[0].TTL = 0; return d }
			},
			heal: func(r *rig) { r.statute.answer = nil }},
		"the grant's target is not configured": {id: known, request: ask("db"), want: broker.Internal, reason: "plan",
			config: func(c *broker.Config) { delete(c.Targets, "left") }},
		"the journal cannot be written": {id: known, request: ask("db"), want: broker.Unavailable, reason: "journal", retry: true,
			breaks: func(r *rig) { r.journal.close(errors.New("no space left on device")) },
			heal:   func(r *rig) { r.journal.close(nil) }},
		"the leases of the repository cannot be counted": {id: known, request: ask("db"), want: broker.Unavailable, retry: true,
			config: func(c *broker.Config) { c.Limits.LivePerPlace = 10 },
			breaks: func(r *rig) { r.course.breaks("live", down) },
			heal:   func(r *rig) { r.course.breaks("live", nil) }},
		"the leases of the grant cannot be counted": {id: known, request: ask("few"), want: broker.Unavailable, retry: true,
			breaks: func(r *rig) { r.course.breaks("live", down) },
			heal:   func(r *rig) { r.course.breaks("live", nil) }},
		"there is no randomness": {id: known, request: ask(), want: broker.Internal, reason: "no_randomness",
			config: func(c *broker.Config) { c.Rand = failingSource{} }},
		"there is no randomness for a lease": {id: known, request: ask("db"), want: broker.Internal, reason: "plan",
			config: func(c *broker.Config) { c.Rand = failingSource{} }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.config)
			if c.breaks != nil {
				c.breaks(r)
			}
			token := r.token(c.id)
			answer, err := r.Exchange(context.Background(), token, c.request)
			e := r.refused(err, c.want)
			if c.reason != "" && broker.ReasonOf(err) != c.reason {
				t.Errorf("the reason is %q, want %q", broker.ReasonOf(err), c.reason)
			}
			if (e.RetryAfter > 0) != c.retry {
				t.Errorf("retry after %v", e.RetryAfter)
			}
			if strings.Contains(e.Public, "10.0.0.1") || strings.Contains(e.Public, "device") {
				t.Errorf("the public text tells the cause: %s", e.Public)
			}
			if !answer.Token.IsZero() || answer.Session.ID != "" || len(answer.Granted) != 0 {
				t.Errorf("and yet it answers %+v", answer)
			}
			r.untouched()
			if c.heal != nil {
				c.heal(r)
				if _, err := r.Exchange(context.Background(), token, ask()); err != nil {
					t.Errorf("the token is spent: %v", err)
				}
			}
		})
	}
}

func TestATokenThatDoesNotVerifyGoesNoFurther(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want broker.Code
	}{
		"it is not one of ours":         {nil, broker.TokenInvalid},
		"it has expired":                {&broker.Error{Code: broker.TokenExpired, Public: "expired"}, broker.TokenExpired},
		"the keys cannot be had":        {&broker.Error{Code: broker.Unavailable, Public: "later"}, broker.Unavailable},
		"the verifier is beside itself": {errBroken, broker.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.course.breaks("verify", c.err)
			_, err := r.Exchange(context.Background(), broker.NewSecret("a token of no booth"), ask("db"))
			r.refused(err, c.want)
			if r.course.happened("decide") != 0 {
				t.Error("the policy was asked about somebody who was not verified")
			}
			r.untouched()
			r.noSecretIsWritten(broker.NewSecret("a token of no booth"))
		})
	}
}

// A verifier has leeway for clocks that differ; a session has none.
func TestATokenPastItsEndIsNotSpent(t *testing.T) {
	for past, want := range map[time.Duration]broker.Code{-time.Minute: "", 0: broker.TokenExpired, 30 * time.Second: broker.TokenExpired} {
		for _, dry := range []bool{false, true} {
			r := newRig(t, nil)
			id := job("1", "job-1")
			id.Token = broker.NewTokenID(id.URL, "late")
			id.Expires = time.Now().Add(-past)
			id.KeepUntil = id.Expires.Add(time.Hour)
			request := ask("db")
			request.DryRun = dry
			_, err := r.Exchange(context.Background(), r.booth.issue("late", id), request)
			if (err != nil) != (want != "") || err != nil && broker.CodeOf(err) != want {
				t.Errorf("%s past its end, dry run %v: %v, want %q", past, dry, err, want)
			}
			if want != "" {
				r.untouched()
			}
		}
	}
}

// TestAnOddAnswerIsARefusal holds what the package promises of parts that err.
func TestAnOddAnswerIsARefusal(t *testing.T) {
	for name, c := range map[string]struct {
		id     func(*broker.Identity)
		answer func(broker.Decision) broker.Decision
	}{
		"an identity without a token's id":           {id: func(id *broker.Identity) { id.Token = broker.TokenID{} }},
		"an identity that nobody need remember":      {id: func(id *broker.Identity) { id.KeepUntil = time.Time{} }},
		"an identity that may be forgotten too soon": {id: func(id *broker.Identity) { id.KeepUntil = id.Expires.Add(-time.Second) }},
		"an identity of no issuer":                   {id: func(id *broker.Identity) { id.Issuer = "" }},
		"a permit for another grant than was asked": {answer: func(d broker.Decision) broker.Decision {
			d.Permits[0].Grant = broker.Grant{Name: "queue", Kind: "key", Target: "right", MaxTTL: time.Hour}
			return d
		}},
		"a permit for longer than was asked": {answer: func(d broker.Decision) broker.Decision {
			d.Permits[0].TTL = time.Hour
			return d
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			id := job("1", "job-1")
			id.Token = broker.NewTokenID(id.URL, "odd")
			if c.id != nil {
				c.id(&id)
			}
			r.statute.answer = c.answer
			request := broker.Request{ID: "req_1", Wants: []broker.Want{{Name: "db", TTL: time.Minute}}}
			answer, err := r.Exchange(context.Background(), r.booth.issue("odd", id), request)
			if err == nil {
				t.Errorf("it was answered with %+v", answer.Granted)
			}
			r.untouched()
		})
	}
}

func TestADryRunDecidesAndDoesNothing(t *testing.T) {
	r := newRig(t, func(c *broker.Config) { c.Limits = broker.Limits{ExchangesPerMinute: 1, LivePerPlace: 1} })
	token := r.token(job("1", "job-1"))
	request := ask("db", "queue")
	request.DryRun = true
	for range 5 { // it takes nothing from the allowance either
		answer, err := r.Exchange(context.Background(), token, request)
		if err != nil {
			t.Fatal(err)
		}
		if !answer.DryRun || !answer.Decision.Allowed || len(answer.Decision.Permits) != 2 || answer.Decision.Version != "v1" || answer.Request != request.ID {
			t.Errorf("it answers %+v", answer)
		}
		if !answer.Token.IsZero() || len(answer.Granted) != 0 {
			t.Error("it hands something out")
		}
	}
	r.untouched()
	request.Wants = append(request.Wants, broker.Want{Name: "nothing"})
	_, err := r.Exchange(context.Background(), token, request)
	r.refused(err, broker.Denied)
	r.untouched()
	if r.spent(token) {
		t.Error("a dry run has spent the token")
	}
}

func TestADryRunWithoutGrantsListsWhatTheJobMayHave(t *testing.T) {
	r := newRig(t, func(c *broker.Config) {
		c.Limits = broker.Limits{ExchangesPerMinute: 1, LivePerPlace: 1}
		c.Takeback = map[string]broker.Takeback{"key": broker.TakebackNow}
	})
	token := r.token(job("1", "job-1"))
	for range 5 {
		answer, err := r.Exchange(context.Background(), token, broker.Request{ID: "req_1", DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range answer.Decision.Permits {
			names = append(names, p.Grant.Name)
			if p.TTL != time.Hour || p.Rule == "" || p.Takeback != broker.TakebackNow {
				t.Errorf("it offers %+v", p)
			}
		}
		if !answer.DryRun || !slices.Equal(names, []string{"db", "few", "queue"}) || !answer.Token.IsZero() {
			t.Errorf("it answers %+v", answer)
		}
	}
	r.untouched()
	if r.spent(token) {
		t.Error("a dry run has spent the token")
	}
	_, err := r.Exchange(context.Background(), r.token(job("99", "job-9")), broker.Request{ID: "req_2", DryRun: true})
	if r.refused(err, broker.Denied); broker.ReasonOf(err) != "denied_stranger" {
		t.Errorf("a stranger is refused as %q", broker.ReasonOf(err))
	}
	r.course.breaks("offer", errBroken)
	_, err = r.Exchange(context.Background(), r.token(job("1", "job-1")), broker.Request{ID: "req_3", DryRun: true})
	r.refused(err, broker.Internal)
}

func TestAnExchangeGoesInOrder(t *testing.T) {
	r := newRig(t, func(c *broker.Config) { c.Limits.LivePerPlace = 10 })
	r.exchange("db", "queue")
	got := r.course.of("verify", "decide", "live", "plan", "claim", "intent", "start", "open", "mint", "activate", "issued", "revoke", "close", "undone")
	want := []string{"verify", "decide", "live", "plan db", "plan queue", "claim", "intent", "start", "open", "mint db", "mint queue", "activate", "issued"}
	if !slices.Equal(got, want) {
		t.Errorf("it goes\n%q, want\n%q", got, want)
	}
}

// TestNothingIsMintedBeforeTheIntentIsDurable looks at the moment itself: while
// Append of the intent has not returned, no target has heard of it; while
// Append of issued has not, the caller has no answer.
func TestNothingIsMintedBeforeTheIntentIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		slow := func(context.Context) error { time.Sleep(3 * time.Second); return nil }
		r.course.meanwhile("intent", slow)
		r.course.meanwhile("issued", slow)
		token := r.token(job("1", "job-1"))
		answered := make(chan broker.Answer, 1)
		go func() {
			answer, err := r.Exchange(context.Background(), token, ask("db", "queue"))
			if err != nil {
				t.Error(err)
			}
			answered <- answer
		}()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r.course.happened("intent") != 1 || r.left.left()+r.right.left() != 0 || len(r.course.of("start", "open", "mint")) != 0 {
			t.Errorf("before the intent was durable: %q", r.course.of("intent", "start", "open", "mint"))
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if r.course.happened("issued") != 1 || r.left.left() != 1 || r.right.left() != 1 {
			t.Errorf("after the intent was durable: %q", r.course.of("intent", "start", "open", "mint", "issued"))
		}
		select {
		case <-answered:
			t.Error("the answer came before the journal said issued")
		default:
		}
		if answer := <-answered; len(answer.Granted) != 2 {
			t.Errorf("%d grants were answered", len(answer.Granted))
		}
	})
}

func TestAnAnswerSaysWhatWasMade(t *testing.T) {
	r := newRig(t, nil)
	began := time.Now()
	id := job("1", "job-1")
	token := r.token(id)
	request := broker.Request{ID: "req_1", Wants: []broker.Want{{Name: "queue", TTL: 10 * time.Minute}, {Name: "db"}}}
	answer, err := r.Exchange(context.Background(), token, request)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Request != "req_1" || answer.DryRun || len(answer.Granted) != 2 || answer.Decision.Version != "v1" {
		t.Fatalf("it answers %+v", answer)
	}
	if answer.Session.ID != broker.SessionIDOf(answer.Token) || !answer.Session.Expires.Equal(id.Expires) {
		t.Errorf("its session is %+v", answer.Session)
	}
	for i, want := range []struct {
		grant string
		ttl   time.Duration
		at    *locksmith
	}{{"queue", 10 * time.Minute, r.right}, {"db", time.Hour, r.left}} {
		got := answer.Granted[i]
		if got.Lease.Grant.Name != want.grant || !got.Credential.Fields[1].Value.Equal(want.at.given[0]) || !want.at.holds(got.Lease.Handle) {
			t.Errorf("grant %d is %+v, want %s", i, got, want.grant)
		}
		if end := got.Lease.NotAfter; end.Nanosecond() != 0 || end.After(began.Add(want.ttl+time.Second)) || end.Before(began.Add(want.ttl-time.Second)) {
			t.Errorf("%s ends at %v, asked for %v", want.grant, end, want.ttl)
		}
		stored, err := r.store.LeaseBook.Lease(context.Background(), got.Lease.ID)
		if err != nil {
			t.Fatal(err)
		}
		for where, l := range map[string]broker.Lease{"answer": got.Lease, "store": stored} {
			if l.State != broker.LeaseActive || l.Takeback != broker.TakebackNow || l.ServerID != "server of "+want.at.name ||
				l.Session != answer.Session.ID || l.Request != "req_1" || l.Rule != "rules.yaml/all" || l.Issuer != "ci" ||
				l.Place != "ci/1" || l.Repo != "acme/r1" || l.Run != "7" || !l.Due.Equal(l.NotAfter) || !l.NotAfter.Equal(got.Lease.NotAfter) {
				t.Errorf("the lease of %s in the %s is %+v", want.grant, where, l)
			}
		}
	}
	if r.tally.of("exchanged ci issued") != 1 || r.tally.of("minted key ok") != 2 {
		t.Errorf("counted as %v", r.tally.counts)
	}
}

func TestAnExchangeForNothingOpensASession(t *testing.T) {
	r := newRig(t, nil)
	answer := r.exchange()
	if answer.Token.IsZero() || len(answer.Granted) != 0 {
		t.Errorf("it answers %+v", answer)
	}
	if steps := r.course.of("mint", "open", "activate"); len(steps) != 0 {
		t.Errorf("and made something: %q", steps)
	}
	if s, _, err := r.Whoami(context.Background(), answer.Token); err != nil || s.ID != answer.Session.ID {
		t.Errorf("the session is %+v, %v", s, err)
	}
}

func TestATokenBuysOneExchange(t *testing.T) {
	r := newRig(t, nil)
	token := r.token(job("1", "job-1"))
	const clients = 100
	var (
		start   = make(chan struct{})
		all     sync.WaitGroup
		mu      sync.Mutex // guards answers and refusals
		answers []broker.Answer
		codes   = make(map[broker.Code]int)
	)
	for range clients {
		all.Go(func() {
			<-start
			answer, err := r.Exchange(context.Background(), token, ask("db", "queue"))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				answers = append(answers, answer)
				return
			}
			codes[broker.CodeOf(err)]++
		})
	}
	close(start)
	all.Wait()
	if len(answers) != 1 || codes[broker.TokenReused] != clients-1 {
		t.Errorf("%d answers, refusals %v", len(answers), codes)
	}
	if r.left.left() != 1 || r.right.left() != 1 || len(r.leases()) != 2 {
		t.Errorf("%d and %d keys, %d leases", r.left.left(), r.right.left(), len(r.leases()))
	}
	if n := len(r.journal.of(broker.EventIntent)); n != 1 {
		t.Errorf("%d intents", n)
	}
	if n := len(r.journal.of(broker.EventReused)); n != clients-1 {
		t.Errorf("%d replays were noted", n)
	}
}

// TestAClientThatHangsUpStopsNothingHalfWay cancels the request's context at
// each step after the claim.
func TestAClientThatHangsUpStopsNothingHalfWay(t *testing.T) {
	for _, at := range []string{"intent", "start", "open", "mint db", "mint queue", "activate", "issued"} {
		t.Run("at "+at, func(t *testing.T) {
			r := newRig(t, nil)
			ctx, hangUp := context.WithCancel(context.Background())
			r.course.meanwhile(at, func(context.Context) error { hangUp(); return nil })
			answer, err := r.Exchange(ctx, r.token(job("1", "job-1")), ask("db", "queue"))
			if err != nil || len(answer.Granted) != 2 {
				t.Fatalf("it answers %+v, %v", answer, err)
			}
			r.booksAreRight()
			if len(r.journal.of(broker.EventIssued)) != 1 {
				t.Error("it was not journalled as issued")
			}
		})
	}
	t.Run("at a step that then fails", func(t *testing.T) {
		r := newRig(t, nil)
		ctx, hangUp := context.WithCancel(context.Background())
		r.course.meanwhile("mint queue", func(context.Context) error { hangUp(); return errBroken })
		_, err := r.Exchange(ctx, r.token(job("1", "job-1")), ask("db", "queue"))
		r.refused(err, broker.MintFailed)
		r.nothingIsLeft()
	})
}

func TestAClientThatHangsUpBeforeTheClaimBuysNothing(t *testing.T) {
	r := newRig(t, nil)
	ctx, hangUp := context.WithCancel(context.Background())
	r.course.meanwhile("claim", func(ctx context.Context) error {
		hangUp()
		return &broker.Error{Code: broker.Unavailable, Err: ctx.Err()}
	})
	_, err := r.Exchange(ctx, r.token(job("1", "job-1")), ask("db"))
	r.refused(err, broker.Unavailable)
	if steps := r.course.of("intent", "start", "open", "mint"); len(steps) != 0 {
		t.Errorf("it went on to %q", steps)
	}
	r.nothingIsLeft()
}

// TestATargetThatHangsIsGivenUp bounds an exchange whose client waits for ever.
func TestATargetThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *broker.Config) { c.MintTimeout, c.RevokeTimeout = 7*time.Second, 3*time.Second })
		r.course.meanwhile("mint queue", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		began := time.Now()
		answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), ask("db", "queue"))
		r.refused(err, broker.MintFailed)
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("it took %v", took)
		}
		if answer.Token.IsZero() {
			t.Error("the session is lost")
		}
		r.nothingIsLeft()
	})
}

// TestACredentialThatCameTooLateIsTakenBack is the stalled issuer: when the
// target answers, the credential's time is over.
func TestACredentialThatCameTooLateIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.course.meanwhile("mint db", func(context.Context) error { time.Sleep(6 * time.Second); return nil })
		request := broker.Request{ID: "req_1", Wants: []broker.Want{{Name: "db", TTL: 5 * time.Second}}}
		answer, err := r.Exchange(context.Background(), r.token(job("1", "job-1")), request)
		r.refused(err, broker.MintFailed)
		if len(answer.Granted) != 0 {
			t.Error("it was handed out all the same")
		}
		r.nothingIsLeft()
	})
}

func TestABrokerIsNotMadeWithoutItsParts(t *testing.T) {
	_, err := broker.New(broker.Config{Targets: map[string]broker.Minter{"left": nil}})
	if err == nil {
		t.Fatal("it was made of nothing")
	}
	for _, part := range []string{"Verifier", "Policy", "Replay", "Journal", "Leases", "Book", "Sessions", "Alarms", "Meter", "Log", "Now", "Rand", `"left"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
}
