package replay

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
