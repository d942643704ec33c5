package main

import (
	"fmt"
	"strings"
)

// schema types the records that are written: they are validated, and found by two of their fields.
const schema = `
enum BenchState { Running, Dead, Provisioning }

@prefix("bench:item")
type BenchItem {
    id: String,
    @indexed owner: String,
    @indexed state: BenchState,
    address: String,
    port: U16,
    generation: U64,
    labels: Map<String, String>,
    note: String?
}
`

const (
	typeName   = "BenchItem"
	recordSize = 512 // bytes of a record's value
	ownedEach  = 10  // records with one owner
	keys       = 10_000
)

// key is that of record n.
func key(n int) string { return fmt.Sprintf("bench:item:%07d", n) }

// owner is who owns record n.
func owner(n int) string { return fmt.Sprintf("owner-%06d", n/ownedEach) }

// value is record n with a generation, of recordSize bytes.
func value(n int, generation uint64) []byte {
	state := [...]string{"Running", "Dead", "Provisioning"}[n%3]
	head := fmt.Sprintf(`{"id":"%07d","owner":%q,"state":%q,"address":"10.%d.%d.%d","port":%d,"generation":%d,"labels":{"tier":"web","zone":"z%d"},"note":"`,
		n, owner(n), state, n>>16&255, n>>8&255, n&255, n%60_000+1, generation, n%3)
	const tail = `"}`
	return []byte(head + strings.Repeat("x", recordSize-len(head)-len(tail)) + tail)
}
