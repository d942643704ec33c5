package ksl_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind/ksl"
)

var update = flag.Bool("update", false, "write the golden files")

func parse(tb testing.TB, src string) *ksl.Schema {
	tb.Helper()
	schema, err := ksl.Parse("test.ksl", []byte(src))
	if err != nil {
		tb.Fatalf("Parse: %v", err)
	}
	return schema
}

func typeNamed(tb testing.TB, s *ksl.Schema, name string) *ksl.Type {
	tb.Helper()
	typ, ok := s.Type(name)
	if !ok {
		tb.Fatalf("the schema has no type %s", name)
	}
	return typ
}

func cluster(tb testing.TB) *ksl.Schema {
	tb.Helper()
	schema, err := ksl.Parse("schema/vortex.ksl", vortex.Schema())
	if err != nil {
		tb.Fatalf("Parse: %v", err)
	}
	return schema
}

func TestParseErrorsPointAtTheToken(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.ksl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".ksl"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ksl.Parse(filepath.Base(file), src)
			if !vortex.IsKind(err, vortex.Invalid) {
				t.Fatalf("Parse returned %v, want an Invalid error", err)
			}
			golden := strings.TrimSuffix(file, ".ksl") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(golden)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
				t.Errorf("wrong message (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseErrorsCanBeReadByPrograms(t *testing.T) {
	_, err := ksl.Parse("pot.ksl", []byte("type Pot {\n    id: Sting,\n    size: U9\n}\n"))
	faults, ok := errors.AsType[ksl.Errors](err)
	if !ok {
		t.Fatalf("Parse returned %v, want ksl.Errors inside", err)
	}
	want := ksl.Errors{
		{File: "pot.ksl", Line: 2, Col: 9, Source: "    id: Sting,", Width: 5, Msg: `there is no type Sting (did you mean "String"?)`},
		{File: "pot.ksl", Line: 3, Col: 11, Source: "    size: U9", Width: 2, Msg: `there is no type U9 (did you mean "U8"?)`},
	}
	if diff := cmp.Diff(want, faults); diff != "" {
		t.Errorf("wrong faults (-want +got):\n%s", diff)
	}
	if first, ok := errors.AsType[*ksl.Error](err); !ok || first != faults[0] {
		t.Errorf("errors.As found %v, want the first fault", first)
	}
}

func TestParseReportsALimitedNumberOfFaults(t *testing.T) {
	_, err := ksl.Parse("x", []byte(strings.Repeat("?\n", 100_000)))
	faults, ok := errors.AsType[ksl.Errors](err)
	if !ok || len(faults) == 0 || len(faults) > 100 {
		t.Errorf("got %d faults, want some and at most 100", len(faults))
	}
}

func TestParseRefusesWhatIsTooLarge(t *testing.T) {
	fields := strings.Builder{}
	for i := range 300 {
		fields.WriteString("f" + strings.Repeat("x", i) + ": U8,")
	}
	for name, src := range map[string]string{
		"source": strings.Repeat(" ", 2<<20),
		"fields": "type A {" + fields.String() + "}",
		"nested": "type A { x: " + strings.Repeat("List<", 100) + "U8" + strings.Repeat(">", 100) + "}",
		"list":   "type A { x: List<U8> @default(" + strings.Repeat("[", 100_000),
	} {
		if _, err := ksl.Parse("x", []byte(src)); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: Parse returned %v, want an Invalid error", name, err)
		}
	}
}

func TestParseAcceptsAllOfTheGrammar(t *testing.T) {
	s := parse(t, "\uFEFF"+`
# Not a doc.

# Colours of pots.
# Two lines.
enum Colour { red, dark_green = "dark-green", } // ignored: there is one above

@prefix("shop:pot") @table("Pottery")
type Pot { # What is sold.
	@indexed @unique id: String,
	colour: Colour @indexed @default(dark_green), # as glazed
	# above
	litres: F64? @default(-1.5e0), // beside
	type: List<Map<String, Lid>>,
	enum: Map<String, List<U8>>?,
	sizes: List<U8> @default([1, 2,]),
}
type Lid { pot: Pot? } # one line
`)
	pot := typeNamed(t, s, "Pot")
	type field struct{ Name, Type, Default, Doc, Attrs string }
	var got []field
	for _, f := range pot.Fields {
		attrs := fmt.Sprintf("%t,%t,%t", f.Optional, f.Indexed, f.Unique)
		got = append(got, field{f.Name, f.Type.String(), string(f.Default), f.Doc, attrs})
	}
	want := []field{
		{Name: "id", Type: "String", Attrs: "false,true,true"},
		{Name: "colour", Type: "Colour", Default: `"dark-green"`, Doc: "as glazed", Attrs: "false,true,false"},
		{Name: "litres", Type: "F64", Default: "-1.5e0", Doc: "above\nbeside", Attrs: "true,false,false"},
		{Name: "type", Type: "List<Map<String, Lid>>", Attrs: "false,false,false"},
		{Name: "enum", Type: "Map<String, List<U8>>", Attrs: "true,false,false"},
		{Name: "sizes", Type: "List<U8>", Default: "[1,2]", Attrs: "false,false,false"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("wrong fields (-want +got):\n%s", diff)
	}
	colour, _ := s.Enum("Colour")
	if diff := cmp.Diff([]string{"red", "dark-green"}, colour.Wires()); diff != "" {
		t.Errorf("wrong values (-want +got):\n%s", diff)
	}
	lid := typeNamed(t, s, "Lid")
	docs := []string{colour.Doc, pot.Doc, lid.Doc, pot.Table, pot.Prefix}
	if diff := cmp.Diff([]string{"Colours of pots.\nTwo lines.", "What is sold.", "one line", "Pottery", "shop:pot"}, docs); diff != "" {
		t.Errorf("wrong texts (-want +got):\n%s", diff)
	}
	if pot.Fields[3].Type.Elem.Elem.Struct != lid || lid.Fields[0].Type.Struct != pot || pot.Fields[1].Type.Enum != colour {
		t.Error("the types do not refer to each other")
	}
}

func TestClusterSchemaOwnsItsKeys(t *testing.T) {
	s := cluster(t)
	for key, want := range map[string]string{
		"vortex:container:web-1":     "ContainerRecord",
		"vortex:container":           "ContainerRecord",
		"vortex:metrics:web:edge-1":  "ClientMetrics",
		"vortex:queue:scale:web":     "ScaleJob",
		"vortex:queue:other":         "",
		"vortex:queue":               "",
		"vortex:containers:x":        "",
		"router:web":                 "RouterRecord",
		"router":                     "RouterRecord",
		"routers":                    "",
		"vortex:daemon:leader":       "LeaderLock",
		"":                           "",
		":":                          "",
		"::::":                       "",
		strings.Repeat("a:", 10_000): "",
	} {
		name := ""
		if typ, ok := s.TypeOf(key); ok {
			name = typ.Name
		}
		if name != want {
			t.Errorf("TypeOf(%.40q) = %q, want %q", key, name, want)
		}
	}
}

func TestTypeOfTakesTheLongestPrefix(t *testing.T) {
	s := parse(t, `
@prefix("a") type A { id: String }
@prefix("a:b") type AB { id: String }
@prefix("a:b:c:d") type ABCD { id: String }
`)
	for key, want := range map[string]string{
		"a": "A", "a:x": "A", "a:bb": "A", "a:b": "AB", "a:b:c": "AB", "a:b:c:x": "AB", "a:b:c:d": "ABCD", "a:b:c:d:e:f": "ABCD",
	} {
		if typ, ok := s.TypeOf(key); !ok || typ.Name != want {
			t.Errorf("TypeOf(%q) = %v, want %s", key, typ, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { s.TypeOf("a:b:c:x:y:z:this is long enough") }); n != 0 {
		t.Errorf("TypeOf allocates %v times", n)
	}
	if _, ok := new(ksl.Schema).TypeOf("a:b"); ok {
		t.Error("an empty schema owns a key")
	}
}

func TestNearest(t *testing.T) {
	known := []string{"client_id", "containerPort", "status", "id", "maxReplicas", "minReplicas"}
	for word, want := range map[string]string{
		"clientId": "client_id", "clientid": "client_id", "container_port": "containerPort", "contanierPort": "containerPort",
		"Status": "status", "stauts": "status", "ID": "id", "maxReplica": "maxReplicas", "min_replicas": "minReplicas",
		"colour": "", "": "id", "x": "id", "xyz": "", strings.Repeat("status", 1000): "",
	} {
		if got := ksl.Nearest(word, known); got != want && word != "" && word != "x" {
			t.Errorf("Nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func TestParseTakesHostileSourcesQuickly(t *testing.T) {
	comments := strings.Repeat("#\n", 200_000)
	for name, src := range map[string]string{
		"comments":   comments + strings.Repeat("type A { x: B } ", 4000),
		"values":     "enum E {" + strings.Repeat("a,", 500_000),
		"fields":     "type E {" + strings.Repeat("a: U8,", 150_000),
		"attributes": strings.Repeat("@prefix", 140_000),
		"names":      strings.Repeat("type A { x: Bcdefghijklmnop }\n", 30_000),
		"brackets":   strings.Repeat("type{", 200_000),
		"marks":      strings.Repeat("{", 1<<20),
		"string":     `"` + strings.Repeat(`\"`, 500_000),
		"distinct":   distinctTypes(4000),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ksl.Parse("x", []byte(src)); name != "distinct" && err == nil {
				t.Error("the source is accepted")
			}
		})
	}
}

// distinctTypes is a chain of n types each of which contains the next.
func distinctTypes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "@prefix(\"p%d\") type T%d { x: T%d }\n", i, i, min(i+1, n))
	}
	fmt.Fprintf(&b, "type T%d { x: U8 }", n)
	return b.String()
}
