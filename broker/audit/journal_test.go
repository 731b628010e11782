package audit

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/daypass-dev/daypass/broker"
)

func TestMain(m *testing.M) {
	switch os.Getenv("DAYPASS_AUDIT_TEST") {
	case "append for ever":
		appendForEver(os.Getenv("DAYPASS_AUDIT_DIR"))
	case "open":
		_, err := Open(config(os.Getenv("DAYPASS_AUDIT_DIR")))
		fmt.Println(err)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func TestWhatIsAppendedIsReadBack(t *testing.T) {
	dir := t.TempDir()
	j := open(t, config(dir))
	at := time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)
	want := broker.Record{
		Event: broker.EventIntent, At: at, Request: "req_1", Policy: "p1", Issuer: "github",
		Subject: "line\nbreak \u2028 \x00 </script>", Token: broker.NewTokenID("github", "1"), Keep: at.Add(time.Hour),
		Job:     &broker.Job{Repository: "acme/api", RepositoryID: "1"},
		Claims:  broker.Claims{"run": json.Number("12345678901234567890"), "list": []any{"a", true, nil}},
		Session: &broker.Session{ID: "s", For: broker.Identity{Issuer: "github"}},
		Leases:  []broker.Lease{{ID: "dpl_1", Handle: "dp_test_x", Grant: broker.Grant{Name: "db", Params: json.RawMessage(`{"a":1}`)}}},
		Rules:   []string{"f/r"}, Grants: []string{"db"}, Reason: "why", Detail: "words", Count: 2,
		Denials: []broker.Denial{{Grant: "db", Rule: "f/r", Failed: []broker.Mismatch{{Claim: "ref", Saw: "x"}}}},
	}
	mustAppend(t, j, want)
	mustClose(t, j)
	all := history(t, dir)
	if len(all) != 3 {
		t.Fatalf("%d records, want started, intent, stopped", len(all))
	}
	if got := all[1].Record; !reflect.DeepEqual(got, want) {
		t.Errorf("read back\n%+v, want\n%+v", got, want)
	}
	if e := all[1]; e.Seq != 2 || e.Line != 2 || e.Broker != "b0" || e.Deployment != "test" {
		t.Errorf("the frame says %+v", e)
	}
}

func TestTheChainGoesOnAcrossFilesAndRestarts(t *testing.T) {
	dir := t.TempDir()
	c := config(dir)
	c.MaxFile = 2000
	for range 4 {
		j := open(t, c)
		for i := range 10 {
			mustAppend(t, j, broker.Record{Event: broker.EventIssued, Request: fmt.Sprint(i)})
		}
		head := j.Head()
		mustClose(t, j)
		if head.Seq == 0 || head.Hash == (Hash{}) {
			t.Fatalf("head is %+v", head)
		}
	}
	files := glob(t, dir, "*.jsonl")
	if len(files) < 4 {
		t.Errorf("%d files, want several", len(files))
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s is open to others: %o", f, mode)
		}
	}
	r, err := verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Chains[0]; len(r.Chains) != 1 || c.Records != 48 || c.First != 1 || c.Seq != 48 {
		t.Errorf("report %+v", r)
	}
}

func TestTwoHundredAppendersShareWrites(t *testing.T) {
	dir := t.TempDir()
	var syncs atomic.Int64
	c := config(dir)
	c.OnSync = func(time.Duration) { syncs.Add(1) }
	j := open(t, c)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			for n := range 10 {
				if err := j.Append(t.Context(), broker.Record{Event: broker.EventIssued, Request: fmt.Sprintf("%d/%d", i, n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	mustClose(t, j)
	seen := map[string]int{}
	for _, e := range history(t, dir) {
		if e.Event == broker.EventIssued {
			seen[e.Request]++
		}
	}
	for request, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", request, n)
		}
	}
	if len(seen) != 2000 {
		t.Errorf("%d records, want 2000", len(seen))
	}
	if n := syncs.Load(); n > 1000 {
		t.Errorf("%d fsyncs for 2000 records: callers do not share them", n)
	}
}

func TestRecordsOfWhatIsGoneWaitForEachOtherAndHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var syncs atomic.Int64
		c := config(t.TempDir())
		c.OnSync = func(time.Duration) { syncs.Add(1) }
		j := open(t, c)
		before, began := syncs.Load(), time.Now()
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * patience / 20)
				mustAppend(t, j, broker.Record{Event: broker.EventRevoked, Request: fmt.Sprint(i)})
			})
		}
		all.Wait()
		if n, took := syncs.Load()-before, time.Since(began); n != 1 || took != patience {
			t.Errorf("ten records took %d syncs and %v", n, took)
		}

		before, began = syncs.Load(), time.Now()
		all.Go(func() { mustAppend(t, j, broker.Record{Event: broker.EventRevoked}) })
		time.Sleep(patience / 3)
		mustAppend(t, j, broker.Record{Event: broker.EventIntent})
		all.Wait()
		if n, took := syncs.Load()-before, time.Since(began); n != 1 || took != patience/3 {
			t.Errorf("an intent behind it took %d syncs and %v", n, took)
		}
		mustClose(t, j)
	})
}

func TestAClosedJournalRefuses(t *testing.T) {
	dir := t.TempDir()
	j := open(t, config(dir))
	mustClose(t, j)
	mustClose(t, j)
	err := j.Append(t.Context(), broker.Record{Event: broker.EventIntent})
	if broker.CodeOf(err) != broker.Unavailable {
		t.Errorf("got %v", err)
	}
	if j.Healthy() == nil {
		t.Error("a closed journal calls itself healthy")
	}
	if got := events(t, dir); got != "started stopped " {
		t.Errorf("journal says %s", got)
	}
}

func TestARecordThatCannotBeEncodedHarmsNobody(t *testing.T) {
	j := open(t, config(t.TempDir()))
	for why, r := range map[string]broker.Record{
		"a claim that is not JSON": {Event: broker.EventIntent, Claims: broker.Claims{"x": func() {}}},
		"a record without measure": {Event: broker.EventIntent, Detail: strings.Repeat("x", maxLine)},
		"a time that JSON has not": {Event: broker.EventIntent, At: time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if err := j.Append(t.Context(), r); broker.CodeOf(err) != broker.Internal {
			t.Errorf("%s: got %v", why, err)
		}
	}
	mustAppend(t, j, broker.Record{Event: broker.EventIntent})
	if err := j.Healthy(); err != nil {
		t.Error(err)
	}
}

func TestARecordHasNoRoomForASecret(t *testing.T) {
	secret := reflect.TypeFor[broker.Secret]()
	seen := map[reflect.Type]bool{}
	var walk func(path string, at reflect.Type)
	walk = func(path string, at reflect.Type) {
		if at == secret {
			t.Errorf("%s is a Secret", path)
		}
		if seen[at] {
			return
		}
		seen[at] = true
		switch at.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(path+"[]", at.Elem())
		case reflect.Map:
			walk(path+"[key]", at.Key())
			walk(path+"[]", at.Elem())
		case reflect.Struct:
			for f := range at.Fields() {
				walk(path+"."+f.Name, f.Type)
			}
		}
	}
	walk("Record", reflect.TypeFor[broker.Record]())
	if len(seen) < 15 {
		t.Errorf("only %d types were looked at", len(seen))
	}

	// A claim can be anything, so a Secret that strays there must not show.
	dir := t.TempDir()
	j := open(t, config(dir))
	mustAppend(t, j, broker.Record{Event: broker.EventIntent, Claims: broker.Claims{"x": broker.NewSecret("canary-9f3")}})
	mustClose(t, j)
	for _, f := range glob(t, dir, "*") {
		if strings.Contains(string(read(t, f)), "canary-9f3") {
			t.Errorf("%s holds the secret", f)
		}
	}
}
