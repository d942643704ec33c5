package gen_test

import (
	"bytes"
	"encoding/json"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"vortex"
	"vortex/internal/kind/ksl"
	"vortex/internal/kind/ksl/gen"
)

//go:generate go run ../kslgen -schema testdata/every.ksl -out every_gen_test.go -package gen_test

// The generated file expects these in its package.
type (
	Table[T any] = vortex.Table[T]
	Duration     = vortex.Duration
)

func parseFile(t *testing.T, path string) *ksl.Schema {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := ksl.Parse(path, src)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func TestGeneratedFilesAreFresh(t *testing.T) {
	for _, f := range []struct{ root, schema, out, pkg string }{
		{"../../../../", "schema/vortex.ksl", "records_gen.go", "vortex"},
		{"", "testdata/every.ksl", "every_gen_test.go", "gen_test"},
	} {
		want, err := gen.Generate(parseFile(t, f.root+f.schema), gen.Options{Package: f.pkg, Source: f.schema})
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(f.root + f.out)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, have) {
			t.Errorf("%s is stale: run go generate", f.out)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"id": "ID", "client_id": "ClientID", "ip_address": "IPAddress", "current_rps": "CurrentRPS", "cpu_millis": "CPUMillis",
		"maxCPUPercent": "MaxCPUPercent", "targetRPSPerReplica": "TargetRPSPerReplica", "maxP95LatencyMs": "MaxP95LatencyMs",
		"scaleupnumber": "Scaleupnumber", "apiVersion": "APIVersion", "oom_killed": "OOMKilled", "http_url": "HTTPURL",
		"_x": "X", "__": "X", "_1": "X1",
	} {
		src, err := gen.Generate(parseText(t, "type T { "+name+": String }"), gen.Options{Package: "p", Source: "s"})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(src), "\n\t"+want+" string `json:\""+name+"\"`\n") {
			t.Errorf("%s does not become %s:\n%s", name, want, src)
		}
	}
}

func parseText(t *testing.T, src string) *ksl.Schema {
	t.Helper()
	schema, err := ksl.Parse("test.ksl", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func TestNamesThatCollideAreRefused(t *testing.T) {
	for src, want := range map[string]string{
		"type T { a_b: U8, aB: U8 }":                                "T: a_b and aB would both be AB in Go",
		"type T { set_defaults: U8 }":                               "T: the method SetDefaults and set_defaults would both be SetDefaults in Go",
		"enum E { a_b, aB }":                                        "E.a_b and E.aB would both be EAB in Go",
		"enum E { A } type EA { x: U8 }":                            "E.A and type EA would both be EA in Go",
		`@prefix("a") type ARecord { x: U8 } type As { x: U8 }`:     "type As and the table of ARecord would both be As in Go",
		`@prefix("a") @table("B") type A { x: U8 } type B { x: U8}`: "type B and the table of A would both be B in Go",
	} {
		_, err := gen.Generate(parseText(t, src), gen.Options{Package: "p", Source: "s"})
		if !vortex.IsKind(err, vortex.Invalid) || err.Error() != want {
			t.Errorf("%s: Generate returned %v, want %q", src, err, want)
		}
	}
}

func TestTablesAreNamed(t *testing.T) {
	got := []string{Everies.Key("1"), Cities.Key("a", "b"), Crates.Key(), Wishes.ID("every:wish:x"), Cities.Type}
	if diff := cmp.Diff([]string{"every:1", "every:city:a:b", "every:box", "x", "CityRecord"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSetDefaultsFillsWhatIsAbsent(t *testing.T) {
	part := func() Part {
		return Part{
			S: `a "b"`, B: new(true), U8: new(uint8(0)), I64: new(int64(-5)), F64: new(1.5), Bytes: []byte("hi"),
			At: time.Date(2026, 11, 20, 11, 0, 0, 5e8, time.UTC), D: new(Duration(90 * time.Second)), JSON: json.RawMessage(`"x"`),
			Colour: ColourDarkGreen, Numbers: []uint16{200, 204}, Colours: []Colour{ColourRed, ColourDarkGreen},
		}
	}
	withID := func(id string) Part {
		p := part()
		p.ID = id
		return p
	}
	got, err := Everies.Decode([]byte(`{"part":{"u8":7,"b":false,"s":"s","part":{}},"list":[{"id":"1"}],"map":{"m":{}},` +
		`"deep":[{"x":[{"id":"2"}]}],"omap":{"o":{"id":"3"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	inner := part()
	outer := part()
	outer.U8, outer.B, outer.S, outer.Part = new(uint8(7)), new(false), "s", &inner
	want := Every{
		Part: outer, List: []Part{withID("1")}, Map: map[string]Part{"m": part()},
		Deep: []map[string][]Part{{"x": {withID("2")}}}, Omap: map[string]Part{"o": withID("3")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("wrong defaults (-want +got):\n%s", diff)
	}
}

func TestZeroThatWasGivenIsKept(t *testing.T) {
	const value = `{"part":{"b":false,"i64":0,"f64":0,"d":"0s","bytes":"","numbers":[],"colours":[]}}`
	record, err := Everies.Decode([]byte(value))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := Everies.Encode(record)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Everies.Decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	p := again.Part
	if *p.B || *p.I64 != 0 || *p.F64 != 0 || *p.D != 0 || len(p.Bytes)+len(p.Numbers)+len(p.Colours) != 0 {
		t.Errorf("zeros were replaced by defaults: %+v", p)
	}
}

// roundTrip checks that a record marshals to what its type accepts, and decodes to the same again.
func roundTrip[T any](t *testing.T, schema *ksl.Schema, table vortex.Table[T]) {
	t.Helper()
	t.Run(table.Type, func(t *testing.T) {
		typ, ok := schema.Type(table.Type)
		if !ok || typ.Prefix != table.Prefix {
			t.Fatalf("the schema has no type %s below %s", table.Type, table.Prefix)
		}
		for _, full := range []bool{false, true} {
			var record T
			fill(reflect.ValueOf(&record).Elem(), full, 0)
			value, err := table.Encode(record)
			if err != nil {
				t.Fatal(err)
			}
			if err := typ.Validate(value); err != nil {
				t.Errorf("the schema refuses %s: %v", value, err)
			}
			decoded, err := table.Decode(value)
			if err != nil {
				t.Fatal(err)
			}
			if full {
				if diff := cmp.Diff(record, decoded, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("changed on the way (-before +after):\n%s", diff)
				}
			}
			value, err = table.Encode(decoded)
			if err == nil {
				err = typ.Validate(value)
			}
			if err != nil {
				t.Errorf("refused with its defaults: %v", err)
			}
		}
	})
}

// fill gives enums a value, and, when full, everything else too.
func fill(v reflect.Value, full bool, depth int) {
	if values := v.MethodByName("Values"); values.IsValid() && v.Kind() == reflect.String {
		v.Set(values.Call(nil)[0].Index(0))
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		if full {
			v.Set(reflect.ValueOf(time.Date(2026, 11, 20, 11, 0, 0, 1, time.UTC)))
		}
		return
	case json.RawMessage:
		if full {
			v.SetBytes([]byte(`{"a":1}`))
		}
		return
	}
	if v.Kind() == reflect.Struct {
		for _, field := range v.Fields() {
			fill(field, full, depth+1)
		}
		return
	}
	if full {
		fillMore(v, depth)
	}
}

func fillMore(v reflect.Value, depth int) {
	switch v.Kind() { //nolint:exhaustive // records have no other kinds
	case reflect.String:
		v.SetString("text \"é\" </>")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1<<v.Type().Bits() - 1)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-1 << (v.Type().Bits() - 1))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1e-7)
	case reflect.Pointer:
		if depth < 8 || v.Type().Elem().Kind() != reflect.Struct {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), true, depth+1)
		}
	case reflect.Slice:
		if depth < 8 || v.Type().Elem().Kind() != reflect.Struct {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0), true, depth+1)
			fill(v.Index(1), true, depth+1)
		}
	case reflect.Map:
		elem := reflect.New(v.Type().Elem()).Elem()
		fill(elem, true, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), elem)
	}
}

func TestRecordsFitTheirSchema(t *testing.T) {
	every := parseFile(t, "testdata/every.ksl")
	roundTrip(t, every, Everies)
	roundTrip(t, every, Cities)
	roundTrip(t, every, Crates)
	roundTrip(t, every, Wishes)
	cluster := parseFile(t, "../../../../schema/vortex.ksl")
	roundTrip(t, cluster, vortex.Apps)
	roundTrip(t, cluster, vortex.Settings)
	roundTrip(t, cluster, vortex.LeaderLocks)
	roundTrip(t, cluster, vortex.Metrics)
	roundTrip(t, cluster, vortex.ScaleJobs)
	roundTrip(t, cluster, vortex.Releases)
	roundTrip(t, cluster, vortex.Rollouts)
	roundTrip(t, cluster, vortex.Instances)
	roundTrip(t, cluster, vortex.Placements)
	roundTrip(t, cluster, vortex.Liveness)
	roundTrip(t, cluster, vortex.Routers)
	roundTrip(t, cluster, vortex.Containers)
	roundTrip(t, cluster, vortex.Nodes)
	roundTrip(t, cluster, vortex.Edges)
	roundTrip(t, cluster, vortex.Events)
}

func TestValuesAreThoseOfTheSchema(t *testing.T) {
	schema := parseFile(t, "../../../../schema/vortex.ksl")
	balance, ok := schema.Enum("BalancePolicy")
	if !ok {
		t.Fatal("the schema has no BalancePolicy")
	}
	var got []string
	for _, v := range vortex.BalancePolicy("").Values() {
		got = append(got, string(v))
	}
	if diff := cmp.Diff(balance.Wires(), got); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyNeededPackagesAreImported(t *testing.T) {
	for field, want := range map[string]string{"U8": "", "Timestamp": "time", "Json": "encoding/json"} {
		src, err := gen.Generate(parseText(t, "type T { x: "+field+" }"), gen.Options{Package: "p", Source: "s"})
		if err != nil {
			t.Fatal(err)
		}
		imported := map[string]bool{}
		for _, pkg := range []string{"time", "encoding/json"} {
			if strings.Contains(string(src), `"`+pkg+`"`) {
				imported[pkg] = true
			}
		}
		if got := strings.Join(slices.Sorted(maps.Keys(imported)), " "); got != want {
			t.Errorf("%s: imports %q, want %q", field, got, want)
		}
	}
}

// TestImportedFileStandsOnItsOwn generates a file for another package and compiles what it needs by name.
func TestImportedFileStandsOnItsOwn(t *testing.T) {
	src, err := gen.Generate(parseFile(t, "testdata/every.ksl"), gen.Options{Package: "every", Source: "schema/every.ksl", Import: true})
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "every.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, i := range file.Imports {
		imports = append(imports, i.Path.Value)
	}
	if diff := cmp.Diff([]string{`"encoding/json"`, `"time"`, `"vortex"`}, imports); diff != "" {
		t.Error(diff)
	}
	if file.Doc == nil || !strings.HasPrefix(file.Doc.Text(), "Package every holds the records of every.ksl.") {
		t.Errorf("the package is not documented: %v", file.Doc)
	}
	for _, unresolved := range file.Unresolved {
		if name := unresolved.Name; name == "Table" || name == "Duration" {
			t.Errorf("%s is not qualified", name)
		}
	}
}
