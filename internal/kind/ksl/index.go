package ksl

// IndexValues appends to dst, for each field of Indexed in order, its value in a record as a string: strings
// without their quotes and escapes, numbers and booleans as they stand in the JSON, "" when the field is
// absent or null. Fields the type does not have are passed over: a newer schema may have them. What cannot be
// read counts as absent.
func (t *Type) IndexValues(value []byte, dst []string) []string {
	if len(t.indexed) == 0 {
		return dst
	}
	base := len(dst)
	for range t.indexed {
		dst = append(dst, "")
	}
	s := scanner{data: value}
	s.space()
	if s.peek() != '{' || s.enter() != nil {
		return dst
	}
	guess := 0
	for first, left := true, len(t.indexed); left > 0; first = false {
		if done, f := s.closes('}', first); done || f != nil {
			return dst
		}
		raw, escaped, f := s.key()
		if f != nil {
			return dst
		}
		if escaped {
			raw = unescape(raw)
		}
		i := t.position(raw, guess)
		guess = i + 1
		at := t.indexOf(i)
		if at < 0 {
			if s.skip() != nil {
				return dst
			}
			continue
		}
		text, ok := s.indexed()
		if !ok {
			return dst
		}
		dst[base+at] = text
		left--
	}
	return dst
}

// indexOf returns the place of the field at position i among the indexed ones, or -1.
func (t *Type) indexOf(i int) int {
	if i < 0 {
		return -1
	}
	for at, f := range t.indexed {
		if f == t.Fields[i] {
			return at
		}
	}
	return -1
}

// indexed reads one value and returns it as a string.
func (s *scanner) indexed() (string, bool) {
	s.space()
	if s.peek() == '"' {
		raw, escaped, f := s.str()
		if f != nil {
			return "", false
		}
		if escaped {
			raw = unescape(raw)
		}
		return string(raw), true
	}
	if s.null() {
		return "", true
	}
	start := s.pos
	if s.skip() != nil {
		return "", false
	}
	return string(s.data[start:s.pos]), true
}
