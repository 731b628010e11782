package issuers

import (
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// hostile is an issuer that answers as its row says. %s in a body is its own
// base URL.
type hostile struct {
	discovery, jwks func(w http.ResponseWriter, r *http.Request)
}

func goodKeys(t *testing.T) string {
	t.Helper()
	raw, err := fakeissuer.JWKS(map[string]*rsa.PrivateKey{"k": ciKey()})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// answer writes a body with the server's own base URL in place of BASE.
func answer(body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(strings.ReplaceAll(body, "BASE", "http://"+r.Host)))
	}
}

func redirect(to string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// listener counts who connects, and answers nobody.
func listener(t *testing.T) (addr string, dialled func() int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), n.Load
}

func TestAHostileIssuerGivesNoKeys(t *testing.T) {
	foreign, dialled := listener(t)
	keys := goodKeys(t)
	ok := hostile{answer(`{"issuer":"BASE","jwks_uri":"BASE/jwks"}`), answer(keys)}
	one := keys[len(`{"keys":[`) : len(keys)-2]
	many := `{"keys":[` + strings.TrimSuffix(strings.Repeat(strings.Replace(one, `"k"`, `"%d"`, 1)+",", 65), ",") + `]}`
	ids := make([]any, 65)
	for i := range ids {
		ids[i] = i
	}
	many = fmt.Sprintf(many, ids...)

	rows := map[string]struct {
		issuer hostile
		why    string
	}{
		"discovery redirects":           {hostile{redirect("/jwks"), ok.jwks}, "status 302"},
		"discovery redirects elsewhere": {hostile{redirect("http://" + foreign + "/"), ok.jwks}, "status 302"},
		"the key set redirects":         {hostile{ok.discovery, redirect("http://" + foreign + "/")}, "status 302"},
		"discovery is of another issuer": {
			hostile{answer(`{"issuer":"https://token.actions.githubusercontent.com","jwks_uri":"BASE/jwks"}`), ok.jwks}, "byte for byte"},
		"discovery has a slash more":      {hostile{answer(`{"issuer":"BASE/","jwks_uri":"BASE/jwks"}`), ok.jwks}, "byte for byte"},
		"discovery has no issuer":         {hostile{answer(`{"jwks_uri":"BASE/jwks"}`), ok.jwks}, "byte for byte"},
		"discovery names two issuers":     {hostile{answer(`{"issuer":"BASE","issuer":"BASE","jwks_uri":"BASE/jwks"}`), ok.jwks}, "same name"},
		"discovery has no key set":        {hostile{answer(`{"issuer":"BASE"}`), ok.jwks}, "is not a URL"},
		"keys on a foreign host":          {hostile{answer(`{"issuer":"BASE","jwks_uri":"http://` + foreign + `/jwks"}`), ok.jwks}, "neither the issuer's"},
		"keys behind a user":              {hostile{answer(`{"issuer":"BASE","jwks_uri":"http://a@` + foreign + `/"}`), ok.jwks}, "has a user"},
		"keys in a file":                  {hostile{answer(`{"issuer":"BASE","jwks_uri":"file:///etc/passwd"}`), ok.jwks}, "is not a URL"},
		"keys over gopher":                {hostile{answer(`{"issuer":"BASE","jwks_uri":"gopher://` + foreign + `/"}`), ok.jwks}, "is not https"},
		"discovery is not JSON":           {hostile{answer(`<html>`), ok.jwks}, "not one JSON object"},
		"discovery is 300 KiB":            {hostile{answer(`{"issuer":"` + strings.Repeat("a", 300<<10) + `"}`), ok.jwks}, "larger than"},
		"the key set is 300 KiB":          {hostile{ok.discovery, answer(keys + strings.Repeat(" ", 300<<10))}, "larger than"},
		"the key set never ends":          {hostile{ok.discovery, endless}, "larger than"},
		"the key set is missing":          {hostile{ok.discovery, http.NotFound}, "status 404"},
		"the key set is compressed":       {hostile{ok.discovery, answer("\x1f\x8b\x08\x00")}, "not one JSON object"},
		"65 keys":                         {hostile{ok.discovery, answer(many)}, "65 keys"},
		"two keys with one kid":           {hostile{ok.discovery, answer(`{"keys":[` + one + `,` + one + `]}`)}, "one kid"},
		"two keys with one kid, one odd":  {hostile{ok.discovery, answer(`{"keys":[` + one + `,{"kid":"k","kty":"oct","k":"AAAA"}]}`)}, "one kid"},
		"two lists of keys":               {hostile{ok.discovery, answer(`{"keys":[],"keys":[` + one + `]}`)}, "same name"},
		"keys is an object":               {hostile{ok.discovery, answer(`{"keys":{"k":` + one + `}}`)}, "no list of keys"},
		"no keys":                         {hostile{ok.discovery, answer(`{"keys":[]}`)}, "none of its 0 keys"},
		"a header of a megabyte":          {hostile{bigHeader, ok.jwks}, "exceeded"},
		"discovery answers 200 after 204": {hostile{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, ok.jwks}, "status 204"},
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Run(name, func(t *testing.T) {
			set := hostileSet(t, rows[name].issuer)
			st := set.Status()[0]
			if st.Usable || st.Err == nil || !strings.Contains(st.Err.Error(), rows[name].why) {
				t.Errorf("status %+v, want no keys because %q", st, rows[name].why)
			}
		})
	}
	if n := dialled(); n != 0 {
		t.Errorf("%d connections to a host that nobody configured", n)
	}
	if st := hostileSet(t, ok).Status()[0]; !st.Usable {
		t.Errorf("the honest issuer of the table: %v, so it proves nothing", st.Err)
	}
}

// hostileSet fetches once.
func hostileSet(t *testing.T, h hostile) *Set {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(discoveryPath, h.discovery)
	mux.HandleFunc("/jwks", h.jwks)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	set, err := New(Options{Audience: ourAudience, Issuers: []Config{{Name: "ci", Profile: "github", URL: server.URL, Insecure: true}}})
	if err != nil {
		t.Fatal(err)
	}
	set.all[0].keys.refresh(t.Context(), nil)
	return set
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for {
		if _, err := w.Write([]byte(strings.Repeat(" ", 4096))); err != nil {
			return
		}
	}
}

func bigHeader(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X", strings.Repeat("a", 1<<20))
	w.WriteHeader(http.StatusOK)
}

func TestOddKeysAreSkippedAndCounted(t *testing.T) {
	n := b64("n", ciKey().N.Bytes())
	small, huge := mustRSA(1024), strings.Repeat("_", 1400)
	const p256 = `"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x0A9DYfJm0pR8q1wE1oTqS1b8rD2N9m3VgZ1lVfGJxU"`
	odd := map[string]string{
		"no kid":                  `{"kty":"RSA",` + n + `,"e":"AQAB"}`,
		"a kid of 257 bytes":      `{"kid":"` + strings.Repeat("k", 257) + `","kty":"RSA",` + n + `,"e":"AQAB"}`,
		"a kid that is a number":  `{"kid":1,"kty":"RSA",` + n + `,"e":"AQAB"}`,
		"for encryption":          `{"kid":"K","kty":"RSA","use":"enc",` + n + `,"e":"AQAB"}`,
		"an odd use":              `{"kid":"K","kty":"RSA","use":["sig"],` + n + `,"e":"AQAB"}`,
		"only signs":              `{"kid":"K","kty":"RSA","key_ops":["sign"],` + n + `,"e":"AQAB"}`,
		"key_ops is text":         `{"kid":"K","kty":"RSA","key_ops":"verify",` + n + `,"e":"AQAB"}`,
		"for RS512":               `{"kid":"K","kty":"RSA","alg":"RS512",` + n + `,"e":"AQAB"}`,
		"for HS256":               `{"kid":"K","kty":"RSA","alg":"HS256",` + n + `,"e":"AQAB"}`,
		"for nothing":             `{"kid":"K","kty":"RSA","alg":"none",` + n + `,"e":"AQAB"}`,
		"1024 bits":               `{"kid":"K","kty":"RSA",` + b64("n", small.N.Bytes()) + `,"e":"AQAB"}`,
		"8400 bits":               `{"kid":"K","kty":"RSA","n":"` + huge + `","e":"AQAB"}`,
		"an even modulus":         `{"kid":"K","kty":"RSA",` + b64("n", append(ciKey().N.Bytes()[:255:255], 2)) + `,"e":"AQAB"}`,
		"exponent 1":              `{"kid":"K","kty":"RSA",` + n + `,"e":"AQ"}`,
		"exponent 0":              `{"kid":"K","kty":"RSA",` + n + `,"e":"AA"}`,
		"an even exponent":        `{"kid":"K","kty":"RSA",` + n + `,"e":"AQAA"}`,
		"an enormous exponent":    `{"kid":"K","kty":"RSA",` + n + `,"e":"_________w"}`,
		"no modulus":              `{"kid":"K","kty":"RSA","e":"AQAB"}`,
		"a modulus in a list":     `{"kid":"K","kty":"RSA","n":["AQAB"],"e":"AQAB"}`,
		"symmetric":               `{"kid":"K","kty":"oct","k":"AAAA"}`,
		"with its private part":   `{"kid":"K","kty":"RSA",` + n + `,"e":"AQAB",` + b64("d", ciKey().D.Bytes()) + `}`,
		"elliptic":                `{"kid":"K","kty":"EC","crv":"P-256",` + p256 + `}`,
		"a point not on a curve":  `{"kid":"K","kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}`,
		"Ed25519":                 `{"kid":"K","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"a kty nobody knows":      `{"kid":"K","kty":"XYZ"}`,
		"a kty in another case":   `{"kid":"K","kty":"rsa",` + n + `,"e":"AQAB"}`,
		"null":                    `null`,
		"text":                    `"key"`,
		"a list":                  `[]`,
		"an object with nothing":  `{}`,
		"only a certificate":      `{"kid":"K","kty":"RSA","x5c":["AAAA"]}`,
		"a modulus with newlines": `{"kid":"K","kty":"RSA","n":"AQ\u0020AB","e":"AQAB"}`,
	}
	good := `{"kid":"good","kty":"RSA","use":"sig","key_ops":["verify"],"alg":"RS256","x5t":"zz","x5c":["not a certificate"],` + n + `,"e":"AQAB"}`
	for _, name := range slices.Sorted(maps.Keys(odd)) {
		t.Run(name, func(t *testing.T) {
			if !json.Valid([]byte(odd[name])) {
				t.Fatal("the row is not JSON")
			}
			set, err := parseKeys([]byte(`{"keys":[`+odd[name]+`,`+good+`]}`), []string{"RS256"})
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := set.byID["good"]; !ok || len(set.byID) != 1 || set.skipped != 1 {
				t.Errorf("kept %v, skipped %d", slices.Collect(maps.Keys(set.byID)), set.skipped)
			}
		})
	}
}

func b64(name string, b []byte) string { return `"` + name + `":"` + enc(string(b)) + `"` }

func TestAKeyIsOnlyForItsOwnAlgorithmAndCurve(t *testing.T) {
	const p256 = `{"kid":"a","kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	algs := []string{"RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"}
	set, err := parseKeys([]byte(`{"keys":[`+p256+`,{"kid":"b","kty":"RSA",`+b64("n", ciKey().N.Bytes())+`,"e":"AQAB"},`+
		`{"kid":"c","kty":"RSA","alg":"PS256",`+b64("n", ciKey().N.Bytes())+`,"e":"AQAB"},`+
		`{"kid":"d","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`), algs)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"a": {"ES256"}, "b": {"RS256", "PS256"}, "c": {"PS256"}, "d": {"EdDSA"}}
	for kid, fit := range want {
		for _, alg := range append(algs, "HS256", "none", "") {
			if got := fits(alg, set.byID[kid]); got != slices.Contains(fit, alg) {
				t.Errorf("key %s for %q: %v", kid, alg, got)
			}
		}
	}
}

func TestATokenOfAnUnlistedIssuerMakesUsDialNobody(t *testing.T) {
	addr, dialled := listener(t)
	server, err := fakeissuer.Start(fakeissuer.Options{Key: ciKey()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	set, err := New(Options{Audience: ourAudience, Issuers: []Config{{Name: "ci", Profile: "github", URL: server.URL(fakeissuer.GitHub), Insecure: true}}})
	if err != nil {
		t.Fatal(err)
	}
	kid, _ := server.Key()
	claims, err := server.Claims(fakeissuer.Job{Provider: fakeissuer.GitHub, Audience: ourAudience})
	if err != nil {
		t.Fatal(err)
	}
	foreign := maps.Clone(claims)
	foreign["iss"] = "http://" + addr
	for name, f := range map[string]fakeissuer.Forge{
		"an iss that listens": {Header: fmt.Sprintf(`{"alg":"RS256","kid":%q}`, kid), Payload: mustJSON(t, foreign)},
		"a jku that listens":  {Header: fmt.Sprintf(`{"alg":"RS256","kid":%q,"jku":"http://%s/"}`, kid, addr), Payload: mustJSON(t, claims)},
		"an x5u that listens": {Header: fmt.Sprintf(`{"alg":"RS256","kid":%q,"x5u":"http://%s/"}`, kid, addr), Payload: mustJSON(t, claims)},
		"a kid that listens":  {Header: fmt.Sprintf(`{"alg":"RS256","kid":"http://%s/"}`, addr), Payload: mustJSON(t, claims)},
	} {
		f.Alg, f.Key = "RS256", ciKey()
		raw, err := f.Compact()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Verify(t.Context(), broker.NewSecret(raw)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if n := dialled(); n != 0 {
		t.Errorf("%d connections to where tokens pointed", n)
	}
}

func TestAnIssuerIsDialledOnlyWhereTheOperatorAllowsIt(t *testing.T) {
	addr, dialled := listener(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		for _, private := range []bool{false, true} {
			set, err := New(Options{Audience: ourAudience, Issuers: []Config{
				{Name: "ci", Profile: "github", URL: "https://" + net.JoinHostPort(strings.Trim(host, "[]"), port), AllowPrivate: private}}})
			if err != nil {
				t.Fatal(err)
			}
			set.all[0].keys.refresh(t.Context(), nil)
			if st := set.Status()[0]; st.Err == nil || !strings.Contains(st.Err.Error(), "loopback address, and insecure is not set") {
				t.Errorf("%s, allow_private %v: %v", host, private, st.Err)
			}
		}
	}
	if n := dialled(); n != 0 {
		t.Errorf("%d connections to loopback", n)
	}
}

func TestAddressesNeedWhatTheyNeed(t *testing.T) {
	for address, want := range map[string]reach{
		"140.82.112.3": reachPublic, "2606:50c0:8000::153": reachPublic, "::ffff:140.82.112.3": reachPublic,
		"64:ff9b::8c52:7003": reachPublic, "2002:8c52:7003::1": reachPublic, "100.128.0.1": reachPublic, "172.32.0.1": reachPublic,
		"10.0.0.1": reachPrivate, "172.16.0.1": reachPrivate, "172.31.255.255": reachPrivate, "192.168.1.1": reachPrivate,
		"100.64.0.1": reachPrivate, "fd12:3456::1": reachPrivate, "::ffff:10.0.0.1": reachPrivate, "64:ff9b::a00:1": reachPrivate,
		"127.0.0.1": reachLocal, "127.255.0.1": reachLocal, "::1": reachLocal, "::ffff:127.0.0.1": reachLocal,
		"64:ff9b::7f00:1": reachLocal, "2002:7f00:1::": reachLocal,
		"169.254.169.254": reachNowhere, "::ffff:169.254.169.254": reachNowhere, "64:ff9b::a9fe:a9fe": reachNowhere,
		"2002:a9fe:a9fe::": reachNowhere, "fd00:ec2::254": reachNowhere, "fd20:ce::254": reachNowhere, "100.100.100.200": reachNowhere,
		"168.63.129.16": reachNowhere, "192.0.0.192": reachNowhere, "0.0.0.0": reachNowhere, "::": reachNowhere, "0.1.2.3": reachNowhere,
		"255.255.255.255": reachNowhere, "224.0.0.1": reachNowhere, "240.0.0.1": reachNowhere, "fe80::1": reachNowhere,
		"fe80::1%eth0": reachNowhere, "ff02::1": reachNowhere, "::127.0.0.1": reachNowhere, "2001:db8::1": reachNowhere,
		"198.18.0.1": reachNowhere, "203.0.113.1": reachNowhere, "2001::1": reachNowhere,
	} {
		if got := needs(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %d, want %d", address, got, want)
		}
	}
	for _, r := range []reach{reachPublic, reachPrivate, reachLocal} {
		if r.control(t.Context(), "tcp", "169.254.169.254:80", nil) == nil || r.control(t.Context(), "tcp", "example.com:443", nil) == nil {
			t.Errorf("reach %d dials a metadata service or a name", r)
		}
	}
	if err := reachPrivate.control(t.Context(), "tcp", "10.0.0.1:443", nil); err != nil {
		t.Error(err)
	}
	if reachPublic.control(t.Context(), "tcp", "10.0.0.1:443", nil) == nil {
		t.Error("a private address is dialled without allow_private")
	}
}

func TestTLSIsVerifiedAndAPrivateRootCanBeTrusted(t *testing.T) {
	keys := goodKeys(t)
	var server *httptest.Server
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == discoveryPath {
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"%s/k"}`, server.URL, server.URL)
			return
		}
		_, _ = w.Write([]byte(keys))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	root := writeFile(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for file, want := range map[string]bool{"": false, root: true} {
		set, err := New(Options{Audience: ourAudience, Issuers: []Config{
			{Name: "ci", Profile: "github", URL: server.URL, Insecure: true, CAFile: file}}})
		if err != nil {
			t.Fatal(err)
		}
		set.all[0].keys.refresh(t.Context(), nil)
		if st := set.Status()[0]; st.Usable != want {
			t.Errorf("ca_file %q: usable %v: %v", file, st.Usable, st.Err)
		}
	}
}

func TestKeysMayComeFromAHostThatTheOperatorListed(t *testing.T) {
	keys := goodKeys(t)
	mirror := httptest.NewServer(http.HandlerFunc(answer(keys)))
	t.Cleanup(mirror.Close)
	host := strings.TrimPrefix(mirror.URL, "http://")
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"issuer":"http://%s","jwks_uri":"%s/k"}`, r.Host, mirror.URL)
	}))
	t.Cleanup(issuer.Close)
	for want, hosts := range map[bool][]string{true: {host}, false: {"127.0.0.1"}} {
		set, err := New(Options{Audience: ourAudience, Issuers: []Config{
			{Name: "ci", Profile: "github", URL: issuer.URL, Insecure: true, JWKSHosts: hosts}}})
		if err != nil {
			t.Fatal(err)
		}
		set.all[0].keys.refresh(t.Context(), nil)
		if st := set.Status()[0]; st.Usable != want {
			t.Errorf("jwks_hosts %v: %v", hosts, st.Err)
		}
	}
}

// FuzzDiscovery holds discovery to the issuer's own host, whatever a document
// says and however it writes it.
func FuzzDiscovery(f *testing.F) {
	const issuer = "https://ci.example.com/x"
	for _, place := range []string{
		"https://ci.example.com/jwks", "https://CI.example.com/jwks", "https://ci.example.com:443/", "http://ci.example.com/", "https://ci.example.com@evil.example/",
		"https://evil.example/", "https://evil.example#@ci.example.com/", `https://evil.example\@ci.example.com/`, "//ci.example.com/", "https:ci.example.com", "https://[::1]/",
		"https://ci.example.com%2eevil.example/", "https://169.254.169.254/", "file:///etc/passwd", "", "https://keys.example.com/a?b#c",
	} {
		f.Add([]byte(mustJSON(f, map[string]any{"issuer": issuer, "jwks_uri": place, "authorization_endpoint": "https://ci.example.com/a"})))
	}
	f.Add([]byte(`{"issuer":"https://ci.example.com/x","ISSUER":"https://evil.example","jwks_uri":"https://ci.example.com/"}`))
	r := newRemote(Config{URL: issuer, JWKSHosts: []string{"keys.example.com"}}, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		place, err := r.place(raw)
		if err != nil {
			return
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, place, nil)
		if err != nil {
			return // load refuses it, and dials nobody
		}
		if req.URL.Scheme != "https" || req.URL.User != nil || !slices.Contains([]string{"ci.example.com", "keys.example.com"}, strings.ToLower(req.URL.Host)) {
			t.Fatalf("asks %q for keys", place)
		}
		var document struct {
			Issuer string `json:"issuer"`
		}
		if err := json.Unmarshal(raw, &document); err != nil || document.Issuer != issuer {
			t.Fatalf("took the document of %q", document.Issuer)
		}
	})
}
