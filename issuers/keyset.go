package issuers

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// How often keys are asked for, and how long they serve without an answer.
const (
	refreshEvery = 10 * time.Minute // a key that the issuer drops works no longer than this
	refreshPause = 30 * time.Second // between two fetches of one issuer, whatever is sent to us
	fileEvery    = 10 * time.Second // for a jwks_file
	filePause    = time.Second
	keysKeep     = 24 * time.Hour // the last good keys of an issuer that does not answer
	fetchTimeout = 5 * time.Second
)

// keySet is the keys of one issuer: looked up by kid alone, because each issuer
// has its own. It asks its source on a schedule, and out of turn for a kid that
// it does not know or a signature that does not hold, within one budget that
// all tokens share.
type keySet struct {
	load  func(context.Context) ([]byte, error) // a JWKS document
	algs  []string
	every time.Duration // between scheduled refreshes
	pause time.Duration // the least time between two loads
	keep  func(raw []byte, at time.Time)
	now   func() time.Time
	log   *slog.Logger

	mu     sync.Mutex // guards what follows; never held during load
	held   keys
	tried  time.Time     // when the last load began
	failed error         // why the last load failed; nil if it did not
	flight chan struct{} // closed when the load under way ends; nil if none is
}

// keys is one good reading of a key set. It is not changed once made.
type keys struct {
	byID    map[string]jose.JSONWebKey
	skipped int       // keys in the document that we do not use
	at      time.Time // when it was read
}

var (
	errKeyUnknown = errors.New("the issuer has no such key")
	errKeyUnfit   = errors.New("the key is not for that algorithm")
	errSignature  = errors.New("the signature does not hold")
)

// keyCheck is the [oidc.KeySet] of one verification. It keeps its own error,
// because go-oidc wraps errors as text.
type keyCheck struct {
	keys  *keySet
	token *token
	err   error
}

// VerifySignature implements [oidc.KeySet]. go-oidc reads its claims from the
// payload that is returned, which is the one that our own were read from.
func (c *keyCheck) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	if raw != c.token.raw {
		c.err = refuse("ambiguous")
	} else {
		c.err = c.keys.verify(ctx, c.token)
	}
	if c.err != nil {
		return nil, c.err
	}
	return c.token.payload, nil
}

// verify holds a token's signature to the key of its kid. Its error is a
// [*broker.Error].
func (k *keySet) verify(ctx context.Context, t *token) error {
	if k.due() { // nobody runs the schedule, or it has only just begun
		k.refresh(context.WithoutCancel(ctx), ctx.Done())
	}
	before := k.current()
	err := before.verify(t)
	if err == nil && k.fresh(before) {
		return nil
	}
	// The key may be new, or new under an old kid, as some providers rotate.
	k.refresh(context.WithoutCancel(ctx), ctx.Done())
	after := k.current()
	if !k.fresh(after) {
		return unavailable("keys_unavailable", k.failure())
	}
	if !after.at.Equal(before.at) {
		err = after.verify(t)
	}
	return k.explain(err)
}

// explain turns the last word of keys into the caller's error.
func (k *keySet) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errKeyUnknown):
		if cause := k.failure(); cause != nil {
			return unavailable("keys_unavailable", cause) // it may be there: we could not look
		}
		e := refuse("key_unknown")
		e.RetryAfter = k.untilNext() // the key may have been published just now
		return e
	case errors.Is(err, errKeyUnfit):
		return refuse("alg_refused")
	}
	return refuse("signature")
}

// verify checks one signature with exactly one key.
func (s keys) verify(t *token) error {
	key, ok := s.byID[t.kid]
	if !ok {
		return errKeyUnknown
	}
	if !fits(t.alg, key) {
		return errKeyUnfit
	}
	if !holds(t.alg, key.Key, t.signed, t.signature) {
		return errSignature
	}
	return nil
}

// refresh loads the keys, unless that was done less than a pause ago. Whoever
// comes while a load is under way waits for it, until done.
func (k *keySet) refresh(ctx context.Context, done <-chan struct{}) {
	k.mu.Lock()
	if flight := k.flight; flight != nil {
		k.mu.Unlock()
		select {
		case <-flight:
		case <-done:
		}
		return
	}
	now := k.now()
	if !k.tried.IsZero() && now.Sub(k.tried) < k.pause {
		k.mu.Unlock()
		return
	}
	k.tried, k.flight = now, make(chan struct{})
	k.mu.Unlock()

	err := errors.New("the load did not end") // what a panic leaves behind
	var next keys
	defer func() { k.land(next, err) }()
	next, err = k.fetch(ctx)
}

// fetch loads one key set and sorts it.
func (k *keySet) fetch(ctx context.Context) (keys, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	raw, err := k.load(ctx)
	if err != nil {
		return keys{}, err
	}
	next, err := parseKeys(raw, k.algs)
	if err != nil {
		return keys{}, err
	}
	next.at = k.now()
	if k.keep != nil {
		k.keep(raw, next.at)
	}
	return next, nil
}

// land ends a load: good keys replace all earlier ones, a failure none.
func (k *keySet) land(next keys, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.held = next
	} else {
		k.log.Warn("keys could not be refreshed", "err", err, "last_good", k.held.at)
	}
	k.failed = err
	close(k.flight)
	k.flight = nil
}

// run refreshes on schedule until ctx ends, and sooner after a failure.
func (k *keySet) run(ctx context.Context) {
	for {
		k.refresh(ctx, ctx.Done())
		wait := k.every
		if k.failure() != nil {
			wait = min(wait, k.pause)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// due reports whether a scheduled refresh has been missed.
func (k *keySet) due() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tried.IsZero() || k.now().Sub(k.tried) >= k.every
}

func (k *keySet) current() keys {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

// failure is why the last load failed, or nil.
func (k *keySet) failure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed
}

// fresh reports whether keys may still be used.
func (k *keySet) fresh(held keys) bool {
	return len(held.byID) > 0 && k.now().Sub(held.at) < keysKeep
}

// untilNext is how long until a load may begin; at least a second.
func (k *keySet) untilNext() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(time.Second, k.pause-k.now().Sub(k.tried))
}
