package accesslog

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// lineRoom is about what a line takes besides the request.
const lineRoom = 512

// maxText is how much of a request's path and of its program's name is written.
const maxText = 2 << 10

// AppendRequest appends the beginning of a request's line: what has to be taken from its head. The query is left out, for it may hold secrets.
func AppendRequest(b, method, host, path, agent []byte) []byte {
	b = append(b, `{"method":`...)
	b = appendString(b, method)
	b = append(b, `,"host":`...)
	b = appendString(b, host)
	b = append(b, `,"path":`...)
	b = appendString(b, path)
	if len(agent) > 0 {
		b = append(b, `,"agent":`...)
		b = appendString(b, agent)
	}
	return b
}

func (o *Outcome) appendTo(b []byte) []byte {
	b = append(b, `,"time":"`...)
	b = o.Began.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, `","client":"`...)
	b = o.Client.AppendTo(b)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(o.Status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, o.Bytes, 10)
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, float64(o.Took)/float64(time.Millisecond), 'f', 3, 64)
	if o.App != "" {
		b = append(b, `,"app":`...)
		b = appendString(b, []byte(o.App))
	}
	if o.Backend.IsValid() {
		b = append(b, `,"backend":"`...)
		b = o.Backend.AppendTo(b)
		b = append(b, `","tries":`...)
		b = strconv.AppendInt(b, int64(o.Tries), 10)
	}
	if len(o.ID) > 0 {
		b = append(b, `,"id":`...)
		b = appendString(b, o.ID)
	}
	return b
}

// appendString appends a JSON string. What is no UTF-8 becomes the replacement character, and a long text is cut.
func appendString(b, s []byte) []byte {
	const digits = "0123456789abcdef"
	s = s[:min(len(s), maxText)]
	b = append(b, '"')
	for len(s) > 0 {
		c := s[0]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			default:
				b = append(b, c)
			}
			s = s[1:]
			continue
		}
		r, size := utf8.DecodeRune(s)
		b = utf8.AppendRune(b, r)
		s = s[size:]
	}
	return append(b, '"')
}
