package replay_test

import (
	"math"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/daypass-dev/daypass/broker"
)

// history is what became of claims, by token. Safe for concurrent use.
type history struct {
	begun time.Time
	mu    sync.Mutex // guards tokens
	ops   map[broker.TokenID][]porcupine.Operation
}

// What a claim can come to. After unclear the token may be spent, then or
// later.
type outcome int

const (
	claimed outcome = iota
	reused
	stale
	ahead
	unclear
)

func newHistory() *history {
	return &history{begun: time.Now(), ops: make(map[broker.TokenID][]porcupine.Operation)}
}

// claim claims and records.
func (h *history) claim(t *testing.T, client int, r broker.Replay, c broker.Claim) outcome {
	op := porcupine.Operation{ClientId: client, Call: int64(time.Since(h.begun))}
	err := r.Claim(t.Context(), c)
	op.Return = int64(time.Since(h.begun))
	got := unclear
	switch broker.CodeOf(err) {
	case broker.TokenReused:
		got = reused
	case broker.TokenStale:
		got = stale
	case broker.TokenInvalid:
		got = ahead
	}
	if err == nil {
		got = claimed
	}
	op.Output = got
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[c.Token] = append(h.ops[c.Token], op)
	return got
}

type tokenState int

const (
	isNew tokenState = iota
	isUsed
	isStale
)

// once is the specification: a token is new, then used; one that was stale is
// never accepted again.
func once() porcupine.Model {
	n := porcupine.NondeterministicModel{
		Init: func() []any { return []any{isNew} },
		Step: func(s, _, got any) (next []any) {
			for _, n := range step(s.(tokenState), got.(outcome)) {
				next = append(next, n)
			}
			return next
		},
	}
	return n.ToModel()
}

// step lists what a token can be after an outcome; nothing if it cannot be.
func step(s tokenState, got outcome) []tokenState {
	switch {
	case got == claimed && s == isNew, got == reused && s == isUsed:
		return []tokenState{isUsed}
	case got == stale:
		return []tokenState{isStale}
	case got == unclear && s == isNew:
		return []tokenState{isNew, isUsed}
	case got == unclear, got == ahead:
		return []tokenState{s}
	}
	return nil
}

// check holds every token's history against the specification, and returns how
// many tokens were claimed, and how many claims there were of all.
func (h *history) check(t *testing.T) (tokens, claims int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, ops := range h.ops {
		claims += len(ops)
		won := 0
		for _, op := range ops {
			if op.Output == claimed {
				won++
			}
		}
		tokens += won
		if won > 1 {
			t.Errorf("token %s was accepted %d times", id, won)
		}
		if got := porcupine.CheckOperationsTimeout(once(), plain(ops, won > 0), 20*time.Second); got != porcupine.Ok {
			t.Errorf("the claims of token %s are not those of one that is used once (%s): %+v", id, got, ops)
		}
	}
	return tokens, claims
}

// plain leaves out unclear claims that explain nothing: all of them where
// another claim succeeded, and else all but the one that was made first, since
// each may take effect at any time after.
func plain(ops []porcupine.Operation, won bool) []porcupine.Operation {
	var kept []porcupine.Operation
	first := -1
	for _, op := range ops {
		switch {
		case op.Output != unclear:
			kept = append(kept, op)
		case won:
		case first < 0:
			first = len(kept)
			op.Return = math.MaxInt64
			kept = append(kept, op)
		case op.Call < kept[first].Call:
			op.Return = math.MaxInt64
			kept[first] = op
		}
	}
	return kept
}

func TestTheSpecificationKnowsWhatIsWrong(t *testing.T) {
	op := func(client int, call, ret int64, got outcome) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Call: call, Return: ret, Output: got}
	}
	for name, row := range map[string]struct {
		ops []porcupine.Operation
		ok  bool
	}{
		"used once":                          {[]porcupine.Operation{op(0, 0, 1, claimed), op(1, 2, 3, reused), op(0, 4, 5, stale)}, true},
		"refused at once with the success":   {[]porcupine.Operation{op(0, 0, 9, claimed), op(1, 2, 3, reused)}, true},
		"used twice":                         {[]porcupine.Operation{op(0, 0, 1, claimed), op(1, 2, 3, claimed)}, false},
		"used twice at once":                 {[]porcupine.Operation{op(0, 0, 5, claimed), op(1, 1, 6, claimed)}, false},
		"used by nobody":                     {[]porcupine.Operation{op(0, 0, 1, reused)}, false},
		"used before it was":                 {[]porcupine.Operation{op(0, 0, 1, reused), op(1, 2, 3, claimed)}, false},
		"used by a claim that timed out":     {[]porcupine.Operation{op(0, 0, 1, unclear), op(1, 2, 3, unclear), op(2, 8, 9, reused)}, true},
		"accepted after it was stale":        {[]porcupine.Operation{op(0, 0, 1, stale), op(1, 2, 3, claimed)}, false},
		"accepted after a claim timed out":   {[]porcupine.Operation{op(0, 0, 1, unclear), op(1, 2, 3, claimed), op(1, 4, 5, ahead)}, true},
		"timed out only after it was reused": {[]porcupine.Operation{op(0, 4, 5, unclear), op(1, 2, 3, reused)}, false},
	} {
		won := false
		for _, o := range row.ops {
			won = won || o.Output == claimed
		}
		if got := porcupine.CheckOperations(once(), plain(row.ops, won)); got != row.ok {
			t.Errorf("%s: %t", name, got)
		}
	}
}
