package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"vortex"
)

// ErrorBody is how the API answers what went wrong.
type ErrorBody struct {
	Error     string    `json:"error"`             // one line: what was expected and what came
	Details   string    `json:"details,omitempty"` // further lines, what to do next among them
	Code      string    `json:"code"`              // one of the Code constants
	Timestamp time.Time `json:"timestamp"`
}

// The API's codes. New ones may be added; whoever does not know one goes by the HTTP status.
const (
	CodeAppNotFound           = "APP_NOT_FOUND"
	CodeAppAlreadyExists      = "APP_ALREADY_EXISTS"
	CodeInvalidSpec           = "INVALID_SPEC"
	CodeValidation            = "VALIDATION_ERROR"
	CodeScalingInProgress     = "SCALING_IN_PROGRESS"
	CodeInsufficientResources = "INSUFFICIENT_RESOURCES"
	CodeRuntime               = "RUNTIME_ERROR"
	CodeStore                 = "STORE_ERROR"
	CodeRateLimit             = "RATE_LIMIT_EXCEEDED"
	CodeUnauthenticated       = "UNAUTHENTICATED"
	CodeForbidden             = "FORBIDDEN"
	CodeNotLeader             = "NOT_LEADER"

	CodeNotFound     = "NOT_FOUND"     // something other than an app
	CodeConflict     = "CONFLICT"      // changed meanwhile by somebody else
	CodePrecondition = "PRECONDITION"  // the state of things forbids it
	CodeRevisionGone = "REVISION_GONE" // a revision that is kept no longer
	CodeTimeout      = "TIMEOUT"       // the wait asked for ended first
)

// Error is an error the API answered. It unwraps to a *vortex.Error, so vortex.KindOf and vortex.IsKind work on it.
type Error struct {
	Status int // HTTP status
	ErrorBody
}

// Error returns the message and the details, each on lines of its own.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.ErrorBody.Error
	}
	return e.ErrorBody.Error + "\n" + e.Details
}

// Unwrap returns the error as the domain knows it.
func (e *Error) Unwrap() error {
	return &vortex.Error{Kind: e.kind(), Msg: e.Error()}
}

// kindsByStatus holds the statuses that stand for one kind only.
var kindsByStatus = map[int]vortex.ErrorKind{
	http.StatusBadRequest:            vortex.Invalid,
	http.StatusRequestEntityTooLarge: vortex.Invalid,
	http.StatusUnsupportedMediaType:  vortex.Invalid,
	http.StatusMethodNotAllowed:      vortex.Invalid,
	http.StatusNotFound:              vortex.NotFound,
	http.StatusPreconditionFailed:    vortex.Precondition,
	http.StatusServiceUnavailable:    vortex.Unavailable,
	http.StatusBadGateway:            vortex.Unavailable,
	http.StatusGatewayTimeout:        vortex.Unavailable,
	http.StatusForbidden:             vortex.Denied,
	http.StatusUnauthorized:          vortex.Unauthenticated,
	http.StatusTooManyRequests:       vortex.Exhausted,
	http.StatusGone:                  vortex.OutOfRange,
}

// kind is the kind the server had in mind.
func (e *Error) kind() vortex.ErrorKind {
	if e.Status == http.StatusConflict {
		if e.Code == CodeAppAlreadyExists {
			return vortex.Exists
		}
		return vortex.Conflict
	}
	return kindsByStatus[e.Status]
}

// Timeout reports whether the server gave up waiting, while the thing waited for goes on.
func (e *Error) Timeout() bool { return e.Code == CodeTimeout }

// decodeError makes an Error of an answer that is none of 2xx.
func decodeError(resp *http.Response) error {
	const limit = 1 << 20
	data, _ := io.ReadAll(io.LimitReader(resp.Body, limit))
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(data, &e.ErrorBody) != nil || e.ErrorBody.Error == "" {
		text := strings.TrimSpace(string(data[:min(len(data), 200)]))
		e.ErrorBody = ErrorBody{Error: fmt.Sprintf("%s %s answered %s", resp.Request.Method, resp.Request.URL.Redacted(), resp.Status), Details: text}
	}
	return e
}
