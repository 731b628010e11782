//go:build unix

package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command says what to run.
type Command struct {
	Name string   // for error texts; default: the path
	Path string   // the binary, or a name found in PATH
	Args []string // without the binary's own name
	Env  []string // "K=V", added to ours
	Dir  string   // working folder; default: ours

	// User is the account to run as when we are root, for servers that
	// refuse root. Where we are not root, or it is empty, the server runs as
	// we do.
	User string
	// StopSignal ends the server in order. Default: SIGTERM.
	StopSignal syscall.Signal
	// StopWithin is how long Stop waits before it kills. Default: 10 s.
	StopWithin time.Duration
}

// Process is a server that was started as a child of ours. Safe for concurrent
// use.
type Process struct {
	command Command
	cmd     *exec.Cmd
	log     *tail
	done    chan struct{} // closed when the process is gone and waited for
	exit    error         // how it ended; read after done only
}

// Start starts a server in a process group of its own, and does not wait for
// it to be ready: see [Process.WaitReady]. ctx bounds nothing but the start;
// the server runs until Stop or Kill, or until we die.
func Start(ctx context.Context, c Command) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cmd, err := c.build(context.Background())
	if err != nil {
		return nil, err
	}
	p := &Process{command: c, cmd: cmd, log: &tail{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	started := make(chan error)
	go func() {
		// The death signal is tied to the thread that forks, not to the
		// process: the thread is kept until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", c.name(), err)
			return
		}
		started <- nil
		p.exit = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Run runs a command to its end, under the same account rules, and returns
// what it printed. It is for what a server needs before it can start.
func Run(ctx context.Context, c Command) (string, error) {
	cmd, err := c.build(ctx)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %s: %w: %s", c.name(), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

func (c Command) name() string {
	if c.Name != "" {
		return c.Name
	}
	return c.Path
}

func (c Command) build(ctx context.Context) (*exec.Cmd, error) {
	path, err := exec.LookPath(c.Path)
	if err != nil {
		return nil, fmt.Errorf("%s is not installed: %w", c.name(), err)
	}
	owner, err := accountOf(c.User)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold our pipe
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if owner != nil {
		cmd.SysProcAttr.Credential = owner.credential()
	}
	dieWithUs(cmd.SysProcAttr)
	return cmd, nil
}

// Done is closed when the server is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID is the server's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns what the server printed last, at most 64 KiB.
func (p *Process) Log() string { return p.log.String() }

// WaitReady calls probe until it returns nil. It gives up when ctx ends, when
// within has passed, or at once when the server ends, and then reports the
// last error and the end of the log. Each call of probe has at most a second.
func (p *Process) WaitReady(ctx context.Context, within time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		once, stop := context.WithTimeout(ctx, time.Second)
		err := probe(once)
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while starting: %v\n%s", p.command.name(), p.exit, p.log.end())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w\n%s", p.command.name(), within, err, p.log.end())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop ends the server in order, and kills it where that takes too long; it
// returns when the server is gone. A server that is gone is no error, a paused
// one is resumed to hear of it.
func (p *Process) Stop() error {
	sig, within := p.command.StopSignal, p.command.StopWithin
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	if within == 0 {
		within = 10 * time.Second
	}
	if err := errors.Join(p.signal(sig), p.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(within):
		return errors.Join(fmt.Errorf("%s did not stop within %s", p.command.name(), within), p.Kill())
	}
}

// Kill ends the server and its process group as a crash would (SIGKILL), and
// returns when the server is gone.
func (p *Process) Kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := syscall.Kill(-p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.command.name(), err)
	}
	<-p.done
	return nil
}

// Pause freezes the server (SIGSTOP): it keeps its connections and answers
// nothing. Its children, if any, run on.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on (SIGCONT).
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

// Signal sends any other signal to the server.
func (p *Process) Signal(sig syscall.Signal) error { return p.signal(sig) }

func (p *Process) signal(sig syscall.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s to %s: %w", sig, p.command.name(), err)
	}
	return nil
}

const tailSize = 64 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = slices.Delete(t.buf, 0, over)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// end is the part of the log that an error text carries.
func (t *tail) end() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
