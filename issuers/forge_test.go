package issuers

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// forgeRig trusts every provider that has a profile, each with a key of its own.
type forgeRig struct {
	set   *Set
	fakes map[fakeissuer.Provider]*fakeissuer.Fake
	of    map[fakeissuer.Provider]Profile
	pool  map[fakeissuer.Provider][]string // honest tokens to cut up
	forms [][]byte                         // of the public keys, to be taken for HMAC secrets
}

func newForgeRig(t *testing.T) forgeRig {
	t.Helper()
	profiles, err := Profiles()
	if err != nil {
		t.Fatal(err)
	}
	r := forgeRig{fakes: map[fakeissuer.Provider]*fakeissuer.Fake{}, of: map[fakeissuer.Provider]Profile{}, pool: map[fakeissuer.Provider][]string{}}
	var configs []Config
	for name, profile := range profiles {
		p := fakeissuer.Provider(name)
		if !slices.Contains(fakeissuer.Providers(), p) {
			t.Fatalf("the toy provider does not imitate %s: its tokens would go untested", name)
		}
		key := mustRSA(2048)
		fake, err := fakeissuer.New(rigBase, fakeissuer.Options{Key: key, Now: at(noon)})
		if err != nil {
			t.Fatal(err)
		}
		r.fakes[p], r.of[p] = fake, profile
		configs = append(configs, Config{Name: name, Profile: name, URL: fake.URL(p), JWKSFile: keyFile(t, fake)})
		for range 32 {
			r.pool[p] = append(r.pool[p], sign(t, fake, fakeissuer.Job{Provider: p, Audience: ourAudience}))
		}
		for _, form := range publicForms(t, &key.PublicKey) {
			r.forms = append(r.forms, form)
		}
	}
	if r.set, err = New(Options{Issuers: configs, Audience: ourAudience, URL: ourAudience, Now: at(noon)}); err != nil {
		t.Fatal(err)
	}
	return r
}

// forger makes one token. All that it chooses follows from its seed; keys and
// token ids are new in every run.
type forger struct {
	*rand.Rand
	rig    forgeRig
	p      fakeissuer.Provider
	fake   *fakeissuer.Fake
	honest map[string]any // the claims of the unforged twin
}

func newForger(rig forgeRig, p fakeissuer.Provider, seed, n uint64) *forger {
	f := &forger{Rand: rand.New(rand.NewPCG(seed, n)), rig: rig, p: p, fake: rig.fakes[p]}
	set := map[string]any{"ref": f.pick("refs/heads/main", "main", "v1.2", f.word()), "sha": f.word()}
	if f.IntN(2) == 0 {
		set["environment"] = f.pick("prod", "Größe", "a:b", f.word())
	}
	claims, err := f.fake.Claims(fakeissuer.Job{Provider: p, Audience: ourAudience, Set: set})
	f.must(err)
	f.honest = claims
	return f
}

// must ends a forger whose tools are broken: a test of forgeries that were not
// made proves nothing.
func (f *forger) must(err error) {
	if err != nil {
		panic(err)
	}
}

func pickOf[T any](f *forger, of ...T) T { return of[f.IntN(len(of))] }

func (f *forger) pick(of ...string) string { return pickOf(f, of...) }

func (f *forger) word() string { return strconv.FormatUint(f.Uint64(), 36) }

// text marshals v, sometimes with white space that changes nothing.
func (f *forger) text(v any) string {
	raw, err := json.Marshal(v)
	if f.IntN(4) == 0 {
		raw, err = json.MarshalIndent(v, f.pick("", " ", "\t"), f.pick(" ", "\t"))
	}
	f.must(err)
	return string(raw)
}

func changed(from, change map[string]any) map[string]any {
	all := maps.Clone(from)
	maps.Copy(all, change)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func (f *forger) header(change map[string]any) string {
	kid, _ := f.fake.Key()
	return f.text(changed(map[string]any{"alg": "RS256", "kid": kid, "typ": "JWT"}, change))
}

func (f *forger) claims(change map[string]any) string { return f.text(changed(f.honest, change)) }

func (f *forger) signed(alg string, key any, header, payload string) string {
	token, err := fakeissuer.Forge{Header: header, Payload: payload, Alg: alg, Key: key}.Compact()
	f.must(err)
	return token
}

// genuine is signed by the issuer itself: nothing but what it says is wrong.
func (f *forger) genuine(header, payload string) string {
	_, key := f.fake.Key()
	return f.signed("RS256", key, header, payload)
}

func (f *forger) twin() string { return f.genuine(f.header(nil), f.claims(nil)) }

func (f *forger) said(name string, v any) string {
	return f.genuine(f.header(nil), f.claims(map[string]any{name: v}))
}

func (f *forger) headed(name string, v any) string {
	return f.genuine(f.header(map[string]any{name: v}), f.claims(nil))
}

// spliced edits the claims' JSON as text, in front or behind.
func (f *forger) spliced(add string) string {
	c := strings.TrimSpace(f.claims(nil))
	if f.IntN(2) == 0 {
		return f.genuine(f.header(nil), "{"+add+","+c[1:])
	}
	return f.genuine(f.header(nil), c[:len(c)-1]+","+add+"}")
}

// cut returns the parts of an honest token that was signed before.
func (f *forger) cut() []string { return strings.Split(pickOf(f, f.rig.pool[f.p]...), ".") }

// insert puts s into raw, anywhere.
func (f *forger) insert(raw, s string) string {
	i := f.IntN(len(raw) + 1)
	return raw[:i] + s + raw[i:]
}

// unsigned joins a header and the honest claims to bytes that are no signature.
func (f *forger) unsigned(header string, signature []byte) string {
	return enc(header) + "." + enc(f.claims(nil)) + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (f *forger) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(f.Uint32())
	}
	return b
}

// other is a key of somebody else: another issuer's or the attacker's own.
func (f *forger) other() (kid string, key *rsa.PrivateKey) {
	for _, p := range fakeissuer.Providers() {
		if p != f.p && f.IntN(2) == 0 {
			return f.rig.fakes[p].Key()
		}
	}
	return "attacker", otherKey()
}

// forgery is one class of bad tokens and why they are refused.
type forgery struct {
	reason string
	// cheap says that nothing is signed, so that more of the class are made.
	cheap bool
	forge func(f *forger) string
}

// seedOf is the seed of a run: DAYPASS_SEED repeats one.
func seedOf(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("DAYPASS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DAYPASS_SEED=%d repeats this run", seed)
	return seed
}

// offer shows one forged token and reports what is wrong with the answer.
func (r forgeRig) offer(t *testing.T, raw, reason string) error {
	id, err := r.set.Verify(t.Context(), broker.NewSecret(raw))
	switch {
	case err == nil:
		return fmt.Errorf("accepted as %s: %s", id.Subject, raw)
	case broker.ReasonOf(err) != reason:
		return fmt.Errorf("refused as %s, want %s: %s", broker.ReasonOf(err), reason, raw)
	case !id.Token.IsZero() || id.Claims != nil:
		return fmt.Errorf("refused, and left an identity behind")
	}
	return nil
}

func TestEveryClassOfForgeryIsRefusedForItsOwnReasonAndItsTwinIsAccepted(t *testing.T) {
	rig, seed, classes := newForgeRig(t), seedOf(t), forgeries()
	if len(classes) < 60 {
		t.Fatalf("only %d classes: some went missing", len(classes))
	}
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		for p := range rig.fakes {
			for n := range uint64(3) {
				if err := rig.offer(t, classes[name].forge(newForger(rig, p, seed, n)), classes[name].reason); err != nil {
					t.Errorf("%s at %s: %v", name, p, err)
				}
			}
			if _, err := rig.set.Verify(t.Context(), broker.NewSecret(newForger(rig, p, seed, 0).twin())); err != nil {
				t.Errorf("%s at %s: the unforged twin: %v (%s)", name, p, err, broker.ReasonOf(err))
			}
		}
	}
}

// TestNoForgedTokenIsAccepted is the storm: 20,000 forgeries, a million with
// DAYPASS_SOAK=1. Signing costs a thousand times what cutting does, so of the
// classes that sign fewer are made: one in four is.
func TestNoForgedTokenIsAccepted(t *testing.T) {
	total := uint64(20_000)
	if os.Getenv("DAYPASS_SOAK") == "1" {
		total = 1_000_000
	}
	rig, seed, classes := newForgeRig(t), seedOf(t), forgeries()
	var cheap, signed []string
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		if classes[name].cheap {
			cheap = append(cheap, name)
		} else {
			signed = append(signed, name)
		}
	}
	providers := slices.Sorted(maps.Keys(rig.fakes))
	var next, made atomic.Uint64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for n := next.Add(1); n <= total && !t.Failed(); n = next.Add(1) {
				name := cheap[n%uint64(len(cheap))]
				if n%4 == 0 {
					name = signed[n/4%uint64(len(signed))]
				}
				p := providers[rand.New(rand.NewPCG(seed, n)).IntN(len(providers))]
				if err := rig.offer(t, classes[name].forge(newForger(rig, p, seed, n)), classes[name].reason); err != nil {
					t.Errorf("%s at %s, number %d: %v", name, p, n, err)
				}
				made.Add(1)
			}
		})
	}
	wg.Wait()
	t.Logf("%d forgeries of %d classes at %d providers, 0 accepted", made.Load(), len(classes), len(providers))
	if made.Load() != total {
		t.Errorf("only %d of %d were made", made.Load(), total)
	}
}

// forgeries lists all classes by name.
func forgeries() map[string]forgery {
	all := forgedForms()
	for _, more := range []map[string]forgery{forgedSignatures(), forgedHeaders(), forgedClaims(), forgedTimes()} {
		maps.Copy(all, more)
	}
	return all
}

func forgedForms() map[string]forgery {
	join := func(parts []string) string { return strings.Join(parts, ".") }
	return map[string]forgery{
		"a part less":     {"not_compact", true, func(f *forger) string { return join(f.cut()[:f.IntN(3)]) }},
		"parts more":      {"not_compact", true, func(f *forger) string { return join(append(f.cut(), make([]string, 1+f.IntN(9))...)) }},
		"five parts":      {"not_compact", true, func(f *forger) string { return join(append(f.cut(), f.cut()[:2]...)) }},
		"a dot somewhere": {"not_compact", true, func(f *forger) string { return f.insert(join(f.cut()), ".") }},
		"JSON serialisation": {"not_compact", true, func(f *forger) string {
			p := f.cut()
			one := map[string]any{"protected": p[0], "signature": p[2]}
			if f.IntN(2) == 0 {
				one["payload"] = p[1]
				return f.text(one)
			}
			return f.text(map[string]any{"payload": p[1], "signatures": []any{one}})
		}},
		"too large": {"too_large", true, func(f *forger) string {
			return join(f.cut()) + strings.Repeat(f.pick("A", ".", "\n", "="), maxToken)
		}},
		"a foreign character": {"encoding", true, func(f *forger) string {
			return f.insert(join(f.cut()), f.pick("+", "/", "=", " ", "\t", "\x00", "%", "~", "é", "\u200b", "\ufeff", "\xff", ",", ":"))
		}},
		"a line break": {"encoding", true, func(f *forger) string { return f.insert(join(f.cut()), f.pick("\n", "\r", "\r\n", "\n\n")) }},
		"padding": {"encoding", true, func(f *forger) string {
			p := f.cut()
			p[f.IntN(3)] += f.pick("=", "==", "===")
			return join(p)
		}},
		"unused bits": {"encoding", true, func(f *forger) string {
			p := f.cut()
			v := looseBits(p[2])
			p[2] = pickOf(f, v...)
			return join(p)
		}},
		"a part of impossible length": {"encoding", true, func(f *forger) string {
			p := f.cut()
			i := f.IntN(3)
			p[i] = p[i][:len(p[i])/4*4] + "A"
			return join(p)
		}},
		"standard base64": {"encoding", true, func(f *forger) string {
			p := f.cut()
			i := f.IntN(len(p[2]))
			p[2] = p[2][:i] + f.pick("+", "/") + p[2][i+1:]
			return join(p)
		}},
		"twice encoded": {"encoding", true, func(f *forger) string { return "%" + join(f.cut())[f.IntN(3):] }},
	}
}

const urlAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// looseBits returns the other spellings of a part whose last character has bits
// that mean nothing.
func looseBits(part string) []string {
	unused := map[int]int{2: 16, 3: 4}[len(part)%4]
	var all []string
	for bits := 1; bits < unused; bits++ {
		last := strings.IndexByte(urlAlphabet, part[len(part)-1])
		all = append(all, part[:len(part)-1]+string(urlAlphabet[last^bits]))
	}
	return all
}

func forgedSignatures() map[string]forgery {
	join := func(parts []string) string { return strings.Join(parts, ".") }
	bent := func(f *forger, bend func(sig []byte) []byte) string {
		p := f.cut()
		sig, err := base64.RawURLEncoding.DecodeString(p[2])
		f.must(err)
		p[2] = base64.RawURLEncoding.EncodeToString(bend(sig))
		return join(p)
	}
	return map[string]forgery{
		"no signature": {"unsigned", true, func(f *forger) string { p := f.cut(); p[2] = ""; return join(p) }},
		"alg none without signature": {"unsigned", true, func(f *forger) string {
			return f.unsigned(f.header(map[string]any{"alg": f.pick("none", "None", "NONE", "nOnE", "")}), nil)
		}},
		"a bit flipped in the signature": {"signature", true, func(f *forger) string {
			return bent(f, func(sig []byte) []byte { sig[f.IntN(len(sig))] ^= 1 << f.IntN(8); return sig })
		}},
		"a signature cut or drawn out": {"signature", true, func(f *forger) string {
			return bent(f, func(sig []byte) []byte {
				return pickOf(f, sig[:1+f.IntN(len(sig)-1)], append(sig, f.noise(1+f.IntN(64))...), append([]byte{0}, sig...), sig[1:])
			})
		}},
		"a signature of zeroes, ones or noise": {"signature", true, func(f *forger) string {
			return bent(f, func(sig []byte) []byte {
				return pickOf(f, make([]byte, len(sig)), slices.Repeat([]byte{255}, len(sig)), f.noise(len(sig)), []byte{0}, []byte{1})
			})
		}},
		"the signature of another token": {"signature", true, func(f *forger) string {
			p, q := f.cut(), f.cut()
			for q[1] == p[1] {
				q = f.cut()
			}
			return join([]string{p[0], p[1], q[2]})
		}},
		"other claims under a signature": {"signature", true, func(f *forger) string {
			p := f.cut()
			name := pickOf(f, slices.Sorted(maps.Keys(f.honest))...)
			if _, text := f.honest[name].(string); !text || slices.Contains([]string{"iss", "aud"}, name) {
				name = "sub"
			}
			p[1] = enc(f.claims(map[string]any{name: "x" + f.word()}))
			return join(p)
		}},
		"another header over a signature": {"signature", true, func(f *forger) string {
			p := f.cut()
			p[0] = enc(f.header(map[string]any{"x5t": f.word()}))
			return join(p)
		}},
		"HMAC over a public key": {"alg_refused", true, func(f *forger) string {
			alg := f.pick("HS256", "HS384", "HS512")
			return f.signed(alg, pickOf(f, f.rig.forms...), f.header(map[string]any{"alg": alg}), f.claims(nil))
		}},
		"HMAC over a public key that says RS256": {"signature", true, func(f *forger) string {
			return f.signed(f.pick("HS256", "HS384", "HS512"), pickOf(f, f.rig.forms...), f.header(nil), f.claims(nil))
		}},
		"another alg of the same key": {"alg_refused", false, func(f *forger) string {
			_, key := f.fake.Key()
			alg := f.pick("RS384", "RS512", "PS256", "PS384", "PS512")
			return f.signed(alg, key, f.header(map[string]any{"alg": alg}), f.claims(nil))
		}},
		"another alg of the same key that says RS256": {"signature", false, func(f *forger) string {
			_, key := f.fake.Key()
			return f.signed(f.pick("RS384", "RS512", "PS256", "PS384", "PS512"), key, f.header(nil), f.claims(nil))
		}},
		"somebody else's key under the issuer's kid": {"signature", false, func(f *forger) string {
			_, key := f.other()
			return f.signed("RS256", key, f.header(nil), f.claims(nil))
		}},
		"somebody else's key under its own kid": {"key_unknown", false, func(f *forger) string {
			kid, key := f.other()
			return f.signed("RS256", key, f.header(map[string]any{"kid": kid}), f.claims(nil))
		}},
	}
}
