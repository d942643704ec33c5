package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/coder/websocket"

	"vortex"
	"vortex/client"
	"vortex/internal/runtime"
)

const maxFrame = 1 << 20 // bytes of one message from the client

func (s *Server) execApp(w http.ResponseWriter, r *http.Request) error {
	f, err := s.facts(r.PathValue("app"))
	if err != nil {
		return err
	}
	id, ok := f.readyInstance()
	if !ok {
		return vortex.Errorf(vortex.Precondition, "app %q has no running instance; `vortex status %s` says why", f.app.Name, f.app.Name)
	}
	return s.exec(w, r, id)
}

func (s *Server) execInstance(w http.ResponseWriter, r *http.Request) error {
	c, err := s.instance(r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.exec(w, r, c.ID)
}

// exec runs a command in an instance, its terminal or streams on a WebSocket. It is killed when the client leaves.
func (s *Server) exec(w http.ResponseWriter, r *http.Request, id string) error {
	query := r.URL.Query()
	if s.Instances == nil {
		return withCode(client.CodeRuntime, vortex.Errorf(vortex.Unavailable, "this server reaches no instances; ask one that has an agent"))
	}
	terminal, err := flag(query.Get("tty"), "tty")
	if err != nil {
		return err
	}
	if len(query["command"]) == 0 {
		return vortex.Errorf(vortex.Invalid, "expected the query parameter command, got none")
	}
	conn, err := accept(w, r)
	if err != nil {
		return nil
	}
	defer conn.CloseNow() //nolint:errcheck // closed properly below where it can be
	conn.SetReadLimit(maxFrame)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()

	session := &execSession{conn: conn}
	stdin, typed := io.Pipe()
	resize := make(chan runtime.WindowSize, 1)
	go session.receive(ctx, typed, resize, cancel)
	go keepAlive(ctx, conn, cancel)
	code, err := s.Instances.Exec(ctx, id, runtime.ExecSpec{
		Command: query["command"], User: query.Get("user"), TTY: terminal, Stdin: stdin, Resize: resize,
		Stdout: session.writer(ctx, client.FrameStdout), Stderr: session.writer(ctx, client.FrameStderr),
	})
	_ = stdin.Close()
	result := client.ExecResult{ExitCode: code}
	if err != nil && ctx.Err() == nil {
		body, status := s.body(err)
		result.Error, result.Status = &body, status
	}
	session.finish(ctx, result)
	return nil
}

// execSession is the server's end of an exec stream.
type execSession struct {
	conn *websocket.Conn
	mu   sync.Mutex
}

// receive hands on what the client sends until it leaves.
func (e *execSession) receive(ctx context.Context, stdin *io.PipeWriter, resize chan<- runtime.WindowSize, left context.CancelFunc) {
	defer left()
	for {
		_, message, err := e.conn.Read(ctx)
		if err != nil {
			_ = stdin.CloseWithError(io.ErrUnexpectedEOF)
			return
		}
		if len(message) == 0 {
			continue
		}
		switch content := message[1:]; client.Frame(message[0]) {
		case client.FrameStdin:
			if _, err := stdin.Write(content); err != nil {
				continue // the command does not read any more
			}
		case client.FrameStdinEnd:
			_ = stdin.Close()
		case client.FrameResize:
			var size client.WindowSize
			if json.Unmarshal(content, &size) == nil {
				select {
				case resize <- runtime.WindowSize(size):
				default: // the one before was not taken yet
				}
			}
		default:
			continue
		}
	}
}

// writer sends what is written to it in frames of one kind.
func (e *execSession) writer(ctx context.Context, frame client.Frame) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		if err := e.send(ctx, frame, p); err != nil {
			return 0, err
		}
		return len(p), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (e *execSession) send(ctx context.Context, frame client.Frame, content []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return e.conn.Write(ctx, websocket.MessageBinary, append([]byte{byte(frame)}, content...))
}

// finish tells how the command ended and closes the stream.
func (e *execSession) finish(ctx context.Context, result client.ExecResult) {
	data, err := json.Marshal(result)
	if err == nil {
		err = e.send(ctx, client.FrameExit, data)
	}
	if err == nil || !errors.Is(err, context.Canceled) {
		_ = e.conn.Close(websocket.StatusNormalClosure, "")
	}
}
