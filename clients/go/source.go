package daypass

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Source is where a job's CI tokens come from. Implementations are safe for
// concurrent use.
type Source interface {
	// Token returns a CI token that names audience.
	Token(ctx context.Context, audience string) (Secret, error)
	// Fresh reports whether every call of Token gives a token that was never
	// used: such a source mends token_stale and token_expired. A source that
	// is not Fresh holds what the job was given at its start; its audience is
	// what it is.
	Fresh() bool
}

// maxToken bounds a CI token, in bytes; real ones have one to four thousand.
const maxToken = 64 << 10

// Static is a source of one token, such as the one that GitLab's id_tokens
// puts into a variable. It is not Fresh.
func Static(token Secret) Source { return static{token} }

type static struct{ token Secret }

func (s static) Token(context.Context, string) (Secret, error) { return checkToken(s.token.Reveal()) }
func (s static) Fresh() bool                                   { return false }

// File is a source that reads the token from a file, each time anew. It is not
// Fresh: nothing says that the file has changed since.
func File(path string) Source { return file{path} }

type file struct{ path string }

func (s file) Token(context.Context, string) (Secret, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return Secret{}, fmt.Errorf("read CI token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read CI token: %w", err)
	}
	return checkToken(string(b))
}

func (s file) Fresh() bool { return false }

// Func is a source that calls f, for providers this package does not know. f
// must return a token that was never used, each time, and be safe for
// concurrent use.
func Func(f func(ctx context.Context, audience string) (Secret, error)) Source { return fn(f) }

type fn func(ctx context.Context, audience string) (Secret, error)

func (f fn) Token(ctx context.Context, audience string) (Secret, error) {
	t, err := f(ctx, audience)
	if err != nil {
		return Secret{}, err
	}
	return checkToken(t.Reveal())
}

func (f fn) Fresh() bool { return true }

// checkToken trims white space that files and variables pick up, and refuses
// what cannot be a token, so that nothing of it reaches a header.
func checkToken(s string) (Secret, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return Secret{}, errors.New("the CI token is empty")
	}
	if len(s) > maxToken {
		return Secret{}, fmt.Errorf("the CI token is longer than %d bytes", maxToken)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return Secret{}, errors.New("the CI token has characters that no token has")
		}
	}
	return NewSecret(s), nil
}

// Detect finds the job's source of CI tokens. In order: DAYPASS_ID_TOKEN,
// DAYPASS_ID_TOKEN_FILE (both together are refused), GitHub Actions. getenv
// is [os.Getenv] where nil. The error says what to add to the job.
func Detect(getenv func(string) string) (Source, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	token, path := getenv("DAYPASS_ID_TOKEN"), getenv("DAYPASS_ID_TOKEN_FILE")
	switch {
	case token != "" && path != "":
		return nil, errors.New("both DAYPASS_ID_TOKEN and DAYPASS_ID_TOKEN_FILE are set; which one is meant?")
	case token != "":
		return Static(NewSecret(token)), nil
	case path != "":
		return File(path), nil
	}
	url, bearer := getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	switch {
	case url != "" && bearer != "":
		return GitHub(url, NewSecret(bearer))
	case getenv("GITHUB_ACTIONS") == "true":
		return nil, errors.New("this GitHub Actions job may not ask for an ID token: add `permissions: id-token: write` to the job or workflow (a pull request from a fork never may)")
	case getenv("GITLAB_CI") == "true":
		return nil, errors.New("this GitLab job has no ID token: add `id_tokens: {DAYPASS_ID_TOKEN: {aud: <the broker's URL>}}` to it")
	}
	return nil, errors.New("no CI token: set DAYPASS_ID_TOKEN or DAYPASS_ID_TOKEN_FILE, or run in a GitHub Actions job with `permissions: id-token: write`")
}
