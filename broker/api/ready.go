package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// Check is one part that should work for the broker to be of use. Func says why
// it does not, or nil; it must heed its context and be safe for concurrent use.
// Of an [*broker.Error] the public text is shown to anyone who asks; other
// errors only reach the log.
type Check struct {
	Name string
	Func func(context.Context) error
	// Degrades says that the broker is of use without this part: it is told,
	// and logged, but does not make the broker unready.
	Degrades bool
}

func checkChecks(checks []Check) []error {
	var faults []error
	seen := make(map[string]bool)
	for _, c := range checks {
		if c.Name == "" || c.Func == nil || seen[c.Name] {
			faults = append(faults, fmt.Errorf("api: readiness check %q must have a name of its own and a function", c.Name))
		}
		seen[c.Name] = true
	}
	return faults
}

const (
	readyTimeout = 2 * time.Second
	readyAge     = time.Second // anyone may ask, so the parts are not asked each time
)

type readyJSON struct {
	Ready  bool            `json:"ready"`
	Checks []readyPartJSON `json:"checks"`
}

type readyPartJSON struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

// readiness asks all checks at once, at most once a second.
type readiness struct {
	checks []Check
	now    func() time.Time
	log    *slog.Logger

	mu   sync.Mutex // guards at and last, and lets one caller ask for all
	at   time.Time
	last readyJSON
}

func (r *readiness) handle(*call) (reply, error) {
	answer := r.ask()
	b, err := json.Marshal(answer)
	if err != nil {
		return reply{}, fmt.Errorf("encode readiness: %w", err)
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	return reply{status: status, media: mediaJSON, body: b}, nil
}

// ask does not use the caller's context: who hangs up must not make the broker
// look unready to the next one.
func (r *readiness) ask() readyJSON {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); !r.at.IsZero() && !now.Before(r.at) && now.Sub(r.at) < readyAge {
		return r.last
	}
	ctx, done := context.WithTimeout(context.Background(), readyTimeout)
	defer done()
	parts := make([]readyPartJSON, len(r.checks))
	causes := make([]error, len(r.checks))
	var asking sync.WaitGroup
	for i, check := range r.checks {
		asking.Go(func() { causes[i] = safely(ctx, check) })
	}
	asking.Wait()
	answer := readyJSON{Ready: true, Checks: parts}
	for i, check := range r.checks {
		parts[i] = readyPartJSON{Name: check.Name, Ready: causes[i] == nil, Reason: publicReason(causes[i])}
		answer.Ready = answer.Ready && (parts[i].Ready || check.Degrades)
		r.tellChange(i, parts[i], causes[i])
	}
	r.at, r.last = r.now(), answer
	return answer
}

// tellChange logs a part that went or came back, not each time it is asked.
func (r *readiness) tellChange(i int, part readyPartJSON, cause error) {
	was := len(r.last.Checks) == 0 || r.last.Checks[i].Ready
	switch {
	case was && !part.Ready:
		r.log.Warn("not ready", "part", part.Name, "err", cause)
	case !was && part.Ready:
		r.log.Info("ready again", "part", part.Name)
	}
}

func safely(ctx context.Context, c Check) error {
	failed := errors.New("the check panicked")
	func() {
		defer func() { _ = recover() }()
		failed = c.Func(ctx)
	}()
	return failed
}

// publicReason is what strangers may read.
func publicReason(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*broker.Error](err); ok && e.Public != "" && e.Code != broker.Internal {
		return e.Public
	}
	return "not ready; the broker's log says why"
}
