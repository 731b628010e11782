package broker_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"pgregory.net/rapid"
)

var (
	deployments = rapid.StringMatching(`[a-z0-9]{4}`)
	leaseIDs    = rapid.Custom(func(t *rapid.T) broker.LeaseID {
		raw := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "random bytes")
		id, err := broker.NewLeaseID(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		return id
	})
	// expiries are all that can be named: six or seven digits of base 36.
	expiries = rapid.Custom(func(t *rapid.T) time.Time {
		sec := rapid.Int64Range(60466176, 78364164095).Draw(t, "unix time")
		nsec := rapid.Int64Range(0, 999_999_999).Draw(t, "fraction")
		zone := time.FixedZone("somewhere", rapid.IntRange(-12*3600, 14*3600).Draw(t, "zone"))
		return time.Unix(sec, nsec).In(zone)
	})
)

func TestAHandleIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deployment, expiry, lease := deployments.Draw(t, "deployment"), expiries.Draw(t, "expiry"), leaseIDs.Draw(t, "lease")
		h, err := broker.NewHandle(deployment, expiry, lease)
		if err != nil {
			t.Fatal(err)
		}
		again, until, ours := broker.ParseHandle(deployment, string(h))
		if !ours || again != h || !until.Equal(expiry.Truncate(time.Second)) {
			t.Fatalf("%s is read as %s, %v, %v; want %v", h, again, until, ours, expiry)
		}
	})
}

func TestAHandleFitsEveryTarget(t *testing.T) {
	safe := regexp.MustCompile(`\A[a-z][a-z0-9_]*\z`)
	rapid.Check(t, func(t *rapid.T) {
		h, err := broker.NewHandle(deployments.Draw(t, "deployment"), expiries.Draw(t, "expiry"), leaseIDs.Draw(t, "lease"))
		if err != nil {
			t.Fatal(err)
		}
		if len(h) > 30 || !safe.MatchString(string(h)) {
			t.Fatalf("%s has %d bytes, or some that a target might not take", h, len(h))
		}
	})
}

func TestAHandleIsAPureFunctionOfTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deployment, expiry, lease := deployments.Draw(t, "deployment"), expiries.Draw(t, "expiry"), leaseIDs.Draw(t, "lease")
		first, err := broker.NewHandle(deployment, expiry, lease)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := broker.NewHandle(deployment, expiry.UTC().Truncate(time.Second), lease); err != nil || second != first {
			t.Fatalf("%s, then %s, %v", first, second, err)
		}
		other := leaseIDs.Filter(func(l broker.LeaseID) bool { return l != lease }).Draw(t, "another lease")
		if h, err := broker.NewHandle(deployment, expiry, other); err != nil || h == first {
			t.Fatalf("leases %s and %s share the handle %s, %v", lease, other, h, err)
		}
	})
}

func TestAHandleDoesNotTellItsLease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lease := leaseIDs.Draw(t, "lease")
		h, err := broker.NewHandle("prod", time.Unix(2e9, 0), lease)
		if err != nil {
			t.Fatal(err)
		}
		if random := string(h)[len(h)-12:]; strings.Contains(string(lease), random) {
			t.Fatalf("handle %s holds a part of lease id %s", h, lease)
		}
	})
}

func TestAForeignDeploymentsHandleIsNotOurs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		theirs := deployments.Draw(t, "theirs")
		ours := deployments.Filter(func(d string) bool { return d != theirs }).Draw(t, "ours")
		h, err := broker.NewHandle(theirs, expiries.Draw(t, "expiry"), leaseIDs.Draw(t, "lease"))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, ok := broker.ParseHandle(ours, string(h)); ok || got != "" {
			t.Fatalf("%s says that %s is its own", ours, h)
		}
	})
}

func TestANameThatOnlyLooksLikeAHandleIsNotOurs(t *testing.T) {
	const real = "dp_prod_t0abcd_abcdefghij27"
	if _, _, ok := broker.ParseHandle("prod", real); !ok {
		t.Fatalf("%s is not taken for a handle, so this test would prove nothing", real)
	}
	for name, s := range map[string]string{
		"nothing":                         "",
		"the prefix alone":                "dp_",
		"something before it":             "x" + real,
		"something after it":              real + "x",
		"a line break after it":           real + "\n",
		"a line break before it":          "\n" + real,
		"a line of its own":               "app\n" + real + "\napp",
		"a NUL after it":                  real + "\x00",
		"a space after it":                real + " ",
		"upper case":                      strings.ToUpper(real),
		"one upper-case letter":           "dp_prod_t0abcd_Abcdefghij27",
		"another prefix":                  "dq_prod_t0abcd_abcdefghij27",
		"an upper-case prefix":            "DP_prod_t0abcd_abcdefghij27",
		"hyphens":                         strings.ReplaceAll(real, "_", "-"),
		"a longer deployment":             "dp_prodd_t0abcd_abcdefghij27",
		"no deployment":                   "dp__t0abcd_abcdefghij27",
		"five digits of expiry":           "dp_prod_t0abc_abcdefghij27",
		"eight digits of expiry":          "dp_prod_t0abcdef_abcdefghij27",
		"a sign in the expiry":            "dp_prod_-0abcd_abcdefghij27",
		"a seventh digit that is nothing": "dp_prod_0t0abcd_abcdefghij27",
		"eleven random characters":        "dp_prod_t0abcd_abcdefghij2",
		"thirteen random characters":      "dp_prod_t0abcd_abcdefghij277",
		"a digit base 32 does not have":   "dp_prod_t0abcd_abcdefghij01",
		"a Cyrillic letter":               "dp_prod_t0abcd_аbcdefghij27",
		"a full-width letter":             "dp_prod_t0abcd_ａbcdefghij27",
		"quoted":                          `"` + real + `"`,
		"a statement after it":            real + `"; DROP ROLE admin; --`,
		"a wildcard":                      "dp_prod_%_abcdefghij27",
		"a person's role":                 "dp_prod_reporting",
	} {
		t.Run(name, func(t *testing.T) {
			if h, until, ok := broker.ParseHandle("prod", s); ok || h != "" || !until.IsZero() {
				t.Errorf("%q is taken for the handle %q until %v", s, h, until)
			}
		})
	}
}

func FuzzWhatIsReadAsAHandleCouldHaveBeenWritten(f *testing.F) {
	f.Add("prod", "dp_prod_t0abcd_abcdefghij27")
	f.Add("prod", "dp_prod_10abcde_abcdefghij27")
	f.Add("", "dp__t0abcd_abcdefghij27")
	f.Add(".*", "dp_prod_t0abcd_abcdefghij27")
	f.Fuzz(func(t *testing.T, deployment, name string) {
		h, until, ok := broker.ParseHandle(deployment, name)
		if !ok {
			return
		}
		if broker.CheckDeployment(deployment) != nil || string(h) != name {
			t.Fatalf("deployment %q takes %q for %q", deployment, name, h)
		}
		again, err := broker.NewHandle(deployment, until, "any")
		if err != nil {
			t.Fatalf("no handle ends at %v, and yet %q does: %v", until, name, err)
		}
		if head := len(name) - 12; string(again)[:head] != name[:head] {
			t.Fatalf("%q begins otherwise than handles that end with it: %q", name, again)
		}
	})
}

func TestAHandleIsRefused(t *testing.T) {
	good := time.Unix(2e9, 0)
	for name, c := range map[string]struct {
		deployment string
		expiry     time.Time
		lease      broker.LeaseID
	}{
		"without a deployment":               {"", good, "dpl_a"},
		"with a short deployment":            {"pro", good, "dpl_a"},
		"with a long deployment":             {"prod1", good, "dpl_a"},
		"with an upper-case deployment":      {"Prod", good, "dpl_a"},
		"with an underscore in it":           {"pr_d", good, "dpl_a"},
		"with a line break after it":         {"prod\n", good, "dpl_a"},
		"with a letter that is not ASCII":    {"prö", good, "dpl_a"},
		"without a lease":                    {"prod", good, ""},
		"that expires before 1970":           {"prod", time.Unix(-1, 0), "dpl_a"},
		"that expires never":                 {"prod", time.Time{}, "dpl_a"},
		"that expires later than it can say": {"prod", time.Unix(78364164096, 0), "dpl_a"},
	} {
		t.Run(name, func(t *testing.T) {
			if h, err := broker.NewHandle(c.deployment, c.expiry, c.lease); err == nil || h != "" {
				t.Errorf("it is called %q, %v", h, err)
			}
		})
	}
}

func TestIDsAreDrawnFromTheSourceGiven(t *testing.T) {
	zeros := func() io.Reader { return bytes.NewReader(make([]byte, 64)) }
	lease, err := broker.NewLeaseID(zeros())
	if err != nil || lease != "dpl_aaaaaaaaaaaaaaaaaaaaaaaaaa" {
		t.Errorf("lease id %q, %v", lease, err)
	}
	request, err := broker.NewRequestID(zeros())
	if err != nil || request != "req_aaaaaaaaaaaaaaaa" {
		t.Errorf("request id %q, %v", request, err)
	}
	token, session, err := broker.NewSessionToken(zeros())
	if err != nil || token.Reveal() != "dps_"+strings.Repeat("A", 43) {
		t.Errorf("session token %q, %v", token.Reveal(), err)
	}
	if session != broker.SessionIDOf(token) || len(session) != 64 || strings.Contains(string(session), "AAAA") {
		t.Errorf("session id %q", session)
	}
}

func TestIDsAreRefusedWithoutEnoughRandomness(t *testing.T) {
	for name, source := range map[string]func() io.Reader{
		"a source that is empty":      func() io.Reader { return bytes.NewReader(nil) },
		"a source that ends too soon": func() io.Reader { return bytes.NewReader(make([]byte, 9)) },
		"a source that fails":         func() io.Reader { return failingSource{} },
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := broker.NewLeaseID(source()); err == nil || id != "" {
				t.Errorf("lease id %q", id)
			}
			if id, err := broker.NewRequestID(source()); err == nil || id != "" {
				t.Errorf("request id %q", id)
			}
			if token, id, err := broker.NewSessionToken(source()); err == nil || id != "" || !token.IsZero() {
				t.Errorf("session %q", id)
			}
		})
	}
}

func TestIDsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		lease, err := broker.NewLeaseID(rand.Reader)
		if err != nil || len(lease) != 30 || seen[string(lease)] {
			t.Fatalf("lease id %q, %v", lease, err)
		}
		token, session, err := broker.NewSessionToken(rand.Reader)
		if err != nil || seen[string(session)] || seen[token.Reveal()] {
			t.Fatalf("session %q, %v", session, err)
		}
		seen[string(lease)], seen[string(session)], seen[token.Reveal()] = true, true, true
	}
}

// failingSource is a source of randomness that has none.
type failingSource struct{}

func (failingSource) Read([]byte) (int, error) { return 0, errors.New("no entropy") }
