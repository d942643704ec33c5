package edge

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"vortex"
)

// backendEnv makes this binary a backend of that name.
const backendEnv = "EDGE_PROOF_BACKEND"

// backend is a server behind the edge, in a process of its own.
type backend struct {
	name  string
	addr  netip.AddrPort // for HTTP
	echo  netip.AddrPort // sends its name and then what it reads
	cmd   *exec.Cmd
	stdin io.Closer
}

// startBackend runs a backend until the test ends, or it is killed.
func startBackend(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{name: name, cmd: exec.Command(os.Args[0])}
	b.cmd.Env = append(os.Environ(), backendEnv+"="+name)
	b.cmd.Stderr = os.Stderr
	stdin, err := b.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.stdin = stdin
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kill)
	said := json.NewDecoder(stdout)
	if err := errors.Join(said.Decode(&b.addr), said.Decode(&b.echo)); err != nil {
		t.Fatalf("backend %s does not start: %v", name, err)
	}
	return b
}

// kill ends it with SIGKILL and returns when it is gone, and with it all its sockets.
func (b *backend) kill() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
	_ = b.stdin.Close()
}

func (b *backend) record() vortex.Backend {
	return vortex.Backend{Instance: b.name, Address: b.addr.Addr().String(), Port: b.addr.Port()}
}

// active asks the backend itself how many requests it is answering.
func (b *backend) active(t *testing.T) int {
	t.Helper()
	resp, err := http.Get("http://" + b.addr.String() + "/active")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var n int
	if _, err := fmt.Fscan(resp.Body, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// serveBackend is the backend's process. It ends when stdin does.
func serveBackend(name string) error {
	var listeners [2]net.Listener
	for i := range listeners {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		listeners[i] = ln
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	go serveEcho(name, listeners[1])
	for _, ln := range listeners {
		if err := json.NewEncoder(os.Stdout).Encode(ln.Addr().String()); err != nil {
			return err
		}
	}
	return http.Serve(listeners[0], handlers(name))
}

// serveEcho sends the backend's name on each connection, then what it reads until the client's end, a moment after it.
func serveEcho(name string, ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.WriteString(conn, name+"\n")
			_, _ = io.Copy(conn, conn)
			time.Sleep(time.Millisecond)
		}()
	}
}

func handlers(name string) http.Handler {
	var active atomic.Int64
	mux := http.NewServeMux()
	handle := func(path string, h http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			active.Add(1)
			defer active.Add(-1)
			h(w, r)
		})
	}
	mux.HandleFunc("/active", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, active.Load()) })
	handle("/", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		pause(r)
		w.Header().Set("X-Backend", name)
		fmt.Fprintf(w, "%d", n)
	})
	handle("/bytes", sendBytes)
	handle("/events", sendEvents)
	handle("/upgrade", upgrade)
	handle("/end", end)
	return mux
}

func number(r *http.Request, key string) int {
	n, err := strconv.Atoi(r.FormValue(key))
	if err != nil {
		return 0
	}
	return n
}

// pause waits for ?ms=, or until the client is gone.
func pause(r *http.Request) {
	if ms := number(r, "ms"); ms > 0 {
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-r.Context().Done():
		}
	}
}

// sendBytes sends ?n= bytes in pieces of ?piece=, and waits ?ms= after each.
func sendBytes(w http.ResponseWriter, r *http.Request) {
	n, piece := number(r, "n"), max(number(r, "piece"), 1)
	w.Header().Set("Content-Length", strconv.Itoa(n))
	out := http.NewResponseController(w)
	for buf := make([]byte, piece); n > 0 && r.Context().Err() == nil; {
		sent, err := w.Write(buf[:min(piece, n)])
		if err != nil {
			return
		}
		n -= sent
		if number(r, "ms") > 0 {
			_ = out.Flush()
			pause(r)
		}
	}
}

// sendEvents sends server-sent events until the client is gone.
func sendEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for i := 0; r.Context().Err() == nil; i++ {
		fmt.Fprintf(w, "data: %d %d\n\n", i, time.Now().UnixNano())
		if out.Flush() != nil {
			return
		}
		pause(r)
	}
}

// hijack takes the connection over.
func hijack(w http.ResponseWriter) (*net.TCPConn, *bufio.ReadWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp, rw
}

// upgrade echoes after a handshake like WebSocket's: the edge looks at nothing behind it.
func upgrade(w http.ResponseWriter, _ *http.Request) {
	conn, rw := hijack(w)
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	_, _ = io.Copy(conn, rw)
	_ = conn.CloseWrite()
}

// end ends the connection at a stage: with a reset, or with a FIN for ?how=close.
func end(w http.ResponseWriter, r *http.Request) {
	conn, _ := hijack(w)
	sent := map[string]string{
		"head":   "",
		"status": "HTTP/1.1 200",
		"fields": "HTTP/1.1 200 OK\r\nContent-Ty",
		"body":   "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
		"plain":  "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end",
	}[r.FormValue("at")]
	_, _ = io.WriteString(conn, sent)
	if r.FormValue("how") != "close" {
		time.Sleep(5 * time.Millisecond) // so that the bytes are taken in before they are thrown away
		_ = conn.SetLinger(0)
	}
	_ = conn.Close()
}
