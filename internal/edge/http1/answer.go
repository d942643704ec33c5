package http1

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// problem is the body of an answer the edge gives itself. It has the form of the API's errors.
type problem struct {
	Error     string `json:"error"`
	Details   string `json:"details,omitempty"`
	Code      string `json:"code"`
	Timestamp string `json:"timestamp"`
}

// metricsPath is where the edge answers with its own metrics.
const metricsPath = "/metrics"

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// text is the problem as it is sent.
func (p problem) text() []byte {
	p.Timestamp = time.Now().UTC().Format(time.RFC3339)
	text, err := json.Marshal(p)
	if err != nil {
		text = []byte(`{"code":"` + p.Code + `"}`)
	}
	return append(text, '\n')
}

// jsonType goes before a problem's further header lines.
const jsonType = "Content-Type: application/json\r\n"

// contentOf returns the body of an answer, and its header lines.
func contentOf(a *policy.Answer) (text []byte, fields string) {
	switch {
	case a.Code != "":
		return problem{Error: a.Error, Code: a.Code, Details: a.Details}.text(), jsonType + a.Fields
	case a.Type != "":
		return []byte(a.Body), "Content-Type: " + a.Type + "\r\n" + a.Fields
	}
	return nil, a.Fields
}

// appendOwn appends the head of an answer of the edge's own, whose body has length bytes. What says how its connection goes on, and the empty
// line at its end, are for the caller to add.
func appendOwn(b []byte, rules *policy.Exchange, status, length int, fields string) []byte {
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\n%s", status, http.StatusText(status), fields)
	if rules != nil {
		b = rules.AppendResponse(b)
	}
	if status != http.StatusNoContent {
		b = appendLength(b, length)
	}
	return b
}

// prepare collects an answer of the edge's own. fields are further header lines, each with its end.
func (c *conn) prepare(status int, p problem, fields string) {
	c.prepareBody(status, p.text(), jsonType+fields)
}

// prepareAnswer is prepare for one that is made elsewhere.
func (c *conn) prepareAnswer(a policy.Answer) {
	text, fields := contentOf(&a)
	c.prepareBody(a.Status, text, fields)
}

func (c *conn) prepareBody(status int, text []byte, fields string) {
	b := appendOwn(c.out.buf[:0], c.rules, status, len(text), fields)
	c.down.moved = int64(len(text))
	c.closing = c.closing || c.stuck
	b = append(c.appendConnection(b), '\r', '\n')
	if c.req.kind != methodHead {
		b = append(b, text...)
	}
	c.out.buf = b
	c.answered(status)
}

// sendAnswer sends what was prepared and reports whether the connection may be used again.
func (c *conn) sendAnswer() bool {
	if err := c.out.flush(); err != nil {
		return false
	}
	if c.stuck {
		c.linger()
	}
	return c.reusable() && !c.closing
}

// refuseHead answers a head that did not come whole, if there is anybody to answer, and ends the connection.
func (c *conn) refuseHead(err error) bool {
	c.began = c.srv.Now()
	c.req.parseBeginning(c.in.buffered())
	return c.refuse(err)
}

// refuse answers what is no request, if there is anybody to answer, and ends the connection.
func (c *conn) refuse(err error) bool {
	c.leaveApp()
	c.rules = nil
	c.req.kind, c.stuck, c.status = methodUnsafe, true, 0
	if !c.prepareRefusal(err) {
		return false
	}
	c.logRefused()
	return c.sendAnswer()
}

// prepareRefusal collects the answer to what is no request, and reports false when nobody is there to be answered.
func (c *conn) prepareRefusal(err error) bool {
	_, unproxied := errors.AsType[proxiedError](err)
	switch {
	case unproxied:
		c.prepare(http.StatusBadRequest, problem{Error: err.Error(), Code: "BAD_REQUEST"}, "")
	case isMalformed(err):
		c.prepare(http.StatusBadRequest, problem{Error: "this is not a valid HTTP request: " + err.Error(), Code: "BAD_REQUEST"}, "")
	case errors.Is(err, errTooLarge):
		c.prepare(http.StatusRequestHeaderFieldsTooLarge, problem{
			Error: "the request's headers are too large", Code: "HEADERS_TOO_LARGE",
			Details: fmt.Sprintf("At most %d bytes and %d headers are taken.", c.srv.MaxHeaderBytes, maxFields),
		}, "")
	case errors.Is(err, errSlow):
		c.prepare(http.StatusRequestTimeout, problem{Error: "the request's headers did not come in time", Code: "TIMEOUT"}, "")
	default:
		return false
	}
	return true
}

// leaveApp stops counting the connection as an app's.
func (c *conn) leaveApp() {
	if c.pool != nil {
		c.pool.Meter.Connect(-1)
		c.pool = nil
	}
}

func (c *conn) answerLimited(retry time.Duration) bool {
	c.leaveApp()
	c.closing = true // what else it has sent is not worth reading
	c.stuck = true
	c.prepareAnswer(limitedAnswer(retry))
	return c.sendAnswer()
}

// limitedAnswer refuses a client that asks too often.
func limitedAnswer(retry time.Duration) policy.Answer {
	seconds := ceilSeconds(retry)
	return policy.Answer{
		Status: http.StatusTooManyRequests, Error: "too many requests from your address", Code: codeRateLimit,
		Details: fmt.Sprintf("Try again in %d seconds.", seconds), Fields: fmt.Sprintf("Retry-After: %d\r\n", seconds),
	}
}

// notFound says what there is, to those on this machine; strangers are not told the apps' names.
func (s *Server) notFound(r *request, peer netip.Addr) policy.Answer {
	a := policy.Answer{
		Status: http.StatusNotFound, Code: "APP_NOT_FOUND",
		Error: fmt.Sprintf("no app answers for host %q and path %q", r.host, r.path),
	}
	if peer.IsLoopback() {
		a.Details = s.hint(r)
	}
	return a
}

// shownNames is how many apps an answer names.
const shownNames = 10

func (s *Server) hint(r *request) string {
	names := s.Table.Names()
	if len(names) == 0 {
		return cmp.Or(s.Hint, "No HTTP app runs here yet. Start one with: vortex apply -f app.yaml")
	}
	var b strings.Builder
	b.WriteString("Apps here:")
	for _, name := range names[:min(len(names), shownNames)] {
		fmt.Fprintf(&b, " http://%s.localhost%s/", name, portOf(r.host))
	}
	if more := len(names) - shownNames; more > 0 {
		fmt.Fprintf(&b, " and %d more; see: vortex apps", more)
	}
	return b.String()
}

func portOf(host []byte) string {
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && bytes.IndexByte(host[i:], ']') < 0 {
		return string(host[i:])
	}
	return ""
}

// withSlash sends the client to the app's prefix with its slash, below which relative links work.
func (r *request) withSlash() policy.Answer {
	location := string(r.path) + "/" + string(r.target[len(r.path):])
	return policy.Answer{
		Status: http.StatusPermanentRedirect, Fields: "Location: " + location + "\r\n",
		Type: "text/plain; charset=utf-8", Body: "see " + location + "\n",
	}
}

func (c *conn) answerGone() {
	c.prepare(http.StatusNotFound, problem{Error: "the app was deleted meanwhile", Code: "APP_NOT_FOUND"}, "")
}

func (c *conn) answerNoBackend(err error) {
	if limit, ok := errors.AsType[pool.LimitError](err); ok {
		c.prepare(http.StatusServiceUnavailable, problem{
			Error: fmt.Sprintf("app %q is overloaded: %v", c.pool.App, limit), Code: "OVERLOADED",
		}, "Retry-After: 1\r\nX-Vortex-Limit: "+string(limit)+"\r\n")
		return
	}
	p := problem{Error: fmt.Sprintf("no healthy instance of app %q", c.pool.App), Code: "NO_BACKEND"}
	if c.peer.IsLoopback() {
		p.Details = "To see why: " + cmp.Or(c.srv.Why, "vortex status "+c.pool.App)
	}
	c.prepare(http.StatusServiceUnavailable, p, "Retry-After: 1\r\n")
}

// failAttempt answers a request that its app did not answer.
func (c *conn) failAttempt() bool {
	c.back.stop()
	switch c.failure {
	case failTimeout:
		c.prepare(http.StatusGatewayTimeout, problem{
			Error: fmt.Sprintf("app %q did not answer within %v", c.pool.App, c.patience()), Code: "APP_TIMEOUT",
		}, "")
	case failBody:
		c.prepare(http.StatusBadRequest, problem{Error: "the request's body is malformed: " + c.back.err.Error(), Code: "BAD_REQUEST"}, "")
	case failSlowBody:
		c.prepare(http.StatusRequestTimeout, problem{Error: "the request's body did not come in time", Code: "TIMEOUT"}, "")
	case failLargeBody:
		c.prepareAnswer(c.rules.TooLarge())
	case failResponse:
		c.prepare(http.StatusBadGateway, problem{Error: fmt.Sprintf("app %q did not answer in HTTP", c.pool.App), Code: "APP_FAILED"}, "")
	case failConnection:
		c.prepare(http.StatusBadGateway, problem{
			Error: fmt.Sprintf("app %q closed the connection without an answer", c.pool.App), Code: "APP_FAILED",
		}, "")
	}
	return c.sendAnswer()
}

// wantsMetrics reports whether a request is one for the edge's own metrics, from this machine.
func (s *Server) wantsMetrics(r *request, path []byte, peer netip.Addr) bool {
	return s.Metrics != nil && string(path) == metricsPath && peer.IsLoopback() && (string(r.method) == "GET" || r.kind == methodHead)
}

// answerMetrics lets the metrics' handler answer.
func (c *conn) answerMetrics() bool {
	c.leaveApp()
	r, err := http.NewRequest(http.MethodGet, metricsPath, http.NoBody) //nolint:noctx // the handler writes to memory
	if err != nil {
		return false
	}
	rec := &recorder{header: http.Header{}, status: http.StatusOK}
	c.srv.Metrics.ServeHTTP(rec, r)
	var fields bytes.Buffer
	rec.header.Del("Content-Length")
	if err := rec.header.Write(&fields); err != nil {
		return false
	}
	c.prepareBody(rec.status, rec.body.Bytes(), fields.String())
	return c.sendAnswer()
}

// recorder keeps what a handler writes.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
