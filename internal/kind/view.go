package kind

// View reads the records as they are at one revision. It is valid only inside the function it was given to.
type View struct {
	s   *state
	now int64
}

// View calls read with the current records; no change is taken in until it returns, so it must be
// brief and must not write. Use it where several reads have to agree.
func (s *Store) View(read func(View)) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	read(View{s: s.state, now: s.now()})
}

// Revision returns the revision the view is of.
func (v View) Revision() int64 { return v.s.rev }

// Get returns the record at key.
func (v View) Get(key string) (*Record, bool) {
	rec, ok := v.s.records.Get(key)
	if !ok || rec.expired(v.now) {
		return nil, false
	}
	return rec, true
}

// Scan calls yield for every record with lo <= key < hi in key order until it returns false. An empty hi is open.
func (v View) Scan(lo, hi string, yield func(*Record) bool) {
	v.s.records.Ascend(lo, func(key string, rec *Record) bool {
		if hi != "" && key >= hi {
			return false
		}
		return rec.expired(v.now) || yield(rec)
	})
}

// Prefix calls yield for every record whose key starts with prefix, in key order, until it returns false.
func (v View) Prefix(prefix string, yield func(*Record) bool) {
	v.Scan(prefix, prefixEnd(prefix), yield)
}

// prefixEnd is the first key after every key that starts with prefix; "" when there is none.
func prefixEnd(prefix string) string {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return string(end[:i+1])
		}
	}
	return ""
}
