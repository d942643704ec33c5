package api

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"vortex/client"
	"vortex/internal/authz"
	"vortex/internal/kind"
	"vortex/internal/runtime"
	"vortex/internal/settings"
)

// Server answers the REST API from the store. Store, Token and Defaults must be set, everything else may be absent:
// what needs it then answers that it is not there. Handler may be called once.
type Server struct {
	Store *kind.Store
	// Token is the bearer token that gives every right.
	Token string
	// Access knows other tokens and certificates too, and what their roles allow; nil knows the Token only.
	Access *authz.Authority
	// Defaults are the settings of vortex.yaml; those in the store win over them.
	Defaults settings.Settings

	Instances Instances
	Images    Images
	Builder   Builder
	Checker   Checker
	// Edge tells what the edge of this process is doing; nil when there is none.
	Edge func() client.Edge

	// StoreLeader tells the id, in hex, of the member that leads the store's log; nil or "" where that is not known.
	StoreLeader func() string

	// Ready tells what GET /readyz reports; nil means always ready.
	Ready func(context.Context) []client.Check
	// Metrics answers GET /metrics, UI answers / and what no other path claims, Registry answers /v2/.
	Metrics, UI, Registry http.Handler
	// ReservedPorts are host ports of this system itself, each with what uses it. Apps may not ask for them.
	ReservedPorts map[uint16]string
	// Version is that of the binary.
	Version string
	// Log receives what an operator would act on; nil discards.
	Log *slog.Logger

	usage usage
}

// Instances reaches running instances, wherever they are.
type Instances interface {
	// Logs returns what an instance wrote, as runtime.Driver does.
	Logs(ctx context.Context, id string, opts runtime.LogOptions) (iter.Seq2[runtime.LogEntry, error], error)
	// Exec runs a command in an instance, as runtime.Driver does.
	Exec(ctx context.Context, id string, spec runtime.ExecSpec) (exitCode int, err error)
	// Stats returns an instance's use of resources, as runtime.Statter does.
	Stats(ctx context.Context, id string) (runtime.Stats, error)
}

// Images is the local image store. Errors are of the kinds of vortex.Error.
type Images interface {
	// Check returns nil when ref is in the store or its registry has it, and else says what to do.
	Check(ctx context.Context, ref string) error
	List(ctx context.Context) ([]client.Image, error)
	Pull(ctx context.Context, req client.PullRequest, progress func(client.Progress)) (client.Image, error)
	Push(ctx context.Context, req client.PullRequest, progress func(client.Progress)) error
	// Import reads an archive of docker save or an OCI archive; name "" keeps the archive's names.
	Import(ctx context.Context, archive io.Reader, name string) (client.Image, error)
	Remove(ctx context.Context, ref string, force bool) error
}

// Builder makes images.
type Builder interface {
	// Build makes an image of a repository or a directory of this machine.
	Build(ctx context.Context, req client.BuildRequest, progress func(client.Progress)) (client.Image, error)
	// Pin gives a local image a further name that no later build moves, and returns it.
	Pin(ctx context.Context, ref string) (string, error)
	// BuildArchive makes an image of a directory that comes as a tar stream.
	BuildArchive(ctx context.Context, directory io.Reader, req client.BuildRequest, progress func(client.Progress)) (client.Image, error)
}

// Checker checks the health of an instance now instead of when its period is over.
type Checker interface {
	Check(ctx context.Context, instance string) (healthy bool, detail string, err error)
}

const (
	maxSpecBytes = 1 << 20 // of a request's JSON or YAML body
	readFresh    = 2 * time.Second
)

// Handler returns everything the API's port answers.
func (s *Server) Handler() http.Handler {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	ops := s.operations()
	private := http.NewServeMux()
	for _, op := range ops {
		private.Handle(op.Method+" "+prefix+op.Path, s.answer(op))
	}
	private.HandleFunc("/", s.noSuchPath(ops))

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, map[string]bool{"ok": true}) })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /openapi.json", s.openAPI(ops))
	mux.HandleFunc("GET /docs", docs)
	mux.Handle("GET /metrics", s.withToken(orNotHere(s.Metrics, "this server collects no metrics")))
	mux.Handle(prefix+"/", s.withToken(private))
	if s.Registry != nil {
		mux.Handle("/v2/", s.Registry)
	}
	mux.Handle("/", s.front(private))
	return mux
}

// front answers / and what no other path claims.
func (s *Server) front(other http.Handler) http.Handler {
	if s.UI != nil {
		return s.UI
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/docs", http.StatusFound)
			return
		}
		other.ServeHTTP(w, r)
	})
}

func orNotHere(h http.Handler, why string) http.Handler {
	if h != nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, why, http.StatusNotFound) })
}

// readyz answers 200 when every check holds, else 503 with the reasons.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	answer := client.Readiness{Ready: true, Checks: []client.Check{}}
	if s.Ready != nil {
		answer.Checks = append(answer.Checks, s.Ready(r.Context())...)
	}
	status := http.StatusOK
	for _, c := range answer.Checks {
		if c.Error != "" {
			answer.Ready, status = false, http.StatusServiceUnavailable
		}
	}
	reply(w, status, answer)
}

// bearer returns the request's token. A browser cannot set headers on a WebSocket: there the
// token may come as a subprotocol.
func bearer(r *http.Request) string {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		for _, offered := range r.Header.Values("Sec-WebSocket-Protocol") {
			for proto := range strings.SplitSeq(offered, ",") {
				if token, ok := strings.CutPrefix(strings.TrimSpace(proto), client.TokenProtocol); ok {
					return token
				}
			}
		}
	}
	return ""
}

// fresh makes the store's memory as new as everything acknowledged before the request. When
// the engine is away the request is answered from what memory has.
func (s *Server) fresh(ctx context.Context) {
	if s.Store.Stale() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readFresh)
	defer cancel()
	if err := s.Store.Sync(ctx); err != nil {
		s.Log.DebugContext(ctx, "Read from memory", "err", err)
	}
}
