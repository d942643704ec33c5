package vortex

import (
	"errors"
	"fmt"
)

// ErrorKind classifies an error by what the caller can do about it. The zero value is Internal, so
// an error nobody classified is never shown to a user as their own mistake.
type ErrorKind uint8

// The kinds. One table in internal/api maps each to a gRPC code, an HTTP status, an API code and an exit code.
const (
	Internal        ErrorKind = iota // a fault of ours: the user sees an id, the log has the rest
	Invalid                          // the input is wrong and stays wrong until it is changed
	NotFound                         // the thing named does not exist
	Exists                           // the thing to be created exists already
	Conflict                         // somebody else changed it meanwhile: read again and retry
	Precondition                     // the system is in a state that forbids it
	Unavailable                      // a part that is needed does not answer now: retry later
	Denied                           // the caller is known and may not do this
	Unauthenticated                  // the caller is not known
	Exhausted                        // a limit or a capacity is used up
	OutOfRange                       // the revision asked for is gone: list again
	errorKinds                       // the number of kinds
)

var errorKindNames = [errorKinds]string{
	"internal", "invalid", "not found", "exists", "conflict", "precondition", "unavailable", "denied",
	"unauthenticated", "exhausted", "out of range",
}

// String returns the kind's name in plain words.
func (k ErrorKind) String() string {
	if k >= errorKinds {
		return fmt.Sprintf("ErrorKind(%d)", k)
	}
	return errorKindNames[k]
}

// ErrorKinds returns every kind, for tables and the tests that check that they are complete.
func ErrorKinds() []ErrorKind {
	kinds := make([]ErrorKind, errorKinds)
	for i := range kinds {
		kinds[i] = ErrorKind(i)
	}
	return kinds
}

// Error is the one error type of Vortex. Msg is safe to show to users: it says what was expected,
// what came and what to do next. Err, which may be nil, is for operators and logs.
type Error struct {
	Kind ErrorKind
	Msg  string
	Err  error
}

// Error returns Msg, followed by the operator's part when there is one.
func (e *Error) Error() string {
	switch {
	case e.Err == nil, e.wrapped():
		return e.Msg
	case e.Msg == "":
		return e.Err.Error()
	default:
		return e.Msg + ": " + e.Err.Error()
	}
}

// wrapped reports whether Msg already spells Err out.
func (e *Error) wrapped() bool {
	_, ok := e.Err.(hidden) //nolint:errorlint // Err itself is meant, not what it wraps
	return ok
}

// Unwrap returns the operator's part.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error of the given kind whose Msg is formatted from format and args.
// A %w verb keeps the wrapped error reachable for errors.Is and errors.As.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	if wrapped := errors.Unwrap(err); wrapped != nil {
		return &Error{Kind: kind, Msg: err.Error(), Err: hidden{wrapped}}
	}
	return &Error{Kind: kind, Msg: err.Error()}
}

// hidden keeps a wrapped error reachable without printing it a second time.
type hidden struct{ err error }

func (h hidden) Error() string { return h.err.Error() }
func (h hidden) Unwrap() error { return h.err }

// KindOf returns the kind of the first Error in err's chain, or Internal when there is none.
func KindOf(err error) ErrorKind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// IsKind reports whether err is non-nil and of the given kind.
func IsKind(err error, kind ErrorKind) bool { return err != nil && KindOf(err) == kind }
