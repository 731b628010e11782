package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

func TestTheFolderOfANewJournalIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "journal")
	mustClose(t, open(t, config(dir)))
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestASecondBrokerOnTheSameFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := open(t, config(dir))
	second := config(dir)
	second.Broker = "b1"
	_, err := Open(second)
	if err == nil || !strings.Contains(err.Error(), "in use by another daypassd") || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	mustClose(t, first)
	mustClose(t, open(t, second))
}

func TestAFolderThatCannotBeWrittenIsNamed(t *testing.T) {
	inTheWay := filepath.Join(t.TempDir(), "data")
	write(t, inTheWay, []byte("a file"))
	readOnly := t.TempDir()
	if err := os.Chmod(readOnly, 0o555); err != nil {
		t.Fatal(err)
	}
	for why, dir := range map[string]string{
		"a file is in the way":                    inTheWay,
		"a file is where the parent should be":    filepath.Join(inTheWay, "journal"),
		"the parent may not be written to":        filepath.Join(readOnly, "journal"),
		"the folder itself may not be written to": readOnly,
	} {
		t.Run(why, func(t *testing.T) {
			out := unprivileged(t, dir)
			if !strings.Contains(out, "data_dir") || !strings.Contains(out, dir) {
				t.Errorf("got %s", out)
			}
		})
	}
}

// unprivileged opens a journal in another process, as a user whom file modes
// bind, and returns what Open said.
func unprivileged(t *testing.T, dir string) string {
	t.Helper()
	for up := filepath.Dir(dir); up != "/" && up != os.TempDir(); up = filepath.Dir(up) {
		_ = os.Chmod(up, 0o755) // let the other user through
	}
	if strings.HasSuffix(dir, "journal") {
		_ = os.Chmod(filepath.Dir(dir), 0o555)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "DAYPASS_AUDIT_TEST=open", "DAYPASS_AUDIT_DIR="+dir)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestAConfigurationThatCannotNameAChainIsRefused(t *testing.T) {
	for why, change := range map[string]func(*Config){
		"no folder":                   func(c *Config) { c.Dir = "" },
		"no clock":                    func(c *Config) { c.Now = nil },
		"no log":                      func(c *Config) { c.Log = nil },
		"a deployment of five":        func(c *Config) { c.Deployment = "prod1" },
		"a broker that is a path":     func(c *Config) { c.Broker = "../b0" },
		"a broker that ends the name": func(c *Config) { c.Broker = `b","seq":1` },
		"no broker":                   func(c *Config) { c.Broker = "" },
	} {
		t.Run(why, func(t *testing.T) {
			c := config(t.TempDir())
			change(&c)
			if _, err := Open(c); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestATornLastLineIsSetAsideWhereverItWasCut(t *testing.T) {
	whole := sample(t, 3, 1<<20)
	path := glob(t, whole, "*.jsonl")[0]
	text := read(t, path)
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	last := len(text) - len(lines[len(lines)-1]) - 1
	for cut := last + 1; cut < len(text); cut += 7 {
		dir := t.TempDir()
		write(t, filepath.Join(dir, filepath.Base(path)), text[:cut])
		mustClose(t, open(t, config(dir)))
		if got := events(t, dir); got != "started issued issued issued torn_tail started stopped " {
			t.Fatalf("cut at %d: %s", cut, got)
		}
		aside := read(t, glob(t, dir, "*.torn-*")[0])
		if string(aside) != string(text[last:cut]) {
			t.Fatalf("cut at %d: set aside %q", cut, aside)
		}
	}
}

func TestALineOfZerosThatAPowerCutLeftIsSetAside(t *testing.T) {
	dir := sample(t, 3, 1<<20)
	path := glob(t, dir, "*.jsonl")[0]
	write(t, path, append(read(t, path), make([]byte, 3<<20)...))
	mustClose(t, open(t, config(dir)))
	if got := events(t, dir); got != "started issued issued issued stopped torn_tail started stopped " {
		t.Errorf("%s", got)
	}
}

func TestAFileThatACrashLeftEmptyIsSetAside(t *testing.T) {
	dir := sample(t, 3, 1<<20)
	write(t, filepath.Join(dir, "test-b0-0000000006.jsonl"), nil)
	if _, err := verify(dir); err == nil {
		t.Error("an empty file passes: a cut to nothing would not show")
	}
	mustClose(t, open(t, config(dir)))
	if got := events(t, dir); got != "started issued issued issued stopped torn_tail started stopped " {
		t.Errorf("%s", got)
	}
}

func TestTheOnlyFileBeingTornDoesNotClaimAHistory(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "test-b0-0000000051.jsonl"), []byte(`{"v":1`))
	j := open(t, config(dir))
	if h := j.History(); h.First != 51 || j.Spans(time.Now().Add(-time.Minute)) {
		t.Errorf("history %+v", h)
	}
	mustClose(t, j)
	if _, err := verify(dir); err != nil {
		t.Error(err)
	}
}

func TestAnyOtherFaultStopsTheStart(t *testing.T) {
	for why, spoil := range map[string]func(t *testing.T, dir string){
		"a changed byte": func(t *testing.T, dir string) {
			f := glob(t, dir, "*.jsonl")[0]
			write(t, f, []byte(strings.Replace(string(read(t, f)), "req_1", "req_7", 1)))
		},
		"a torn line in the middle of the chain": func(t *testing.T, dir string) {
			f := glob(t, dir, "*.jsonl")[0]
			b := read(t, f)
			write(t, f, b[:len(b)-5])
		},
		"a missing file": func(t *testing.T, dir string) {
			if err := os.Remove(glob(t, dir, "*.jsonl")[1]); err != nil {
				t.Fatal(err)
			}
		},
		"a renamed file": func(t *testing.T, dir string) {
			f := glob(t, dir, "*.jsonl")[0]
			if err := os.Rename(f, filepath.Join(dir, "copy.jsonl")); err != nil {
				t.Fatal(err)
			}
		},
		"a fault in the chain of an earlier broker name": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "test-a9-0000000001.jsonl"), []byte("nonsense\n"))
		},
	} {
		t.Run(why, func(t *testing.T) {
			dir := sample(t, 20, 2000)
			spoil(t, dir)
			_, err := Open(config(dir))
			var fault *Fault
			if !errors.As(err, &fault) || fault.File == "" {
				t.Fatalf("got %v", err)
			}
			if _, err := Open(config(dir)); err == nil || strings.Contains(err.Error(), "in use") {
				t.Errorf("second start: %v", err) // the folder must be free again
			}
		})
	}
}

func TestSpansSaysHowFarTheOwnHistoryReaches(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	c := config(dir)
	c.MaxFile = 1000
	c.Now = func() time.Time { return now }
	start := now
	j := open(t, c)
	if j.Spans(start.Add(-time.Second)) || !j.Spans(start) {
		t.Error("a new journal knows nothing before it began")
	}
	for range 10 {
		now = now.Add(time.Hour)
		mustAppend(t, j, broker.Record{Event: broker.EventIssued})
	}
	mustClose(t, j)

	now = now.Add(time.Hour)
	j = open(t, c)
	if h := j.History(); !h.Began.Equal(start) || h.First != 1 || !j.Spans(start) || j.Spans(start.Add(-time.Second)) {
		t.Errorf("history %+v", h)
	}
	mustClose(t, j)

	if err := os.Remove(glob(t, dir, "*.jsonl")[0]); err != nil { // archived
		t.Fatal(err)
	}
	j = open(t, c)
	if h := j.History(); h.First == 1 || j.Spans(start) || !j.Spans(now) {
		t.Errorf("history after archiving %+v", h)
	}
	mustClose(t, j)

	c.Broker = "b1" // another broker's records say nothing about this one's
	j = open(t, c)
	if j.Spans(now.Add(-time.Second)) {
		t.Errorf("history of a new name %+v", j.History())
	}
	mustClose(t, j)
}

// appendForEver tells each record's name after it was acknowledged.
func appendForEver(dir string) {
	c := config(dir)
	c.MaxFile = 100 << 10
	j, err := Open(c)
	if err != nil {
		fmt.Println("fail", err)
		os.Exit(1)
	}
	for i := range 16 {
		go func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("%d/%d/%d", os.Getpid(), i, n)
				if err := j.Append(context.Background(), broker.Record{Event: broker.EventIntent, Request: name}); err != nil {
					os.Exit(1)
				}
				_, _ = os.Stdout.WriteString("ok " + name + "\n")
			}
		}()
	}
	select {}
}

func TestNothingAcknowledgedIsLostToAKill(t *testing.T) {
	dir := t.TempDir()
	var acknowledged []string
	for range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "DAYPASS_AUDIT_TEST=append for ever", "DAYPASS_AUDIT_DIR="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			name, ok := strings.CutPrefix(lines.Text(), "ok ")
			if !ok {
				t.Fatalf("the other process says %q", lines.Text())
			}
			acknowledged = append(acknowledged, name)
			if n == 300 {
				_ = cmd.Process.Kill() // SIGKILL, with sixteen records under way
			}
		}
		_ = cmd.Wait()
	}
	mustClose(t, open(t, config(dir)))
	there := map[string]bool{}
	for _, e := range history(t, dir) {
		there[e.Request] = true
	}
	for _, name := range acknowledged {
		if !there[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
	if len(acknowledged) < 1200 {
		t.Errorf("only %d records were acknowledged", len(acknowledged))
	}
}
