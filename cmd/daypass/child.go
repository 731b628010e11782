package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/daypass-dev/daypass/cmd/daypass/internal/mask"
)

// leftBehind is how long what the command leaves behind may keep its output
// open.
const leftBehind = 5 * time.Second

// runChild runs the command to its end and returns its exit code, 128+n where
// signal n ended it. masks is nil where output is not to be searched. When ctx
// ends, the command is asked to.
func (a *app) runChild(ctx context.Context, cmd *exec.Cmd, masks *mask.Set, signals <-chan os.Signal) (int, error) {
	var closers []io.Closer
	filter := func(w io.Writer) io.Writer {
		if f, ok := w.(*os.File); masks == nil || ok && isatty.IsTerminal(f.Fd()) {
			return w
		}
		m := masks.Writer(w)
		closers = append(closers, m)
		return m
	}
	cmd.Stdout, cmd.Stderr = filter(a.Stdout), filter(a.Stderr)
	cmd.WaitDelay = leftBehind
	if err := cmd.Start(); err != nil {
		code := exitNotExec
		if errors.Is(err, fs.ErrNotExist) {
			code = exitNotFound
		}
		return 0, &failure{code, err}
	}
	ended, forwarding := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(forwarding)
		forward(ctx, cmd.Process, signals, ended)
	}()
	err := cmd.Wait()
	close(ended)
	<-forwarding
	for _, c := range closers {
		_ = c.Close() // a reader that went away has read what it wanted
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		a.note("warning: the command left a process behind; its output is cut off")
	}
	if cmd.ProcessState == nil {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return bySignal(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// forward sends signals on to the command until it has ended.
func forward(ctx context.Context, p *os.Process, signals <-chan os.Signal, ended <-chan struct{}) {
	stop := ctx.Done()
	for {
		select {
		case s := <-signals:
			if !fromTerminal(s) {
				_ = p.Signal(s) // it may have ended just now
			}
		case <-stop:
			_ = p.Signal(syscall.SIGTERM)
			stop = nil
		case <-ended:
			return
		}
	}
}
