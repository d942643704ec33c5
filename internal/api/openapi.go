package api

import (
	_ "embed" // for the documents
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/kind/ksl"
)

//go:embed docs.html
var docsPage []byte

// docs answers the page that shows the document.
func docs(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'")
	_, _ = w.Write(docsPage)
}

// object is a piece of the document.
type object = map[string]any

// openAPI answers the document, made once from the operations and the Go types of their bodies and answers.
func (s *Server) openAPI(ops []operation) http.Handler {
	g := &generator{schemas: object{}}
	if parsed, err := ksl.Parse("vortex.ksl", vortex.Schema()); err == nil {
		g.ksl = parsed
	}
	paths := object{}
	for _, op := range ops {
		path := prefix + strings.ReplaceAll(op.Path, "...}", "}")
		methods, ok := paths[path].(object)
		if !ok {
			methods = object{}
			paths[path] = methods
		}
		methods[strings.ToLower(op.Method)] = g.operation(op)
	}
	g.schema(reflect.TypeFor[client.ErrorBody]())
	document := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Vortex", "version": "v1",
			"description": "Times are RFC 3339, durations strings such as \"1m30s\". Every error has the shape ErrorBody.",
		},
		"security": []object{{"token": []string{}}},
		"paths":    paths,
		"components": object{
			"schemas":         g.schemas,
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}},
			"responses":       object{"Error": object{"description": "What went wrong", "content": content("application/json", reference("ErrorBody"))}},
		},
	}
	data, err := json.MarshalIndent(document, "", " ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			s.fail(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(data)
	})
}

// generator makes schemas of Go types.
type generator struct {
	schemas object
	ksl     *ksl.Schema // its comments describe the types that come from it; nil when it cannot be read
}

func reference(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func content(mediaType string, schema object) object {
	return object{mediaType: object{"schema": schema}}
}

func (g *generator) operation(op operation) object {
	params := []object{}
	for segment := range strings.SplitSeq(op.Path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			params = append(params, object{
				"name": strings.TrimRight(name, ".}"), "in": "path", "required": true, "schema": object{"type": "string"},
			})
		}
	}
	for _, q := range op.Query {
		params = append(params, object{"name": q.Name, "in": "query", "description": q.Doc, "schema": object{"type": "string"}})
	}
	out := object{
		"summary": op.Summary, "operationId": operationID(op), "parameters": params,
		"responses": object{"default": object{"$ref": "#/components/responses/Error"}},
	}
	answers, ok := out["responses"].(object)
	if !ok {
		return out
	}
	switch op.Kind {
	case answerWS:
		answers["101"] = object{"description": "A WebSocket; each message is one value", "content": content("application/json", g.schema(op.Out))}
	case answerLines:
		answers["200"] = object{"description": "One value a line", "content": content("application/jsonl", g.schema(op.Out))}
	case answerJSON:
		answers["200"] = object{"description": "Done", "content": content("application/json", g.schema(op.Out))}
	}
	if op.In != nil {
		body := content("application/json", g.schema(op.In))
		if op.In == reflect.TypeFor[vortex.App]() {
			body["application/yaml"] = object{"schema": g.schema(op.In)}
		}
		out["requestBody"] = object{"content": body}
	}
	return out
}

// operationID names an operation after its method and the words of its path: getAppsAppLogs.
func operationID(op operation) string {
	id := strings.ToLower(op.Method)
	var idSb124 strings.Builder
	for _, word := range strings.FieldsFunc(op.Path, func(r rune) bool { return strings.ContainsRune("/{}.", r) }) {
		idSb124.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	id += idSb124.String()
	return id
}

// schema returns the schema of a Go type; a named struct is described once and referred to.
func (g *generator) schema(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[vortex.Duration]():
		return object{"type": "string", "description": "a duration such as 1m30s"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.schema(t.Elem())
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": g.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": g.schema(t.Elem())}
	case reflect.String:
		return g.enum(t)
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Struct:
		return g.structure(t)
	default:
		return integer(t.Kind())
	}
}

func integer(k reflect.Kind) object {
	if k >= reflect.Uint && k <= reflect.Uint64 {
		return object{"type": "integer", "minimum": 0}
	}
	return object{"type": "integer"}
}

// enum returns the schema of a string type, with its values when the record schema lists them.
func (g *generator) enum(t reflect.Type) object {
	out := object{"type": "string"}
	if g.ksl == nil || t.Name() == "string" {
		return out
	}
	if e, ok := g.ksl.Enum(t.Name()); ok {
		out["enum"] = e.Wires()
	}
	return out
}

// structure describes a struct under its name.
func (g *generator) structure(t reflect.Type) object {
	name := t.Name()
	if name == "" {
		return object{"type": "object"}
	}
	if t.PkgPath() == reflect.TypeFor[vortex.App]().PkgPath() && t != reflect.TypeFor[vortex.App]() {
		name = "Spec" + name // apart from the API's own types of the same name
	} else if t == reflect.TypeFor[vortex.App]() {
		name = "AppSpecDocument"
	}
	if _, done := g.schemas[name]; done {
		return reference(name)
	}
	g.schemas[name] = object{} // ends recursion
	properties, required := object{}, []string{}
	g.fields(t, properties, &required)
	out := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	if doc := g.doc(t, ""); doc != "" {
		out["description"] = doc
	}
	g.schemas[name] = out
	return reference(name)
}

// fields adds a struct's fields, those of embedded structs among them.
func (g *generator) fields(t reflect.Type, properties object, required *[]string) {
	for f := range t.Fields() {
		if f.Anonymous {
			g.fields(f.Type, properties, required)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		schema := g.schema(f.Type)
		if doc := g.doc(t, name); doc != "" {
			schema["description"] = doc
		}
		switch nullable := f.Type.Kind() == reflect.Pointer; {
		case !nullable && options == "":
			*required = append(*required, name)
		case nullable && options == "":
			*required = append(*required, name)
			schema = object{"anyOf": []object{schema, {"type": "null"}}}
		}
		properties[name] = schema
	}
}

// doc is the record schema's comment on a type, or on one of its fields.
func (g *generator) doc(t reflect.Type, field string) string {
	if g.ksl == nil || t.PkgPath() != reflect.TypeFor[vortex.App]().PkgPath() {
		return ""
	}
	typ, ok := g.ksl.Type(t.Name())
	if !ok {
		return ""
	}
	if field == "" {
		return typ.Doc
	}
	if f, ok := typ.Field(field); ok {
		return f.Doc
	}
	return ""
}
