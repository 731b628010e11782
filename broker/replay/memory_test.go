package replay_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/replay"
)

func newMemory(t *testing.T, c replay.MemoryConfig) *replay.Memory {
	t.Helper()
	if c.Now == nil {
		c.Now = time.Now
	}
	m, err := replay.NewMemory(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMemoryKeepsTheContract(t *testing.T) {
	brokertest.TestReplay(t, func(t *testing.T) (broker.Replay, broker.Replay) {
		m := newMemory(t, replay.MemoryConfig{})
		return m, m
	})
	brokertest.TestAnswers(t, func(t *testing.T) (broker.Answers, broker.Answers) {
		m := newMemory(t, replay.MemoryConfig{})
		return m, m
	})
}

func TestMemoryTellsOfAFirstUseThatTheJournalTold(t *testing.T) {
	c := brokertest.NewClaim(time.Now())
	bare := c
	bare.Until = c.Until.Add(time.Hour)
	c.Owner, c.Session = broker.OwnerOf([]byte("a key")), "dps_aaaaaaaaaaaaaaaaaaaaaaaaaa"
	stranger := c
	stranger.Owner, stranger.Session = broker.OwnerOf([]byte("another")), "dps_bbbbbbbbbbbbbbbbbbbbbbbbbb"
	m := newMemory(t, replay.MemoryConfig{Used: slices.Values([]broker.Claim{bare, c, stranger})})
	err := m.Claim(t.Context(), stranger)
	wantCode(t, err, broker.TokenReused)
	if used, ok := errors.AsType[*broker.Used](err); !ok || *used != (broker.Used{Owner: c.Owner, Session: c.Session}) {
		t.Errorf("got %+v; when it was used is not known", used)
	}
}

func TestMemoryForgetsAnswersThatNobodyFetches(t *testing.T) {
	clock := brokertest.NewClock(time.Now())
	m := newMemory(t, replay.MemoryConfig{Now: clock.Now})
	answer := broker.Sealed{Enc: []byte{1}, Ciphertext: []byte{2}}
	for i := range 1000 {
		key := broker.NewAnswerKey(broker.NewTokenID("test", fmt.Sprint(i)), broker.Owner{})
		if err := m.Keep(t.Context(), key, answer, broker.AnswerLife); err != nil {
			t.Fatal(err)
		}
		if n := m.Answers(); n > 150 {
			t.Fatalf("keeps %d answers, where 120 are alive", n)
		}
		clock.Advance(time.Second)
	}
}

func TestMemoryNeedsAClock(t *testing.T) {
	if _, err := replay.NewMemory(replay.MemoryConfig{}); err == nil {
		t.Error("made a store without a clock")
	}
}

func TestMemoryRefusesATokenUsedBeforeTheRestart(t *testing.T) {
	c := brokertest.NewClaim(time.Now())
	again := c
	again.Until = c.Until.Add(-5 * time.Minute) // told twice, with another end
	m := newMemory(t, replay.MemoryConfig{Used: slices.Values([]broker.Claim{again, c, again})})
	if err := m.Claim(t.Context(), c); !errors.Is(err, broker.ErrTokenUsed) {
		t.Errorf("got %v", err)
	}
	if err := m.Claim(t.Context(), brokertest.NewClaim(time.Now())); err != nil {
		t.Errorf("a fresh token without a fence: %v", err)
	}
}

func TestMemoryRemembersATokenToldTwiceUntilTheLaterEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early, late := brokertest.NewClaim(time.Now()), broker.Claim{}
		late = early
		late.Until = early.Until.Add(time.Hour)
		m := newMemory(t, replay.MemoryConfig{Used: slices.Values([]broker.Claim{early, late})})
		time.Sleep(30 * time.Minute)
		if err := m.Claim(t.Context(), late); !errors.Is(err, broker.ErrTokenUsed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestMemoryRefusesWhatIsNotYoungerThanItsFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, replay.MemoryConfig{FencedSince: time.Now()})
		old := brokertest.NewClaim(time.Now())
		for _, issued := range []time.Duration{-time.Hour, 0, 3 * time.Second} {
			c := brokertest.NewClaim(time.Now().Add(issued))
			err := m.Claim(t.Context(), c)
			if broker.CodeOf(err) != broker.TokenStale {
				t.Errorf("issued at fence%+v: %v", issued, err)
			}
			if e, ok := errors.AsType[*broker.Error](err); ok && e.RetryAfter != 6*time.Second {
				t.Errorf("retry after %s", e.RetryAfter)
			}
		}
		time.Sleep(6 * time.Second) // what RetryAfter said
		if err := m.Claim(t.Context(), brokertest.NewClaim(time.Now())); err != nil {
			t.Errorf("a token issued after the fence: %v", err)
		}
		if err := m.Claim(t.Context(), old); broker.CodeOf(err) != broker.TokenStale {
			t.Errorf("the old token, later: %v", err)
		}
	})
}

func TestMemoryAcceptsAnIssueTimeUpToThreeSecondsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, replay.MemoryConfig{})
		if err := m.Claim(t.Context(), brokertest.NewClaim(time.Now().Add(3*time.Second))); err != nil {
			t.Errorf("3 s ahead: %v", err)
		}
		c := brokertest.NewClaim(time.Now().Add(4 * time.Second))
		err := m.Claim(t.Context(), c)
		e, ok := errors.AsType[*broker.Error](err)
		if !ok || e.Code != broker.TokenInvalid || e.RetryAfter != time.Second {
			t.Fatalf("4 s ahead: %v", err)
		}
		time.Sleep(e.RetryAfter)
		if err := m.Claim(t.Context(), c); err != nil {
			t.Errorf("after waiting as told: %v", err)
		}
	})
}

// The attack: a token is used, expires and is forgotten; then the machine's
// clock is set back, and the verifier finds the token valid again.
func TestMemoryRefusesWhatItForgotWhenTheClockIsSetBack(t *testing.T) {
	clock := brokertest.NewClock(time.Now())
	m := newMemory(t, replay.MemoryConfig{Now: clock.Now})
	c := brokertest.NewClaim(clock.Now())
	if err := m.Claim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	start := clock.Now()
	later := clock.Advance(time.Hour)
	if err := m.Claim(t.Context(), brokertest.NewClaim(later)); err != nil {
		t.Fatal(err)
	}
	clock.Set(start)
	if err := m.Claim(t.Context(), c); err == nil {
		t.Error("a used token passed a second time")
	}
}

func TestMemoryRefusesWhatTheJournalToldOfButNeedNotBeRemembered(t *testing.T) {
	clock := brokertest.NewClock(time.Now())
	c := brokertest.NewClaim(clock.Now().Add(-time.Hour))
	m := newMemory(t, replay.MemoryConfig{Now: clock.Now, Used: slices.Values([]broker.Claim{c})})
	clock.Advance(-time.Hour)
	if err := m.Claim(t.Context(), c); err == nil {
		t.Error("a used token passed a second time")
	}
}

func TestMemoryDoesNotGrowWithoutBounds(t *testing.T) {
	clock := brokertest.NewClock(time.Now())
	m := newMemory(t, replay.MemoryConfig{Now: clock.Now})
	most := 0
	for range 200 { // each claim is remembered for seven minutes
		for range 10 {
			if err := m.Claim(t.Context(), brokertest.NewClaim(clock.Now())); err != nil {
				t.Fatal(err)
			}
		}
		most = max(most, m.Len())
		clock.Advance(time.Minute)
	}
	if most > 100 {
		t.Errorf("remembers %d tokens at once, where at most 80 are alive", most)
	}
}

func BenchmarkMemoryClaim(b *testing.B) {
	m, err := replay.NewMemory(replay.MemoryConfig{Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	now, n := time.Now(), 0
	for b.Loop() {
		n++
		c := broker.Claim{Token: broker.NewTokenID("bench", fmt.Sprint(n)), IssuedAt: now, Until: now.Add(time.Hour)}
		if err := m.Claim(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
