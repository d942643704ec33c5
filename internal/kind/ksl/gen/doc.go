// Package gen writes Go source from a schema: a string type per enum, a struct per type, a SetDefaults method
// where a field has a default, and a key table per record.
//
// The generated source is formatted, imports the standard library only, and expects Table and Duration in its own
// package. A value of a generated type whose enums are valid always marshals to JSON that the schema accepts,
// a zero list or map included. The package does no I/O.
//
// The package of the schema language imports the domain package, which holds the generated file: when
// hand-written code there no longer fits a changed schema, generate first and mend it afterwards.
//
//	src, err := gen.Generate(schema, gen.Options{Package: "vortex", Source: "schema/vortex.ksl"})
package gen
