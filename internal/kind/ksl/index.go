package ksl

import "bytes"

// IndexValues appends to dst, for each field of Indexed in order, its value in a record as text: strings
// without their quotes and escapes, numbers and booleans as they stand in the JSON, nil when the field is
// absent or null. Fields the type does not have are passed over: a newer schema may have them. What cannot be
// read counts as absent. The texts are parts of value where they have no escapes, so nothing is allocated as a rule.
func (t *Type) IndexValues(value []byte, dst [][]byte) [][]byte {
	if len(t.indexed) == 0 {
		return dst
	}
	base := len(dst)
	for range t.indexed {
		dst = append(dst, nil)
	}
	s := scanner{data: value}
	s.space()
	if s.peek() != '{' || s.enter() != nil {
		return dst
	}
	guess := 0
	for first, left := true, len(t.indexed); left > 0; first = false {
		name, ok := s.nextName(first)
		if !ok {
			return dst
		}
		i := t.position(name, guess)
		guess = i + 1
		if i < 0 || t.indexAt[i] < 0 {
			if s.skip() != nil {
				return dst
			}
			continue
		}
		text, ok := s.asText()
		if !ok {
			return dst
		}
		dst[base+t.indexAt[i]] = text
		left--
	}
	return dst
}

// Text returns a top-level field of a JSON object as IndexValues would: nil when it is absent or null, or when
// value is no object up to there.
func Text(value []byte, field string) []byte {
	s := scanner{data: value}
	s.space()
	if s.peek() != '{' || s.enter() != nil {
		return nil
	}
	for first := true; ; first = false {
		name, ok := s.nextName(first)
		if !ok {
			return nil
		}
		if string(name) == field {
			text, _ := s.asText()
			return text
		}
		if s.skip() != nil {
			return nil
		}
	}
}

// nextName reads the next name of an object and its colon. ok is false at the object's end and where it is no JSON.
func (s *scanner) nextName(first bool) (name []byte, ok bool) {
	if done, f := s.closes('}', first); done || f != nil {
		return nil, false
	}
	name, escaped, f := s.key()
	if f != nil {
		return nil, false
	}
	if escaped {
		name = unescape(name)
	}
	return name, true
}

// asText reads one value and returns it as text, nil for null.
func (s *scanner) asText() (text []byte, ok bool) {
	s.space()
	if s.peek() == '"' {
		raw, escaped, f := s.str()
		if escaped {
			raw = unescape(raw)
		}
		return raw, f == nil
	}
	if s.null() {
		return nil, true
	}
	start := s.pos
	if s.skip() != nil {
		return nil, false
	}
	return bytes.TrimSpace(s.data[start:s.pos]), true
}
