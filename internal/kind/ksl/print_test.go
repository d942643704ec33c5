package ksl_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex/internal/kind/ksl"
)

func TestStringIsCanonical(t *testing.T) {
	got := parse(t, `
// Colours of pots.
enum Colour { red, dark_green = "dark-green", true, }
enum Size { small, # fits a hand
  large }
# What is sold.
@table("Pottery") @prefix("shop:pot")
type Pot {
	id: String @unique @indexed,
	colour: Colour? @default(dark_green), # as glazed
	// above
	litres: F64 @default(-1.5e0), # beside
	parts: List< Map<String,Lid> > ?, colours: List<Colour> @default([red, "true"]),
	text: String @default("a \"b\" <\n>"), word: String @default(word), any: Json @default([1, "x", [true]]), size: Size
}
type Lid { pot: Pot? }
`).String()
	const want = `# Colours of pots.
enum Colour { red, dark_green = "dark-green", true }

enum Size {
    # fits a hand
    small,
    large
}

# What is sold.
@prefix("shop:pot")
@table("Pottery")
type Pot {
    @indexed @unique id: String,
    # as glazed
    colour: Colour? @default(dark_green),
    # above
    # beside
    litres: F64 @default(-1.5e0),
    parts: List<Map<String, Lid>>?,
    colours: List<Colour> @default([red, "true"]),
    text: String @default("a \"b\" <\n>"),
    word: String @default("word"),
    any: Json @default([1, "x", [true]]),
    size: Size
}

type Lid {
    pot: Pot?
}
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("wrong text (-want +got):\n%s", diff)
	}
	again := parse(t, got)
	if differences := ksl.Compare(parse(t, want), again); len(differences) > 0 || again.String() != got {
		t.Errorf("not the same when it is parsed again: %v\n%s", differences, again)
	}
}

func TestClusterSchemaSurvivesPrinting(t *testing.T) {
	s := cluster(t)
	again := parse(t, s.String())
	if differences := ksl.Compare(s, again); len(differences) > 0 || again.String() != s.String() {
		t.Errorf("printing changes %v", differences)
	}
}

// TestDefinitionStandsOnItsOwn parses the definition of every type of the cluster and finds the same type in it.
func TestDefinitionStandsOnItsOwn(t *testing.T) {
	s := cluster(t)
	for _, typ := range s.Types {
		part := parse(t, s.Definition(typ))
		for _, d := range ksl.Compare(part, s) {
			if d.Breaking {
				t.Errorf("%s: %s", typ.Name, d)
			}
		}
		if got := typeNamed(t, part, typ.Name); len(got.Fields) != len(typ.Fields) {
			t.Errorf("%s has %d fields, want %d", typ.Name, len(got.Fields), len(typ.Fields))
		}
	}
}
