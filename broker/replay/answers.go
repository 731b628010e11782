package replay

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
)

const (
	// maxAnswer is how long a sealed answer may be.
	maxAnswer = 1 << 20
	// maxAnswerLife is how long one may be kept: it is for a client that lost
	// it, not for archives.
	maxAnswerLife = time.Hour
)

var errKept = errors.New("another answer is kept already")

// checkAnswer refuses what is not a sealed answer, or not to be kept.
func checkAnswer(key broker.AnswerKey, a broker.Sealed, life time.Duration) error {
	switch {
	case key == broker.AnswerKey{}:
		return errors.New("keep an answer: it has no key")
	case len(a.Enc) == 0 || len(a.Ciphertext) == 0:
		return errors.New("keep an answer: it is not sealed")
	case len(a.Enc)+len(a.Ciphertext)+len(a.Request) > maxAnswer:
		return errors.New("keep an answer: it is too long")
	case life < time.Millisecond || life > maxAnswerLife:
		return fmt.Errorf("keep an answer: a life of %s is not between 1ms and %s", life, maxAnswerLife)
	}
	return nil
}

// answerFault is the answer to every error of the store of answers.
func answerFault(cause error) *broker.Error {
	return &broker.Error{Code: broker.Unavailable, Reason: "answer_store", RetryAfter: time.Second, Err: cause,
		Public: "the store of kept answers does not answer"}
}

// Keep implements [broker.Answers].
func (r *Redis) Keep(ctx context.Context, key broker.AnswerKey, a broker.Sealed, life time.Duration) error {
	if err := checkAnswer(key, a, life); err != nil {
		return err
	}
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("keep an answer: %w", err)
	}
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	at := r.answerKey(key)
	err = r.client.Do(ctx, "SET", at, r.sealer.seal(kindAnswer, at, string(text)), "NX", "PX", life.Milliseconds()).Err()
	if errors.Is(err, redis.Nil) {
		return errKept
	}
	if err != nil {
		return answerFault(fmt.Errorf("keep an answer: %w", err))
	}
	return nil
}

// Kept implements [broker.Answers]. A record that was not written by a broker
// of this deployment for this key is refused.
func (r *Redis) Kept(ctx context.Context, key broker.AnswerKey) (broker.Sealed, error) {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	at := r.answerKey(key)
	raw, err := r.client.Get(ctx, at).Result()
	if errors.Is(err, redis.Nil) {
		return broker.Sealed{}, broker.ErrNoAnswer
	}
	if err != nil {
		return broker.Sealed{}, answerFault(fmt.Errorf("fetch an answer: %w", err))
	}
	text, err := r.sealer.open(kindAnswer, at, raw)
	var a broker.Sealed
	if err == nil {
		err = json.Unmarshal([]byte(text), &a)
	}
	if err != nil {
		e := r.refused(at, err)
		e.Public = "the kept answer cannot be trusted; an operator has to look at it"
		return broker.Sealed{}, e
	}
	return a, nil
}

func (r *Redis) answerKey(k broker.AnswerKey) string {
	return r.prefix + "answer:" + base64.RawURLEncoding.EncodeToString(k[:])
}

// Keep implements [broker.Answers].
func (m *Memory) Keep(ctx context.Context, key broker.AnswerKey, a broker.Sealed, life time.Duration) error {
	if err := errors.Join(checkAnswer(key, a, life), ctx.Err()); err != nil {
		return err
	}
	return m.answers.keep(key, a, m.now(), life)
}

// Kept implements [broker.Answers].
func (m *Memory) Kept(ctx context.Context, key broker.AnswerKey) (broker.Sealed, error) {
	if err := ctx.Err(); err != nil {
		return broker.Sealed{}, answerFault(err)
	}
	return m.answers.kept(key, m.now())
}

// answers keeps answers in memory. The zero value is ready.
type answers struct {
	mu    sync.Mutex // guards what follows
	byKey map[broker.AnswerKey]keptAnswer
	swept time.Time
}

type keptAnswer struct {
	answer      broker.Sealed
	since, till time.Time
}

// live reports whether it is still to be handed out. Under a clock that was
// set back it is not.
func (k keptAnswer) live(now time.Time) bool { return !now.Before(k.since) && now.Before(k.till) }

// sweepEvery bounds how often everything is looked through.
const sweepEvery = 10 * time.Second

func (s *answers) keep(key broker.AnswerKey, a broker.Sealed, now time.Time, life time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey == nil {
		s.byKey = make(map[broker.AnswerKey]keptAnswer)
	}
	if now.Sub(s.swept).Abs() >= sweepEvery {
		s.swept = now
		for k, v := range s.byKey {
			if !v.live(now) {
				delete(s.byKey, k)
			}
		}
	}
	if s.byKey[key].live(now) {
		return errKept
	}
	s.byKey[key] = keptAnswer{answer: clone(a), since: now, till: now.Add(life)}
	return nil
}

func (s *answers) kept(key broker.AnswerKey, now time.Time) (broker.Sealed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.byKey[key]
	if !k.live(now) {
		return broker.Sealed{}, broker.ErrNoAnswer
	}
	return clone(k.answer), nil
}

func clone(a broker.Sealed) broker.Sealed {
	a.Enc, a.Ciphertext = bytes.Clone(a.Enc), bytes.Clone(a.Ciphertext)
	return a
}
