package policy_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

func TestEverythingWrongInAFolderIsReportedAtOnce(t *testing.T) {
	book, err := policy.Load(os.DirFS("testdata/faulty"), known())
	if err == nil || book != nil {
		t.Fatal("a faulty folder is loaded")
	}
	const golden = "testdata/faulty.golden"
	have := err.Error() + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("have\n%s\nwant\n%s", have, want)
	}
}

func TestFaultsOfAFolderOnDiskNameItsPath(t *testing.T) {
	_, err := policy.LoadDir("testdata/faulty", known())
	fault, ok := errors.AsType[*strictyaml.Fault](err)
	if !ok || fault.File != filepath.Join("testdata", "faulty", "a-repos.yaml") {
		t.Errorf("the first fault is %v", fault)
	}
	if _, err := policy.LoadDir("testdata/no-such-folder", known()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestAFolderWithoutRulesIsAFaultThatSaysWhatToDo(t *testing.T) {
	for sentence, files := range map[string]map[string]string{
		"empty":           {},
		"only a README":   {"README.md": "x"},
		"only repos":      {"r.yaml": `repos: {api: {issuer: github, name: a, match: {repository_owner_id: "1"}}}` + "\n"},
		"only test cases": {"p_test.yaml": "cases: []\n"},
		"only hidden":     {".p.yaml": rule(allowDB)},
	} {
		if _, err := policy.Load(folder(files), known()); err == nil || !strings.Contains(err.Error(), "write a rule in a file that ends in .yaml") {
			t.Errorf("%s: %v", sentence, err)
		}
	}
}

func TestGrantsThatNoDecisionCouldGiveAreRefused(t *testing.T) {
	for want, g := range map[string]broker.Grant{
		`grants: payments-db: is called "other" in itself`:       {Name: "other", MaxTTL: time.Hour},
		"grants: payments-db: max_ttl must be a second at least": {Name: "payments-db"},
	} {
		k := known()
		k.Grants["payments-db"] = g
		if _, err := policy.Load(folder(map[string]string{"p.yaml": rule(allowDB)}), k); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("have %v, want %s", err, want)
		}
	}
}

// write makes files, and links where the content begins with ->.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, link := strings.CutPrefix(text, "->"); link {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLinksInAFolderAreFollowed(t *testing.T) {
	repos, rules, _ := strings.Cut(rule(allowDB), "rules:")
	rules = "rules:" + rules
	for sentence, c := range map[string]struct {
		files map[string]string
		ids   string
	}{
		"a mounted config map": {map[string]string{
			"..2027_03_01/repos.yaml": repos, "..2027_03_01/p.yml": rules,
			"..data": "->..2027_03_01", "repos.yaml": "->..data/repos.yaml", "p.yml": "->..data/p.yml",
		}, "p/deploy"},
		"a linked folder":       {map[string]string{"repos.yaml": repos, ".store/p.yaml": rules, "teams": "->.store"}, "teams/p/deploy"},
		"folders within others": {map[string]string{"repos.yaml": repos, "a/b/c/p.YAML": rules, "a/p.yaml": rules}, "a/b/c/p/deploy a/p/deploy"},
	} {
		dir := t.TempDir()
		write(t, dir, c.files)
		book, err := policy.LoadDir(dir, known())
		if err != nil {
			t.Errorf("%s: %v", sentence, err)
			continue
		}
		var ids []string
		for r := range book.Rules() {
			ids = append(ids, r.ID)
		}
		if got := strings.Join(ids, " "); got != c.ids {
			t.Errorf("%s: rules are %s, want %s", sentence, got, c.ids)
		}
	}
}

func TestLinksOutOfAFolderOrInCirclesAreRefused(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, map[string]string{"p.yaml": rule(allowDB), "sub/p.yaml": rule(allowDB)})
	for sentence, c := range map[string]struct{ link, want string }{
		"a file outside":   {"->" + filepath.Join(outside, "p.yaml"), "cannot be read: path escapes"},
		"a folder outside": {"->" + filepath.Join(outside, "sub"), "cannot be read: path escapes"},
		"the folder above": {"->..", "cannot be read: path escapes"},
		"itself":           {"->.", "leads back to a folder above it"},
		"nothing":          {"->nowhere.yaml", "cannot be read: no such file"},
	} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"p.yaml": rule(allowDB), "link.yaml": c.link})
		if _, err := policy.LoadDir(dir, known()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: have %v, want %s", sentence, err, c.want)
		}
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"p.yaml": rule(allowDB), "d/x.yaml/y.yaml": "owner: x\n"})
	link := filepath.Join(t.TempDir(), "policies")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.LoadDir(link, known()); err != nil {
		t.Errorf("the folder itself cannot be a link: %v", err)
	}
}

func TestWhatIsNotAPlainFileIsRefused(t *testing.T) {
	fsys := folder(map[string]string{"p.yaml": rule(allowDB)})
	fsys["pipe.yaml"] = &fstest.MapFile{Mode: fs.ModeNamedPipe | 0o644}
	if _, err := policy.Load(fsys, known()); err == nil || !strings.Contains(err.Error(), "pipe.yaml: is not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	big := folder(map[string]string{"p.yaml": rule(allowDB), "big.yaml": strings.Repeat("# x\n", 1<<19)})
	if _, err := policy.Load(big, known()); err == nil || !strings.Contains(err.Error(), "big.yaml: is larger than 1048576 bytes") {
		t.Errorf("2 MiB: %v", err)
	}
}

func TestTheVersionNamesAllThatDecisionsDependOn(t *testing.T) {
	files := func() map[string]string {
		return map[string]string{"p.yaml": rule(allowDB), "teams/q.yaml": "owner: q\n"}
	}
	versionOf := func(files map[string]string, k policy.Known) string {
		t.Helper()
		b, err := policy.Load(folder(files), k)
		if err != nil {
			t.Fatal(err)
		}
		return b.Version()
	}
	base := versionOf(files(), known())
	if base != versionOf(files(), known()) || !strings.HasPrefix(base, "sha256:") || len(base) != len("sha256:")+64 {
		t.Fatalf("the version %q is not a stable hash", base)
	}
	seen := map[string]string{base: "the first"}
	for sentence, change := range map[string]func(map[string]string, policy.Known){
		"a comment": func(f map[string]string, _ policy.Known) { f["p.yaml"] += "# x\n" },
		"a file's name": func(f map[string]string, _ policy.Known) {
			f["teams/r.yaml"] = f["teams/q.yaml"]
			delete(f, "teams/q.yaml")
		},
		"another file": func(f map[string]string, _ policy.Known) { f["r.yaml"] = "owner: r\n" },
		"a grant's life": func(_ map[string]string, k policy.Known) {
			g := k.Grants["payments-ro"]
			g.MaxTTL++
			k.Grants["payments-ro"] = g
		},
		"a grant's params": func(_ map[string]string, k policy.Known) {
			g := k.Grants["payments-ro"]
			g.Params = []byte(`{"a":1}`)
			k.Grants["payments-ro"] = g
		},
		"params that are wrong": func(_ map[string]string, k policy.Known) {
			g := k.Grants["payments-ro"]
			g.Params = []byte(`{`)
			k.Grants["payments-ro"] = g
		},
		"a grant that is gone": func(_ map[string]string, k policy.Known) { delete(k.Grants, "payments-ro") },
		"an issuer's owners": func(_ map[string]string, k policy.Known) {
			k.Issuers["gitlab"] = policy.Issuer{Shared: true, ImmutableIDs: []string{"project_id", "namespace_id"}, OwnerIDs: []string{"namespace_id"}}
		},
		"an issuer that is gone": func(_ map[string]string, k policy.Known) { delete(k.Issuers, "anyone") },
		"what an issuer pins":    func(_ map[string]string, k policy.Known) { k.Issuers["forge"] = policy.Issuer{} },
	} {
		f, k := files(), known()
		change(f, k)
		v := versionOf(f, k)
		if other, same := seen[v]; same {
			t.Errorf("%s has the version of %s", sentence, other)
		}
		seen[v] = sentence
	}
	unchecked := known()
	unchecked.AnyGrant = true
	if other, same := seen[versionOf(files(), unchecked)]; same {
		t.Errorf("grants that are not checked have the version of %s", other)
	}
	f := files()
	f["p_test.yaml"], f["README.md"] = "cases: []\n", "x"
	if versionOf(f, known()) != base {
		t.Error("files that are not policy change the version")
	}
}

func TestABookShowsWhatItWasMadeOf(t *testing.T) {
	text := "owner: team-payments\nreview_by: 2027-03-01\n" + rule("until: 2027-06-30", allowDB)
	fsys := folder(map[string]string{"teams/p.yaml": text})
	k := known()
	b, err := policy.Load(fsys, k)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing outside can change a book.
	fsys["teams/p.yaml"].Data[0] = 'X'
	b.Sources()["teams/p.yaml"][0] = 'X'
	delete(k.Grants, "payments-db")
	delete(b.Grants(), "payments-db")
	if got := string(b.Sources()["teams/p.yaml"]); got != text || len(b.Sources()) != 1 {
		t.Errorf("sources are %q", got)
	}
	if _, ok := b.Grants()["payments-db"]; !ok || len(b.Grants()) != 3 {
		t.Errorf("grants are %v", b.Grants())
	}
	rules := slices.Collect(b.Rules())
	if len(rules) != 1 {
		t.Fatalf("rules are %+v", rules)
	}
	r := rules[0]
	if r.ID != "teams/p/deploy" || r.File != "teams/p.yaml" || r.Line != 7 || r.Name != "deploy" || r.Owner != "team-payments" ||
		r.ReviewBy.String() != "2027-03-01" || r.Until.String() != "2027-06-30" || !slices.Equal(r.Grants, []string{"payments-db"}) {
		t.Errorf("the rule is %+v", r)
	}
	for range b.Rules() {
		break // stopping early is allowed
	}
}
