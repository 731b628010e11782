package policy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
)

func TestExpressions(t *testing.T) {
	claims := broker.Claims{
		"number": json.Number("5"), "five": "5", "big": json.Number("9007199254740993"), "half": json.Number("0.5"), "thousand": json.Number("1e3"),
		"groups": []any{"dev", "ops"}, "nothing": nil, "yes": true, "o": map[string]any{"p": map[string]any{"q": json.Number("7")}},
	}
	for expression, want := range map[string]bool{
		`claims.ref == "refs/heads/main"`:                     true,
		`claims["ref"].startsWith("refs/heads/")`:             true,
		`claims.ref in ["refs/heads/dev", "refs/heads/main"]`: true,
		`issuer == "github" && grant == "payments-db"`:        true,
		`issuer == "gitlab"`:                                  false,
		`ttl == duration("15m")`:                              true,
		`ttl <= duration("5m")`:                               false,
		`claims.number == 5`:                                  true,
		`claims.number == "5"`:                                false,
		`claims.five == 5`:                                    false,
		`claims.five == "5"`:                                  true,
		`claims.big == 9007199254740993`:                      true,
		`claims.big == 9007199254740992`:                      false,
		`claims.half == 0.5`:                                  true,
		`claims.thousand == 1000`:                             true,
		`claims.o.p.q == 7`:                                   true,
		`"ops" in claims.groups`:                              true,
		`claims.groups.exists(g, g == "ops")`:                 true,
		`claims.groups.all(g, g == "ops")`:                    false,
		`claims.nothing == null`:                              true,
		`claims.yes == true`:                                  true,
		`claims.yes == "true"`:                                false,
		`has(claims.head_ref)`:                                false,
		`!has(claims.head_ref)`:                               true,
		`claims.head_ref == ""`:                               false, // fails: no such claim
		`claims.head_ref != "fork"`:                           false, // fails too: fail closed
		`!(claims.head_ref == "fork")`:                        false,
		`claims.ref - claims.yes == 1`:                        false, // fails: no such overload
		`1 / (claims.number - 5) == 0`:                        false, // fails: division by zero
		`claims.groups[7] == "ops"`:                           false,
		`int(claims.ref) == 0`:                                false,
		`true`:                                                true,
		`false`:                                               false,
	} {
		b := load(t, rule("allow: [{grant: payments-db, ttl: 15m}]", "when: >-\n      "+expression))
		if got := allowed(t, b, job(claims)); got != want {
			t.Errorf("%s is %v", expression, got)
		}
	}
}

func TestTheLifeAnExpressionSeesIsWhatWouldBeGiven(t *testing.T) {
	b := load(t, rule(`when: 'ttl <= duration("10m")'`, "allow: [{grant: payments-db, ttl: 15m}, {grant: payments-ro, ttl: 5m}]"))
	for ask, want := range map[string]bool{
		"payments-db": false, "payments-db=1h": false, "payments-db=10m": true, "payments-db=10m1s": false, "payments-ro=1h": true,
	} {
		if d := decide(t, b, job(nil), ask); d.Allowed != want {
			t.Errorf("%s: allowed is %v", ask, d.Allowed)
		}
	}
}

func TestNoExpressionHoldsWhereANumberWouldBeRounded(t *testing.T) {
	b := load(t, rule("when: 'true'", allowDB))
	for _, number := range []json.Number{
		"18446744073709551617", "9223372036854775808", "1.00000000000000000001", "1e400", "1e-400", "1e99999999999", "9007199254740993.0", "x", "",
	} {
		for sentence, claim := range map[string]any{"as it is": number, "in a list": []any{number}, "in an object": map[string]any{"a": number}} {
			if allowed(t, b, job(broker.Claims{"n": claim})) {
				t.Errorf("%s %s: an expression holds", number, sentence)
			}
		}
	}
	for _, number := range []json.Number{"9223372036854775807", "-9223372036854775808", "0", "-0", "1.0", "1e15", "0.1", "-2.5e-3"} {
		if !allowed(t, b, job(broker.Claims{"n": number})) {
			t.Errorf("%s: no expression holds", number)
		}
	}
	if allowed(t, b, job(broker.Claims{"n": 5.0})) {
		t.Error("a claim that is of no JSON type is accepted")
	}
}

func TestAnExpressionThatCostsTooMuchDoesNotHold(t *testing.T) {
	many := make([]any, 3000)
	for i := range many {
		many[i] = "item"
	}
	id := job(broker.Claims{"many": many, "long": strings.Repeat("x", 16<<10), "groups": []any{"a"}})
	for sentence, expression := range map[string]string{
		"a loop in a loop over the claims": `claims.many.all(a, claims.many.all(b, a == b))`,
		"a loop over many":                 `claims.many.map(a, a + a + a).size() == 3000`,
		"long text made longer":            `(claims.long + claims.long + claims.long + claims.long + claims.long + claims.long + claims.long).size() > 1 && ` + strings.Repeat(`(claims.long + claims.long + claims.long + claims.long).contains("y") == false && `, 20) + "true",
		"lists made of lists":              `[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, claims.many)).size() == 10 && claims.many.all(x, x == "item") && claims.many.all(x, x == "item")`,
	} {
		b := load(t, rule("when: >-\n      "+expression, allowDB))
		start := time.Now()
		if allowed(t, b, id) {
			t.Errorf("%s: holds", sentence)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: took %s", sentence, took)
		}
	}
	// The same over little does hold: it is the cost that is refused.
	b := load(t, rule(`when: 'claims.groups.all(a, claims.groups.all(b, a == b))'`, allowDB))
	if !allowed(t, b, id) {
		t.Error("a loop over one item does not hold")
	}
}

func TestExpressionsAreEvaluatedConcurrently(t *testing.T) {
	b := load(t, rule(`when: 'claims.ref == "refs/heads/main" && ttl > duration("1s")'`, allowDB))
	done := make(chan bool)
	for i := range 4 {
		go func() {
			ok := true
			for range 300 {
				ref := "refs/heads/main"
				if i%2 == 1 {
					ref = "refs/heads/dev"
				}
				d, err := b.Decide(job(broker.Claims{"ref": ref}), []broker.Want{{Name: "payments-db"}}, noon)
				ok = ok && err == nil && d.Allowed == (i%2 == 0)
			}
			done <- ok
		}()
	}
	for range 4 {
		if !<-done {
			t.Error("a decision was mixed with another")
		}
	}
}

var _ broker.Policy = (*policy.Book)(nil)

func TestNoExpressionHoldsForAnIdentityWhoseClaimsWereTrimmed(t *testing.T) {
	book := load(t, rule(allowDB, `when: '!has(claims.external)'`))
	id := job(nil)
	if !allowed(t, book, id) {
		t.Fatal("with all of its claims it is denied")
	}
	id.Trimmed = true
	if d := decide(t, book, id, "payments-db"); d.Allowed || !d.Known {
		t.Errorf("with claims left out: %+v, want it denied", d)
	}
}

// A time zone is a file, so its name in a token would open one, and brokers that
// have other files would decide otherwise.
func TestNoExpressionLooksAtTimeZones(t *testing.T) {
	for _, get := range []string{"FullYear", "Month", "DayOfYear", "DayOfMonth", "Date", "DayOfWeek", "Hours", "Minutes", "Seconds", "Milliseconds"} {
		text := rule(allowDB, `when: 'timestamp("2027-03-01T12:00:00Z").get`+get+`(claims.zone) >= 0'`)
		if _, err := policy.Load(folder(map[string]string{"p.yaml": text}), known()); err == nil || !strings.Contains(err.Error(), "no matching overload") {
			t.Errorf("get%s: %v", get, err)
		}
		if !allowed(t, load(t, strings.Replace(text, "claims.zone", "", 1)), job(nil)) {
			t.Errorf("get%s in UTC does not hold", get)
		}
	}
	if !allowed(t, load(t, rule(allowDB, `when: 'duration("2h").getHours() == 2'`)), job(nil)) {
		t.Error("the hours of a duration do not hold")
	}
}
