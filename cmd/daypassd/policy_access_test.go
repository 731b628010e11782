package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/audit"
)

// keep stores a policy as a version of the past, and returns its name.
func (d *desk) keep(text string) string {
	d.t.Helper()
	dir := filepath.Dir(d.write("kept/p/shop.yaml", text))
	source, err := openPolicySource(d.config, []string{dir})
	if err != nil {
		d.t.Fatal(err)
	}
	book, err := source.book()
	if err != nil {
		d.t.Fatal(err)
	}
	files, err := book.Keep()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := audit.StoreVersion(filepath.Join(d.dir, "data/versions"), folderOf(book.Version()), files); err != nil {
		d.t.Fatal(err)
	}
	return book.Version()
}

// past writes a journal that began at a time, and returns its folder.
func (d *desk) past(began time.Time, records ...broker.Record) string {
	d.t.Helper()
	dir := filepath.Join(d.t.TempDir(), "journal")
	j, err := audit.Open(audit.Config{Dir: dir, Deployment: "prod", Broker: "b1", Now: func() time.Time { return began }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, r := range records {
		if err := j.Append(d.t.Context(), r); err != nil {
			d.t.Fatal(err)
		}
	}
	d.t.Cleanup(func() { _ = j.Close(context.Background()) })
	return dir
}

const soundShop = `owner: team-shop
review_by: 2999-01-01
` + recordedPolicy

func TestPolicyAccessSaysWhoCanGetWhat(t *testing.T) {
	d := newDesk(t)
	config := strings.NewReplacer("orders-ro: {target: pg,", "orders-ro: {target: pg, access: read, labels: {env: prod},",
		"orders-db: {target: pg,", "orders-db: {target: pg, labels: {env: prod, team: shop},").Replace(recordedConfig)
	d.write("daypass.yaml", config)
	d.write("policies/shop.yaml", soundShop)
	d.write("faulty/shop.yaml", "rules: 1\n")
	const row = "orders-db  write   github  shop (acme/app)  15m  shop/migrate  team-shop  2999-01-01\n"
	for name, c := range map[string]struct {
		line string
		code int
		want []string
		not  string
	}{
		"now":                       {"--config CONFIG", exitOK, []string{row, `    if       ref "refs/heads/main"`, "2 permissions\n"}, ""},
		"what can write":            {"--config CONFIG --access write", exitOK, []string{row, "1 permission\n"}, "orders-ro"},
		"what is labelled":          {"--config CONFIG --label env=prod --label team=shop", exitOK, []string{row}, "orders-ro"},
		"of one repository":         {"--config CONFIG --repo acme/app --grant orders-r*", exitOK, []string{"orders-ro  read"}, "orders-db"},
		"of nobody":                 {"--config CONFIG --issuer gitlab", exitOK, []string{"0 permissions\n"}, "GRANT"},
		"as JSON":                   {"--config CONFIG --output json", exitOK, []string{`"rule": "shop/migrate"`, `"gives": true`}, ""},
		"without a configuration":   {"DIR/policies", exitOK, []string{"orders-db  -       github  shop (acme/app)  15m"}, ""},
		"neither":                   {"", exitUsage, []string{"name a policy folder, or --config"}, ""},
		"access without grants":     {"DIR/policies --access write", exitUsage, []string{"need --config"}, ""},
		"an access that is none":    {"--config CONFIG --access all", exitUsage, []string{"read or write"}, ""},
		"a label that is none":      {"--config CONFIG --label prod", exitUsage, []string{"name=value"}, ""},
		"a faulty folder":           {"--config CONFIG DIR/faulty", exitUsage, []string{"the policy has faults"}, ""},
		"the past of a folder":      {"--config CONFIG --from 30d DIR/policies", exitUsage, []string{"leave DIR out"}, ""},
		"an end without beginning":  {"--config CONFIG --to 30d", exitUsage, []string{"--from is missing"}, ""},
		"the wrong way round":       {"--config CONFIG --from 1d --to 30d", exitUsage, []string{"must be before"}, ""},
		"two questions":             {"--config CONFIG --from 30d --unused-for 30d", exitUsage, []string{"not both"}, ""},
		"for how long":              {"--config CONFIG --unused-for long", exitUsage, []string{"such as 90d"}, ""},
		"no journal":                {"--config CONFIG --from 30d --journal DIR/none", exitUsage, []string{"read journal"}, ""},
		"a journal without a span":  {"--config CONFIG --journal DIR/data/journal", exitUsage, []string{"goes with"}, ""},
		"help":                      {"--help", exitOK, []string{"Examples:", "--unused-for 90d"}, ""},
		"a journal that is too new": {"--config CONFIG --from 30d", exitFailed, []string{"THIS MAY LACK SOMETHING", "nothing is known of before"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			line := strings.NewReplacer("CONFIG", d.config, "DIR", d.dir).Replace(c.line)
			out, code := d.daypassd(append([]string{"policy", "access"}, strings.Fields(line)...)...)
			if code != c.code || c.not != "" && strings.Contains(out, c.not) {
				t.Errorf("exit code %d, want %d, without %q:\n%s", code, c.code, c.not, out)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if strings.Contains(line, "json") && !json.Valid([]byte(out)) {
				t.Errorf("no JSON:\n%s", out)
			}
		})
	}
}

// TestAnAuditorIsToldWhoCouldWriteLastQuarter from the versions that a broker kept and
// what its journal says of them, whatever the policies on disk say now.
func TestAnAuditorIsToldWhoCouldWriteLastQuarter(t *testing.T) {
	d := newDesk(t)
	began := time.Now().UTC().Truncate(time.Second).AddDate(0, 0, -100)
	day := func(n int) time.Time { return began.AddDate(0, 0, n) }
	open := d.keep(strings.ReplaceAll(recordedPolicy, "match: {ref: refs/heads/main}, ", ""))
	load := func(n int, version string) broker.Record {
		return broker.Record{Event: broker.EventPolicy, At: day(n), Policy: version}
	}
	issued := broker.Record{Event: broker.EventIssued, At: day(99), Policy: d.version, Rules: []string{"shop/migrate"}, Grants: []string{"orders-db"}}
	journal := d.past(began, load(0, d.version), load(20, open), load(21, d.version), issued)
	d.write("policies/shop.yaml", soundShop)

	out, code := d.daypassd("policy", "access", "--config", d.config, "--journal", journal, "--from", "90d", "--access", "write", "--grant", "orders-db")
	for _, want := range []string{"under 2 versions", "2 permissions\n",
		"    during   " + day(20).Format(time.RFC3339) + " to " + day(21).Format(time.RFC3339) + "\n",
		`    if       ref "refs/heads/main"`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != exitOK {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if out, code := d.daypassd("policy", "access", "--config", d.config, "--journal", journal, "--from", "120d"); code != exitFailed || !strings.Contains(out, "nothing is known of before") {
		t.Errorf("it begins before the journal: exit code %d:\n%s", code, out)
	}
	out, code = d.daypassd("policy", "access", "--config", d.config, "--journal", journal, "--unused-for", "90d")
	if code != exitOK || !strings.Contains(out, "orders-ro") || strings.Contains(out, "orders-db") || !strings.Contains(out, "1 permission not used, 1 used") {
		t.Errorf("unused: exit code %d:\n%s", code, out)
	}

	// A version that was changed since does not pass for what was in force.
	kept := filepath.Join("data/versions", folderOf(open), "policies/shop.yaml")
	d.write(kept, recordedPolicy)
	out, code = d.daypassd("policy", "access", "--config", d.config, "--journal", journal, "--from", "90d")
	if code != exitFailed || !strings.Contains(out, open+", in force "+day(20).Format(time.RFC3339)) || !strings.Contains(out, "is not what it was") {
		t.Errorf("a version was changed: exit code %d:\n%s", code, out)
	}
}
