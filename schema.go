package vortex

import _ "embed" // for the schema

//go:embed schema/vortex.ksl
var schema string

// Schema returns the source of the schema of all records of a cluster, in the language of the store.
func Schema() []byte { return []byte(schema) }
