package policy

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// manyRepos are files that name repositories team0-repo-0 and so on, a thousand
// in each.
func manyRepos(files int) fstest.MapFS {
	fsys := fstest.MapFS{}
	for f := range files {
		var b strings.Builder
		b.WriteString("repos:\n")
		for i := range 1000 {
			fmt.Fprintf(&b, "  team%d-repo-%d: {issuer: hub, name: x, match: {owner: \"1\", repo: \"%d\"}}\n", f, i, i+f*1000)
		}
		fsys[fmt.Sprintf("repos%d.yaml", f)] = &fstest.MapFile{Data: []byte(b.String())}
	}
	return fsys
}

// TestNamesAreFoundInTimeHoweverManyThereAre: ceilings of many teams list their
// repositories by name, and a file can misspell as many as it likes.
func TestNamesAreFoundInTimeHoweverManyThereAre(t *testing.T) {
	const each = 1000
	list := func(format string) string {
		names := make([]string, each)
		for i := range names {
			names[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(names, ", ")
	}
	good := "rules: [{name: x, for: [" + list("team0-repo-%d") + "], allow: [{grant: a}]}]"
	for name, c := range map[string]struct {
		ceiling, rule string
		faults        int
	}{
		"of a ceiling":             {list("team0-repo-%d"), good, 0},
		"that a rule misspells":    {list("team0-repo-%d"), "rules: [{name: x, for: [" + list("team0-rep0-%d") + "], allow: [{grant: a}]}]", each},
		"that a ceiling misspells": {list("team0-rep0-%d"), "rules: [{name: x, deny: [a]}]", each},
	} {
		t.Run(name, func(t *testing.T) {
			files := manyRepos(5)
			files["ceilings.yaml"] = &fstest.MapFile{Data: []byte("ceilings: [{folder: team, grants: [\"*\"], repos: [" + c.ceiling + "]}]")}
			files["team/a.yaml"] = &fstest.MapFile{Data: []byte(c.rule)}
			began := time.Now()
			_, err := Load(files, someKnown())
			if took := time.Since(began); took > 3*time.Second*slower {
				t.Errorf("it took %s", took)
			}
			if c.faults == 0 && err != nil {
				t.Errorf("%.300v", err)
			}
			if c.faults > 0 && (err == nil || strings.Count(err.Error(), "no repo is called") != 100 || !strings.Contains(err.Error(), `did you mean "team0-repo-0"`)) {
				t.Errorf("%.300v", err)
			}
		})
	}
}
