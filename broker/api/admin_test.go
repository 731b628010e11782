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
	w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "GET", path: "/admin/v1/leases?grant=orders-db&place=github%2F5678&target=orders-pg", bearer: adminToken})
	if got := f.calls()[0].filter; w.Code != 200 || got != (broker.LeaseFilter{Grant: "orders-db", Place: "github/5678", Target: "orders-pg"}) {
		t.Fatalf("%d, filter %+v", w.Code, got)
	}
	checkAgainstOpenAPI(t, "GET", "/admin/v1/leases", 200, mediaJSON, w.Body.Bytes())
	var got struct{ Leases []broker.Lease }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Leases) != 1 || got.Leases[0].Handle != aLease().Handle || !got.Leases[0].Due.Equal(aLease().Due) {
		t.Errorf("%v: %s", err, w.Body)
	}
	golden(t, "admin-leases", dump(w))
	none := send(NewAdmin(adminConfig(&fakeBroker{}, &logBook{})), ask{method: "GET", path: "/admin/v1/leases", bearer: adminToken})
	if !strings.Contains(none.Body.String(), `"leases":[]`) {
		t.Errorf("no leases are %s", none.Body)
	}
}

func TestAMisspeltFilterDoesNotListEverything(t *testing.T) {
	for _, query := range []string{"?grants=orders-db", "?Grant=orders-db", "?grant=a&grant=b", "?grant=", "?grant", "?grant=a;place=b", "?grant=%zz", "?session=x"} {
		f := &fakeBroker{leases: []broker.Lease{aLease()}}
		if w := send(NewAdmin(adminConfig(f, &logBook{})), ask{method: "GET", path: "/admin/v1/leases" + query, bearer: adminToken}); w.Code != 400 || len(f.calls()) != 0 {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
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
		for _, a := range []ask{{method: "GET", path: "/admin/v1/leases"}, {method: "DELETE", path: "/admin/v1/leases/" + string(leaseA)}} {
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
