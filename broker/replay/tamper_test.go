package replay_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest"
	"github.com/daypass-dev/daypass/broker/replay"
)

const fenceKey = "dp:{test}:fence"

// confirmed opens a store whose fence lets fresh tokens pass, and whose probes
// the test makes itself.
func confirmed(t *testing.T, c replay.RedisConfig) *replay.Redis {
	t.Helper()
	r := open(t, c)
	eventually(t, "a fresh token is not accepted", func() error {
		if err := r.Check(t.Context()); err != nil {
			return err
		}
		return r.Claim(t.Context(), fresh())
	})
	return r
}

// reconfirm makes the probes that a server needs which lost its fence.
func reconfirm(t *testing.T, r *replay.Redis) {
	t.Helper()
	eventually(t, "not confirmed again", func() error {
		if err := r.Check(t.Context()); err != nil {
			return err
		}
		return r.Ready(t.Context())
	})
}

func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	wantCode(t, err, broker.Unavailable)
	if got := broker.ReasonOf(err); got != reason {
		t.Errorf("reason %q, want %q: %v", got, reason, err)
	}
}

func TestAMarkerThatNoBrokerWroteThereIsNeverTakenForAnAnswer(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	r := confirmed(t, config(server.URL()))
	other := fresh()
	other.Owner = broker.OwnerOf([]byte("the thief's key"))
	if err := r.Claim(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	moved := do(t, op, "GET", marker(other))
	before := r.Forged()
	for name, forged := range map[string]any{
		"nothing":                     "",
		"words":                       "1:used:::",
		"the marker of another token": moved,
		"one with another owner":      strings.Replace(moved.(string), base64.RawURLEncoding.EncodeToString(other.Owner[:4]), "AAAAAA", 1),
		"one without a code":          "1::" + strings.SplitN(moved.(string), ":", 3)[2],
		"one of a later format":       "2" + moved.(string)[1:],
	} {
		victim := fresh()
		victim.Owner = other.Owner
		do(t, op, "SET", marker(victim), forged)
		err := r.Claim(t.Context(), victim)
		wantReason(t, err, "record_refused")
		if _, told := errors.AsType[*broker.Used](err); told {
			t.Errorf("%s: believed: %v", name, err)
		}
		if got := do(t, op, "GET", marker(victim)); got != forged {
			t.Errorf("%s: replaced by %q", name, got)
		}
	}
	if got := r.Forged() - before; got != 6 {
		t.Errorf("%d refused records were counted", got)
	}
	list := fresh()
	do(t, op, "LPUSH", marker(list), "x")
	wantCode(t, r.Claim(t.Context(), list), broker.Unavailable)
}

// The attack: used tokens are deleted, and the fence is made to say that
// nothing was forgotten for an hour.
func TestAFenceWrittenByHandIsDestroyedAndNothingPasses(t *testing.T) {
	t.Parallel()
	server, elsewhere := startRedis(t), startRedis(t)
	op := admin(t, server)
	var log lines
	c := config(server.URL())
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := confirmed(t, c)
	ours := do(t, op, "HGET", fenceKey, "fence").(string)
	other := c
	other.URL, other.Key = elsewhere.URL(), [32]byte{9}
	stranger := confirmed(t, other) // same deployment, another key
	theirs := do(t, admin(t, elsewhere), "HGET", fenceKey, "fence").(string)
	body := strings.Split(ours, ":")[2:]
	older := strings.Join(append(body[:2:2], strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10)), ":")
	for name, forged := range map[string]string{
		"an older one without a code":      "1::" + older,
		"an older one with the old code":   "1:" + strings.Split(ours, ":")[1] + ":" + older,
		"one of another key":               stranger.SealFence(body[0], body[1], time.Now().Add(-time.Hour)),
		"one of another server":            theirs,
		"an empty one":                     "",
		"words":                            "trust me",
		"one of ours for another key name": movedFence(t, c, body),
	} {
		used := fresh()
		reconfirm(t, r)
		eventually(t, name+": no fresh token is accepted", func() error { used = fresh(); return r.Claim(t.Context(), used) })
		do(t, op, "DEL", marker(used))
		do(t, op, "HSET", fenceKey, "fence", forged)
		broken := confirmed2(t, c) // another broker, that has seen no fence yet
		for range 4 {
			if err := r.Claim(t.Context(), used); broker.CodeOf(err) != broker.Unavailable {
				t.Errorf("%s: a used token: %v", name, err)
			}
			if err := broken.Claim(t.Context(), used); broker.CodeOf(err) != broker.Unavailable {
				t.Errorf("%s: a used token, through a new broker: %v", name, err)
			}
			_ = broken.Check(t.Context())
		}
		reconfirm(t, r)
		wantCode(t, r.Claim(t.Context(), used), broker.TokenStale)
	}
	if !strings.Contains(log.String(), "a record in redis is refused") {
		t.Errorf("the log does not tell:\n%s", log.String())
	}
}

// confirmed2 opens a store and looks once.
func confirmed2(t *testing.T, c replay.RedisConfig) *replay.Redis {
	t.Helper()
	r := open(t, c)
	_ = r.Check(t.Context())
	return r
}

// movedFence is a fence that brokers of another deployment sealed with our key.
func movedFence(t *testing.T, c replay.RedisConfig, body []string) string {
	t.Helper()
	c.Deployment = "next"
	return open(t, c).SealFence(body[0], body[1], time.Now().Add(-time.Hour))
}

func TestASeenTimeWrittenByHandTakesTheFenceWithIt(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	r := confirmed(t, config(server.URL()))
	for _, forged := range []string{"1", "1::1", "1:x:" + strconv.FormatInt(time.Now().UnixMilli(), 10), "1:x:99999999999999999999", "\x00"} {
		reconfirm(t, r)
		do(t, op, "HSET", fenceKey, "seen", forged)
		if r.Check(t.Context()) == nil && r.Ready(t.Context()) == nil && do(t, op, "HGET", fenceKey, "seen") == forged {
			t.Errorf("%q is believed", forged)
		}
	}
	reconfirm(t, r)
	do(t, op, "SET", fenceKey, "no hash")
	wantCode(t, r.Claim(t.Context(), fresh()), broker.Unavailable)
	reconfirm(t, r)
}

func TestBrokersWithDifferentKeysDoNotServe(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	one := config(server.URL())
	two := one
	two.Key = [32]byte{7}
	a, b := serve(t, one), serve(t, two)
	passed := map[string]bool{}
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c := fresh()
		first, second := a.Claim(t.Context(), c), b.Claim(t.Context(), c)
		if first == nil && second == nil {
			t.Fatal("a token passed twice")
		}
		passed[broker.ReasonOf(second)] = true
	}
	if a.Forged() == 0 && b.Forged() == 0 {
		t.Errorf("nobody noticed: %v", passed)
	}
}

func TestAnAnswerThatNoBrokerKeptThereIsRefused(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	r := open(t, config(server.URL()))
	sealed := broker.Sealed{Request: "req_1", Enc: []byte("enc"), Ciphertext: []byte("canary-" + rand.Text())}
	key, victim := answerKey("mine"), answerKey("the victim's")
	if err := r.Keep(t.Context(), key, sealed, time.Minute); err != nil {
		t.Fatal(err)
	}
	moved := do(t, op, "GET", answerAt(key)).(string)
	if err := op.Restore(t.Context(), answerAt(victim), 0, op.Dump(t.Context(), answerAt(key)).Val()).Err(); err != nil {
		t.Fatal(err)
	}
	for name, forged := range map[string]string{
		"moved": moved, "empty": "", "plain": `{"request_id":"req_1","enc":"AA==","ciphertext":"AA=="}`,
		"changed": strings.Replace(moved, "req_1", "req_2", 1), "longer": moved + " ",
	} {
		do(t, op, "SET", answerAt(victim), forged)
		_, err := r.Kept(t.Context(), victim)
		wantReason(t, err, "record_refused")
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error shows the record", name)
		}
	}
	if got, err := r.Kept(t.Context(), key); err != nil || !bytes.Equal(got.Ciphertext, sealed.Ciphertext) {
		t.Errorf("the answer in its place: %v", err)
	}
	if ttl := op.PTTL(t.Context(), answerAt(key)).Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("it is kept for %s", ttl)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := r.Kept(t.Context(), key)
	wantReason(t, err, "answer_store")
	wantReason(t, r.Keep(t.Context(), answerKey("more"), sealed, time.Minute), "answer_store")
}

func answerKey(s string) broker.AnswerKey {
	return broker.NewAnswerKey(broker.NewTokenID("test", s), broker.OwnerOf([]byte(s)))
}

func answerAt(k broker.AnswerKey) string {
	return "dp:{test}:answer:" + base64.RawURLEncoding.EncodeToString(k[:])
}

// Whoever reads Redis learns nothing that opens a door: ids and hashes.
func TestRedisHoldsNothingButSealedRecords(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	r := confirmed(t, config(server.URL()))
	c := fresh()
	c.Owner, c.Session = broker.OwnerOf([]byte("key")), "dps_aaaaaaaaaaaaaaaaaaaaaaaaaa"
	if err := r.Claim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := r.Keep(t.Context(), answerKey("x"), broker.Sealed{Request: "r", Enc: []byte{1}, Ciphertext: []byte{2}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	reconfirm(t, r)
	for _, key := range do(t, op, "KEYS", "*").([]any) {
		var values []string
		if key == fenceKey {
			values = op.HVals(t.Context(), fenceKey).Val()
		} else {
			values = []string{do(t, op, "GET", key).(string)}
		}
		for _, v := range values {
			part := strings.SplitN(v, ":", 3)
			if code, err := base64.RawURLEncoding.DecodeString(part[1]); len(part) != 3 || part[0] != "1" || err != nil || len(code) != 32 {
				t.Errorf("%s holds %q, which is not sealed", key, v)
			}
		}
		if ttl := op.PTTL(t.Context(), key.(string)).Val(); key != fenceKey && ttl <= 0 {
			t.Errorf("%s never ends", key)
		}
	}
	if n := op.MemoryUsage(t.Context(), marker(c)).Val(); n > 400 {
		t.Errorf("a used token takes %d bytes", n)
	}
}

// Two brokers confirm at once: one draft replaces the other, and only its own
// broker can finish it.
func TestOnlyOneOfSeveralBrokersConfirmsTheFence(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	var stores []*replay.Redis
	for range 8 {
		stores = append(stores, serve(t, config(server.URL())))
	}
	for _, r := range stores {
		eventually(t, "not ready", func() error { return r.Ready(t.Context()) })
	}
	op := admin(t, server)
	once := do(t, op, "HGET", fenceKey, "fence")
	time.Sleep(1500 * time.Millisecond)
	if now := do(t, op, "HGET", fenceKey, "fence"); now != once {
		t.Errorf("the fence was moved: %v, %v", once, now)
	}
	if left := op.HGet(t.Context(), fenceKey, "draft"); !errors.Is(left.Err(), redis.Nil) {
		t.Errorf("a draft is left: %v", left)
	}
	c := brokertest.NewClaim(time.Now().Add(maxAhead))
	eventually(t, "no token is accepted", func() error {
		c = fresh()
		return stores[0].Claim(t.Context(), c)
	})
	for _, r := range stores {
		wantCode(t, r.Claim(t.Context(), c), broker.TokenReused)
	}
}

// An operator who checks a configuration has no key. What he asks must not
// make brokers that serve refuse a token.
func TestWhoOnlyLooksChangesNothing(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	op := admin(t, server)
	c := config(server.URL())
	r := confirmed(t, c)
	before := op.HGet(t.Context(), fenceKey, "fence").Val()
	c.Key = [32]byte{42}
	if err := open(t, c).Fit(t.Context()); err != nil {
		t.Errorf("a server that serves: %v", err)
	}
	if after := op.HGet(t.Context(), fenceKey, "fence").Val(); before == "" || after != before {
		t.Errorf("the fence was %q, and is %q", before, after)
	}
	if err := r.Claim(t.Context(), fresh()); err != nil {
		t.Errorf("a fresh token: %v", err)
	}
}
