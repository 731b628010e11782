//go:build unix

package servers_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

func start(t *testing.T, c servers.Command) *servers.Process {
	t.Helper()
	p, err := servers.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func shell(script string) servers.Command {
	return servers.Command{Name: "toy server", Path: "sh", Args: []string{"-c", script}}
}

func TestAServerThatIsNotInstalledIsAnError(t *testing.T) {
	_, err := servers.Start(t.Context(), servers.Command{Name: "toy", Path: "no-such-server-here"})
	if err == nil || !strings.Contains(err.Error(), "toy is not installed") {
		t.Fatalf("got %v", err)
	}
}

func TestWaitReadyReportsTheLogOfAServerThatEnds(t *testing.T) {
	p := start(t, shell("echo cannot bind; exit 3"))
	begun := time.Now()
	err := p.WaitReady(t.Context(), time.Minute, func(context.Context) error { return errors.New("refused") })
	if err == nil || !strings.Contains(err.Error(), "cannot bind") || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("waited %s for a server that was gone", took)
	}
}

func TestWaitReadyGivesUpAtItsDeadline(t *testing.T) {
	p := start(t, shell("exec sleep 60"))
	err := p.WaitReady(t.Context(), 50*time.Millisecond, func(context.Context) error { return errors.New("still loading") })
	if err == nil || !strings.Contains(err.Error(), "still loading") {
		t.Fatalf("got %v", err)
	}
}

func TestStopKillsAServerThatDoesNotListen(t *testing.T) {
	c := shell(`trap "" TERM; echo up; while :; do sleep 0.05; done`)
	c.StopWithin = 100 * time.Millisecond
	p := start(t, c)
	if err := p.WaitReady(t.Context(), 10*time.Second, printed(p, "up")); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "did not stop") {
		t.Errorf("got %v", err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("the server is still there")
	}
}

func TestAPausedServerDoesNothingUntilItIsResumed(t *testing.T) {
	p := start(t, shell(`while :; do echo tick; sleep 0.01; done`))
	if err := p.WaitReady(t.Context(), 10*time.Second, printed(p, "tick")); err != nil {
		t.Fatal(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // what was under way
	before := len(p.Log())
	time.Sleep(100 * time.Millisecond)
	if after := len(p.Log()); after != before {
		t.Errorf("a paused server went on: %d, then %d bytes of log", before, after)
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	goesOn := func(context.Context) error {
		if len(p.Log()) > before {
			return nil
		}
		return errors.New("stands still")
	}
	if err := p.WaitReady(t.Context(), 10*time.Second, goesOn); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
}

func TestRunReturnsWhatWasPrinted(t *testing.T) {
	out, err := servers.Run(t.Context(), shell("echo $TOY"))
	if err != nil || out != "\n" {
		t.Errorf("got %q, %v", out, err)
	}
	c := shell("echo $TOY >&2; exit 1")
	c.Env = []string{"TOY=spilled"}
	if _, err := servers.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "spilled") {
		t.Errorf("got %v", err)
	}
}

func TestRootRunsAServerUnderTheAccountItNames(t *testing.T) {
	dir, err := servers.PrivateDir("daypass-place-", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := shell("id -un && touch here && stat -c %a .")
	c.User, c.Dir = "nobody", dir
	out, err := servers.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	want := "nobody\n700\n"
	if os.Geteuid() != 0 {
		want = out[:strings.Index(out, "\n")] + "\n700\n" // as we are
	}
	if out != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestAFreePortCanBeListenedOn(t *testing.T) {
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	if port <= 1024 || port >= 55536 {
		t.Errorf("port %d", port)
	}
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

func printed(p *servers.Process, text string) func(context.Context) error {
	return func(context.Context) error {
		if strings.Contains(p.Log(), text) {
			return nil
		}
		return errors.New("not yet printed: " + text)
	}
}
