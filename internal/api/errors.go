package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"vortex"
	"vortex/client"
)

// outcome is what an ErrorKind looks like on each of the ways out of the system.
type outcome struct {
	grpc   codes.Code
	status int    // HTTP
	code   string // of the API
	exit   int    // of the CLI
}

// outcomes is the one table of errors: kind to gRPC code, HTTP status, API code and exit code.
var outcomes = map[vortex.ErrorKind]outcome{
	vortex.Internal:        {codes.Internal, http.StatusInternalServerError, client.CodeRuntime, 1},
	vortex.Invalid:         {codes.InvalidArgument, http.StatusBadRequest, client.CodeValidation, 2},
	vortex.NotFound:        {codes.NotFound, http.StatusNotFound, client.CodeNotFound, 3},
	vortex.Exists:          {codes.AlreadyExists, http.StatusConflict, client.CodeAppAlreadyExists, 1},
	vortex.Conflict:        {codes.Aborted, http.StatusConflict, client.CodeConflict, 1},
	vortex.Precondition:    {codes.FailedPrecondition, http.StatusPreconditionFailed, client.CodePrecondition, 4},
	vortex.Unavailable:     {codes.Unavailable, http.StatusServiceUnavailable, client.CodeStore, 1},
	vortex.Denied:          {codes.PermissionDenied, http.StatusForbidden, client.CodeForbidden, 4},
	vortex.Unauthenticated: {codes.Unauthenticated, http.StatusUnauthorized, client.CodeUnauthenticated, 4},
	vortex.Exhausted:       {codes.ResourceExhausted, http.StatusTooManyRequests, client.CodeRateLimit, 1},
	vortex.OutOfRange:      {codes.OutOfRange, http.StatusGone, client.CodeRevisionGone, 1},
}

// GRPCCode returns the gRPC code of errors of a kind.
func GRPCCode(kind vortex.ErrorKind) codes.Code { return outcomes[kind].grpc }

// HTTPStatus returns the HTTP status of errors of a kind.
func HTTPStatus(kind vortex.ErrorKind) int { return outcomes[kind].status }

// Code returns the API's code of errors of a kind that no handler gave a more precise one.
func Code(kind vortex.ErrorKind) string { return outcomes[kind].code }

// ExitCode returns the exit code of a command that ends with err: 0 for nil, 5 when it timed out.
func ExitCode(err error) int {
	const timedOut = 5
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*client.Error](err); ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return timedOut
	}
	return outcomes[vortex.KindOf(err)].exit
}

// Hide logs an internal error under a fresh id and returns what may be shown of it.
func Hide(log *slog.Logger, err error) string {
	id := strings.ToLower(rand.Text()[:10])
	if log != nil {
		log.Error("Internal error", "error_id", id, "err", err)
	}
	return "internal error (" + id + "); the server's log has the rest under this id"
}

// coded is an error with a more precise API code than its kind has.
type coded struct {
	error

	code string
}

func (c coded) Unwrap() error { return c.error }

// withCode gives err an API code. A nil err stays nil.
func withCode(code string, err error) error {
	if err == nil {
		return nil
	}
	return coded{err, code}
}

// body makes the answer of an error, and its HTTP status.
func (s *Server) body(err error) (client.ErrorBody, int) {
	kind := vortex.KindOf(err)
	out := outcomes[kind]
	body := client.ErrorBody{Code: out.code, Timestamp: time.Now().UTC()}
	if c, ok := errors.AsType[coded](err); ok {
		body.Code = c.code
	}
	status := out.status
	text := err.Error()
	switch {
	case kind == vortex.Internal && errors.Is(err, context.DeadlineExceeded):
		body.Code, status = client.CodeTimeout, http.StatusGatewayTimeout
	case kind == vortex.Internal:
		text = Hide(s.Log, err)
	}
	body.Error, body.Details, _ = strings.Cut(text, "\n")
	return body, status
}

// fail answers err.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // the client is gone
	}
	body, status := s.body(err)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="vortex"`)
	}
	reply(w, status, body)
}

// reply answers a value as JSON.
func reply(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error": "the answer cannot be encoded", "code": "`+client.CodeRuntime+`"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}
