package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
)

// TestATokenInTwoHandsEndsTheSessionThatItOpened: the thief was first and has
// the session; the job comes second, and all that is guarded is over.
func TestATokenInTwoHandsEndsTheSessionThatItOpened(t *testing.T) {
	for _, state := range []string{"embedded", "redis"} {
		t.Run(state, func(t *testing.T) {
			r := newRig(t)
			if state == "redis" {
				r.withRedis()
			}
			b := r.changed("one", state, func(config string) string {
				return strings.Replace(config, "orders-db: {target: orders-pg,", "orders-db: {target: orders-pg, on_reuse: revoke,", 1)
			})
			both := []map[string]any{{"name": "orders-db", "ttl": "10m"}, {"name": "web-identity", "ttl": "10m"}}
			token, thief := b.fresh(both...)
			if len(r.users()) != 1 {
				t.Fatalf("PostgreSQL has %v, want one user", r.users())
			}
			if status, a := b.exchange(token); status != http.StatusConflict || a.code() != "token_reused" {
				t.Fatalf("the job itself: %d %v", status, a.body)
			}
			over := func(when string) {
				t.Helper()
				if users := r.users(); len(users) != 0 {
					t.Errorf("%s PostgreSQL still has %v", when, users)
				}
				for _, grant := range []string{"orders-db", "web-identity"} {
					status, body := b.call(http.MethodPost, "/v1/credentials", thief.session(), grantBody(grant))
					if status != http.StatusConflict || body["code"] != "conflict" || !strings.Contains(body["detail"].(string), "somebody else") {
						t.Errorf("%s the thief asks for %s: %d %v", when, grant, status, body)
					}
				}
				extend := map[string]any{"token": r.token(b, nil)}
				if status, body := b.call(http.MethodPost, "/v1/session/extend", thief.session(), extend); status != http.StatusConflict {
					t.Errorf("%s the thief extends: %d %v", when, status, body)
				}
			}
			over("afterwards")
			b.stop()
			b.start()
			over("after a restart")
			status, body := b.call(http.MethodGet, "/v1/session", thief.session(), nil)
			session, _ := body["session"].(map[string]any)
			if leases, _ := body["leases"].([]any); status != http.StatusOK || session["closing"] != true || len(leases) != 1 {
				t.Errorf("the session is %d %v, want one that is closing with the lease of web-identity", status, body)
			}
			status, body = b.call(http.MethodDelete, "/v1/session", thief.session(), nil)
			if leases, _ := body["leases"].([]any); status != http.StatusOK || len(leases) != 1 {
				t.Errorf("giving back: %d %v", status, body)
			}
			if n := journalled(t, b); n[broker.EventAlarm] != 1 || n[broker.EventShut] != 1 {
				t.Errorf("journalled are %v", n)
			}
		})
	}
}
