package issuers

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// fakeSource is an issuer's end of a key set, without a network.
type fakeSource struct {
	mu    sync.Mutex // guards what follows
	keys  map[string]*rsa.PrivateKey
	err   error
	loads int
	slow  time.Duration
}

func (f *fakeSource) load(ctx context.Context) ([]byte, error) {
	f.mu.Lock()
	f.loads++
	keys, err, slow := f.keys, f.err, f.slow
	f.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	return fakeissuer.JWKS(keys)
}

func (f *fakeSource) set(keys map[string]*rsa.PrivateKey, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys, f.err = keys, err
}

func (f *fakeSource) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loads
}

// keyRig is a GitHub issuer with a fake source, to be used within a synctest
// bubble, whose clock it goes by.
type keyRig struct {
	*Set
	src  *fakeSource
	keys *keySet
}

func newKeyRig(t *testing.T) keyRig {
	t.Helper()
	set, err := New(Options{Issuers: []Config{{Name: "ci", Profile: "github", URL: rigBase + "/github"}}, Audience: ourAudience})
	if err != nil {
		t.Fatal(err)
	}
	kid, key := fakeOf(t, ciKey()).Key()
	src := &fakeSource{keys: map[string]*rsa.PrivateKey{kid: key}}
	set.all[0].keys.load = src.load
	return keyRig{set, src, set.all[0].keys}
}

func fakeOf(t *testing.T, key *rsa.PrivateKey) *fakeissuer.Fake {
	t.Helper()
	fake, err := fakeissuer.New(rigBase, fakeissuer.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return fake
}

func (r keyRig) verify(t *testing.T, key *rsa.PrivateKey) error {
	t.Helper()
	return r.verifyRaw(t, sign(t, fakeOf(t, key), fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience}))
}

func (r keyRig) verifyRaw(t *testing.T, raw string) error {
	t.Helper()
	_, err := r.Verify(t.Context(), broker.NewSecret(raw))
	return err
}

// withKid signs with key, but says another kid.
func withKid(t *testing.T, kid string, key *rsa.PrivateKey) string {
	t.Helper()
	fake := fakeOf(t, key)
	claims, err := fake.Claims(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := fakeissuer.Forge{Header: fmt.Sprintf(`{"alg":"RS256","kid":%q}`, kid), Payload: mustJSON(t, claims), Alg: "RS256", Key: key}.Compact()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func wantRefused(t *testing.T, err error, code broker.Code, reason string) {
	t.Helper()
	if err == nil || broker.CodeOf(err) != code || broker.ReasonOf(err) != reason {
		t.Errorf("got %v (%s), want %s/%s", err, broker.ReasonOf(err), code, reason)
	}
}

func TestAFloodOfUnknownKidsAndBadSignaturesCostsOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		if err := r.verify(t, ciKey()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshPause)
		r.src.slow = time.Second
		before := r.src.count()
		kid, _ := fakeOf(t, ciKey()).Key()
		raw := sign(t, fakeOf(t, otherKey()), fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience})
		bad := withKid(t, kid, otherKey())
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				if i%2 == 0 {
					wantRefused(t, r.verifyRaw(t, raw), broker.TokenInvalid, "key_unknown")
				} else {
					wantRefused(t, r.verifyRaw(t, bad), broker.TokenInvalid, "signature")
				}
			})
		}
		wg.Wait()
		for i := range 28 { // and they keep coming
			time.Sleep(time.Second)
			_ = r.verifyRaw(t, withKid(t, fmt.Sprint("kid", i), otherKey()))
		}
		if n := r.src.count() - before; n != 1 {
			t.Errorf("%d fetches, want 1 in 30 s", n)
		}
		time.Sleep(time.Second)
		_ = r.verifyRaw(t, bad)
		if n := r.src.count() - before; n != 2 {
			t.Errorf("%d fetches, want a second one after 30 s", n)
		}
	})
}

func TestAGoodTokenWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		good := sign(t, fakeOf(t, ciKey()), fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience})
		if err := r.verifyRaw(t, good); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshPause)
		r.src.slow = time.Hour
		unknown := sign(t, fakeOf(t, otherKey()), fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience})
		done := make(chan error)
		go func() { done <- r.verifyRaw(t, unknown) }()
		synctest.Wait() // it waits for a load that does not end
		start := time.Now()
		if err := r.verifyRaw(t, good); err != nil || time.Since(start) != 0 {
			t.Errorf("a good token took %s: %v", time.Since(start), err)
		}
		wantRefused(t, <-done, broker.Unavailable, "keys_unavailable")
		if d := time.Since(start); d != fetchTimeout {
			t.Errorf("a load was given up after %s, want %s", d, fetchTimeout)
		}
	})
}

func TestAClientThatHangsUpDoesNotEndTheFetchForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		r.src.slow = time.Second
		good := broker.NewSecret(sign(t, fakeOf(t, ciKey()), fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience}))
		ctx, hangUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = r.Verify(ctx, good) }) // begins the load
		synctest.Wait()
		wg.Go(func() {
			if _, err := r.Verify(t.Context(), good); err != nil {
				t.Errorf("whoever waited along got %v", err)
			}
		})
		synctest.Wait()
		hangUp()
		wg.Wait()
		if r.src.count() != 1 {
			t.Errorf("%d loads, want one for both", r.src.count())
		}
	})
}

func TestAKeyThatTheIssuerDropsStopsWorkingWithinTenMinutes(t *testing.T) {
	for name, scheduled := range map[string]bool{"with the schedule running": true, "with nobody running it": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newKeyRig(t)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				if scheduled {
					go func() { _ = r.Run(ctx) }()
					synctest.Wait()
				}
				if err := r.verify(t, ciKey()); err != nil {
					t.Fatal(err)
				}
				kid, key := fakeOf(t, otherKey()).Key()
				r.src.set(map[string]*rsa.PrivateKey{kid: key}, nil)
				time.Sleep(refreshEvery)
				synctest.Wait()
				wantRefused(t, r.verify(t, ciKey()), broker.TokenInvalid, "key_unknown")
				if err := r.verify(t, otherKey()); err != nil {
					t.Errorf("the new key: %v", err)
				}
			})
		})
	}
}

func TestANewKeyWorksAtOnceAndANewKeyUnderAnOldKidToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		if err := r.verify(t, ciKey()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshPause)
		kid, key := fakeOf(t, otherKey()).Key()
		r.src.set(map[string]*rsa.PrivateKey{kid: key, "reused": ciKey()}, nil)
		if err := r.verify(t, otherKey()); err != nil {
			t.Errorf("a new kid: %v", err)
		}
		time.Sleep(refreshPause)
		r.src.set(map[string]*rsa.PrivateKey{"reused": otherKey()}, nil)
		if err := r.verifyRaw(t, withKid(t, "reused", otherKey())); err != nil {
			t.Errorf("a new key under an old kid: %v", err)
		}
		wantRefused(t, r.verifyRaw(t, withKid(t, "reused", ciKey())), broker.TokenInvalid, "signature")
	})
}

func TestWithinThePauseANewKeyIsPromisedForLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		if err := r.verify(t, ciKey()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		kid, key := fakeOf(t, otherKey()).Key()
		r.src.set(map[string]*rsa.PrivateKey{kid: key}, nil)
		err := r.verify(t, otherKey())
		wantRefused(t, err, broker.TokenInvalid, "key_unknown")
		e, ok := errors.AsType[*broker.Error](err)
		if !ok || e.RetryAfter != 20*time.Second {
			t.Fatalf("retry after %v, want 20s", e)
		}
		time.Sleep(e.RetryAfter)
		if err := r.verify(t, otherKey()); err != nil {
			t.Errorf("as promised: %v", err)
		}
	})
}

func TestAnIssuerThatIsDownIsServedForADayAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = r.Run(ctx) }()
		synctest.Wait()
		r.src.set(nil, errors.New("connection refused"))
		start := time.Now()
		for time.Since(start) < keysKeep-time.Minute {
			if err := r.verify(t, ciKey()); err != nil {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
			time.Sleep(13 * time.Minute)
		}
		wantRefused(t, r.verify(t, otherKey()), broker.Unavailable, "keys_unavailable")
		time.Sleep(time.Until(start.Add(keysKeep)))
		synctest.Wait()
		wantRefused(t, r.verify(t, ciKey()), broker.Unavailable, "keys_unavailable")
		if err := r.Ready(ctx); err == nil || !strings.Contains(err.Error(), "issuers.ci: connection refused") {
			t.Errorf("ready: %v, want why not", err)
		}
		kid, key := fakeOf(t, ciKey()).Key()
		r.src.set(map[string]*rsa.PrivateKey{kid: key}, nil)
		time.Sleep(refreshPause)
		synctest.Wait()
		if err := errors.Join(r.verify(t, ciKey()), r.Ready(ctx)); err != nil {
			t.Errorf("once it is back: %v", err)
		}
	})
}

func TestABadKeySetReplacesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		if err := r.verify(t, ciKey()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshEvery)
		r.src.set(map[string]*rsa.PrivateKey{}, nil)
		if err := r.verify(t, ciKey()); err != nil {
			t.Errorf("after an empty key set: %v", err)
		}
		if st := r.Status()[0]; st.Err == nil || !st.Usable || st.Keys != 1 {
			t.Errorf("status %+v, want one usable key and an error", st)
		}
	})
}

func TestALoadThatPanicsBlocksNobodyForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		r.keys.load = func(context.Context) ([]byte, error) { panic("odd key") }
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = r.verify(t, ciKey())
		}()
		r.keys.load = r.src.load
		time.Sleep(refreshPause)
		if err := r.verify(t, ciKey()); err != nil {
			t.Error(err)
		}
	})
}

func TestTheSameKidOfTwoIssuersIsTwoKeys(t *testing.T) {
	files := map[string]string{}
	for name, key := range map[string]*rsa.PrivateKey{"one": ciKey(), "two": otherKey()} {
		raw, err := fakeissuer.JWKS(map[string]*rsa.PrivateKey{"same": key})
		if err != nil {
			t.Fatal(err)
		}
		files[name] = writeFile(t, raw)
	}
	set, err := New(Options{Audience: ourAudience, Issuers: []Config{
		{Name: "one", Profile: "github", URL: rigBase + "/github", JWKSFile: files["one"]},
		{Name: "two", Profile: "github", URL: "https://two.example.com/github", JWKSFile: files["two"]},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Verify(t.Context(), broker.NewSecret(withKid(t, "same", ciKey()))); err != nil {
		t.Errorf("its own key: %v", err)
	}
	_, err = set.Verify(t.Context(), broker.NewSecret(withKid(t, "same", otherKey())))
	wantRefused(t, err, broker.TokenInvalid, "signature")
}

func TestAJWKSFileIsReadAgainAndDialsNobody(t *testing.T) {
	c := &clock{t: noon}
	fake, err := fakeissuer.New(rigBase, fakeissuer.Options{Key: ciKey(), Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	path := keyFile(t, fake)
	set, err := New(Options{Audience: ourAudience, Now: c.Now,
		Issuers: []Config{{Name: "ci", Profile: "github", URL: fake.URL(fakeissuer.GitHub), JWKSFile: path}}})
	if err != nil {
		t.Fatal(err)
	}
	job := fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience}
	if _, err := set.Verify(t.Context(), broker.NewSecret(sign(t, fake, job))); err != nil {
		t.Fatal(err)
	}
	other, err := fakeissuer.New(rigBase, fakeissuer.Options{Key: otherKey(), Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := other.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Advance(fileEvery)
	_, err = set.Verify(t.Context(), broker.NewSecret(sign(t, fake, job)))
	wantRefused(t, err, broker.TokenInvalid, "key_unknown")
	if _, err := set.Verify(t.Context(), broker.NewSecret(sign(t, other, job))); err != nil {
		t.Errorf("the new file's key: %v", err)
	}
}

func TestKeptKeysServeABrokerThatStartsWhileTheIssuerIsDown(t *testing.T) {
	dir := t.TempDir()
	url := rigBase + "/github"
	fake, err := fakeissuer.New(rigBase, fakeissuer.Options{Key: ciKey(), Now: at(noon)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := fake.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	start := func(now time.Time, kept func(file cacheFile)) error {
		file := newCacheFile(dir, url)
		kept(file)
		set, err := New(Options{Audience: ourAudience, CacheDir: dir, Now: at(now), Log: slog.New(slog.DiscardHandler),
			Issuers: []Config{{Name: "ci", Profile: "github", URL: url}}})
		if err != nil {
			t.Fatal(err)
		}
		set.all[0].keys.load = func(context.Context) ([]byte, error) { return nil, errors.New("down") }
		_, err = set.Verify(t.Context(), broker.NewSecret(sign(t, fake, fakeissuer.Job{
			Provider: fakeissuer.GitHub, Audience: ourAudience, Set: map[string]any{"iat": now.Unix(), "exp": now.Unix() + 300, "nbf": nil}, Unset: []string{"nbf"}})))
		return err
	}
	store := func(file cacheFile) {
		if err := file.store(raw, noon); err != nil {
			t.Fatal(err)
		}
	}
	if err := start(noon.Add(23*time.Hour), store); err != nil {
		t.Errorf("within a day: %v", err)
	}
	wantRefused(t, start(noon.Add(24*time.Hour), store), broker.Unavailable, "keys_unavailable")
	wantRefused(t, start(noon.Add(-time.Hour), store), broker.Unavailable, "keys_unavailable")
	wantRefused(t, start(noon, func(file cacheFile) {
		file.url = "https://evil.example"
		store(file)
	}), broker.Unavailable, "keys_unavailable")
	wantRefused(t, start(noon, func(file cacheFile) {
		if err := os.WriteFile(file.path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}), broker.Unavailable, "keys_unavailable")
}

func TestAGoodFetchIsKeptForARestart(t *testing.T) {
	dir := t.TempDir()
	server, err := fakeissuer.Start(fakeissuer.Options{Key: ciKey()})
	if err != nil {
		t.Fatal(err)
	}
	open := func() *Set {
		set, err := New(Options{Audience: ourAudience, CacheDir: dir,
			Issuers: []Config{{Name: "ci", Profile: "github", URL: server.URL(fakeissuer.GitHub), Insecure: true}}})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	token := broker.NewSecret(sign(t, server.Fake, fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience}))
	if _, err := open().Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	second := open()
	if _, err := second.Verify(t.Context(), token); err != nil {
		t.Errorf("after a restart, with the issuer down: %v", err)
	}
	if st := second.Status()[0]; st.Err == nil || !st.Usable {
		t.Errorf("status %+v: it was to have tried, and failed", st)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeyRig(t)
		var ended atomic.Bool
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = r.Run(ctx); ended.Store(true) }()
		synctest.Wait()
		if err := r.Ready(ctx); err != nil {
			t.Errorf("after the first fetch: %v", err)
		}
		stop()
		synctest.Wait()
		if !ended.Load() {
			t.Error("Run goes on")
		}
	})
}
