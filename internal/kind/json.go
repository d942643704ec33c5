package kind

import (
	"bytes"
	"encoding/json"
)

// jsonField returns a top-level field of a JSON object as text: a string's content, any other value's JSON,
// "" when it is absent, null, or value is no object.
func jsonField(value []byte, field string) string {
	var object map[string]json.RawMessage
	if json.Unmarshal(value, &object) != nil {
		return ""
	}
	raw := bytes.TrimSpace(object[field])
	if len(raw) == 0 || string(raw) == "null" {
		return ""
	}
	var text string
	if raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}
