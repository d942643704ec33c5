package ksl_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind/ksl"
)

const shop = `
enum Colour { red, green = "dark-green" }
type Part { id: String, size: U8? }
@prefix("shop:pot")
type Pot { @unique id: String, @indexed colour: Colour, parts: List<Part>?, litres: F64 @default(1) }
`

// lines are differences as text, those that are breaking with a mark.
func lines(differences []ksl.Difference) []string {
	var out []string
	for _, d := range differences {
		mark := ""
		if d.Breaking {
			mark = "! "
		}
		out = append(out, mark+d.String())
	}
	return out
}

func TestCompareTellsEveryDifference(t *testing.T) {
	for _, test := range []struct {
		from, to string
		want     []string
	}{
		{"nothing", "to replace", nil},
		{"red,", "red, blue,", []string{"Colour.blue: the value is new"}},
		{"litres:", "weight: F64?, litres:", []string{"Pot.weight: the field is new"}},
		{"litres:", "weight: F64 @default(2), litres:", []string{"Pot.weight: the field is new"}},
		{"size: U8?", "size: U8?, weight: F64?", []string{"Part.weight: the field is new"}},
		{"litres:", "@indexed litres:", []string{"Pot.litres: it gets an index"}},
		{"@indexed colour", "@unique colour", []string{"Pot.colour: its values have to be unique"}},
		{"litres:", "@unique litres:", []string{"Pot.litres: it gets an index", "Pot.litres: its values have to be unique"}},
		{"@default(1)", "@default(3)", []string{"Pot.litres: its default changes from 1 to 3"}},
		{"size: U8?", "size: U8 @default(3)", []string{"Part.size: it gets the default 3"}},
		{"colour: Colour", "colour: Colour?", []string{"Pot.colour: the field need not be there any more"}},
		{"id: String, size: U8?", "# said\nsize: U8?, id: String", nil},
		{"type Part", "enum Form { round }\ntype Knob { x: U8 }\ntype Part", []string{"Form: the enum is new", "Knob: the type is new"}},
		{"type Part", `@prefix("shop") type Shop { id: String } type Part`, []string{"Shop: the type is new"}},
		{"red, ", "", []string{"! Colour.red: the value is removed; records may have it"}},
		{`"dark-green"`, `"green"`, []string{`! Colour.green: its form changes from "dark-green" to "green"`}},
		{"size: U8?", "", []string{"! Part.size: the field is removed; records may have it"}},
		{"size: U8?", "size: U16?", []string{"! Part.size: its type changes from U8 to U16"}},
		{"size: U8?", "size: U8", []string{"! Part.size: the field becomes required; records may lack it"}},
		{"@default(1)", "", []string{"! Pot.litres: the field becomes required; records may lack it", "Pot.litres: it loses its default 1"}},
		{"size: U8?", "size: U8?, weight: U8", []string{"! Part.weight: the new field is required; make it optional or give it a default"}},
		{"List<Part>", "List<String>", []string{"! Pot.parts: its type changes from List<Part> to List<String>"}},
		{"@indexed colour", "colour", []string{"! Pot.colour: its index is removed; queries need it"}},
		{"@unique id", "@indexed id", []string{"! Pot.id: its values stop being unique"}},
		{"@unique id", "id", []string{"! Pot.id: its index is removed; queries need it", "! Pot.id: its values stop being unique"}},
		{"shop:pot", "shop:pots", []string{`! Pot: its prefix changes from "shop:pot" to "shop:pots"`}},
		{
			`@prefix("shop:pot")`, `@prefix("shop:pot:lid") type Lid { id: String } @prefix("shop:pot")`,
			[]string{"Lid: the type is new", `! Lid: its keys shop:pot:lid belong to Pot, which has the prefix "shop:pot"`},
		},
		{
			shop, "type Colour { x: U8 }",
			[]string{
				"! Colour: it is an enum and cannot become a type", "Part: the type is removed",
				"! Pot: the type is removed; the records below shop:pot lose it",
			},
		},
		{
			shop, "enum Part { x }",
			[]string{
				"! Part: it is a type and cannot become an enum", "Colour: the enum is removed",
				"! Pot: the type is removed; the records below shop:pot lose it",
			},
		},
	} {
		got := lines(ksl.Compare(parse(t, shop), parse(t, strings.Replace(shop, test.from, test.to, 1))))
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%q for %q (-want +got):\n%s", test.to, test.from, diff)
		}
	}
}

// TestWhatIsNotBreakingKeepsRecordsValid changes the shop in every way that is not breaking and holds a full record against it.
func TestWhatIsNotBreakingKeepsRecordsValid(t *testing.T) {
	full := []byte(`{"id":"1","colour":"dark-green","parts":[{"id":"a"}]}`)
	newer := strings.NewReplacer("red,", "red, blue,", "litres:", "weight: F64?, @indexed litres:", "size: U8?", "size: U8 @default(3)",
		"colour: Colour", "colour: Colour?", "@default(1)", "@default(3)").Replace(shop)
	schema := parse(t, newer)
	if breaking := ksl.Breaking(ksl.Compare(parse(t, shop), schema)); len(breaking) > 0 {
		t.Fatalf("breaking: %v", breaking)
	}
	if err := typeNamed(t, schema, "Pot").Validate(full); err != nil {
		t.Error(err)
	}
}

func TestFaultPointsAtWhatChanged(t *testing.T) {
	schema := parse(t, "enum E { a, b }\ntype T {\n  x: U8\n}")
	for path, want := range map[string]string{
		"T.x":    "test.ksl:3:3: said\n    x: U8\n    ^",
		"T.gone": "test.ksl:2:6: said\n  type T {\n       ^",
		"T":      "test.ksl:2:6: said\n  type T {\n       ^",
		"E.b":    "test.ksl:1:13: said\n  enum E { a, b }\n              ^",
		"E":      "test.ksl:1:6: said\n  enum E { a, b }\n       ^",
	} {
		if got := schema.Fault(path, "said").Error(); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", path, got, want)
		}
	}
	if fault := schema.Fault("Other.x", "said"); fault != nil {
		t.Errorf("a fault at nothing: %v", fault)
	}
}

func TestOverlayRelinksWhatStays(t *testing.T) {
	old := parse(t, shop)
	merged, err := old.Overlay(parse(t, `enum Colour { red, blue, green = "dark-green" } type Part { id: String, size: U8?, more: U8? }`))
	if err != nil {
		t.Fatal(err)
	}
	value := []byte(`{"id":"1","colour":"blue","parts":[{"id":"a","more":1}]}`)
	if err := typeNamed(t, merged, "Pot").Validate(value); err != nil {
		t.Errorf("the merged type does not see the newer ones: %v", err)
	}
	if err := typeNamed(t, old, "Pot").Validate(value); err == nil {
		t.Error("the old schema sees the newer types")
	}
}

func TestOverlayRefusesWhatIsNoSchema(t *testing.T) {
	old := parse(t, shop)
	forced, err := old.Overlay(parse(t, `@prefix("shop:pot") type Pot { id: U8 }`))
	if err != nil {
		t.Fatal(err)
	}
	if err := typeNamed(t, forced, "Pot").Validate([]byte(`{"id":1}`)); err != nil {
		t.Error(err)
	}
	for _, newer := range []string{`@prefix("shop:pot") type Jar { id: String }`, `enum Part { x }`, `type Colour { x: U8 }`} {
		if _, err := old.Overlay(parse(t, newer)); !vortex.IsKind(err, vortex.Precondition) {
			t.Errorf("%s: Overlay returned %v, want a Precondition error", newer, err)
		}
	}
}

func TestComposeExtendsProtectedTypesAndNoMore(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string // what has no effect
		err  string
	}{
		{text: shop},
		{text: strings.Replace(shop, "litres:", "weight: F64?, @indexed litres:", 1)},
		{text: strings.Replace(shop, "red,", "red, blue,", 1)},
		{text: `@prefix("shop:pot") type Pot { extra: U8? }`},
		{text: strings.Replace(shop, "litres:", "weight: F64, litres:", 1), want: []string{"! Pot.weight: the field is removed; records may have it"}},
		{text: strings.Replace(shop, "U8?", "U16?", 1), want: []string{"! Part.size: its type changes from U16 to U8"}},
		{text: strings.Replace(shop, "@default(1)", "@default(2)", 1), want: []string{"Pot.litres: its default changes from 2 to 1"}},
		{text: strings.Replace(shop, "@indexed colour", "@unique colour", 1), want: []string{"! Pot.colour: its values stop being unique"}},
		{
			text: `@prefix("shop:pot:lid") type Lid { id: String }`,
			err:  "Lid: its keys shop:pot:lid belong to Pot, which is built in; choose another prefix",
		},
		{text: `type Colour { x: U8 }`, err: "Colour is an enum in one schema and a type in the other"},
	} {
		base := parse(t, shop)
		text := parse(t, test.text)
		composed, err := ksl.Compose(base, base, text)
		if err != nil || test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: Compose returned %v, want %q", test.text, err, test.err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, lines(ksl.Ineffective(text, composed))); diff != "" {
			t.Errorf("%s: wrong differences (-want +got):\n%s", test.text, diff)
		}
		if breaking := ksl.Breaking(ksl.Compare(base, composed)); len(breaking) > 0 {
			t.Errorf("%s: what is protected has changed: %v", test.text, breaking)
		}
	}
}
