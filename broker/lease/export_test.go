package lease

// Sessions is how many sessions are kept.
func (m *Memory) Sessions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.books.sessions)
}
