package ksl

import (
	"math"
	"strconv"
	"time"
)

var scalarExpectations = [scalars]string{
	String: "a string", Bool: "true or false",
	U8: "a U8 (0 to 255)", U16: "a U16 (0 to 65535)", U32: "a U32 (0 to 4294967295)", U64: "a U64 (0 to 18446744073709551615)",
	I8: "an I8 (-128 to 127)", I16: "an I16 (-32768 to 32767)", I32: "an I32 (-2147483648 to 2147483647)",
	I64: "an I64 (-9223372036854775808 to 9223372036854775807)",
	F32: "an F32 (a number up to 3.4e38)", F64: "an F64 (a number up to 1.8e308)",
	Bytes:     "Bytes (a base64 string)",
	Timestamp: `a Timestamp such as "2006-01-02T15:04:05Z"`,
	Duration:  `a Duration such as "5s" or "1h30m"`,
	Json:      "any JSON value",
}

// limits are the largest value of each integer type and the largest magnitude of a negative one.
var limits = [scalars]struct{ positive, negative uint64 }{
	U8: {math.MaxUint8, 0}, U16: {math.MaxUint16, 0}, U32: {math.MaxUint32, 0}, U64: {math.MaxUint64, 0},
	I8: {math.MaxInt8, 1 << 7}, I16: {math.MaxInt16, 1 << 15}, I32: {math.MaxInt32, 1 << 31}, I64: {math.MaxInt64, 1 << 63},
}

// scalar reads one value of a built-in type.
func (s *scanner) scalar(k Scalar) *fault {
	switch k {
	case String:
		if s.peek() != '"' {
			return s.unexpected(scalarExpectations[k])
		}
		_, _, f := s.str()
		return f
	case Bool:
		if !s.word("true") && !s.word("false") {
			return s.unexpected(scalarExpectations[k])
		}
		return nil
	case F32:
		return s.float(k, 32)
	case F64:
		return s.float(k, 64)
	case Bytes, Timestamp, Duration:
		return s.text(k)
	case Json:
		return s.skip()
	default:
		return s.integer(k)
	}
}

func (s *scanner) integer(k Scalar) *fault {
	start := s.pos
	if c := s.peek(); c != '-' && c-'0' > 9 {
		return s.unexpected(scalarExpectations[k])
	}
	raw, whole, f := s.number()
	if f != nil {
		return f
	}
	limit := limits[k].positive
	if raw[0] == '-' {
		limit = limits[k].negative
		raw = raw[1:]
		whole = whole && limit > 0
	}
	if !whole || !fits(raw, limit) {
		s.pos = start
		return s.unexpected(scalarExpectations[k])
	}
	return nil
}

// fits reports whether the number made of digits is at most limit.
func fits(digits []byte, limit uint64) bool {
	var n uint64
	for _, d := range digits {
		v := uint64(d - '0')
		if v > limit || n > (limit-v)/10 {
			return false
		}
		n = n*10 + v
	}
	return true
}

func (s *scanner) float(k Scalar, bits int) *fault {
	start := s.pos
	if c := s.peek(); c != '-' && c-'0' > 9 {
		return s.unexpected(scalarExpectations[k])
	}
	raw, whole, f := s.number()
	if f != nil {
		return f
	}
	if whole && len(raw) < 38 { // below 1e38: in the range of both
		return nil
	}
	if _, err := strconv.ParseFloat(string(raw), bits); err != nil {
		s.pos = start
		return s.unexpected(scalarExpectations[k])
	}
	return nil
}

// text reads a string with a form of its own.
func (s *scanner) text(k Scalar) *fault {
	if k == Bytes && s.null() {
		return nil
	}
	if s.peek() != '"' {
		return s.unexpected(scalarExpectations[k])
	}
	start := s.pos
	raw, escaped, f := s.str()
	if f != nil {
		return f
	}
	if escaped {
		raw = unescape(raw)
	}
	if !wellFormed(k, raw) {
		s.pos = start
		return s.unexpected(scalarExpectations[k])
	}
	return nil
}

func wellFormed(k Scalar, text []byte) bool {
	switch k {
	case Timestamp:
		if plainMoment(text) {
			return true
		}
		var t time.Time
		return t.UnmarshalText(text) == nil
	case Duration:
		_, err := time.ParseDuration(string(text))
		return err == nil
	default:
		return base64ed(text)
	}
}

// plainMoment reports whether text is an RFC 3339 moment in UTC, on one of the first 28 days of a month: what is
// usual. Of anything else it does not know.
func plainMoment(text []byte) bool {
	const form, point = "0000-00-00T00:00:00", len("0000-00-00T00:00:00")
	if len(text) <= point || text[len(text)-1] != 'Z' {
		return false
	}
	for i := range point {
		if digit := text[i]-'0' <= 9; digit != (form[i] == '0') || !digit && text[i] != form[i] {
			return false
		}
	}
	month, day := two(text[5:]), two(text[8:])
	inDay := two(text[11:]) < 24 && two(text[14:]) < 60 && two(text[17:]) < 60
	return 1 <= month && month <= 12 && 1 <= day && day <= 28 && inDay && plainFraction(text[point:len(text)-1])
}

// plainFraction reports whether text is nothing, or a point and digits.
func plainFraction(text []byte) bool {
	if len(text) == 0 {
		return true
	}
	for _, c := range text[1:] {
		if c-'0' > 9 {
			return false
		}
	}
	return text[0] == '.' && len(text) > 1
}

// two is the number that the first two digits of b make.
func two(b []byte) int { return int(b[0]-'0')*10 + int(b[1]-'0') }

// base64ed reports whether text is base64 with the standard alphabet and padding.
func base64ed(text []byte) bool {
	if len(text)%4 != 0 {
		return false
	}
	for i := 0; i < 2 && len(text) > 0 && text[len(text)-1] == '='; i++ {
		text = text[:len(text)-1]
	}
	for _, c := range text {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && c-'0' > 9 && c != '+' && c != '/' {
			return false
		}
	}
	return true
}
