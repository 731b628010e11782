package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// look is what was read at one moment.
type look struct {
	*material
	restart []string
	fault   error // the configuration's own; the material is of the one that runs
	sum     [sha256.Size]byte
	places  []place
}

// look reads the configuration again and all that it names. The grants and
// folders of a configuration that has changed elsewhere too wait for a restart:
// half of a change may be none that anybody meant.
func (r *reloader) look() look {
	l, c, h := look{}, r.config, sha256.New()
	if !r.fixed {
		path := r.config.Node.File()
		l.places = placesOf(filepath.Join(r.config.dir, filepath.Base(path)))
		text, err := readRegular(path)
		h.Write(text)
		var fresh *Config
		if err == nil {
			fresh, err = r.parse(path, text)
		}
		switch {
		case err != nil:
			l.fault = err
			fmt.Fprint(h, err)
		case len(r.config.needsRestart(fresh)) > 0:
			l.restart = r.config.needsRestart(fresh)
		default:
			c = fresh
		}
	}
	l.material = gather(c)
	sum := l.material.sum()
	h.Write(sum[:])
	l.sum = [sha256.Size]byte(h.Sum(nil))
	l.places = append(l.places, l.material.places()...)
	return l
}

// parse parses a configuration, unless it is the one that was sound a moment ago.
func (r *reloader) parse(path string, text []byte) (*Config, error) {
	if r.parsed != nil && bytes.Equal(text, r.text) {
		return r.parsed, nil
	}
	c, err := parseConfig(path, text)
	if err != nil {
		return nil, err
	}
	r.parsed, r.text = c, text
	return c, nil
}

// readRegular reads a configuration, and waits for no pipe.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read configuration: %s is not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(strictyaml.DefaultLimits().Bytes)+1)) // one more, which the parser refuses
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return text, nil
}

var errRestless = errors.New("the files change all the time")

// steady looks until it sees the same twice: neither files that are just being
// written nor a mount that is just being swapped are taken by halves.
func steady(ctx context.Context, settle time.Duration, see func() look) (look, error) {
	last := see()
	for range settleTries {
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(settle):
		}
		l := see()
		if l.sum == last.sum {
			return l, nil
		}
		last = l
	}
	return last, errRestless
}
