package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
	"github.com/daypass-dev/daypass/policy"
)

const (
	policyPage   = root + "/docs/policy.md"
	newcomerPath = "## From nothing to a tested policy\n"
	newcomerHome = "/home/you/policy" // what the page calls the folder
	shownMark    = "```text start\n"
)

// block is a fenced block of the newcomer's path: a file to write, lines to
// change, a command, or what the last command printed.
type block struct{ language, about, text string }

var anyFence = regexp.MustCompile("(?ms)^```([a-z]*)([^\n]*)\n(.*?)^```\n")

// newcomer follows the path in a folder of their own.
type newcomer struct {
	t        *testing.T
	dir      string
	shows    []string // what the page shows, in order
	prints   []string // what is printed where it does
	printed  string
	unshown  bool // something was printed, and the page has not shown it yet
	served   bool
	commands int
}

// TestANewcomersPathIsAsThePageTellsIt writes each file of docs/policy.md's
// first section, makes each change and runs each command, in the order of the
// page, and compares all that is printed.
func TestANewcomersPathIsAsThePageTellsIt(t *testing.T) {
	page := readAll(t, policyPage)
	n := follow(t, newcomersPath(t, page))
	if *update {
		at := strings.Index(page, newcomerPath)
		head, rest := page[:at], page[at:]
		for i, shown := range n.shows {
			before, after, _ := strings.Cut(rest, shownMark+shown+"```\n")
			head, rest = head+before+shownMark+n.prints[i]+"```\n", after
		}
		if err := os.WriteFile(policyPage, []byte(head+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	for i, shown := range n.shows {
		if shown != n.prints[i] {
			t.Errorf("the page shows\n%s\nand what is printed is\n%s", shown, n.prints[i])
		}
	}
	if n.commands < 10 || !n.served {
		t.Errorf("only %d commands were run, and served is %v", n.commands, n.served)
	}
}

// TestANewcomersPathHoldsForOtherIds does what the page asks for: ids of one's
// own wherever its ids stand.
func TestANewcomersPathHoldsForOtherIds(t *testing.T) {
	page := readAll(t, policyPage)
	own := strings.NewReplacer("1234", "7001", "5678", "7002")
	n := follow(t, own.Replace(newcomersPath(t, page)))
	for i, shown := range n.shows {
		if shown != n.prints[i] {
			t.Errorf("expected\n%s\nand what is printed is\n%s", shown, n.prints[i])
		}
	}
	if strings.Count(strings.Join(n.prints, ""), "7001") < 2 {
		t.Error("the ids have left no trace")
	}
}

// newcomersPath is the page's first section.
func newcomersPath(t *testing.T, page string) string {
	t.Helper()
	_, rest, first := strings.Cut(page, newcomerPath)
	path, _, last := strings.Cut(rest, "\n## ")
	if !first || !last || strings.Index(page, newcomerPath) != strings.Index(page, "## ") {
		t.Fatal("the path is not the first section of the page")
	}
	return path
}

func follow(t *testing.T, path string) *newcomer {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := &newcomer{t: t, dir: dir}
	for _, m := range anyFence.FindAllStringSubmatch(path, -1) {
		about, ok := strings.CutPrefix(m[2], " start")
		if !ok {
			t.Fatalf("nothing tries this block:\n%s", m[0])
		}
		n.follow(block{m[1], strings.TrimSpace(about), m[3]})
	}
	n.nothingUnshown()
	n.editorFindsItsSchema()
	return n
}

// editorFindsItsSchema reads the line that editors read, as they do: relative to
// the file it stands in.
func (n *newcomer) editorFindsItsSchema() {
	n.t.Helper()
	first, _, _ := strings.Cut(readAll(n.t, filepath.Join(n.dir, "policies/payments.yaml")), "\n")
	name, ok := strings.CutPrefix(first, "# yaml-language-server: $schema=")
	if !ok || readAll(n.t, filepath.Join(n.dir, "policies", name)) != string(policy.Schema()) {
		n.t.Errorf("no editor finds the schema by %q", first)
	}
}

func (n *newcomer) follow(b block) {
	n.t.Helper()
	if b.language != "text" {
		n.nothingUnshown()
	}
	switch b.language {
	case "yaml":
		name, _, _ := strings.Cut(strings.TrimPrefix(b.text, "# "), "\n")
		n.write(name, b.text)
	case "diff":
		n.change(b.about, b.text)
	case "sh":
		n.commands += strings.Count("\n"+b.text, "\ndaypassd ")
		if b.about == "serve" {
			n.serve(b.text)
			n.served = true
			return
		}
		n.run(b.about, b.text)
	case "text":
		n.shows, n.prints = append(n.shows, b.text), append(n.prints, n.printed)
		n.unshown, n.printed = false, ""
	default:
		n.t.Errorf("a block of %q: what is a reader to do with it?\n%s", b.language, b.text)
	}
}

// nothingUnshown holds the page to showing whatever a command prints.
func (n *newcomer) nothingUnshown() {
	n.t.Helper()
	if n.unshown {
		n.t.Errorf("the page does not show what is printed here:\n%s", n.printed)
	}
	n.unshown = false
}

func (n *newcomer) write(name, text string) {
	n.t.Helper()
	// The folder has to be there: a newcomer's editor makes none.
	if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// change does what the lines of a diff say, at the one place where they fit.
func (n *newcomer) change(name, diff string) {
	n.t.Helper()
	var before, after strings.Builder
	for line := range strings.Lines(diff) {
		switch line[0] {
		case '+':
			after.WriteString(line[1:])
		case '-':
			before.WriteString(line[1:])
		default:
			before.WriteString(line[1:])
			after.WriteString(line[1:])
		}
	}
	text := readAll(n.t, filepath.Join(n.dir, name))
	if strings.Count(text, before.String()) != 1 {
		n.t.Fatalf("%s has not one place for\n%s", name, diff)
	}
	n.write(name, strings.Replace(text, before.String(), after.String(), 1))
}

// shell is a command line of the page.
func (n *newcomer) shell(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-ec", line)
	cmd.Dir = n.dir
	// Without GORACE each process takes a second to end under the race detector.
	cmd.Env = []string{"PATH=" + binaries + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + n.dir, "GORACE=atexit_sleep_ms=0"}
	return cmd
}

var (
	versionHash = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	explainedAt = regexp.MustCompile(`(, at )[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z\n`)
)

func (n *newcomer) run(exit, line string) {
	n.t.Helper()
	n.reviewInTime()
	cmd := n.shell(n.t.Context(), line)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	if code := fmt.Sprint(cmd.ProcessState.ExitCode()); code != exit && (exit != "" || code != "0") {
		n.t.Errorf("exit code %s of\n%s\n%s", code, line, out)
	}
	n.printed = strings.ReplaceAll(string(out), n.dir, newcomerHome)
	n.printed = versionHash.ReplaceAllString(n.printed, "sha256:…")
	n.printed = explainedAt.ReplaceAllString(n.printed, "${1}2026-12-01T09:00:00Z\n")
	n.unshown = n.printed != ""
}

// reviewInTime keeps the day of the page's review from becoming the day from
// which this test fails.
func (n *newcomer) reviewInTime() {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "policies", "*.yaml"))
	if err != nil {
		n.t.Fatal(err)
	}
	next := time.Now().AddDate(0, 3, 0).Format(time.DateOnly)
	for _, file := range files {
		text := regexp.MustCompile(`(?m)^review_by: .*$`).ReplaceAllString(readAll(n.t, file), "review_by: "+next)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
}

// serve runs the broker on ports that are free, with keys of GitHub that need no
// network, and shows it a folder with a fault.
func (n *newcomer) serve(line string) {
	n.t.Helper()
	listen := freeAddr(n.t)
	n.change("daypass.yaml", "-  github: {profile: github}\n+  github: {profile: github, jwks_file: keys.json}\n")
	n.write("keys.json", n.keys())
	n.write("daypass.yaml", readAll(n.t, filepath.Join(n.dir, "daypass.yaml"))+"listen: "+listen+"\nadmin: {listen: "+freeAddr(n.t)+"}\n")

	out := &syncBuffer{}
	cmd := n.shell(context.WithoutCancel(n.t.Context()), "exec "+line)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			n.t.Errorf("serve: %v\n%s", err, out)
		}
	}()
	ready := func() bool {
		resp, err := httpClient.Get("http://" + listen + "/readyz")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}
	n.within(ready, out)
	n.change("policies/payments.yaml", "-  - name: deploy\n+  - nmae: deploy\n")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		n.t.Fatal(err)
	}
	n.within(func() bool { return strings.Contains(out.String(), "payments.yaml:6:5") && ready() }, out)
}

// keys is a key set as GitHub has one.
func (n *newcomer) keys() string {
	n.t.Helper()
	ci, err := fakeissuer.Start(fakeissuer.Options{})
	if err != nil {
		n.t.Fatal(err)
	}
	defer ci.Close()
	resp, err := httpClient.Get(ci.URL(fakeissuer.GitHub) + "/.well-known/jwks")
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	keys, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatal(resp.Status, err)
	}
	return string(keys)
}

func (n *newcomer) within(ok func() bool, out *syncBuffer) {
	n.t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			n.t.Fatalf("not within 20 s:\n%s", out)
		}
	}
}
