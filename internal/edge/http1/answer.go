package http1

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

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

// prepare collects an answer of the edge's own. fields are further header lines, each with its end.
func (c *conn) prepare(status int, p problem, fields string) {
	p.Timestamp = time.Now().UTC().Format(time.RFC3339)
	text, err := json.Marshal(p)
	if err != nil {
		text = []byte(`{"code":"` + p.Code + `"}`)
	}
	c.prepareBody(status, append(text, '\n'), "Content-Type: application/json\r\n"+fields)
}

func (c *conn) prepareBody(status int, text []byte, fields string) {
	b := fmt.Appendf(c.out.buf[:0], "HTTP/1.1 %d %s\r\n%s", status, http.StatusText(status), fields)
	if c.rules != nil {
		b = c.rules.AppendResponse(b)
	}
	if status != http.StatusNoContent {
		b = appendLength(b, len(text))
	}
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

// refuseHead answers a head that is no request, if there is anybody to answer, and ends the connection.
func (c *conn) refuseHead(err error) bool {
	c.leaveApp()
	c.req.kind, c.stuck = methodUnsafe, true
	switch {
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
	return c.sendAnswer()
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
	seconds := ceilSeconds(retry)
	c.prepare(http.StatusTooManyRequests, problem{
		Error: "too many requests from your address", Code: codeRateLimit,
		Details: fmt.Sprintf("Try again in %d seconds.", seconds),
	}, fmt.Sprintf("Retry-After: %d\r\n", seconds))
	return c.sendAnswer()
}

// answerNotFound says what there is, to those on this machine; strangers are not told the apps' names.
func (c *conn) answerNotFound() {
	c.leaveApp()
	p := problem{
		Error: fmt.Sprintf("no app answers for host %q and path %q", c.req.host, c.req.path),
		Code:  "APP_NOT_FOUND",
	}
	if c.peer.IsLoopback() {
		p.Details = c.hint()
	}
	c.prepare(http.StatusNotFound, p, "")
}

// shownNames is how many apps an answer names.
const shownNames = 10

func (c *conn) hint() string {
	names := c.srv.Table.Names()
	if len(names) == 0 {
		return cmp.Or(c.srv.Hint, "No HTTP app runs here yet. Start one with: vortex apply -f app.yaml")
	}
	var b strings.Builder
	b.WriteString("Apps here:")
	for _, name := range names[:min(len(names), shownNames)] {
		fmt.Fprintf(&b, " http://%s.localhost%s/", name, portOf(c.req.host))
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

// answerRedirect sends the client to the app's prefix with its slash, below which relative links work.
func (c *conn) answerRedirect() {
	c.leaveApp()
	query := c.req.target[len(c.req.path):]
	location := string(c.req.path) + "/" + string(query)
	c.prepareBody(http.StatusPermanentRedirect, []byte("see "+location+"\n"),
		"Content-Type: text/plain; charset=utf-8\r\nLocation: "+location+"\r\n")
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

// wantsMetrics reports whether this is a request for the edge's own metrics, from this machine.
func (c *conn) wantsMetrics(path []byte) bool {
	return c.srv.Metrics != nil && string(path) == metricsPath && c.peer.IsLoopback() &&
		(string(c.req.method) == "GET" || c.req.kind == methodHead)
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
