package broker

// Coming is how many writers are announced and not there.
func (a *Appender) Coming() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.coming
}
