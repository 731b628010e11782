// Package secretref reads admin credentials from where the operator keeps
// them, by reference: "env:NAME" or "file:PATH". Daypass stores none, and its
// configuration holds none.
//
// It guarantees that a secret which changes is seen by the next Read, without
// a restart, and that the value before is handed out beside it, since a
// rotation may be under way. No error repeats a secret, nor a reference that
// did not parse: it may be a password that somebody wrote in the wrong place.
//
// It refuses a secret written into the configuration, a file that others than
// its owner can change, and anything that is not a plain file. Files that
// others can read are accepted, for Kubernetes mounts secrets so (0644 or 0440,
// behind a symbolic link).
package secretref

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"github.com/daypass-dev/daypass/broker"
)

// Scheme says what sort of place a secret lies in.
type Scheme string

// The schemes that can be read.
const (
	Env  Scheme = "env"  // env:NAME, an environment variable
	File Scheme = "file" // file:PATH, a file; PATH begins with /, ./ or ../
)

const supported = "supported are env:NAME and file:PATH"

// later are schemes that are reserved, so that nothing else takes their names.
func later(scheme string) bool {
	switch scheme {
	case "awssm", "ssm", "vault":
		return true
	}
	return false
}

// Ref is a reference that has been checked. It is not a secret.
type Ref struct {
	Scheme Scheme
	Name   string // the variable's name, or the file's path
}

// String returns the reference as it is written.
func (r Ref) String() string { return string(r.Scheme) + ":" + r.Name }

// maxSecret bounds a secret's size in bytes.
const maxSecret = 64 << 10

var nameRE = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]{0,127}\z`)

// Parse checks a reference without looking at what it names. Its errors never
// repeat the text.
func Parse(ref string) (Ref, error) {
	scheme, name, found := strings.Cut(ref, ":")
	switch {
	case ref == "":
		return Ref{}, errors.New("no secret reference is given; " + supported)
	case found && later(scheme):
		return Ref{}, fmt.Errorf("secrets cannot be read from %s yet; %s", scheme, supported)
	case found && Scheme(scheme) == Env:
		if !nameRE.MatchString(name) {
			return Ref{}, errors.New("env: must be followed by the name of an environment variable, " +
				"of letters, digits and underscores; the value itself does not belong here")
		}
		return Ref{Env, name}, nil
	case found && Scheme(scheme) == File:
		if !isPath(name) {
			return Ref{}, errors.New("file: must be followed by the path of a file, " +
				"beginning with /, ./ or ../; the secret itself does not belong here")
		}
		return Ref{File, name}, nil
	}
	return Ref{}, errors.New("a secret is not written into the configuration: put it into an environment variable " +
		"and write env:NAME, or into a file and write file:PATH (what was written is not repeated here)")
}

// isPath asks for a beginning that hardly any password has, since paths are
// repeated in errors.
func isPath(s string) bool {
	for _, start := range []string{"/", "./", "../"} {
		if rest, ok := strings.CutPrefix(s, start); ok && rest != "" {
			return !strings.ContainsFunc(s, unicode.IsControl)
		}
	}
	return false
}

// Config is what sources need. LookupEnv is [os.LookupEnv], unless a test says
// otherwise.
type Config struct {
	LookupEnv func(name string) (string, bool)
}

// Open makes the source of a reference. It reads nothing yet: a target whose
// secret is missing must not stop the others. Reads of the source look at its
// place each time.
func Open(ref Ref, c Config) (broker.SecretSource, error) {
	switch {
	case ref.Scheme == Env && nameRE.MatchString(ref.Name):
		if c.LookupEnv == nil {
			return nil, errors.New("secretref: LookupEnv is missing")
		}
		return &source{read: func() (string, error) { return readEnv(ref.Name, c.LookupEnv) }}, nil
	case ref.Scheme == File && isPath(ref.Name):
		return &source{read: func() (string, error) { return readFile(ref.Name) }}, nil
	}
	return nil, errors.New("secretref: the reference did not come from Parse")
}

// source remembers the value before the current one.
type source struct {
	read func() (string, error)

	mu   sync.Mutex // held while reading, so that values come in order
	last broker.SecretValue
}

// Read implements [broker.SecretSource]. Where the place cannot be read it
// fails, even if a value is remembered: an operator who takes a secret away
// means it.
func (s *source) Read(ctx context.Context) (broker.SecretValue, error) {
	if err := ctx.Err(); err != nil {
		return broker.SecretValue{}, fmt.Errorf("read secret: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := s.read()
	if err != nil {
		return broker.SecretValue{}, fmt.Errorf("read secret: %w", err)
	}
	if now := broker.NewSecret(text); !now.Equal(s.last.Current) {
		s.last = broker.SecretValue{Current: now, Previous: s.last.Current}
	}
	return s.last, nil
}

func readEnv(name string, lookup func(string) (string, bool)) (string, error) {
	v, ok := lookup(name)
	if !ok || v == "" {
		return "", fmt.Errorf("environment variable %s is not set", name)
	}
	return v, nil
}

// readFile reads a secret's file. The checks are made on the file that was
// opened, not on its name, which could be changed in between.
func readFile(path string) (string, error) {
	// A pipe would block until somebody writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a plain file", path)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return "", fmt.Errorf("%s can be changed by others than its owner (mode %04o): run chmod go-w %s", path, mode, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("%s is larger than a secret may be (%d bytes)", path, maxSecret)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r") // editors and echo add it
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}
