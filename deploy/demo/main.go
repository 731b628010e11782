// Command demo runs one CI job end to end on this machine: a private
// PostgreSQL, a toy CI provider and a broker with embedded state, all on free
// loopback ports with data in a temporary folder, and then the daypass command
// as a job would run it.
//
// It exits 0 only if every step came out as it says, and it stops and removes
// all it started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "folder with daypassd, daypass and fakeci")
	keep := flag.Bool("keep", false, "keep the temporary folder, to look at the journal and the logs")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "demo runs one CI job end to end on this machine. Use it as `make demo`.")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := run(ctx, *bin, *keep, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "\nthe demo failed: %v\n", err)
		os.Exit(1)
	}
}

// run sets the stage, plays each scene and clears up.
func run(ctx context.Context, bin string, keep bool, out io.Writer) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "daypass-demo-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	s := &stage{bin: bin, dir: dir, out: out}
	err = s.playAll(ctx)
	return errors.Join(err, s.clear(keep || err != nil))
}

// playAll plays the scenes in order, up to one that did not come out.
func (s *stage) playAll(ctx context.Context) error {
	began := time.Now()
	fmt.Fprint(s.out, "Daypass demo: one CI job, end to end, on this machine\n")
	for i, scene := range scenes {
		fmt.Fprintf(s.out, "\n%d. %s\n", i+1, scene.title)
		if err := scene.play(s, ctx); err != nil {
			return fmt.Errorf("%s: %w", scene.title, err)
		}
	}
	fmt.Fprintf(s.out, "\nAll of it was so, in %.1f s. Read on in README.md.\n", time.Since(began).Seconds())
	return nil
}

// scenes are what the demo shows, in order.
var scenes = []struct {
	title string
	play  func(*stage, context.Context) error
}{
	{"A private PostgreSQL, a toy CI provider and the broker start", (*stage).open},
	{"A job on refs/heads/main gets a database user and uses it", (*stage).job},
	{"The job has ended: its user is gone, the table it made is not", (*stage).gone},
	{"A token buys one exchange: the same one again is refused", (*stage).reuse},
	{"A pull request's token is denied, and told why", (*stage).denied},
	{"The journal knows all of it, and verifies", (*stage).journal},
}
