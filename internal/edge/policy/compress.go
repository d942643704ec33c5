package policy

import (
	"fmt"
	"slices"
	"strings"

	"vortex"
)

// compress says which responses are compressed, and with what.
type compress struct {
	codings []Coding // most wanted first
	types   []string // in lower case; "text/" is everything below it
	minimum int64
}

// defaultMinimum is from which size on compressing saves packets.
const defaultMinimum = 1 << 10

// defaultTypes are those that shrink. What ends in +json, +xml or +text does too.
var defaultTypes = []string{
	"text/", "application/json", "application/javascript", "application/xml", "application/x-javascript", "application/wasm",
	"application/manifest+json", "application/graphql", "application/x-ndjson", "application/vnd.ms-fontobject",
	"image/svg+xml", "image/bmp", "image/x-icon", "font/ttf", "font/otf", "font/collection",
}

func compileCompress(from *vortex.Compress) (*compress, error) {
	if from == nil {
		return nil, nil
	}
	c := &compress{minimum: defaultMinimum, types: defaultTypes}
	if from.MinSize != "" {
		n, err := sizeOf(from.MinSize)
		if err != nil {
			return nil, fmt.Errorf("compress.minSize: %w", err)
		}
		c.minimum = n
	}
	if len(from.Types) > 0 {
		c.types = nil
		for _, t := range from.Types {
			if !strings.Contains(t, "/") {
				return nil, fmt.Errorf("compress.types: %q is no content type", t)
			}
			c.types = append(c.types, strings.TrimSuffix(strings.ToLower(t), "*"))
		}
	}
	algorithms := from.Algorithms
	if len(algorithms) == 0 {
		algorithms = vortex.Compression("").Values()
	}
	for _, a := range algorithms {
		coding := codingOf(string(a))
		if coding == 0 {
			return nil, fmt.Errorf("compress.algorithms: %q is not known", a)
		}
		c.codings = append(c.codings, coding)
	}
	return c, nil
}

// choose returns what the client likes best, and among equals what the rule does; 0 is no compression.
func (c *compress) choose(h Fields) Coding {
	var best Coding
	most := 0
	for _, coding := range c.codings {
		if q := quality(h, names[coding]); q > most {
			best, most = coding, q
		}
	}
	if best != 0 && most < quality(h, "identity") {
		return 0 // it would rather have none
	}
	return best
}

// quality returns how much a client likes a content coding, in thousandths (RFC 9110, 12.5.3).
func quality(h Fields, coding string) int {
	named, other := -1, -1
	for n := 0; ; n++ {
		value, ok := h.Field("accept-encoding", n)
		if !ok {
			break
		}
		for len(value) > 0 {
			var entry []byte
			entry, value = cut(value, ',')
			name, parameters := cut(entry, ';')
			switch name = trim(name); {
			case equalFold(name, coding):
				named = weight(parameters)
			case string(name) == "*":
				other = weight(parameters)
			}
		}
	}
	switch {
	case named >= 0:
		return named
	case coding == "identity":
		return 0 // what is not named is taken, and liked least
	}
	return max(other, 0)
}

func cut(b []byte, separator byte) (before, after []byte) {
	if i := slices.Index(b, separator); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// weight reads ;q=0.5 in thousandths.
func weight(parameters []byte) int {
	for len(parameters) > 0 {
		var p []byte
		p, parameters = cut(parameters, ';')
		p = trim(p)
		if len(p) < 3 || !equalFold(p[:2], "q=") {
			continue
		}
		p = p[2:]
		q, unit := 0, 1000
		for i, c := range p {
			switch {
			case i == 1 && c == '.':
			case c < '0' || c > '9' || i > 4:
				return 0
			default:
				q += int(c-'0') * unit
				unit /= 10
			}
		}
		return min(q, 1000)
	}
	return 1000
}

// Compression is what becomes of a response's body.
type Compression struct {
	Coding Coding // 0 is none
	Vary   bool   // another client might get it in another coding
}

// Compress decides about a response of length bytes, -1 when that is not known.
func (x *Exchange) Compress(status int, length int64, r Fields) (c Compression) {
	z := x.rule.compress
	if z == nil || status < 200 || status == 204 || status == 206 || status == 304 || length >= 0 && length < z.minimum || !z.shrinks(r) {
		return c
	}
	for n := 0; ; n++ {
		value, ok := r.Field("cache-control", n)
		if !ok {
			return Compression{x.coding, true}
		}
		for len(value) > 0 {
			var directive []byte
			if directive, value = cut(value, ','); equalFold(trim(directive), "no-transform") {
				return c
			}
		}
	}
}

// shrinks reports whether a body is of a type that compresses and is not compressed yet.
func (c *compress) shrinks(r Fields) bool {
	if _, ok := r.Field("content-range", 0); ok {
		return false
	}
	if coding, ok := r.Field("content-encoding", 0); ok && !equalFold(coding, "identity") {
		return false
	}
	value, ok := r.Field("content-type", 0)
	if !ok {
		return false
	}
	value, _ = cut(value, ';')
	var lower [128]byte
	if value = trim(value); len(value) == 0 || len(value) > len(lower) {
		return false
	}
	for i, b := range value {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		lower[i] = b
	}
	return c.takes(lower[:len(value)])
}

// takes reports whether a content type is one of those to compress. Events must not wait for a block to fill.
func (c *compress) takes(t []byte) bool {
	if string(t) == "text/event-stream" || hasPrefix(t, "application/grpc") {
		return false
	}
	for _, name := range c.types {
		if string(t) == name || name[len(name)-1] == '/' && hasPrefix(t, name) {
			return true
		}
	}
	if &c.types[0] != &defaultTypes[0] {
		return false
	}
	return hasSuffix(t, "+json") || hasSuffix(t, "+xml") || hasSuffix(t, "+text")
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

func hasSuffix(b []byte, suffix string) bool {
	return len(b) >= len(suffix) && string(b[len(b)-len(suffix):]) == suffix
}

// Drops reports whether a field of the response does not hold for its compressed body: its length, and that parts of it can be asked for.
func (c Compression) Drops(name []byte) bool {
	return c.Coding != 0 && (equalFold(name, "accept-ranges") || equalFold(name, "content-encoding") ||
		equalFold(name, "etag") || equalFold(name, "content-md5") || equalFold(name, "digest") || equalFold(name, "content-digest"))
}

// AppendTo appends the header lines of the decision. The entity tag of a body that is compressed on the way becomes a weak one.
func (c Compression) AppendTo(b []byte, r Fields) []byte {
	if c.Vary {
		b = append(b, "Vary: Accept-Encoding\r\n"...)
	}
	if c.Coding == 0 {
		return b
	}
	b = append(append(append(b, "Content-Encoding: "...), names[c.Coding]...), '\r', '\n')
	if tag, ok := r.Field("etag", 0); ok {
		b = append(b, "ETag: "...)
		if !hasPrefix(tag, "W/") {
			b = append(b, "W/"...)
		}
		b = append(append(b, tag...), '\r', '\n')
	}
	return b
}
