// Command probe is the app that end-to-end tests ask what it sees of the world it runs in.
//
//	GET /ws                 echoes WebSocket messages, each behind VERSION
//	GET /health             200
//	GET /env?name=X         an environment variable
//	GET /self               uid, gid, working directory and arguments
//	GET /read?path=P        a file's content, or the error
//	GET /write?path=P&text= writes a file, or tells the error
//	GET /eat?mib=N          takes that much memory and keeps it
//
// It writes a numbered line every TICK, and ends on SIGTERM when its WebSockets are closed. Run as "probe check P" it
// exits 0 as long as the file P is not there.
package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "check" {
		if _, err := os.Stat(os.Args[2]); err == nil {
			fmt.Println("sick: there is " + os.Args[2])
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// run serves until SIGTERM and until the last WebSocket is closed.
func run() error {
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(stopping, "tcp", ":"+cmp.Or(os.Getenv("PORT"), "8080"))
	if err != nil {
		return err
	}
	p := &probe{version: os.Getenv("VERSION")}
	go p.tick(stopping)
	web := http.Server{Handler: p.handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = web.Serve(listener) }()
	<-stopping.Done()
	err = web.Shutdown(context.Background())
	p.sockets.Wait()
	return err
}

// probe is the app.
type probe struct {
	version string
	sockets sync.WaitGroup
	mu      sync.Mutex
	eaten   [][]byte
}

func (p *probe) tick(ctx context.Context) {
	every, err := time.ParseDuration(os.Getenv("TICK"))
	if err != nil {
		return
	}
	host, _ := os.Hostname()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			fmt.Println("tick", n, "of", host)
		}
	}
}

func (p *probe) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", p.echo)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		text, err := p.answer(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprint(w, text)
	})
	return mux
}

// answer is what a plain request gets.
func (p *probe) answer(r *http.Request) (string, error) {
	q := r.URL.Query()
	switch r.URL.Path {
	case "/env":
		return os.Getenv(q.Get("name")), nil
	case "/self":
		dir, err := os.Getwd()
		return fmt.Sprintf("%d:%d %s %s", os.Getuid(), os.Getgid(), dir, strings.Join(os.Args[1:], " ")), err
	case "/read":
		data, err := os.ReadFile(q.Get("path"))
		return string(data), err
	case "/write":
		return "written", os.WriteFile(q.Get("path"), []byte(q.Get("text")), 0o600)
	case "/eat":
		return "eaten", p.eat(q.Get("mib"))
	default:
		return p.version, nil
	}
}

// eat takes memory and touches each page of it.
func (p *probe) eat(mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	memory := make([]byte, n<<20)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eaten = append(p.eaten, memory)
	return nil
}

// echo answers every message of a WebSocket until it is closed.
func (p *probe) echo(w http.ResponseWriter, r *http.Request) {
	p.sockets.Add(1)
	defer p.sockets.Done()
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	for {
		kind, data, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, append([]byte(p.version+" "), data...)); err != nil {
			return
		}
	}
}
