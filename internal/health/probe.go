package health

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vortex"
)

// Result is what one probe found.
type Result struct {
	Healthy bool
	Detail  string        // for people: "GET http://10.88.0.5:8080/health: 503 Service Unavailable"
	Absent  bool          // nothing listens there, for certain: a doubt about the answer is not one about this
	Took    time.Duration // from the start of the probe to its answer
}

// answer is what asking brought.
type answer struct {
	healthy bool
	absent  bool
	detail  string
}

// Exec runs a command inside the instance and returns its exit code and the beginning of what it wrote.
type Exec func(ctx context.Context, command []string) (code int, output string, err error)

// Probe asks one instance once. It is safe for concurrent use and keeps no connection.
type Probe struct {
	timeout time.Duration
	ask     func(ctx context.Context) answer
}

// bodyPatience is how long an answer's body may take once its head has decided.
const bodyPatience = 50 * time.Millisecond

const (
	maxBody   = 4 << 10  // read of an answer's body, so that the instance can finish it
	maxAnswer = 64 << 10 // read of an answer at all
	maxOutput = 160      // bytes of a command's output in a detail
)

// NewProbe returns the probe that check describes of the instance at address, an IP address. Every default must be filled in, as
// App.Probe does. An error is Invalid: the check names a protocol that this version cannot probe, or lacks what its protocol needs.
func NewProbe(check vortex.HealthCheck, address string, exec Exec) (*Probe, error) {
	p := &Probe{timeout: ScheduleOf(check).Timeout}
	switch check.Protocol {
	case vortex.ProbeProtocolHTTP, vortex.ProbeProtocolTCP, vortex.ProbeProtocolGRPC:
		if address == "" || check.Port == nil || *check.Port == 0 {
			return nil, vortex.Errorf(vortex.Invalid, "a %s health check needs an address and a port; set healthCheck.port", check.Protocol)
		}
		target := net.JoinHostPort(address, strconv.Itoa(int(*check.Port)))
		p.ask = p.over(check, target)
	case vortex.ProbeProtocolEXEC:
		if len(check.Command) == 0 || exec == nil {
			return nil, vortex.Errorf(vortex.Invalid, "an EXEC health check needs a command; set healthCheck.command")
		}
		p.ask = p.exec(check.Command, exec)
	default:
		return nil, vortex.Errorf(vortex.Invalid, "healthCheck.protocol %q is not available in this version; use HTTP, TCP, GRPC or EXEC", check.Protocol)
	}
	return p, nil
}

// Run probes once. It returns within the check's timeout.
func (p *Probe) Run(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	began := time.Now()
	a := p.ask(ctx)
	return Result{Healthy: a.healthy, Detail: a.detail, Absent: a.absent, Took: time.Since(began)}
}

// over returns how to ask over the network.
func (p *Probe) over(check vortex.HealthCheck, target string) func(context.Context) answer {
	switch {
	case check.Protocol == vortex.ProbeProtocolHTTP:
		return p.http(check, target)
	case check.Protocol == vortex.ProbeProtocolGRPC:
		return p.grpc(check.Service, target)
	case check.Send != "" || check.Expect != "":
		return p.converse(check, target)
	}
	return p.connect(target)
}

// connect is healthy when the target accepts a connection.
func (p *Probe) connect(target string) func(context.Context) answer {
	what := "connect to " + target
	return func(ctx context.Context) answer {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", target)
		if err != nil {
			return p.failed(ctx, what, err)
		}
		_ = conn.Close()
		return answer{healthy: true, detail: what + ": accepted"}
	}
}

// converse is healthy when the target, having got what there is to send, says what is expected. Without anything expected it need only take it.
func (p *Probe) converse(check vortex.HealthCheck, target string) func(context.Context) answer {
	what := "talk to " + target
	return func(ctx context.Context) answer {
		heard, err := hear(ctx, target, check.Send, check.Expect)
		switch {
		case err == nil && check.Expect == "":
			return answer{healthy: true, detail: what + ": accepted"}
		case err == nil:
			return answer{healthy: true, detail: fmt.Sprintf("%s: said %q", what, check.Expect)}
		case heard == "":
			return p.failed(ctx, what, err)
		}
		return answer{detail: fmt.Sprintf("%s: said %q, expected %q", what, shortened(heard), check.Expect)}
	}
}

// hear sends something and reads until what is expected came.
func hear(ctx context.Context, target, send, expect string) (heard string, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.WriteString(conn, send); err != nil {
		return "", err
	}
	var all []byte
	for !bytes.Contains(all, []byte(expect)) {
		if len(all) >= maxAnswer {
			return string(all), io.ErrShortBuffer
		}
		all = slices.Grow(all, maxBody)
		n, err := conn.Read(all[len(all):cap(all)])
		all = all[:len(all)+n]
		if n == 0 && err != nil {
			return string(all), err
		}
	}
	return string(all), nil
}

// http is healthy when the target answers with an expected status code. Redirects are answers like any other. It speaks
// on a connection of its own instead of through http.Transport, which keeps goroutines and
// writes to the standard logger when a server says something unexpected.
func (p *Probe) http(check vortex.HealthCheck, target string) func(context.Context) answer {
	url := "http://" + target + check.Path
	what := check.Method + " " + url
	return func(ctx context.Context) answer {
		req, err := http.NewRequestWithContext(ctx, check.Method, url, strings.NewReader(check.Body))
		if err != nil {
			return answer{detail: what + ": " + err.Error()}
		}
		req.Close = true
		setHeaders(req, check.Headers)
		code, err := roundTrip(ctx, target, req)
		if err != nil {
			return p.failed(ctx, what, err)
		}
		return answer{healthy: expected(check.ExpectedStatusCodes, code), detail: what + ": " + statusText(code)}
	}
}

// roundTrip sends a request on a new connection and returns the status code of the answer.
func roundTrip(ctx context.Context, target string, req *http.Request) (int, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	answer := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	for {
		resp, err := http.ReadResponse(answer, req)
		if err != nil {
			return 0, err
		}
		if resp.StatusCode >= http.StatusOK || resp.StatusCode == http.StatusSwitchingProtocols {
			_ = conn.SetReadDeadline(time.Now().Add(bodyPatience))
			_, _ = io.CopyN(io.Discard, resp.Body, maxBody)
			_ = conn.Close()
			_ = resp.Body.Close()
			return resp.StatusCode, nil
		}
	}
}

func setHeaders(req *http.Request, headers []vortex.Header) {
	req.Header.Set("User-Agent", "vortex-health")
	for _, h := range headers {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
}

// expected reports whether code is one of codes, or 200 to 399 when there are none.
func expected(codes []uint16, code int) bool {
	if len(codes) == 0 {
		return code >= http.StatusOK && code < http.StatusBadRequest
	}
	return slices.Contains(codes, uint16(code))
}

// statusText is a status line's number and standard text. The text that came is not used: it may be anything.
func statusText(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}

// exec is healthy when the command exits with 0.
func (p *Probe) exec(command []string, exec Exec) func(context.Context) answer {
	what := strings.Join(command, " ")
	return func(ctx context.Context) answer {
		code, output, err := exec(ctx, command)
		if err != nil {
			return p.failed(ctx, what, err)
		}
		detail := fmt.Sprintf("%s: exit code %d", what, code)
		if line := lastLine(output); code != 0 && line != "" {
			detail += ": " + line
		}
		return answer{healthy: code == 0, detail: detail}
	}
}

// lastLine is the last line of output that says something, made fit for a detail.
func lastLine(output string) string {
	output = strings.TrimSpace(output)
	line := output[strings.LastIndexByte(output, '\n')+1:]
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(line, "?"))
	return shortened(line)
}

// shortened returns the beginning of a long text.
func shortened(s string) string {
	if len(s) > maxOutput {
		return strings.ToValidUTF8(s[:maxOutput], "") + "…"
	}
	return s
}

// failed is the answer of a target that gave none.
func (p *Probe) failed(ctx context.Context, what string, err error) answer {
	absent := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EHOSTDOWN)
	return answer{absent: absent, detail: what + ": " + p.explain(ctx, err)}
}

// explain says in a few words why a probe got no answer.
func (p *Probe) explain(ctx context.Context, err error) string {
	netErr, ok := errors.AsType[net.Error](err)
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || ok && netErr.Timeout() {
		return "no answer within " + p.timeout.String()
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		return call.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "closed the connection without an answer"
	}
	if e, ok := errors.AsType[*vortex.Error](err); ok {
		return e.Msg
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}
