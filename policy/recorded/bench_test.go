package recorded_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/recorded"
)

// BenchmarkReplay decides one recorded request among ten thousand rules for others.
func BenchmarkReplay(b *testing.B) {
	files := map[string]string{"p.yaml": rules(
		`{name: deploy, for: [app], match: {ref: refs/heads/main}, when: 'claims.event_name == "push"', allow: [{grant: orders-db, ttl: 15m}]}`,
		`{name: never, match: {event_name: workflow_run}, deny: ["*"]}`)}
	for f := range 10 {
		var text strings.Builder
		text.WriteString("rules:\n")
		for i := range 1000 {
			fmt.Fprintf(&text, "  - {name: r%d, issuer: github, match: {repository_owner_id: \"%d\"}, allow: [{grant: orders-db}]}\n", i, 1_000_000+1000*f+i)
		}
		files[fmt.Sprintf("others-%d.yaml", f)] = text.String()
	}
	h := &history{t: b, book: load(b, files), claims: claimsOfAll(b)}
	h.ask(fixture(b, push), broker.Want{Name: "orders-db"})
	p := recorded.NewReplay(recorded.Replaying{Candidate: h.book, Claims: h.claims})
	for b.Loop() {
		p.Add(h.records[0])
	}
	if r := p.Report(); r.Decisions == 0 || r.Same != r.Decisions {
		b.Errorf("%+v", r)
	}
}
