package ksl

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// scanner reads JSON (RFC 8259) in place. Its methods leave pos after what they read; at a fault pos means nothing.
type scanner struct {
	data  []byte
	pos   int
	depth int
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// null consumes a null if it comes next.
func (s *scanner) null() bool { return s.peek() == 'n' && s.word("null") }

// word consumes a literal name if it comes next.
func (s *scanner) word(word string) bool {
	if len(s.data)-s.pos < len(word) || string(s.data[s.pos:s.pos+len(word)]) != word {
		return false
	}
	s.pos += len(word)
	return true
}

// enter consumes an opening bracket, which must come next.
func (s *scanner) enter() *fault {
	if s.depth++; s.depth > MaxDepth {
		return &fault{msg: fmt.Sprintf("objects and lists are nested deeper than %d", MaxDepth)}
	}
	s.pos++
	return nil
}

// closes reads up to the next element and reports whether the closing bracket came instead.
func (s *scanner) closes(bracket byte, first bool) (bool, *fault) {
	s.space()
	c := s.peek()
	switch {
	case c == bracket:
		s.pos++
		s.depth--
		return true, nil
	case first:
		return false, nil
	case c != ',':
		return false, s.syntax("expected ',' or '" + string(bracket) + "'")
	}
	s.pos++
	s.space()
	if s.peek() == bracket {
		return false, s.syntax("expected another element after the comma")
	}
	return false, nil
}

// key reads a key and the colon after it.
func (s *scanner) key() (raw []byte, escaped bool, f *fault) {
	if s.peek() != '"' {
		return nil, false, s.syntax("expected a name in double quotes")
	}
	if raw, escaped, f = s.str(); f != nil {
		return nil, false, f
	}
	s.space()
	if s.peek() != ':' {
		return nil, false, s.syntax("expected ':' after the name")
	}
	s.pos++
	return raw, escaped, nil
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain returns the number of bytes before the first one in b that is a quote, a backslash, a control character or
// not ASCII. In the last few bytes it may stop early. It looks at eight bytes at a time: each of the four differences has the
// high bit of a byte set where the byte is one of those, and below the first such byte none is set in error.
func plain(b []byte) int {
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		special := (w | (w - ones*' ') | (quote - ones) | (slash - ones)) & highs
		if special != 0 {
			return n + bits.TrailingZeros64(special)/8
		}
	}
	return n
}

// str reads a string and returns what is between its quotes. The next byte must be a quote.
func (s *scanner) str() (raw []byte, escaped bool, f *fault) {
	start := s.pos + 1
	ascii := true
	for i := start; ; {
		i += plain(s.data[i:])
		if i >= len(s.data) {
			s.pos = i
			return nil, false, s.syntax("expected '\"' at the end of the string")
		}
		switch c := s.data[i]; {
		case c == '"':
			raw = s.data[start:i]
			if !ascii && !utf8.Valid(raw) {
				return nil, false, s.syntax("the string is not UTF-8")
			}
			s.pos = i + 1
			return raw, escaped, nil
		case c == '\\':
			n := escape(s.data[i+1:])
			if n == 0 {
				s.pos = i
				return nil, false, s.syntax("the string has an escape that does not exist")
			}
			escaped = true
			i += 1 + n
		case c < ' ':
			s.pos = i
			return nil, false, s.syntax("a control character in a string must be escaped")
		default:
			ascii = ascii && c < utf8.RuneSelf
			i++
		}
	}
}

// escape returns the length of the escape after a backslash, or 0 when it is none.
func escape(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(b) < 5 {
			return 0
		}
		for _, c := range b[1:5] {
			if !hex(c) {
				return 0
			}
		}
		return 5
	}
	return 0
}

func hex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// unescape returns the text of a string whose raw form str found good.
func unescape(raw []byte) []byte {
	var text string
	if err := json.Unmarshal(quoted(raw), &text); err != nil {
		return raw
	}
	return []byte(text)
}

func quoted(raw []byte) []byte {
	b := make([]byte, 0, len(raw)+2)
	b = append(b, '"')
	b = append(b, raw...)
	return append(b, '"')
}

// number reads a number. whole is false when it has a fraction or an exponent.
func (s *scanner) number() (raw []byte, whole bool, f *fault) {
	start := s.pos
	if s.peek() == '-' {
		s.pos++
	}
	whole = true
	if s.peek() == '0' {
		s.pos++
	} else if s.digits() == 0 {
		return nil, false, s.syntax("expected a digit")
	}
	if s.peek() == '.' {
		whole = false
		s.pos++
		if s.digits() == 0 {
			return nil, false, s.syntax("expected a digit after the point")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		whole = false
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if s.digits() == 0 {
			return nil, false, s.syntax("expected a digit in the exponent")
		}
	}
	return s.data[start:s.pos], whole, nil
}

// digits consumes digits and returns how many.
func (s *scanner) digits() int {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos - start
}

// skip reads one value of any type.
func (s *scanner) skip() *fault {
	s.space()
	switch c := s.peek(); {
	case c == '{' || c == '[':
		return s.skipNested(c)
	case c == '"':
		_, _, f := s.str()
		return f
	case c == '-' || c-'0' <= 9:
		_, _, f := s.number()
		return f
	case s.word("null"), s.word("true"), s.word("false"):
		return nil
	}
	return s.syntax("expected a value")
}

func (s *scanner) skipNested(bracket byte) *fault {
	if f := s.enter(); f != nil {
		return f
	}
	closing := bracket + 2 // '[' and ']', '{' and '}' are two apart
	for first := true; ; first = false {
		done, f := s.closes(closing, first)
		if done || f != nil {
			return f
		}
		if bracket == '{' {
			if _, _, f := s.key(); f != nil {
				return f
			}
		}
		if f := s.skip(); f != nil {
			return f
		}
	}
}

// syntax is the fault of input that is not JSON.
func (s *scanner) syntax(msg string) *fault {
	got := "the end of the value"
	if s.pos < len(s.data) {
		r, _ := utf8.DecodeRune(s.data[s.pos:])
		got = strconv.QuoteRune(r)
	}
	return &fault{msg: fmt.Sprintf("invalid JSON at byte %d: %s, got %s", s.pos, msg, got)}
}

// unexpected is the fault of a value that is not what was expected.
func (s *scanner) unexpected(expected string) *fault {
	var got string
	start := s.pos
	switch s.peek() {
	case '{':
		got = "an object"
	case '[':
		got = "a list"
	default:
		if f := s.skip(); f != nil {
			return f
		}
		got = shorten(string(bytes.TrimSpace(s.data[start:s.pos])))
	}
	return &fault{msg: "expected " + expected + ", got " + got}
}

// shorten cuts text that is too long for a message.
func shorten(text string) string {
	const limit = 60
	if len(text) <= limit {
		return text
	}
	cut := limit
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
