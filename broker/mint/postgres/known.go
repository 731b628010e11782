package postgres

import (
	"encoding/json"
	"sync"
)

// maxKnown bounds how many params are remembered. A configuration has some
// hundreds at most; those of leases that earlier ones froze come on top.
const maxKnown = 1024

// knownParams remembers what params that were read before say, since a grant's
// are read at each step of each of its credentials. Safe for concurrent use.
type knownParams struct {
	mu    sync.Mutex
	known map[string]params
}

// read is parseParams. What it returns is shared, and not to be changed.
func (k *knownParams) read(raw json.RawMessage, iterations int) (params, error) {
	k.mu.Lock()
	p, there := k.known[string(raw)]
	k.mu.Unlock()
	if there {
		return p, nil
	}
	p, err := parseParams(raw, iterations)
	if err != nil {
		return p, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil || len(k.known) >= maxKnown {
		k.known = make(map[string]params)
	}
	k.known[string(raw)] = p
	return p, nil
}
