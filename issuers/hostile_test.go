package issuers

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// drip answers a byte at a time, for as long as somebody listens.
func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write([]byte(" ")); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		time.Sleep(50 * time.Millisecond)
	}
}

// hang does not even begin to answer.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// bomb is 16 MiB for whoever unpacks it, and 16 KiB for others.
func bomb(t *testing.T) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	for range 16 {
		if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// packed says that a body is compressed, which nobody asked for.
func packed(encoding string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", encoding)
		_, _ = w.Write(body)
	}
}

// TestAnIssuerThatTurnsHostileKeepsItsLastGoodKeysInBoundedTimeAndMemory lets
// an honest issuer turn, and looks what one refresh costs and leaves.
func TestAnIssuerThatTurnsHostileKeepsItsLastGoodKeysInBoundedTimeAndMemory(t *testing.T) {
	foreign, dialled := listener(t)
	keys, boom := goodKeys(t), bomb(t)
	one := strings.TrimSuffix(strings.TrimPrefix(keys, `{"keys":[`), "]}")
	discovery := answer(`{"issuer":"BASE","jwks_uri":"BASE/jwks"}`)
	stolen, err := fakeissuer.JWKS(map[string]*rsa.PrivateKey{"k": otherKey()})
	if err != nil {
		t.Fatal(err)
	}
	var offCurve strings.Builder
	for i := range maxKeys {
		_, _ = fmt.Fprintf(&offCurve, `,{"kid":"%d","kty":"EC","crv":"P-521","x":"%s","y":"AQ"}`, i, strings.Repeat("A", 88))
	}
	points := `{"keys":[` + offCurve.String()[1:] + `]}`

	rows := map[string]struct {
		issuer hostile
		why    string // of the failed refresh
	}{
		"discovery redirects":               {hostile{redirect("http://" + foreign + "/"), hang}, "status 302"},
		"the key set redirects":             {hostile{discovery, redirect("http://" + foreign + "/jwks")}, "status 302"},
		"the key set moves away":            {hostile{answer(`{"issuer":"BASE","jwks_uri":"http://` + foreign + `/jwks"}`), hang}, "neither the issuer's"},
		"the key set moves to another port": {hostile{answer(`{"issuer":"BASE","jwks_uri":"http://127.0.0.1:` + strings.Split(foreign, ":")[1] + `/jwks"}`), hang}, "neither the issuer's"},
		"discovery is another issuer's":     {hostile{answer(`{"issuer":"https://gitlab.com","jwks_uri":"BASE/jwks"}`), answer(keys)}, "byte for byte"},
		"a gzip bomb":                       {hostile{discovery, packed("gzip", boom)}, "not one JSON object"},
		"a deflate bomb":                    {hostile{discovery, packed("deflate", boom)}, "not one JSON object"},
		"a bomb for discovery":              {hostile{packed("gzip", boom), hang}, "not one JSON object"},
		"a body without end":                {hostile{discovery, endless}, "larger than"},
		"a body of promises": {hostile{discovery, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1099511627776")
			_, _ = w.Write([]byte(keys))
		}}, "unexpected EOF"},
		"a header without end": {hostile{bigHeader, hang}, "exceeded"},
		"a web page":           {hostile{discovery, answer("<!doctype html><title>Sign in</title>")}, "not one JSON object"},
		"another document":     {hostile{discovery, discovery}, "no list of keys"},
		"10,000 keys":          {hostile{discovery, answer(`{"keys":[` + strings.Repeat(`{"kty":"RSA"},`, 9_999) + one + `]}`)}, "10000 keys"},
		"10,000 whole keys":    {hostile{discovery, answer(`{"keys":[` + strings.Repeat(one+",", 9_999) + one + `]}`)}, "larger than"},
		"64 keys that are no points of their curve": {hostile{discovery, answer(points)}, "none of its 64 keys"},
		"ten thousand levels":                       {hostile{discovery, answer(strings.Repeat(`{"keys":[`, 10_000))}, "deeper than"},
		"a hundred thousand names":                  {hostile{discovery, answer(`{` + strings.Repeat(`"A":1,`, 40_000) + `"keys":[]}`)}, "same name"},
		"an empty answer":                           {hostile{discovery, answer("")}, "not one JSON object"},
		"a connection that is cut":                  {hostile{discovery, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}, "EOF"},
		"an error":                                  {hostile{discovery, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = w.Write(stolen) }}, "status 500"},
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Run(name, func(t *testing.T) {
			r := newTurning(t, hostile{discovery, answer(keys)})
			if _, err := r.Verify(t.Context(), r.token(t)); err != nil {
				t.Fatalf("while it is honest: %v", err)
			}
			r.behave(rows[name].issuer)
			r.clock.Advance(refreshEvery)
			token := r.token(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := r.Verify(t.Context(), token)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Errorf("a good token of its last good key: %v", err)
			}
			if took > fetchTimeout+2*time.Second {
				t.Errorf("the refresh took %s", took)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("the refresh allocated %d KiB", grown>>10)
			}
			if st := r.Status()[0]; !st.Usable || st.Keys != 1 || st.Err == nil || !strings.Contains(st.Err.Error(), rows[name].why) {
				t.Errorf("status %+v, want the last good key, and why: %q", st, rows[name].why)
			}
		})
	}
	if n := dialled(); n != 0 {
		t.Errorf("%d connections to a host that nobody configured", n)
	}
}

func TestAnIssuerThatTurnsSlowIsGivenUpAfterFiveSeconds(t *testing.T) {
	keys := goodKeys(t)
	discovery := answer(`{"issuer":"BASE","jwks_uri":"BASE/jwks"}`)
	for name, slow := range map[string]hostile{
		"discovery drips":   {drip, hang},
		"the key set drips": {discovery, drip},
		"discovery hangs":   {hang, hang},
		"the key set hangs": {discovery, hang},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each takes its five seconds
			r := newTurning(t, hostile{discovery, answer(keys)})
			if _, err := r.Verify(t.Context(), r.token(t)); err != nil {
				t.Fatalf("while it is honest: %v", err)
			}
			r.behave(slow)
			r.clock.Advance(refreshEvery)
			start := time.Now()
			if _, err := r.Verify(t.Context(), r.token(t)); err != nil {
				t.Errorf("a good token of its last good key: %v", err)
			}
			if took := time.Since(start); took > fetchTimeout+2*time.Second {
				t.Errorf("the refresh took %s", took)
			}
			if st := r.Status()[0]; !st.Usable || st.Keys != 1 || st.Err == nil {
				t.Errorf("status %+v, want the last good key and why not a newer one", st)
			}
		})
	}
}

// turning is a set with one issuer whose behaviour the test changes.
type turning struct {
	*Set
	clock *clock
	fake  *fakeissuer.Fake
	now   atomic.Pointer[hostile]
}

func newTurning(t *testing.T, first hostile) *turning {
	t.Helper()
	r := &turning{clock: &clock{t: noon}}
	r.behave(first)
	mux := http.NewServeMux()
	mux.HandleFunc(discoveryPath, func(w http.ResponseWriter, req *http.Request) { r.now.Load().discovery(w, req) })
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, req *http.Request) { r.now.Load().jwks(w, req) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	var err error
	if r.fake, err = fakeissuer.New(server.URL, fakeissuer.Options{Key: ciKey(), Now: r.clock.Now}); err != nil {
		t.Fatal(err)
	}
	if r.Set, err = New(Options{Audience: ourAudience, Now: r.clock.Now,
		Issuers: []Config{{Name: "ci", Profile: "github", URL: server.URL, Insecure: true}}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *turning) behave(h hostile) { r.now.Store(&h) }

// token signs a fresh token under the kid that [goodKeys] has.
func (r *turning) token(t *testing.T) broker.Secret {
	t.Helper()
	claims, err := r.fake.Claims(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience, Set: map[string]any{"iss": r.fake.Base()}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := fakeissuer.Forge{Header: `{"alg":"RS256","kid":"k"}`, Payload: mustJSON(t, claims), Alg: "RS256", Key: ciKey()}.Compact()
	if err != nil {
		t.Fatal(err)
	}
	return broker.NewSecret(raw)
}

// nameServer answers every question for an address with the next of answers,
// and goes on with the last. AAAA questions get none.
func nameServer(t *testing.T, answers ...[]netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		asked := 0
		for buf := make([]byte, 512); ; {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12 + bytes.IndexByte(buf[12:n], 0) + 1 + 4 // of the question
			msg := append([]byte(nil), buf[:end]...)
			copy(msg[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // an answer, no additional records
			if binary.BigEndian.Uint16(msg[end-4:]) == 1 {
				addrs := answers[min(asked, len(answers)-1)]
				asked++
				binary.BigEndian.PutUint16(msg[6:], uint16(len(addrs)))
				for _, a := range addrs {
					ip := a.As4()
					msg = append(msg, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name again, A, IN, for 0 s
					msg = append(msg, ip[:]...)
				}
			}
			_, _ = conn.WriteTo(msg, from)
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func TestANameThatIsBoundAnewLeadsNowhere(t *testing.T) {
	foreign, dialled := listener(t)
	_, port, err := net.SplitHostPort(foreign)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	loopback, metadata, private := addr("127.0.0.1"), addr("169.254.169.254"), addr("10.0.0.1")
	for name, row := range map[string]struct {
		answers [][]netip.Addr
		private bool
		why     string
	}{
		"a public name on loopback":          {[][]netip.Addr{{loopback}}, false, "loopback address"},
		"on loopback, private allowed":       {[][]netip.Addr{{loopback}}, true, "loopback address"},
		"on the metadata service":            {[][]netip.Addr{{metadata}}, true, "no issuer lives"},
		"on a private address":               {[][]netip.Addr{{private}}, false, "private address"},
		"on all of them at once":             {[][]netip.Addr{{metadata, private, loopback}}, false, "address"},
		"on loopback behind the metadata":    {[][]netip.Addr{{metadata, loopback}}, true, "address"},
		"on another at every question asked": {[][]netip.Addr{{metadata}, {loopback}, {private}, {loopback}}, false, "no issuer lives"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRemote(Config{URL: "https://issuer.test:" + port, AllowPrivate: row.private}, nil)
			r.dialer.Resolver = nameServer(t, row.answers...)
			for range len(row.answers) {
				if _, err := r.load(t.Context()); err == nil || !strings.Contains(err.Error(), "dial") {
					t.Errorf("loaded, or failed elsewhere than at the dial: %v", err)
				}
			}
			r.dialer.Resolver = nameServer(t, row.answers...)
			if _, err := r.load(t.Context()); err == nil || !strings.Contains(err.Error(), row.why) {
				t.Errorf("%v, want %q", err, row.why)
			}
		})
	}
	if n := dialled(); n != 0 {
		t.Errorf("%d connections to loopback", n)
	}
}

// TestANameThatMovesToTheMetadataServiceKeepsItsLastGoodKeys first answers
// honestly, where its operator allows it, and is bound anew for the refresh.
func TestANameThatMovesToTheMetadataServiceKeepsItsLastGoodKeys(t *testing.T) {
	var base string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == discoveryPath {
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, base, base+"/jwks")
			return
		}
		_, _ = w.Write([]byte(goodKeys(t)))
	}))
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	base = "http://issuer.test:" + port
	c := &clock{t: noon}
	set, err := New(Options{Audience: ourAudience, Now: c.Now, Issuers: []Config{{Name: "ci", Profile: "github", URL: base, Insecure: true}}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRemote(Config{URL: base, Insecure: true}, nil)
	here, metadata := []netip.Addr{netip.MustParseAddr("127.0.0.1")}, []netip.Addr{netip.MustParseAddr("169.254.169.254")}
	r.dialer.Resolver = nameServer(t, here, here, metadata) // discovery, keys, and from then on
	set.all[0].keys.load = r.load
	set.Fetch(t.Context())
	if st := set.Status()[0]; !st.Usable {
		t.Fatalf("while it is honest: %v", st.Err)
	}
	c.Advance(refreshEvery)
	set.Fetch(t.Context())
	if st := set.Status()[0]; !st.Usable || st.Keys != 1 || st.Err == nil || !strings.Contains(st.Err.Error(), "no issuer lives") {
		t.Errorf("status %+v, want the last good key and a refused dial", st)
	}
}
