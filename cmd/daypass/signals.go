package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// openGrace is how long an exchange may go on after a signal: one that is cut
// off may have made credentials that nobody can give back.
const openGrace = 5 * time.Second

// catch starts to catch the signals that are forwarded, but for those that the
// caller has us ignore (nohup), and the one for a broken pipe, which is then an
// error of the write: it must not keep credentials from being given back.
func catch() (<-chan os.Signal, func()) {
	ch, pipe := make(chan os.Signal, 16), make(chan os.Signal, 1)
	for _, s := range forwarded() {
		if !signal.Ignored(s) {
			signal.Notify(ch, s)
		}
	}
	signal.Notify(pipe, append(brokenPipe(), os.Kill)...) // never none, which would be all; Kill cannot be caught
	return ch, func() { signal.Stop(ch); signal.Stop(pipe) }
}

// untilSignal returns a context that ends some time after the first signal that
// asks to end, and at once after the second. done stops listening and returns
// the first, or nil.
func untilSignal(parent context.Context, signals <-chan os.Signal, grace time.Duration) (ctx context.Context, done func() os.Signal) {
	ctx, cancel := context.WithCancel(parent)
	stop, stopped := make(chan struct{}), make(chan struct{})
	var first os.Signal
	go func() {
		defer close(stopped)
		var late <-chan time.Time
		for {
			select {
			case s := <-signals:
				switch {
				case !ends(s):
				case first == nil:
					first, late = s, time.After(grace)
				default:
					cancel()
				}
			case <-late:
				cancel()
			case <-stop:
				return
			}
		}
	}()
	return ctx, func() os.Signal {
		close(stop)
		<-stopped
		cancel()
		return first
	}
}

// bySignal is the exit code that says so.
func bySignal(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return exitSignal + int(n)
	}
	return exitFailed
}
