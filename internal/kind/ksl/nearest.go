package ksl

import (
	"slices"
	"strings"
)

const maxNameLen = 64 // longer names are compared with nothing

// Nearest returns the known name that word was most likely meant to be, or "" when none is close.
// Case and the difference between snake_case and camelCase count for little.
func Nearest(word string, known []string) string {
	best, bestCost := "", 1<<30
	for _, name := range known {
		limit := 1 + min(len(word), len(name))/4
		if abs(len(word)-len(name)) > limit+2 { // fold may strip a few
			continue
		}
		if cost := distance(fold(word), fold(name)); cost <= limit && cost < bestCost {
			best, bestCost = name, cost
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// fold strips what people mix up in names without noticing.
func fold(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name))
}

// distance is the number of insertions, deletions, replacements and swaps of neighbours between a and b
// (optimal string alignment).
func distance(a, b string) int {
	if len(a) > maxNameLen || len(b) > maxNameLen {
		return max(len(a), len(b))
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// didYouMean returns the end of a message that names the nearest known name, or "".
func didYouMean(word string, known []string) string {
	if name := Nearest(word, known); name != "" {
		return ` (did you mean "` + name + `"?)`
	}
	return ""
}

// foreign maps the names of types in other languages to ours.
var foreign = map[string]string{
	"str": "String", "text": "String", "int": "I64", "integer": "I64", "int8": "I8", "int16": "I16", "int32": "I32",
	"int64": "I64", "long": "I64", "uint": "U64", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
	"byte": "U8", "float": "F64", "float32": "F32", "float64": "F64", "double": "F64", "number": "F64",
	"boolean": "Bool", "time": "Timestamp", "date": "Timestamp", "datetime": "Timestamp", "any": "Json",
	"array": "List", "vec": "List", "set": "List", "dict": "Map", "object": "Map", "hashmap": "Map",
}

// nearestType is didYouMean for names of types.
func nearestType(word string, known []string) string {
	if slices.Contains(known, word) {
		return ""
	}
	if name, ok := foreign[strings.ToLower(word)]; ok {
		return ` (did you mean "` + name + `"?)`
	}
	return didYouMean(word, known)
}
