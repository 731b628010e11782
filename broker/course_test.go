package broker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
)

var errBroken = errors.New("broken by the test")

// A course is what happened across all parts, in order. A test can break a
// step, or do something in the midst of it. Safe for concurrent use.
type course struct {
	mu     sync.Mutex // guards what is below
	steps  []string
	broken map[string]error
	during map[string]func(context.Context) error
	chance func(step string) error // of any step; nil: none
}

// step records what happens now, and says whether it fails.
func (c *course) step(ctx context.Context, name string) error {
	c.mu.Lock()
	c.steps = append(c.steps, name)
	err, act := c.broken[name], c.during[name]
	if err == nil && c.chance != nil {
		err = c.chance(name)
	}
	c.mu.Unlock()
	if act != nil {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return err
}

// breaks makes a step fail from now on; with nil it works again.
func (c *course) breaks(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken == nil {
		c.broken = make(map[string]error)
	}
	c.broken[name] = err
}

// meanwhile does something each time a step is taken, before its effect. The
// step fails with the error that it returns.
func (c *course) meanwhile(name string, act func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.during == nil {
		c.during = make(map[string]func(context.Context) error)
	}
	c.during[name] = act
}

// leaveToChance makes any step fail when chance says so; nil: none does.
func (c *course) leaveToChance(chance func(step string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chance = chance
}

// of returns the steps taken whose first word is one of those given, in order.
func (c *course) of(words ...string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []string
	for _, s := range c.steps {
		if first, _, _ := strings.Cut(s, " "); slices.Contains(words, first) {
			found = append(found, s)
		}
	}
	return found
}

// forget begins a new course; what is broken stays so.
func (c *course) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps = nil
}

// happened reports how often a step was taken.
func (c *course) happened(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, s := range c.steps {
		if s == name {
			n++
		}
	}
	return n
}
