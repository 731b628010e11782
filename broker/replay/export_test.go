package replay

import "time"

// Len is how many tokens are remembered.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.used) > len(m.ends) {
		panic("a token is remembered that is never forgotten")
	}
	return len(m.used)
}

// ReadAnswer says why a reply is not an answer.
func ReadAnswer(reply any, nonce string) error {
	_, err := readAnswer(reply, nonce)
	return err
}

// SealSeen seals a TIME that a broker has seen.
func (r *Redis) SealSeen(t time.Time) string { return r.sealer.seal(kindSeen, r.fenceKey(), millis(t)) }

// SealFence seals a fence.
func (r *Redis) SealFence(life, evicted string, since time.Time) string {
	return r.sealer.fence(r.fenceKey(), life, evicted, since)
}

// Answers is how many answers lie in memory.
func (m *Memory) Answers() int {
	m.answers.mu.Lock()
	defer m.answers.mu.Unlock()
	return len(m.answers.byKey)
}

// Saw makes as if a server had told this time.
func (r *Redis) Saw(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.latest = t
}

// FitOf judges a server alone by what it says of itself.
func (r *Redis) FitOf(info map[string]string) error { return r.fit(info, 1) }
