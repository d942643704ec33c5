package kind

import "vortex/internal/kind/ksl"

// jsonField returns a top-level field of a JSON object as text: a string's content, any other value's JSON,
// "" when it is absent, null, or value is no object.
func jsonField(value []byte, field string) string { return string(ksl.Text(value, field)) }
