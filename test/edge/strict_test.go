package edge_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// message is a request or a response as a parser took it in.
type message struct {
	start  string // method, target and host; or status
	fields []string
	body   string
}

func (m message) String() string { return fmt.Sprintf("%s %q", m.start, m.body) }

// field returns a header field's values.
func (m message) field(name string) (values []string) {
	for _, line := range m.fields {
		if n, v, _ := strings.Cut(line, ": "); strings.EqualFold(n, name) {
			values = append(values, v)
		}
	}
	return values
}

// errPart is a message that is not whole.
var errPart = errors.New("the message is not whole")

// strictRequests takes apart what a client sent on one connection, by the letter of RFC 9112 and without any of the leniency it
// allows. It returns the whole requests, and errPart when another has begun.
func strictRequests(data []byte) (list []message, err error) {
	for len(data) > 0 {
		m, rest, err := strictRequest(data)
		if err != nil {
			return list, err
		}
		list, data = append(list, m), rest
	}
	return list, nil
}

func strictRequest(data []byte) (m message, rest []byte, err error) {
	line, rest, err := strictLine(data)
	if err != nil {
		return m, nil, err
	}
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isName(parts[0]) || !isVisible(parts[1]) || parts[2] != "HTTP/1.1" {
		return m, nil, fmt.Errorf("request line %q", line)
	}
	if m.fields, rest, err = strictFields(rest); err != nil {
		return m, nil, err
	}
	hosts := m.field("Host")
	if len(hosts) != 1 {
		return m, nil, fmt.Errorf("hosts %q", hosts)
	}
	m.start = parts[0] + " " + parts[1] + " " + hosts[0]
	length, chunked, err := strictFraming(m)
	if err != nil {
		return m, nil, err
	}
	m.body, rest, err = strictBody(rest, max(length, 0), chunked)
	return m, rest, err
}

// strictResponses does the same for what a server sent, given the methods that were asked with. closed is whether the connection has ended.
func strictResponses(data []byte, closed bool, methods ...string) (list []message, err error) {
	for len(data) > 0 {
		method := "GET"
		if len(methods) > 0 {
			method = methods[0]
		}
		m, rest, err := strictResponse(data, closed, method)
		if err != nil {
			return list, err
		}
		if len(methods) > 0 && m.start >= "200" {
			methods = methods[1:]
		}
		list, data = append(list, m), rest
	}
	return list, nil
}

func strictResponse(data []byte, closed bool, method string) (m message, rest []byte, err error) {
	line, rest, err := strictLine(data)
	if err != nil {
		return m, nil, err
	}
	version, status, _ := strings.Cut(line, " ")
	code, reason, spaced := strings.Cut(status, " ")
	if version != "HTTP/1.1" || len(code) != 3 || !isNumber(code) || code < "100" || !spaced || !isText(reason) {
		return m, nil, fmt.Errorf("status line %q", line)
	}
	if m.fields, rest, err = strictFields(rest); err != nil {
		return m, nil, err
	}
	m.start = code
	length, chunked, err := strictFraming(m)
	switch {
	case err != nil:
		return m, nil, err
	case method == "HEAD", code < "200", code == "204", code == "304":
		return m, rest, nil
	case length < 0 && !chunked && !closed:
		return m, nil, errPart
	case length < 0 && !chunked:
		m.body = string(rest)
		return m, nil, nil
	}
	m.body, rest, err = strictBody(rest, max(length, 0), chunked)
	return m, rest, err
}

// strictLine takes a line that ends in CRLF and has no other CR or LF.
func strictLine(data []byte) (line string, rest []byte, err error) {
	end := bytes.IndexAny(data, "\r\n")
	switch {
	case end < 0, end == len(data)-1 && data[end] == '\r':
		return "", nil, errPart
	case data[end] != '\r' || data[end+1] != '\n':
		return "", nil, fmt.Errorf("a line ends oddly at %.40q", data[:end+1])
	}
	return string(data[:end]), data[end+2:], nil
}

func strictFields(data []byte) (fields []string, rest []byte, err error) {
	for {
		line, rest, err := strictLine(data)
		if err != nil || line == "" {
			return fields, rest, err
		}
		name, value, found := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !found || !isName(name) || !isText(value) {
			return nil, nil, fmt.Errorf("field %q", line)
		}
		fields = append(fields, name+": "+value)
		data = rest
	}
}

// strictFraming returns the length that a message names, or -1, and whether it is chunked.
func strictFraming(m message) (length int, chunked bool, err error) {
	lengths, codings := m.field("Content-Length"), m.field("Transfer-Encoding")
	switch {
	case len(lengths) > 1, len(codings) > 1, len(lengths)+len(codings) > 1:
		return 0, false, fmt.Errorf("lengths %q and codings %q", lengths, codings)
	case len(codings) == 1:
		if codings[0] != "chunked" {
			return 0, false, fmt.Errorf("coding %q", codings[0])
		}
		return -1, true, nil
	case len(lengths) == 0:
		return -1, false, nil
	}
	if length, err = strconv.Atoi(lengths[0]); err != nil || !isNumber(lengths[0]) {
		return 0, false, fmt.Errorf("length %q", lengths[0])
	}
	return length, false, nil
}

func strictBody(data []byte, length int, chunked bool) (body string, rest []byte, err error) {
	if !chunked {
		if len(data) < length {
			return "", nil, errPart
		}
		return string(data[:length]), data[length:], nil
	}
	for {
		line, rest, err := strictLine(data)
		if err != nil {
			return "", nil, err
		}
		size, err := strconv.ParseUint(line, 16, 31) // no sign, no prefix, no extension
		if err != nil {
			return "", nil, fmt.Errorf("chunk size %q", line)
		}
		if size == 0 {
			rest, err = strictTrailers(rest)
			return body, rest, err
		}
		if len(rest) < int(size)+2 {
			return "", nil, errPart
		}
		if string(rest[size:size+2]) != "\r\n" {
			return "", nil, fmt.Errorf("a chunk of %d bytes does not end there", size)
		}
		body, data = body+string(rest[:size]), rest[size+2:]
	}
}

// strictTrailers takes trailers off, and refuses those that say what only a head may (RFC 9110, 6.5.1).
func strictTrailers(data []byte) (rest []byte, err error) {
	fields, rest, err := strictFields(data)
	if err != nil {
		return nil, err
	}
	for _, line := range fields {
		name, _, _ := strings.Cut(strings.ToLower(line), ":")
		switch name {
		case "host", "content-length", "transfer-encoding", "connection", "content-type", "content-encoding", "authorization",
			"cookie", "set-cookie", "x-forwarded-for", "x_forwarded_for", "trailer", "expect", "upgrade", "cache-control", "location":
			return nil, fmt.Errorf("trailer %q", line)
		}
	}
	return rest, nil
}

func isName(s string) bool {
	const other = "!#$%&'*+-.^_`|~"
	for _, c := range []byte(s) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte(other, c) < 0 {
			return false
		}
	}
	return s != ""
}

func isVisible(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return s != ""
}

func isText(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func isNumber(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// commonRequests takes the same apart as net/http does.
func commonRequests(data []byte) (list []message, err error) {
	r := bufio.NewReader(bytes.NewReader(data))
	for {
		if _, err := r.Peek(1); err != nil {
			return list, nil //nolint:nilerr // the end
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return list, partOr(err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return list, partOr(err)
		}
		list = append(list, message{start: req.Method + " " + req.RequestURI + " " + req.Host, body: string(body)})
	}
}

// commonResponses likewise.
func commonResponses(data []byte, methods ...string) (list []message, err error) {
	r := bufio.NewReader(bytes.NewReader(data))
	for {
		if _, err := r.Peek(1); err != nil {
			return list, nil //nolint:nilerr // the end
		}
		method := "GET"
		if len(methods) > 0 {
			method = methods[0]
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return list, partOr(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return list, partOr(err)
		}
		if resp.StatusCode >= 200 && len(methods) > 0 {
			methods = methods[1:]
		}
		list = append(list, message{start: strconv.Itoa(resp.StatusCode), body: string(body)})
	}
}

func partOr(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errPart
	}
	return err
}

// agree fails when two parsers found different messages, or one could not go on where the other could.
func agree(strict []message, strictErr error, common []message, commonErr error) error {
	if strictErr != nil && !errors.Is(strictErr, errPart) {
		return fmt.Errorf("by the letter this is no HTTP: %w", strictErr)
	}
	if !errors.Is(commonErr, strictErr) {
		return fmt.Errorf("read by the letter it ends with %v, by net/http with %v", strictErr, commonErr) //nolint:errorlint // for people
	}
	if a, b := fmt.Sprint(strict), fmt.Sprint(common); a != b {
		return fmt.Errorf("read by the letter it is %s, by net/http %s", a, b)
	}
	return nil
}
