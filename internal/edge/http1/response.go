package http1

import (
	"strconv"

	"vortex/internal/edge/policy"
)

// response is a backend's response head. Its slices point into the receive buffer.
type response struct {
	framing

	status int
	reason []byte
	minor  byte
	fields []field
}

// parse reads a complete head. A line may end in a bare line feed, which small servers send.
func (r *response) parse(head []byte) error {
	line, rest, err := cutLine(head, false)
	if err != nil {
		return err
	}
	if err := r.parseLine(line); err != nil {
		return err
	}
	if r.fields, err = parseFields(r.fields[:0], rest, false); err != nil {
		return err
	}
	if r.framing, err = readFraming(r.fields); err != nil {
		return err
	}
	if r.otherCoding {
		return malformed("the response has a transfer coding other than chunked")
	}
	if r.chunked && r.length >= 0 { // Transfer-Encoding rules, and the connection is not to be trusted further
		r.length, r.close = -1, true
	}
	return nil
}

func (r *response) parseLine(line []byte) error {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || line[7] < '0' || line[7] > '1' {
		return malformed("the response does not begin with an HTTP/1 status line")
	}
	status, ok := parseDecimal(line[9:12])
	if !ok || status < 100 || len(line) > 12 && line[12] != ' ' {
		return malformed("the response has no status code")
	}
	r.status, r.minor, r.reason = int(status), line[7]-'0', nil
	if len(line) > 13 {
		r.reason = line[13:]
	}
	if hasControl(r.reason) {
		return malformed("the response's reason has a control character")
	}
	return nil
}

// bodyKind returns how the response's body ends, given what was asked.
func (r *response) bodyKind(head bool) bodyKind {
	switch {
	case head, r.status < 200, r.status == 204, r.status == 304:
		return bodyNone
	case r.chunked:
		return bodyChunked
	case r.length >= 0:
		return bodyLength
	}
	return bodyClose
}

// persistent reports whether the backend lets its connection be used again.
func (r *response) persistent(kind bodyKind) bool {
	return kind != bodyClose && !r.close && (r.minor == 1 || r.keepAlive)
}

// appendTo appends the head as the client gets it, without the empty line at its end: framing and connection
// fields are for the caller to add. The fields that rules take out, and those that do not hold for a compressed body, are left out.
func (r *response) appendTo(b []byte, rules *policy.Exchange, z policy.Compression) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.status), 10)
	b = append(b, ' ')
	b = append(b, r.reason...)
	b = append(b, '\r', '\n')
	for i := range r.fields {
		f := &r.fields[i]
		switch f.kind {
		case kindConnection, kindTransferEncoding, kindContentLength, kindHop:
			continue
		case kindUpgrade:
			if r.status != 101 && r.status != 426 {
				continue
			}
		case kindHost, kindExpect, kindForwarded, kindForwardedFor, kindOther:
		}
		if r.nominated && isNominated(r.fields, f.name) && f.kind == kindOther {
			continue
		}
		if rules != nil && (rules.DropsResponse(f.name) || z.Drops(f.name)) {
			continue
		}
		b = appendField(b, f.name, f.value)
	}
	return b
}

// Field implements policy.Fields.
func (r *response) Field(lower string, n int) (value []byte, ok bool) { return nth(r.fields, lower, n) }

// appendFraming appends how a client of HTTP/1.minor finds the response's end, and reports whether its body is to be sent in chunks.
// changed is whether the body will have another length than the backend says.
func (r *response) appendFraming(b []byte, kind bodyKind, minor byte, changed bool) (_ []byte, chunked bool) {
	unframed := kind == bodyChunked || kind == bodyClose || changed
	switch {
	case r.length >= 0 && r.status != 204 && !changed:
		b = append(b, "Content-Length: "...)
		b = appendInt(b, r.length)
		return append(b, '\r', '\n'), false
	case minor == 1 && (unframed || r.chunked && r.status != 204):
		return append(b, "Transfer-Encoding: chunked\r\n"...), unframed
	}
	return b, false
}
