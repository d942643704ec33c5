// Package vortex is the domain of the orchestrator: the records that live in the store, the App
// spec a user writes, its validation, the states things go through and the one error type.
//
// It guarantees that a value which passed Validate means the same to every part of the system.
// It does no I/O, reads no clock, starts no goroutine and logs nothing, and it imports the standard
// library only; everything else in the module may import it.
//
// The record types and their tables are generated from schema/vortex.ksl:
//
//	rec := vortex.ContainerRecord{ID: "web-1-x7k2p", ClientID: "web", Status: vortex.ContainerStatusRunning}
//	key := vortex.Containers.Key(rec.ID) // "vortex:container:web-1-x7k2p"
package vortex

//go:generate go run ./internal/kind/ksl/kslgen -schema schema/vortex.ksl -out records_gen.go -package vortex
