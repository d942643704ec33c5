// Package spec turns the documents users write into apps: YAML and JSON App specs, and compose files.
//
// It is strict: a field the schema does not know, a value of another type, a key given twice or a rule of
// vortex.App that is broken is an Invalid error that shows every fault with file, line, column, the source line and
// what to write instead. What it accepts is complete: defaults are set and Validate has passed.
//
// Field names, types and defaults come from schema/vortex.ksl, so there is no second list of them. Anchors, aliases and
// merge keys may be used within one document; what they expand to is bounded. Variables are not replaced, except in compose
// files, where their own rules apply with an empty environment.
//
// The package never reaches the network and reads no file but those that Load, Files and a compose file's env_file name.
//
//	apps, err := spec.Parse("web.yaml", data)
package spec
