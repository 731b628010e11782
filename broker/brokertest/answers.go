package brokertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// TestAnswers checks that stores keep the contract of [broker.Answers]. Each
// call of open returns two clients of one store, which go by the system's
// clock; they may be one and the same.
func TestAnswers(t *testing.T, open func(t *testing.T) (a, b broker.Answers)) {
	for name, test := range map[string]func(*testing.T, broker.Answers, broker.Answers){
		"an answer is fetched as it was kept, as often as asked": keepWhole,
		"what was not kept is not found":                         keepNothing,
		"there is one answer under a key":                        keepOne,
		"of 64 answers at once through each of two, one is kept": keepAtOnce,
		"an answer is forgotten after its life":                  keepBriefly,
		"what is not sealed is not kept":                         keepSealed,
		"nothing is kept under a cancelled context":              keepCancelled,
		"who changes an answer changes his copy":                 keepCopies,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t)
			test(t, a, b)
		})
	}
}

// newAnswer is an answer that nobody has seen, and its key.
func newAnswer() (broker.AnswerKey, broker.Sealed) {
	a := broker.Sealed{Request: "req_" + rand.Text(), Enc: make([]byte, 32), Ciphertext: make([]byte, 3000),
		Failed: &broker.Failure{Code: broker.MintFailed, Reason: "mint_failed", Public: "words: " + rand.Text()}}
	_, _ = rand.Read(a.Enc) // never fails
	_, _ = rand.Read(a.Ciphertext)
	return broker.NewAnswerKey(broker.NewTokenID("test", rand.Text()), broker.OwnerOf(a.Enc)), a
}

func sameAnswer(a, b broker.Sealed) bool {
	return a.Request == b.Request && bytes.Equal(a.Enc, b.Enc) && bytes.Equal(a.Ciphertext, b.Ciphertext) &&
		(a.Failed == nil) == (b.Failed == nil) && (a.Failed == nil || *a.Failed == *b.Failed)
}

func wantKept(t *testing.T, s broker.Answers, key broker.AnswerKey, want broker.Sealed) {
	t.Helper()
	got, err := s.Kept(t.Context(), key)
	if err != nil || !sameAnswer(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func wantNone(t *testing.T, s broker.Answers, key broker.AnswerKey) {
	t.Helper()
	if got, err := s.Kept(t.Context(), key); !errors.Is(err, broker.ErrNoAnswer) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func keepWhole(t *testing.T, a, b broker.Answers) {
	for range 3 {
		key, answer := newAnswer()
		answer.Request += "\x00\" é\u2028<"
		if err := a.Keep(t.Context(), key, answer, time.Minute); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			wantKept(t, a, key, answer)
			wantKept(t, b, key, answer)
		}
	}
}

func keepNothing(t *testing.T, a, b broker.Answers) {
	key, answer := newAnswer()
	if err := a.Keep(t.Context(), key, answer, time.Minute); err != nil {
		t.Fatal(err)
	}
	for i := range key {
		other := key
		other[i] ^= 1
		wantNone(t, b, other)
	}
}

func keepOne(t *testing.T, a, b broker.Answers) {
	key, first := newAnswer()
	_, second := newAnswer()
	if err := a.Keep(t.Context(), key, first, time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, s := range []broker.Answers{a, b} {
		if err := s.Keep(t.Context(), key, second, time.Minute); err == nil {
			t.Error("a second answer was kept")
		}
		wantKept(t, s, key, first)
	}
}

func keepAtOnce(t *testing.T, a, b broker.Answers) {
	key, _ := newAnswer()
	var won atomic.Int32
	var kept atomic.Pointer[broker.Sealed]
	var all sync.WaitGroup
	for i := range 128 {
		s := a
		if i%2 == 1 {
			s = b
		}
		all.Go(func() {
			_, answer := newAnswer()
			if s.Keep(t.Context(), key, answer, time.Minute) == nil {
				won.Add(1)
				kept.Store(&answer)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d answers were kept", won.Load())
	}
	wantKept(t, b, key, *kept.Load())
}

func keepBriefly(t *testing.T, a, b broker.Answers) {
	key, answer := newAnswer()
	until := time.Now().Add(time.Second)
	if err := a.Keep(t.Context(), key, answer, time.Second); err != nil {
		t.Fatal(err)
	}
	wantKept(t, b, key, answer)
	time.Sleep(time.Until(until) + 200*time.Millisecond)
	wantNone(t, a, key)
	wantNone(t, b, key)
	if err := b.Keep(t.Context(), key, answer, time.Minute); err != nil {
		t.Errorf("after the first is forgotten: %v", err)
	}
}

func keepSealed(t *testing.T, a, _ broker.Answers) {
	for name, spoil := range map[string]func(*broker.AnswerKey, *broker.Sealed, *time.Duration){
		"no key":          func(k *broker.AnswerKey, _ *broker.Sealed, _ *time.Duration) { *k = broker.AnswerKey{} },
		"no ciphertext":   func(_ *broker.AnswerKey, s *broker.Sealed, _ *time.Duration) { s.Ciphertext = nil },
		"no enc":          func(_ *broker.AnswerKey, s *broker.Sealed, _ *time.Duration) { s.Enc = []byte{} },
		"no life":         func(_ *broker.AnswerKey, _ *broker.Sealed, life *time.Duration) { *life = 0 },
		"a negative life": func(_ *broker.AnswerKey, _ *broker.Sealed, life *time.Duration) { *life = -time.Hour },
		"an endless life": func(_ *broker.AnswerKey, _ *broker.Sealed, life *time.Duration) { *life = 1 << 62 },
		"8 MiB":           func(_ *broker.AnswerKey, s *broker.Sealed, _ *time.Duration) { s.Ciphertext = make([]byte, 8<<20) },
	} {
		key, answer := newAnswer()
		life := time.Minute
		spoil(&key, &answer, &life)
		if err := a.Keep(t.Context(), key, answer, life); err == nil {
			t.Errorf("%s: it was kept", name)
		}
		wantNone(t, a, key)
	}
}

func keepCancelled(t *testing.T, a, b broker.Answers) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	key, answer := newAnswer()
	if err := a.Keep(ctx, key, answer, time.Minute); err == nil {
		t.Error("it was kept")
	}
	wantNone(t, b, key)
	if _, err := a.Kept(ctx, key); err == nil || errors.Is(err, broker.ErrNoAnswer) {
		t.Errorf("asked under a cancelled context: %v", err) // nobody knows
	}
}

func keepCopies(t *testing.T, a, b broker.Answers) {
	key, answer := newAnswer()
	mine := answer
	mine.Ciphertext = bytes.Clone(answer.Ciphertext)
	if err := a.Keep(t.Context(), key, mine, time.Minute); err != nil {
		t.Fatal(err)
	}
	mine.Ciphertext[0]++
	got, err := b.Kept(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	got.Enc[0]++
	wantKept(t, b, key, answer)
}
