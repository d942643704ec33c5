package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/internal/kind/ksl"
)

func (a *cli) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain [FIELD]", Short: "Describe a field of the App spec, or a record type",
		Example: "  vortex explain\n  vortex explain spec.ports\n  vortex explain scaling.targetRPSPerReplica\n  vortex explain ContainerRecord",
		Args:    between(0, 1, "a field such as spec.ports, or nothing"),
		RunE: func(_ *cobra.Command, args []string) error {
			schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
			if err != nil {
				return fmt.Errorf("parse schema: %w", err)
			}
			found, err := find(schema, strings.Join(args, ""))
			if err != nil {
				return err
			}
			return a.explain(found)
		},
	}
}

// explained is what a path leads to.
type explained struct {
	path  string
	field *ksl.Field // nil for a whole type
	typ   *ksl.Type  // the fields below it; nil when there are none
	enum  *ksl.Enum  // its values; nil when it has any
}

// find walks a path of fields from the App spec, or from a type it starts with.
func find(schema *ksl.Schema, path string) (explained, error) {
	at, ok := schema.Type("App")
	if !ok {
		return explained{}, vortex.Errorf(vortex.Internal, "the schema has no App")
	}
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '.' })
	walked := []string{}
	if len(parts) > 0 {
		if t, ok := schema.Type(parts[0]); ok {
			at, walked, parts = t, []string{t.Name}, parts[1:]
		} else if strings.EqualFold(parts[0], "app") {
			parts = parts[1:]
		}
	}
	out := explained{path: at.Name, typ: at}
	for _, part := range parts {
		name, _, _ := strings.Cut(part, "[")
		if out.typ == nil {
			return out, errUsage("%s has no fields below it, so no %q", out.path, name)
		}
		field, ok := out.typ.Field(name)
		if !ok {
			return out, noField(out, name)
		}
		walked = append(walked, name)
		out = explained{path: strings.Join(walked, "."), field: field}
		elem := field.Type
		for elem.Elem != nil {
			elem = *elem.Elem
		}
		out.typ, out.enum = elem.Struct, elem.Enum
	}
	return out, nil
}

func noField(at explained, name string) error {
	hint := "expected one of " + strings.Join(at.typ.FieldNames(), ", ")
	if near := ksl.Nearest(name, at.typ.FieldNames()); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return vortex.Errorf(vortex.NotFound, "%s has no field %q; %s", at.path, name, hint)
}

// explain prints a field with what stands below it.
func (a *cli) explain(e explained) error {
	if !a.tableOnly() {
		return a.object(e.object())
	}
	head := a.style.bold(e.path)
	if e.field != nil {
		head += "  " + a.style.busy(e.field.Type.String()) + "  " + a.style.dim(presence(e.field))
		a.say("%s", head)
		a.paragraph(e.field.Doc)
	} else {
		a.say("%s", head)
	}
	if e.typ != nil {
		if e.field == nil || e.field.Doc == "" {
			a.paragraph(e.typ.Doc)
		}
		rows := make([][]string, 0, len(e.typ.Fields))
		for _, f := range e.typ.Fields {
			rows = append(rows, []string{"  " + f.Name, a.style.busy(f.Type.String()), a.style.dim(presence(f)), firstLine(f.Doc)})
		}
		a.say("\n%s", strings.Join(align(rows), "\n"))
	}
	if e.enum != nil {
		a.say("\none of %s", strings.Join(e.enum.Wires(), ", "))
	}
	return nil
}

func (a *cli) paragraph(text string) {
	if text != "" {
		a.say("  %s", strings.ReplaceAll(text, "\n", "\n  "))
	}
}

// presence says whether a field must be there.
func presence(f *ksl.Field) string {
	switch {
	case f.Default != nil:
		return "default " + strings.Trim(string(f.Default), `"`)
	case f.Optional:
		return "optional"
	default:
		return "required"
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// object is the explanation for programs.
func (e explained) object() map[string]any {
	out := map[string]any{"path": e.path}
	if e.field != nil {
		out["type"], out["presence"], out["doc"] = e.field.Type.String(), presence(e.field), e.field.Doc
	}
	if e.typ != nil {
		fields := []map[string]string{}
		for _, f := range e.typ.Fields {
			fields = append(fields, map[string]string{"name": f.Name, "type": f.Type.String(), "presence": presence(f), "doc": f.Doc})
		}
		out["fields"] = fields
	}
	if e.enum != nil {
		out["values"] = e.enum.Wires()
	}
	return out
}
