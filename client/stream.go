package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"

	"vortex"
)

const maxMessage = 64 << 20 // a list of very many apps

// FollowEvents yields events as they happen, of one app or of all when it is "", until ctx ends or the stream breaks;
// the last pair then holds the error.
func (c *Client) FollowEvents(ctx context.Context, app string) iter.Seq2[Event, error] {
	query := url.Values{}
	if app != "" {
		query.Set("app", app)
	}
	return values[Event](ctx, c, "/events/stream", query)
}

// FollowLogs yields what was written and then what an app's instances write, those that start later included.
func (c *Client) FollowLogs(ctx context.Context, app string, opts LogOptions) iter.Seq2[LogEntry, error] {
	return values[LogEntry](ctx, c, join([]string{"apps", app, "logs", "stream"}), opts.query())
}

// FollowApp yields an app now and whenever it changes. The stream ends with NotFound when the app is deleted.
func (c *Client) FollowApp(ctx context.Context, app string) iter.Seq2[App, error] {
	return values[App](ctx, c, join([]string{"apps", app, "stream"}), nil)
}

// FollowApps yields the list of apps now and whenever it changes.
func (c *Client) FollowApps(ctx context.Context) iter.Seq2[AppList, error] {
	return values[AppList](ctx, c, "/stream", nil)
}

// FollowMetrics yields what an app did, every second.
func (c *Client) FollowMetrics(ctx context.Context, app string) iter.Seq2[AppMetrics, error] {
	return values[AppMetrics](ctx, c, join([]string{"apps", app, "metrics", "stream"}), nil)
}

// values yields the messages of a stream.
func values[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		conn, err := c.dial(ctx, path, query)
		if err != nil {
			yield(none, err)
			return
		}
		defer conn.CloseNow() //nolint:errcheck // the server sees the end either way
		for {
			_, message, err := conn.Read(ctx)
			if err != nil {
				if err := streamEnd(ctx, err); err != nil {
					yield(none, err)
				}
				return
			}
			var value T
			if err := json.Unmarshal(message, &value); err != nil {
				yield(none, fmt.Errorf("decode message: %w", err))
				return
			}
			if !yield(value, nil) {
				return
			}
		}
	}
}

// dial opens a stream. What the server refuses it with is an *Error.
func (c *Client) dial(ctx context.Context, path string, query url.Values) (*websocket.Conn, error) {
	header := http.Header{}
	if c.token != "" {
		header.Set("Authorization", "Bearer "+c.token)
	}
	conn, resp, err := websocket.Dial(ctx, c.api(path, query), &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		HTTPClient: c.http, HTTPHeader: header, Subprotocols: []string{StreamProtocol},
	})
	switch {
	case err == nil:
		conn.SetReadLimit(maxMessage)
		return conn, nil
	case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		return nil, decodeError(resp)
	default:
		return nil, c.unreachable(ctx, err)
	}
}

// streamEnd says why a stream ended; nil when it was done.
func streamEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e, ok := errors.AsType[websocket.CloseError](err); ok {
		if e.Code == websocket.StatusNormalClosure {
			return nil
		}
		if code, text, ok := strings.Cut(e.Reason, ": "); ok {
			return &Error{Status: statusOf(code), ErrorBody: ErrorBody{Error: text, Code: code, Timestamp: time.Now()}}
		}
	}
	return &vortex.Error{Kind: vortex.Unavailable, Msg: "the stream broke; the server may have stopped", Err: err}
}

// statusOf is the HTTP status that goes with an API code.
func statusOf(code string) int {
	switch code {
	case CodeAppNotFound, CodeNotFound:
		return http.StatusNotFound
	case CodeValidation, CodeInvalidSpec:
		return http.StatusBadRequest
	case CodeStore, CodeNotLeader:
		return http.StatusServiceUnavailable
	case CodePrecondition:
		return http.StatusPreconditionFailed
	default:
		return http.StatusInternalServerError
	}
}

// ExecOptions say what to run, and where its streams come from and go to.
type ExecOptions struct {
	Command []string
	User    string // uid, uid:gid or name; "" is the instance's
	TTY     bool   // give it a terminal: Stderr is unused then
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan WindowSize // sizes of the terminal
}

// ExecApp runs a command in one of an app's instances, a healthy one, and returns its exit code.
func (c *Client) ExecApp(ctx context.Context, app string, opts ExecOptions) (int, error) {
	return c.exec(ctx, join([]string{"apps", app, "exec"}), opts)
}

// ExecInstance runs a command in an instance and returns its exit code.
func (c *Client) ExecInstance(ctx context.Context, id string, opts ExecOptions) (int, error) {
	return c.exec(ctx, join([]string{"instances", id, "exec"}), opts)
}

func (c *Client) exec(ctx context.Context, path string, opts ExecOptions) (int, error) {
	query := url.Values{"command": opts.Command}
	if opts.TTY {
		query.Set("tty", "true")
	}
	if opts.User != "" {
		query.Set("user", opts.User)
	}
	conn, err := c.dial(ctx, path, query)
	if err != nil {
		return 0, err
	}
	defer conn.CloseNow() //nolint:errcheck // the server sees the end either way
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go sendInput(ctx, conn, opts.Stdin)
	go sendSizes(ctx, conn, opts.Resize)
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			if err := streamEnd(ctx, err); err != nil {
				return 0, err
			}
			return 0, vortex.Errorf(vortex.Unavailable, "the server ended the session without the command's exit code")
		}
		if len(message) == 0 {
			continue
		}
		switch content := message[1:]; Frame(message[0]) {
		case FrameStdout:
			err = writeTo(opts.Stdout, content)
		case FrameStderr:
			err = writeTo(opts.Stderr, content)
		case FrameExit:
			return execEnd(content)
		default:
			continue // of a newer server
		}
		if err != nil {
			return 0, fmt.Errorf("write output: %w", err)
		}
	}
}

func writeTo(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

// execEnd reads the last frame.
func execEnd(content []byte) (int, error) {
	var result ExecResult
	if err := json.Unmarshal(content, &result); err != nil {
		return 0, fmt.Errorf("decode exit: %w", err)
	}
	if result.Error != nil {
		return 0, &Error{Status: result.Status, ErrorBody: *result.Error}
	}
	return result.ExitCode, nil
}

// sendInput sends what stdin gives, and its end.
func sendInput(ctx context.Context, conn *websocket.Conn, stdin io.Reader) {
	buf := make([]byte, 32<<10)
	for stdin != nil {
		n, err := stdin.Read(buf[1:])
		if n > 0 {
			buf[0] = byte(FrameStdin)
			if conn.Write(ctx, websocket.MessageBinary, buf[:n+1]) != nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	_ = conn.Write(ctx, websocket.MessageBinary, []byte{byte(FrameStdinEnd)})
}

// sendSizes sends the sizes of the terminal.
func sendSizes(ctx context.Context, conn *websocket.Conn, sizes <-chan WindowSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			data, err := json.Marshal(size)
			if err == nil && conn.Write(ctx, websocket.MessageBinary, append([]byte{byte(FrameResize)}, data...)) != nil {
				return
			}
		}
	}
}
