package ksl_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex"
)

const everything = `
enum Colour { red, dark_green = "dark-green" }
type Part { id: String, size: U8?, parts: List<Part>? }
@prefix("t")
type T {
    s: String?, b: Bool?, u8: U8?, u16: U16?, u32: U32?, u64: U64?, i8: I8?, i16: I16?, i32: I32?, i64: I64?,
    f32: F32?, f64: F64?, bytes: Bytes?, at: Timestamp?, d: Duration?, json: Json?,
    colour: Colour?, part: Part?, parts: List<Part>?, map: Map<String, Part>?, deep: List<Map<String, List<U8>>>?
}
`

func TestValidateAccepts(t *testing.T) {
	typ := typeNamed(t, parse(t, everything), "T")
	for _, value := range []string{
		`{}`, " \t\r\n{ } \n", `{"s":"x"}`, `{"\u0073":"x"}`, `{"s":null,"b":null,"parts":null,"json":null}`,
		`{"b":true,"u8":255,"u16":65535,"u32":4294967295,"u64":18446744073709551615}`,
		`{"i8":-128,"i16":-32768,"i32":-2147483648,"i64":-9223372036854775808}`, `{"i8":127,"i64":9223372036854775807}`,
		`{"u8":0,"i8":-0}`, `{"f32":-3.4e38,"f64":1.7976931348623157e308}`, `{"f64":1e-999,"f32":0.1}`,
		`{"f32":` + strings.Repeat("1", 38) + `}`,
		`{"s":"\ud83d\ude00 \u00e9 é 😀 \" \\ \/ \b\f\n\r\t"}`, `{"s":"` + strings.Repeat("é", 100) + `"}`,
		`{"bytes":""}`, `{"bytes":"AA=="}`, `{"bytes":"AAA="}`, `{"bytes":"ab+/"}`, `{"bytes":null}`,
		`{"at":"2026-11-20T11:00:00Z"}`, `{"at":"2026-11-20T11:00:00.123456789+05:30"}`, `{"at":"2026\u002d11-20T11:00:00Z"}`,
		`{"d":"5s"}`, `{"d":"-1h30m0.5s"}`, `{"d":"0s"}`,
		`{"json":{"a":[1,2.5e3,{"b":[]},"x",true,false,null]}}`, `{"json":"x"}`, `{"colour":"dark-green"}`, `{"colour":"r\u0065d"}`,
		`{"part":{"id":"1","parts":[{"id":"2"},{"id":"3","size":1}]}}`, `{"map":{"":{"id":""},"a":{"id":""}}}`,
		`{"deep":[null,{"a":[1],"b":null},{}]}`, `{"parts":[]}`,
	} {
		if err := typ.Validate([]byte(value)); err != nil {
			t.Errorf("%s: %v", value, err)
		}
		if !json.Valid([]byte(value)) {
			t.Errorf("%s is accepted and is no JSON", value)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	typ := typeNamed(t, parse(t, everything), "T")
	long := strings.Repeat("é", 100)
	for _, test := range []struct{ value, want string }{
		{`5`, `T: expected an object of type T, got 5`},
		{`[]`, `T: expected an object of type T, got a list`},
		{`null`, `T: expected an object of type T, got null`},
		{``, `T: invalid JSON at byte 0: expected a value, got the end of the value`},
		{`{}x`, `T: invalid JSON at byte 2: expected the end of the value, got 'x'`},
		{`{}{}`, `T: invalid JSON at byte 2: expected the end of the value, got '{'`},
		{`{`, `T: invalid JSON at byte 1: expected a name in double quotes, got the end of the value`},
		{`{"s"`, `T: invalid JSON at byte 4: expected ':' after the name, got the end of the value`},
		{`{"s":}`, `T.s: invalid JSON at byte 5: expected a value, got '}'`},
		{`{"s":"x",}`, `T: invalid JSON at byte 9: expected another element after the comma, got '}'`},
		{`{"s":"x" "b":true}`, `T: invalid JSON at byte 9: expected ',' or '}', got '"'`},
		{`{'s':"x"}`, `T: invalid JSON at byte 1: expected a name in double quotes, got '\''`},
		{`{"s":x}`, `T.s: invalid JSON at byte 5: expected a value, got 'x'`},
		{`{"s":"x`, `T.s: invalid JSON at byte 7: expected '"' at the end of the string, got the end of the value`},
		{"{\"s\":\"\n\"}", `T.s: invalid JSON at byte 6: a control character in a string must be escaped, got '\n'`},
		{`{"s":"\x"}`, `T.s: invalid JSON at byte 6: the string has an escape that does not exist, got '\\'`},
		{`{"s":"\u12g4"}`, `T.s: invalid JSON at byte 6: the string has an escape that does not exist, got '\\'`},
		{`{"s":"\`, `T.s: invalid JSON at byte 6: the string has an escape that does not exist, got '\\'`},
		{"{\"s\":\"\xff\"}", `T.s: invalid JSON at byte 5: the string is not UTF-8, got '"'`},
		{`{"s":5}`, `T.s: expected a string, got 5`},
		{`{"s":{}}`, `T.s: expected a string, got an object`},
		{`{"s":"a","s":"b"}`, `T.s: the field stands here twice`},
		{`{"s":null,"\u0073":"b"}`, `T.s: the field stands here twice`},
		{`{"colr":1}`, `T.colr: there is no such field (did you mean "colour"?)`},
		{`{"U64":1}`, `T.U64: there is no such field (did you mean "u64"?)`},
		{`{"what is this":1}`, `T.what is this: there is no such field`},
		{`{"b":"true"}`, `T.b: expected true or false, got "true"`},
		{`{"b":1}`, `T.b: expected true or false, got 1`},
		{`{"b":truex}`, `T: invalid JSON at byte 9: expected ',' or '}', got 'x'`},
		{`{"u8":256}`, `T.u8: expected a U8 (0 to 255), got 256`},
		{`{"u8":-1}`, `T.u8: expected a U8 (0 to 255), got -1`},
		{`{"u8":-0}`, `T.u8: expected a U8 (0 to 255), got -0`},
		{`{"u8":1.0}`, `T.u8: expected a U8 (0 to 255), got 1.0`},
		{`{"u8":1e1}`, `T.u8: expected a U8 (0 to 255), got 1e1`},
		{`{"u8":"1"}`, `T.u8: expected a U8 (0 to 255), got "1"`},
		{`{"u8":01}`, `T: invalid JSON at byte 7: expected ',' or '}', got '1'`},
		{`{"u8":+1}`, `T.u8: invalid JSON at byte 6: expected a value, got '+'`},
		{`{"u8":-}`, `T.u8: invalid JSON at byte 7: expected a digit, got '}'`},
		{`{"u16":65536}`, `T.u16: expected a U16 (0 to 65535), got 65536`},
		{`{"u32":4294967296}`, `T.u32: expected a U32 (0 to 4294967295), got 4294967296`},
		{`{"u64":18446744073709551616}`, `T.u64: expected a U64 (0 to 18446744073709551615), got 18446744073709551616`},
		{`{"i8":128}`, `T.i8: expected an I8 (-128 to 127), got 128`},
		{`{"i8":-129}`, `T.i8: expected an I8 (-128 to 127), got -129`},
		{`{"i64":9223372036854775808}`, `T.i64: expected an I64 (-9223372036854775808 to 9223372036854775807), got 9223372036854775808`},
		{`{"f32":1e39}`, `T.f32: expected an F32 (a number up to 3.4e38), got 1e39`},
		{`{"f64":1e309}`, `T.f64: expected an F64 (a number up to 1.8e308), got 1e309`},
		{`{"f64":NaN}`, `T.f64: invalid JSON at byte 7: expected a value, got 'N'`},
		{`{"f64":1.}`, `T.f64: invalid JSON at byte 9: expected a digit after the point, got '}'`},
		{`{"f64":1e}`, `T.f64: invalid JSON at byte 9: expected a digit in the exponent, got '}'`},
		{`{"bytes":"A"}`, `T.bytes: expected Bytes (a base64 string), got "A"`},
		{`{"bytes":"A==="}`, `T.bytes: expected Bytes (a base64 string), got "A==="`},
		{`{"bytes":"A=AA"}`, `T.bytes: expected Bytes (a base64 string), got "A=AA"`},
		{`{"bytes":"ab-_"}`, `T.bytes: expected Bytes (a base64 string), got "ab-_"`},
		{`{"bytes":[1]}`, `T.bytes: expected Bytes (a base64 string), got a list`},
		{`{"at":"2026-11-20"}`, `T.at: expected a Timestamp such as "2006-01-02T15:04:05Z", got "2026-11-20"`},
		{`{"at":1763636400}`, `T.at: expected a Timestamp such as "2006-01-02T15:04:05Z", got 1763636400`},
		{`{"d":5}`, `T.d: expected a Duration such as "5s" or "1h30m", got 5`},
		{`{"d":"5"}`, `T.d: expected a Duration such as "5s" or "1h30m", got "5"`},
		{`{"json":{"a":}}`, `T.json: invalid JSON at byte 13: expected a value, got '}'`},
		{`{"json":[1,]}`, `T.json: invalid JSON at byte 11: expected another element after the comma, got ']'`},
		{`{"colour":"gren"}`, `T.colour: expected one of red, dark-green, got "gren"`},
		{`{"colour":"darkgreen"}`, `T.colour: expected one of red, dark-green, got "darkgreen" (did you mean "dark-green"?)`},
		{`{"colour":1}`, `T.colour: expected one of red, dark-green, got 1`},
		{`{"colour":""}`, `T.colour: expected one of red, dark-green, got ""`},
		{`{"part":{}}`, `T.part.id: the field is required: expected a string`},
		{`{"part":{"id":null}}`, `T.part.id: expected a string, got null`},
		{`{"part":{"id":"1","parts":[{"id":"2"},{"id":"3","size":300}]}}`, `T.part.parts[1].size: expected a U8 (0 to 255), got 300`},
		{`{"parts":{}}`, `T.parts: expected a list, List<Part>, got an object`},
		{`{"parts":[null]}`, `T.parts[0]: expected an object of type Part, got null`},
		{`{"map":[]}`, `T.map: expected an object, Map<String, Part>, got a list`},
		{`{"map":{"a b":{"id":1}}}`, `T.map["a b"].id: expected a string, got 1`},
		{`{"map":{"a":{"id":""},"\u0061":{"id":""}}}`, `T.map["a"]: the key stands here twice`},
		{`{"deep":[{"a":[1,2,-3]}]}`, `T.deep[0]["a"][2]: expected a U8 (0 to 255), got -3`},
		{`{"u8":"` + long + `"}`, `T.u8: expected a U8 (0 to 255), got "` + strings.Repeat("é", 29) + `…`},
		{`{"json":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `T.json: objects and lists are nested deeper than 64`},
		{`{"s":` + strings.Repeat(`{"a":`, 1_000_000), `T.s: expected a string, got an object`},
	} {
		err := typ.Validate([]byte(test.value))
		if !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%.100s: Validate returned %v, want an Invalid error", test.value, err)
			continue
		}
		if diff := cmp.Diff(test.want, err.Error()); diff != "" {
			t.Errorf("%.100s: wrong message (-want +got):\n%s", test.value, diff)
		}
	}
}

func TestValidateSaysWhatClusterRecordsNeed(t *testing.T) {
	s := cluster(t)
	for _, test := range []struct{ typ, value, want string }{
		{
			"ContainerRecord", `{"id":"1","client_id":"web","status":"Runnin","ip_address":""}`,
			`ContainerRecord.status: expected one of Running, Dead, Provisioning, got "Runnin" (did you mean "Running"?)`,
		},
		{
			"ContainerRecord", `{"id":"1","clientId":"web"}`,
			`ContainerRecord.clientId: there is no such field (did you mean "client_id"?)`,
		},
		{"ContainerRecord", `{"id":"1"}`, `ContainerRecord: the fields client_id, status, ip_address are required`},
		{
			"ContainerRecord", `{"id":"1","client_id":"web","ip_address":""}`,
			`ContainerRecord.status: the field is required: expected one of Running, Dead, Provisioning`,
		},
		{
			"App", `{"metadata":{"name":"web"},"spec":{"ports":[{"containerPort":70000}]}}`,
			`App.spec.ports[0].containerPort: expected a U16 (0 to 65535), got 70000`,
		},
		{"App", `{"metadata":{"name":"web"},"spec":{"type":"http"}}`, ""},
		{"App", `{"metadata":{"name":"web"},"spec":{"type":null}}`, ""},
		{"ClientMetrics", `{"client_id":"web","current_rps":120}`, ""},
		{"NodeRecord", `{"id":"1","name":"n","address":"a","cpu_millis":1,"memory_bytes":1,"drivers":null}`, ""},
		{"ClusterSettings", `{"scale_up_grace_period":"1s","ratewindow":"15s"}`, ""},
	} {
		got := ""
		if err := typeNamed(t, s, test.typ).Validate([]byte(test.value)); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s %s:\n got %s\nwant %s", test.typ, test.value, got, test.want)
		}
	}
}

func TestValidateManyKeys(t *testing.T) {
	typ := typeNamed(t, parse(t, "type T { m: Map<String, U8> }"), "T")
	pairs := make([]string, 10_000)
	for i := range pairs {
		pairs[i] = fmt.Sprintf(`"key-%d":1`, i)
	}
	value := `{"m":{` + strings.Join(pairs, ",") + `}}`
	if err := typ.Validate([]byte(value)); err != nil {
		t.Error(err)
	}
	value = `{"m":{` + strings.Join(pairs, ",") + `,"key-0":1}}`
	if err := typ.Validate([]byte(value)); err == nil {
		t.Error("a key that stands twice is accepted")
	}
}

func TestValidateManyFields(t *testing.T) {
	var src, value strings.Builder
	for i := range 200 {
		fmt.Fprintf(&src, "f%d: U8,", i)
		if i != 130 {
			fmt.Fprintf(&value, `"f%d":1,`, i)
		}
	}
	typ := typeNamed(t, parse(t, "type T {"+src.String()+"}"), "T")
	err := typ.Validate([]byte("{" + strings.TrimSuffix(value.String(), ",") + "}"))
	if err == nil || !strings.Contains(err.Error(), "T.f130:") {
		t.Errorf("got %v, want the missing field f130", err)
	}
}

func TestIndexValues(t *testing.T) {
	typ := typeNamed(t, parse(t, `
type Part { z: String }
@prefix("t")
type T { @indexed s: String?, part: Part?, @unique n: I64?, @indexed b: Bool?, list: List<String>?, @indexed at: Timestamp?, o: Json? }
`), "T")
	for _, test := range []struct {
		value string
		want  []string
	}{
		{`{}`, []string{"", "", "", ""}},
		{`{"s":"a","n":-5,"b":true,"at":"2026-11-20T11:00:00Z"}`, []string{"a", "-5", "true", "2026-11-20T11:00:00Z"}},
		{` { "at" : "x" , "o" : {"s":"no","n":[{}]} , "n" : 7 , "part" : {"z":"}"}, "s" : "\u00e9\"" } `, []string{`é"`, "7", "", "x"}},
		{`{"newer":{"s":"no"},"s":"a","\u006e":1}`, []string{"a", "1", "", ""}},
		{`{"s":null,"n":1}`, []string{"", "1", "", ""}},
		{`{"s":"a","n":`, []string{"a", "", "", ""}},
		{`no record`, []string{"", "", "", ""}},
	} {
		var got []string
		for _, text := range typ.IndexValues([]byte(test.value), [][]byte{[]byte("before")}) {
			got = append(got, string(text))
		}
		if diff := cmp.Diff(append([]string{"before"}, test.want...), got); diff != "" {
			t.Errorf("%s: wrong values (-want +got):\n%s", test.value, diff)
		}
	}
	var names []string
	for _, f := range typ.Indexed() {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"s", "n", "b", "at"}, names); diff != "" {
		t.Errorf("wrong fields (-want +got):\n%s", diff)
	}
}

// container is a ContainerRecord of about 512 bytes.
var container = []byte(`{"id":"web-3-x7k2p","client_id":"web","status":"Running","ip_address":"10.88.4.17",` +
	`"repo_link":"registry.example.com/team/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",` +
	`"port":8080,"node":"node-7","release":12,"epoch":3,"driver":"oci","health":"Healthy","health_detail":"GET /health 200 in 2 ms",` +
	`"pid":48213,"created_at":"2026-11-20T11:00:00.123456789Z","started_at":"2026-11-20T11:00:00.223456789Z",` +
	`"healthy_at":"2026-11-20T11:00:01.123456789Z","reason":"started by the release"}`)

func TestIndexValuesDoesNotAllocate(t *testing.T) {
	typ := typeNamed(t, cluster(t), "ContainerRecord")
	room := make([][]byte, 0, 8)
	if n := testing.AllocsPerRun(100, func() { room = typ.IndexValues(container, room[:0]) }); n > 0 {
		t.Errorf("IndexValues allocates %v times", n)
	}
}

func TestValidateDoesNotAllocate(t *testing.T) {
	typ := typeNamed(t, cluster(t), "ContainerRecord")
	if err := typ.Validate(container); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = typ.Validate(container) }); n > 0 {
		t.Errorf("Validate allocates %v times", n)
	}
}

func BenchmarkValidate(b *testing.B) {
	typ := typeNamed(b, cluster(b), "ContainerRecord")
	b.SetBytes(int64(len(container)))
	b.ReportAllocs()
	for b.Loop() {
		if err := typ.Validate(container); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnmarshal is what BenchmarkValidate is to be compared with.
func BenchmarkUnmarshal(b *testing.B) {
	b.SetBytes(int64(len(container)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := vortex.Containers.Decode(container); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIndexValues(b *testing.B) {
	typ := typeNamed(b, cluster(b), "ContainerRecord")
	var dst [][]byte
	b.ReportAllocs()
	for b.Loop() {
		dst = typ.IndexValues(container, dst[:0])
	}
}

func BenchmarkTypeOf(b *testing.B) {
	s := cluster(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.TypeOf("vortex:container:web-3-x7k2p"); !ok {
			b.Fatal("no type")
		}
	}
}
