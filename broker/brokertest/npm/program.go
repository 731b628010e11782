//go:build unix

package npm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

const (
	patience = 30 * time.Second // for one answer
	goodbye  = 5 * time.Second  // for a program to end once it is asked no more
	maxNoise = 4 << 10          // bytes of its standard error that an error carries
)

// Program is a script that runs under Node.js and answers questions: for each
// line of JSON that it reads it writes one. Safe for concurrent use; questions
// wait for each other.
type Program struct {
	dir string
	cmd *exec.Cmd // nil if it was not started

	mu  sync.Mutex // guards the two ends of one question
	in  io.WriteCloser
	out *bufio.Reader
}

// Start copies the files of a folder, its package.json and package-lock.json
// among them, to a private one, installs there what the lock pins, and runs one
// of the files. ctx bounds the installation; the program runs until Close.
func Start(ctx context.Context, folder, script string) (*Program, error) {
	dir, err := servers.PrivateDir("daypass-npm-", "")
	if err != nil {
		return nil, err
	}
	p := &Program{dir: dir}
	if err = install(ctx, folder, dir); err == nil {
		err = p.start(script)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// start runs the script. What it writes to its standard error goes to a file.
func (p *Program) start(script string) error {
	noise, err := os.Create(p.noisePath())
	if err != nil {
		return err
	}
	defer noise.Close() // the program has its own
	cmd := exec.Command("node", script)
	cmd.Dir, cmd.Stderr = p.dir, noise
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", script, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", script, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", script, err)
	}
	p.cmd, p.in, p.out = cmd, in, bufio.NewReader(out)
	return nil
}

// Ask sends a question as JSON and reads the answer into answer, which must
// have a field for all that it says. A program that has ended, that answers no
// JSON, or nothing within 30 s, is an error and is asked no more.
func (p *Program) Ask(question, answer any) error {
	line, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("question: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	timer := time.AfterFunc(patience, p.kill)
	defer timer.Stop()
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return p.failed("takes no question", err)
	}
	got, err := p.out.ReadBytes('\n')
	if err != nil {
		return p.failed("gives no answer", err)
	}
	d := json.NewDecoder(bytes.NewReader(got))
	d.DisallowUnknownFields()
	if err := d.Decode(answer); err != nil {
		return p.failed("answers oddly", err)
	}
	return nil
}

// failed ends the program and tells what it had to say.
func (p *Program) failed(what string, err error) error {
	p.kill()
	return fmt.Errorf("%s %s: %w\n%s", p.cmd.Args[1], what, err, p.noise())
}

// kill is no error where the program is gone already.
func (p *Program) kill() { _ = p.cmd.Process.Kill() }

func (p *Program) noisePath() string { return filepath.Join(p.dir, "stderr.log") }

// noise is the end of what the program wrote to its standard error.
func (p *Program) noise() []byte {
	all, err := os.ReadFile(p.noisePath())
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(all[max(0, len(all)-maxNoise):])
}

// Close lets the program end, kills it where it does not, and removes its
// folder. A program that ended with a fault is an error. It is called once.
func (p *Program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.cmd != nil {
		timer := time.AfterFunc(goodbye, p.kill)
		defer timer.Stop()
		if err = errors.Join(p.in.Close(), p.cmd.Wait()); err != nil {
			err = fmt.Errorf("%s: %w\n%s", p.cmd.Args[1], err, p.noise())
		}
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}
