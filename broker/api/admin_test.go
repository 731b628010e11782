package api

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func TestTheAdminListenerAnswersToItsNameAndToNoWebPage(t *testing.T) {
	for name, row := range map[string]struct {
		header http.Header
		status int
	}{
		"loopback":            {http.Header{"Host": {"127.0.0.1:8081"}}, 200},
		"localhost":           {http.Header{"Host": {"localhost:8081"}}, 200},
		"a rebound name":      {http.Header{"Host": {"evil.example:8081"}}, 403},
		"a name that ends so": {http.Header{"Host": {"evil-localhost:8081"}}, 403},
		"a sub-domain":        {http.Header{"Host": {"localhost:8081.evil.example"}}, 403},
		"another port":        {http.Header{"Host": {"127.0.0.1:80"}}, 403},
		"no port":             {http.Header{"Host": {"127.0.0.1"}}, 403},
		"no host":             {http.Header{"Host": {""}}, 403},
		"a forwarded host":    {http.Header{"Host": {"evil.example"}, "X-Forwarded-Host": {"127.0.0.1:8081"}}, 403},
		"a web page":          {http.Header{"Host": {"127.0.0.1:8081"}, "Origin": {"https://evil.example"}}, 403},
		"its own origin":      {http.Header{"Host": {"127.0.0.1:8081"}, "Origin": {"http://127.0.0.1:8081"}}, 403},
		"no origin in words":  {http.Header{"Host": {"127.0.0.1:8081"}, "Origin": {"null"}}, 403},
		"an empty origin":     {http.Header{"Host": {"127.0.0.1:8081"}, "Origin": {""}}, 403},
	} {
		for _, path := range []string{"/healthz", "/metrics", "/admin/v1/leases"} {
			f := &fakeBroker{}
			w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "GET", path: path, bearer: map[bool]string{true: adminToken}[path != "/healthz"], header: row.header})
			if w.Code != row.status || row.status == 403 && len(f.calls()) != 0 {
				t.Errorf("%s, %s: %d %s", name, path, w.Code, w.Body)
			}
		}
	}
}

func TestOnlyTheAdminTokenOpensTheAdminListener(t *testing.T) {
	for name, token := range map[string]string{
		"none": "", "a CI token": ciToken, "a job session": sessionToken, "one letter less": adminToken[:len(adminToken)-1],
		"one letter more": adminToken + "A", "one letter changed": "e" + adminToken[1:], "another case": strings.ToUpper(adminToken),
	} {
		for _, a := range []ask{{method: "GET", path: "/metrics"}, {method: "GET", path: "/admin/v1/leases"}, {method: "DELETE", path: "/admin/v1/leases/" + string(leaseA)}} {
			f := &fakeBroker{}
			a.bearer = token
			if w := send(NewAdmin(adminConfig(f, &logBook{})), a); w.Code != 401 || len(f.calls()) != 0 {
				t.Errorf("%s: %s %s: %d", name, a.method, a.path, w.Code)
			}
		}
	}
}

func TestTheTwoListenersShareNoRouteButTheHealthCheck(t *testing.T) {
	both := surfaces()
	for _, rt := range both[0].routes {
		for _, o := range both[1].routes {
			if rt.path == o.path && rt.path != "/healthz" {
				t.Errorf("%s is on both", rt.path)
			}
		}
	}
}

func TestOperatorsSeeLeasesAsTheyAreStored(t *testing.T) {
	f := &fakeBroker{leases: []broker.Lease{aLease()}}
	w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "GET", path: "/admin/v1/leases?grant=orders-db&place=github%2F5678&target=orders-pg&rule=teams%2Fa&session=5e", bearer: adminToken})
	if got := f.calls()[0].filter; w.Code != 200 || got != (broker.LeaseFilter{Grant: "orders-db", Place: "github/5678", Target: "orders-pg", Rule: "teams/a", Session: "5e"}) {
		t.Fatalf("%d, filter %+v", w.Code, got)
	}
	checkAgainstOpenAPI(t, "GET", "/admin/v1/leases", 200, mediaJSON, w.Body.Bytes())
	var got struct {
		Leases []struct {
			Handle broker.Handle
			Due    time.Time
			Grant  struct {
				MaxTTL string `json:"max_ttl"`
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Leases) != 1 || got.Leases[0].Handle != aLease().Handle ||
		!got.Leases[0].Due.Equal(aLease().Due) || got.Leases[0].Grant.MaxTTL != "1h" {
		t.Errorf("%v: %s", err, w.Body)
	}
	golden(t, "admin-leases", dump(w))
	none := send(NewAdmin(adminConfig(&fakeBroker{}, &logBook{})), ask{method: "GET", path: "/admin/v1/leases", bearer: adminToken})
	if !strings.Contains(none.Body.String(), `"leases":[]`) {
		t.Errorf("no leases are %s", none.Body)
	}
}

func TestAMisspeltFilterDoesNotListOrRevokeEverything(t *testing.T) {
	for _, query := range []string{"?grants=orders-db", "?Grant=orders-db", "?grant=a&grant=b", "?grant=", "?grant", "?grant=a;place=b", "?grant=%zz", "?sessions=x"} {
		for _, method := range []string{"GET", "DELETE"} {
			f := &fakeBroker{leases: []broker.Lease{aLease()}}
			if w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: method, path: "/admin/v1/leases" + query, bearer: adminToken}); w.Code != 400 || len(f.calls()) != 0 {
				t.Errorf("%s %s: %d %s", method, query, w.Code, w.Body)
			}
		}
	}
}

func TestOperatorsSeeOneLeaseWhole(t *testing.T) {
	l := aLease()
	l.Grant.OnReuse, l.Grant.Params, l.Grant.Labels = broker.OnReuseRevoke, json.RawMessage(`{"roles":["a"]}`), map[string]string{"env": "prod"}
	l.State, l.Attempts, l.LastErr, l.Run, l.ServerID = broker.LeaseRevoking, 3, "no route to host", "7", "7281/orders"
	f := &fakeBroker{leases: []broker.Lease{l}}
	w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "GET", path: "/admin/v1/leases/" + string(leaseA), bearer: adminToken})
	if w.Code != 200 || f.calls()[0].id != leaseA {
		t.Fatalf("%d %+v", w.Code, f.calls())
	}
	checkAgainstOpenAPI(t, "GET", "/admin/v1/leases/{id}", 200, mediaJSON, w.Body.Bytes())
	golden(t, "admin-lease", dump(w))
}

func TestOperatorsSeeWhatWouldGoIfRevokingWereNotPaused(t *testing.T) {
	f := &fakeBroker{leases: []broker.Lease{aLease()}, strays: []broker.Stray{
		{Target: "orders-pg", Held: broker.Held{Handle: "dp_prod_t9x2k0_aaaaaaaaaaaa", Expires: noon}},
		{Target: "stock-my", Held: broker.Held{Handle: "dp_prod_t9x2k0_bbbbbbbbbbbb", Expires: noon}}}}
	for query, want := range map[string]int{"": 2, "?target=orders-pg": 1, "?grant=orders-db": 0, "?target=orders-pg&grant=orders-db": 0} {
		w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "GET", path: "/admin/v1/leases" + query, bearer: adminToken})
		if n := strings.Count(w.Body.String(), `"expires_at"`); n != want || !strings.Contains(w.Body.String(), `"revocation_paused":true`) {
			t.Errorf("%s: %s", query, w.Body)
		}
		checkAgainstOpenAPI(t, "GET", "/admin/v1/leases", 200, mediaJSON, w.Body.Bytes())
	}
}

func TestOperatorsRevokeAllThatAFilterPicks(t *testing.T) {
	f := &fakeBroker{leases: []broker.Lease{aLease()}}
	w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "DELETE", path: "/admin/v1/leases?place=github%2F5678", bearer: adminToken,
		header: http.Header{"Daypass-Operator": {"alice@example.com"}}})
	if c := f.calls()[0]; w.Code != 200 || c.method != "RevokeLeases" || c.filter != (broker.LeaseFilter{Place: "github/5678"}) ||
		c.want.ID != fixedID || c.by != "admin token, as alice@example.com" {
		t.Errorf("%d %+v", w.Code, c)
	}
	checkAgainstOpenAPI(t, "DELETE", "/admin/v1/leases", 200, mediaJSON, w.Body.Bytes())
}

// The name goes into the journal.
func TestAnOperatorsNameThatIsNoneIsRefused(t *testing.T) {
	for _, names := range [][]string{{""}, {"a b"}, {"a", "b"}, {"a\nb"}, {strings.Repeat("x", 65)}, {"\u202ealice"}, {"<b>"}} {
		for _, a := range []ask{
			{method: "DELETE", path: "/admin/v1/leases?grant=a"}, {method: "DELETE", path: "/admin/v1/leases/" + string(leaseA)},
			{method: "POST", path: "/admin/v1/forget", body: `{"target":"a","reason":"b"}`},
		} {
			f := &fakeBroker{}
			a.bearer, a.header = adminToken, http.Header{"Daypass-Operator": names}
			if w := send(NewAdmin(adminConfig(f, &logBook{})), a); w.Code != 400 || len(f.calls()) != 0 {
				t.Errorf("%q: %s: %d", names, a.method, w.Code)
			}
		}
	}
}

func TestOperatorsForgetALostTargetAndAreToldWhatMayLiveOn(t *testing.T) {
	for body, want := range map[string]asked{
		`{"target":"orders-pg","reason":"burnt down"}`:                                     {target: "orders-pg", reason: "burnt down"},
		`{"target":"orders-pg","lease_id":"` + string(leaseA) + `","reason":"burnt down"}`: {target: "orders-pg", id: leaseA, reason: "burnt down"},
	} {
		f := &fakeBroker{leases: []broker.Lease{aLease()}}
		w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "POST", path: "/admin/v1/forget", bearer: adminToken, body: body})
		if c := f.calls()[0]; w.Code != 200 || c.target != want.target || c.id != want.id || c.reason != want.reason || c.by != "admin token" ||
			!strings.Contains(w.Body.String(), string(aLease().Handle)) {
			t.Errorf("%s: %d %+v", body, w.Code, c)
		}
		checkAgainstOpenAPI(t, "POST", "/admin/v1/forget", 200, mediaJSON, w.Body.Bytes())
	}
	for _, body := range []string{``, `{}x`, `[]`, `{"target":1,"reason":"a"}`, `{"Target":"a","reason":"b"}`, `{"target":"a","target":"b","reason":"c"}`,
		`{"target":"a","reason":"b","yes":true}`, `{"target":"a","reason":null}`} {
		f := &fakeBroker{}
		w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "POST", path: "/admin/v1/forget", bearer: adminToken, body: body})
		if w.Code != 400 || len(f.calls()) != 0 {
			t.Errorf("%s: %d", body, w.Code)
		}
	}
}

func TestOperatorsRevokeOneLeaseAndHearWhatBecameOfIt(t *testing.T) {
	f := &fakeBroker{outcomes: []broker.Outcome{{Lease: aLease(), State: broker.StateRevoked}}}
	w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "DELETE", path: "/admin/v1/leases/" + string(leaseA), bearer: adminToken})
	if c := f.calls()[0]; w.Code != 200 || c.id != leaseA || c.want.ID != fixedID || c.by != "admin token" {
		t.Errorf("%d %+v", w.Code, c)
	}
	checkAgainstOpenAPI(t, "DELETE", "/admin/v1/leases/{id}", 200, mediaJSON, w.Body.Bytes())
	golden(t, "admin-revoke", dump(w))
}

func TestAnOperatorsErrorsAreTheSameErrors(t *testing.T) {
	for name, row := range map[string]struct {
		err    error
		status int
	}{
		"no such lease":     {broker.ErrNoLease, 404},
		"a store that fell": {errors.New("dial tcp"), 503},
	} {
		for _, a := range []ask{{method: "GET", path: "/admin/v1/leases"}, {method: "DELETE", path: "/admin/v1/leases/" + string(leaseA)},
			{method: "GET", path: "/admin/v1/leases/" + string(leaseA)}, {method: "DELETE", path: "/admin/v1/leases?grant=a"},
			{method: "POST", path: "/admin/v1/forget", body: `{"target":"a","reason":"b"}`}} {
			a.bearer = adminToken
			w := send(NewAdmin(adminConfig(&fakeBroker{err: row.err}, &logBook{})), a)
			if w.Code != row.status || w.Header().Get("Content-Type") != mediaProblem || strings.Contains(w.Body.String(), "dial") {
				t.Errorf("%s: %s: %d %s", name, a.method, w.Code, w.Body)
			}
		}
	}
}

func TestTheAdminTokenIsMadeOnceAndOnlyForItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.token")
	made, err := AdminToken(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Reveal()) != len("dpa_")+43 || !isToken68(made.Reveal()) {
		t.Errorf("made %d characters", len(made.Reveal()))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := AdminToken(path, brokenRand{})
	if err != nil || !again.Equal(made) {
		t.Errorf("the second time: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestBrokersThatStartTogetherGetOneAdminToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.token")
	tokens := make([]broker.Secret, 16)
	var all sync.WaitGroup
	for i := range tokens {
		all.Go(func() {
			token, err := AdminToken(path, rand.Reader)
			if err != nil {
				t.Error(err)
			}
			tokens[i] = token
		})
	}
	all.Wait()
	for _, token := range tokens {
		if token.IsZero() || !token.Equal(tokens[0]) {
			t.Fatal("two tokens")
		}
	}
}

func TestAnAdminTokenThatOthersMayKnowIsRefused(t *testing.T) {
	write := func(t *testing.T, text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "admin.token")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, row := range map[string]struct {
		text string
		mode os.FileMode
		says string
	}{
		"readable by the group": {adminToken, 0o640, "chmod 600"},
		"readable by all":       {adminToken, 0o604, "chmod 600"},
		"writable by the group": {adminToken, 0o620, "chmod 600"},
		"empty":                 {"", 0o600, "does not hold one token"},
		"short":                 {"hunter2\n", 0o600, "does not hold one token"},
		"two tokens":            {adminToken + "\n" + adminToken, 0o600, "does not hold one token"},
	} {
		path := write(t, row.text, row.mode)
		token, err := AdminToken(path, rand.Reader)
		if err == nil || !token.IsZero() || !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), path) ||
			strings.Contains(err.Error(), adminToken) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadFile(path); string(left) != row.text {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if token, err := AdminToken(write(t, "  "+adminToken+"\r\n", 0o400), rand.Reader); err != nil || token.Reveal() != adminToken {
		t.Errorf("one that an operator wrote: %v", err)
	}
}

func TestAnAdminTokenIsNotMadeWhereItCannotBeKept(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none", "admin.token"), dir, fifo, link} {
		if token, err := AdminToken(path, rand.Reader); err == nil || !token.IsZero() {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := AdminToken(filepath.Join(dir, "admin.token"), bytes.NewReader([]byte("short"))); err == nil {
		t.Error("made from five bytes of randomness")
	}
}
