package daypasstest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

type lease struct {
	id, grant, kind, takeback, session string
	expires                            time.Time
	ended                              bool
}

// lifeOf is as long as was asked for, or an hour.
func lifeOf(ttl string) time.Duration {
	life, err := time.ParseDuration(ttl)
	if err != nil {
		return time.Hour
	}
	return life
}

func (b *Broker) make(session, name, ttl string) map[string]any {
	c := b.grants[name]
	life := lifeOf(ttl)
	takeback := c.Takeback
	if takeback == "" {
		takeback = "now"
	}
	n := strconv.Itoa(len(b.leases) + 1)
	l := lease{id: "dpl_fake" + n, grant: name, kind: c.Kind, takeback: takeback, session: session, expires: b.now().Add(life)}
	b.leases = append(b.leases, l)
	fill := func(m map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			out[k] = strings.ReplaceAll(v, "$N", n)
		}
		return out
	}
	return map[string]any{
		"grant": name, "kind": c.Kind, "lease_id": l.id, "issued_at": b.now(), "expires_at": l.expires,
		"takeback": takeback, "fields": fill(c.Fields), "env": fill(c.Env), "sensitive": c.Sensitive,
	}
}

func (b *Broker) show(w http.ResponseWriter, session string) {
	leases := []any{}
	for _, l := range b.leases {
		if l.session == session && !l.ended {
			leases = append(leases, map[string]any{"lease_id": l.id, "grant": l.grant, "kind": l.kind,
				"state": "active", "expires_at": l.expires, "takeback": l.takeback})
		}
	}
	b.answer(w, map[string]any{
		"session":  map[string]any{"expires_at": b.now().Add(5 * time.Minute), "closing": b.sessions[session].closing},
		"identity": map[string]any{"issuer": "fake", "subject": "repo:acme/orders", "repository": "acme/orders", "ref": "refs/heads/main"},
		"leases":   leases,
	})
}

type many int

const (
	all many = iota
	theOne
)

func (b *Broker) end(w http.ResponseWriter, one many, which func(lease) bool) {
	ended := []any{}
	for i, l := range b.leases {
		if l.ended || !which(l) {
			continue
		}
		b.leases[i].ended = true
		state := "revoked"
		if l.takeback != "now" {
			state = "expires"
		}
		ended = append(ended, map[string]any{"lease_id": l.id, "grant": l.grant, "state": state, "expires_at": l.expires})
	}
	if one == theOne && len(ended) == 0 {
		b.refuse(w, Problem{Status: 404, Code: "not_found", Detail: "no such lease"})
		return
	}
	b.answer(w, map[string]any{"leases": ended})
}
