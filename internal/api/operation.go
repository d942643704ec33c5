package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	"vortex"
	"vortex/internal/kind/ksl"
)

// prefix is what every path of the API starts with.
const prefix = "/api/v1"

// operation is one method on one path, with all that the document says about it.
type operation struct {
	Method  string
	Path    string // below prefix
	Summary string
	Query   []param
	In      reflect.Type // of the body; nil when there is none
	Out     reflect.Type // of the answer
	Kind    answerKind
	Handle  func(http.ResponseWriter, *http.Request) error
}

// param is a query parameter.
type param struct{ Name, Doc string }

// answerKind is the form an answer has.
type answerKind uint8

const (
	answerJSON  answerKind = iota // one value
	answerLines                   // one value a line
	answerWS                      // one value a WebSocket message
)

// read makes an operation that has no body.
func read[Out any](method, path, summary string, fn func(*http.Request) (Out, error), query ...param) operation {
	return operation{
		Method: method, Path: path, Summary: summary, Query: query, Out: reflect.TypeFor[Out](),
		Handle: func(w http.ResponseWriter, r *http.Request) error {
			out, err := fn(r)
			if err != nil {
				return err
			}
			reply(w, http.StatusOK, out)
			return nil
		},
	}
}

// write makes an operation with a JSON body. An empty body is the zero value.
func write[In, Out any](method, path, summary string, fn func(*http.Request, In) (Out, error), query ...param) operation {
	op := read(method, path, summary, func(r *http.Request) (out Out, err error) {
		var in In
		data, err := readBody(r)
		if err != nil {
			return out, err
		}
		if len(bytes.TrimSpace(data)) > 0 {
			if err := decodeStrict(data, &in); err != nil {
				return out, err
			}
		}
		return fn(r, in)
	}, query...)
	op.In = reflect.TypeFor[In]()
	return op
}

// stream makes an operation that answers value after value of type Out.
func stream[Out any](kind answerKind, method, path, summary string, fn func(http.ResponseWriter, *http.Request) error, query ...param) operation {
	return operation{Method: method, Path: path, Summary: summary, Query: query, Out: reflect.TypeFor[Out](), Kind: kind, Handle: fn}
}

// answer makes an operation an http.Handler.
func (s *Server) answer(op operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkQuery(op, r); err != nil {
			s.fail(w, r, err)
			return
		}
		s.fresh(r.Context())
		if err := op.Handle(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// checkQuery refuses query parameters the operation does not know.
func checkQuery(op operation, r *http.Request) error {
	for name := range r.URL.Query() {
		known := make([]string, 0, len(op.Query))
		for _, p := range op.Query {
			if p.Name == name {
				known = nil
				break
			}
			known = append(known, p.Name)
		}
		if known != nil {
			return vortex.Errorf(vortex.Invalid, "unknown query parameter %q%s", name, suggest(name, known))
		}
	}
	return nil
}

// suggest ends a message about an unknown name.
func suggest(name string, known []string) string {
	if near := ksl.Nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(known) == 0 {
		return "; none is expected here"
	}
	return "; expected one of " + strings.Join(known, ", ")
}

// readBody reads a body of at most maxSpecBytes.
func readBody(r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxSpecBytes))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, vortex.Errorf(vortex.Invalid, "the body is larger than the %d KiB allowed; an App spec is text of a few KiB", maxSpecBytes>>10)
	}
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "the body ended before it was complete: %w", err)
	}
	return data, nil
}

// decodeStrict reads one JSON value that has no field value does not know.
func decodeStrict(data []byte, value any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(value); err != nil {
		return badJSON(data, err, value)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return vortex.Errorf(vortex.Invalid, "the body goes on after its JSON value; send one object")
	}
	return nil
}

// badJSON says in plain words what is wrong with a body.
func badJSON(data []byte, err error, value any) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		line := 1 + bytes.Count(data[:min(int(e.Offset), len(data))], []byte("\n"))
		return vortex.Errorf(vortex.Invalid, "the body is no JSON: line %d: %s", line, e)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return vortex.Errorf(vortex.Invalid, "%s: expected %s, got a %s", e.Field, plainType(e.Type), e.Value)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		name = strings.Trim(name, `"`)
		return vortex.Errorf(vortex.Invalid, "unknown field %q%s", name, suggest(name, fieldNames(reflect.TypeOf(value).Elem())))
	}
	if e, ok := errors.AsType[*vortex.Error](err); ok {
		return e
	}
	return vortex.Errorf(vortex.Invalid, "the body is no JSON: %s", err)
}

// plainType is what people call a Go type.
func plainType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	default:
		return "an object"
	}
}

// fieldNames returns the JSON names of a struct's fields and of those inside them.
func fieldNames(t reflect.Type) (names []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
		names = append(names, fieldNames(f.Type)...)
	}
	return names
}

// noSuchPath answers what no operation claims.
func (s *Server) noSuchPath(ops []operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		methods := methodsAt(ops, r.URL.Path)
		if len(methods) == 0 {
			s.fail(w, r, vortex.Errorf(vortex.NotFound, "no path %s here; /docs lists what there is", r.URL.Path))
			return
		}
		allowed := strings.Join(methods, ", ")
		w.Header().Set("Allow", allowed)
		body, _ := s.body(vortex.Errorf(vortex.Invalid, "%s is not allowed on %s; use %s", r.Method, r.URL.Path, allowed))
		reply(w, http.StatusMethodNotAllowed, body)
	}
}

// methodsAt returns the methods that some operation has on a path.
func methodsAt(ops []operation, path string) (methods []string) {
	parts := strings.Split(strings.TrimPrefix(path, prefix), "/")
	for _, op := range ops {
		want := strings.Split(op.Path, "/")
		same := len(parts) == len(want)
		for i := 0; same && i < len(want); i++ {
			same = want[i] == parts[i] || strings.HasPrefix(want[i], "{") && parts[i] != ""
		}
		if same {
			methods = append(methods, op.Method)
		}
	}
	return methods
}
