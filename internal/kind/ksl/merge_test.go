package ksl_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex"
)

const shop = `
enum Colour { red, green = "dark-green" }
type Part { id: String, size: U8? }
@prefix("shop:pot")
type Pot { @unique id: String, @indexed colour: Colour, parts: List<Part>?, litres: F64 @default(1) }
`

func TestMergeAcceptsCompatibleChanges(t *testing.T) {
	full := `{"id":"1","colour":"dark-green","parts":[{"id":"a"}]}`
	for name, newer := range map[string]string{
		"nothing":         shop,
		"nothing at all":  ``,
		"enum value":      strings.Replace(shop, "red,", "red, blue,", 1),
		"optional field":  strings.Replace(shop, "litres:", "weight: F64?, litres:", 1),
		"default field":   strings.Replace(shop, "litres:", "weight: F64 @default(2), litres:", 1),
		"nested field":    strings.Replace(shop, "size: U8?", "size: U8?, weight: F64?", 1),
		"index":           strings.Replace(shop, "litres:", "@indexed litres:", 1),
		"unique":          strings.Replace(shop, "@indexed colour", "@unique colour", 1),
		"another default": strings.Replace(shop, "@default(1)", "@default(3)", 1),
		"becomes default": strings.Replace(shop, "size: U8?", "size: U8 @default(3)", 1),
		"less required":   strings.Replace(shop, "colour: Colour", "colour: Colour?", 1),
		"order":           strings.Replace(shop, "id: String, size: U8?", "size: U8?, id: String", 1),
		"new type":        `@prefix("shop:lid") type Lid { id: String, pot: List<Knob> } type Knob { x: U8 } enum Form { round }`,
		"outer prefix":    `@prefix("shop") type Shop { id: String }`,
	} {
		old := parse(t, shop)
		merged, err := old.Merge(parse(t, newer))
		if err != nil {
			t.Errorf("%s: Merge: %v", name, err)
			continue
		}
		pot, ok := merged.TypeOf("shop:pot:1")
		if !ok || pot.Name != "Pot" {
			t.Errorf("%s: shop:pot:1 belongs to %v", name, pot)
			continue
		}
		if err := pot.Validate([]byte(full)); err != nil {
			t.Errorf("%s: an old record is not valid any more: %v", name, err)
		}
	}
}

func TestMergeRefusesWhatBreaksRecords(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"red, ", "", "Colour: the value red is removed; records may have it"},
		{`"dark-green"`, `"green"`, `Colour.green: its form changes from "dark-green" to "green"`},
		{"size: U8?", "", "Part.size: the field is removed"},
		{"size: U8?", "size: U16?", "Part.size: its type changes from U8 to U16"},
		{"size: U8?", "size: U8", "Part.size: the field becomes required; records may lack it"},
		{"size: U8?", "size: U8?, weight: U8", "Part.weight: the new field is required; make it optional or give it a default"},
		{"List<Part>", "List<String>", "Pot.parts: its type changes from List<Part> to List<String>"},
		{"@indexed colour", "colour", "Pot.colour: its index is removed; queries need it"},
		{"@unique id", "@indexed id", "Pot.id: its values stop being unique"},
		{"shop:pot", "shop:pots", `Pot: its prefix changes from "shop:pot" to "shop:pots"`},
		{
			`@prefix("shop:pot")`, `@prefix("shop:pot:lid") type Lid { id: String } @prefix("shop:pot")`,
			`Lid: its keys shop:pot:lid belong to Pot, which has the prefix "shop:pot"`,
		},
		{shop, "type Colour { x: U8 }", "Colour is an enum and cannot become a type"},
		{shop, "enum Part { x }", "Part is a type and cannot become an enum"},
		{
			shop, `@prefix("shop:pot") type Jar { id: String }`,
			`Jar: its keys shop:pot belong to Pot, which has the prefix "shop:pot"`,
		},
	} {
		old := parse(t, shop)
		_, err := old.Merge(parse(t, strings.Replace(shop, test.from, test.to, 1)))
		if !vortex.IsKind(err, vortex.Precondition) {
			t.Errorf("%q for %q: Merge returned %v, want a Precondition error", test.to, test.from, err)
			continue
		}
		want := "the schema is no compatible change of the running one:\n  " + test.want
		if diff := cmp.Diff(want, err.Error()); diff != "" {
			t.Errorf("%q for %q: wrong message (-want +got):\n%s", test.to, test.from, diff)
		}
		if pot, ok := old.TypeOf("shop:pot:1"); !ok || pot.Validate([]byte(`{"id":"1","colour":"red"}`)) != nil {
			t.Errorf("%q for %q: the running schema was changed", test.to, test.from)
		}
	}
}

func TestMergeRelinksWhatStays(t *testing.T) {
	old := parse(t, shop)
	merged, err := old.Merge(parse(t, `enum Colour { red, blue, green = "dark-green" } type Part { id: String, size: U8?, more: U8? }`))
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

func TestOverlayForcesChanges(t *testing.T) {
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
