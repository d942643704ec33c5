// Package ksl is the schema language of the store: it parses schemas, checks a new version of one
// against the running one, finds the type that owns a key, and validates values against their types.
//
//	enum Colour { red, dark_green = "dark-green" }
//
//	# A pot of paint.
//	@prefix("shop:pot")
//	type Pot {
//	    id: String,
//	    @indexed colour: Colour,
//	    litres: F64 @default(1),   # how much is in it
//	    notes: List<String>?
//	}
//
// A value is one JSON object. It guarantees that a value which passed Validate decodes without error and
// without loss into the Go type generated from the schema. Whatever is wrong with a schema or a value is
// said with the place it stands at, what was expected, what came, and the nearest known name.
//
// The package does no I/O and knows neither the store nor the record types of Vortex. A Schema never
// changes after Parse or Merge returned it, so it may be shared between goroutines.
//
//	schema, err := ksl.Parse("shop.ksl", src)
//	pot, ok := schema.TypeOf("shop:pot:7")
//	err = pot.Validate([]byte(`{"id": "7", "colour": "red"}`))
package ksl
