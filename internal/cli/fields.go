package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vortex/client"
)

// fieldChange is what a change did to one field of a record; the path "" is a value without fields.
type fieldChange struct {
	path, before, after string
	was, is             bool // whether the field was and is there
}

// fieldChanges compares two values field by field, nil being absent. The fields come in the order of their paths.
func fieldChanges(before, after []byte) (changes []fieldChange) {
	was, is := fieldTexts(before), fieldTexts(after)
	paths := slices.Sorted(maps.Keys(was))
	for path := range is {
		if _, ok := was[path]; !ok {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		c := fieldChange{path: path}
		c.before, c.was = was[path]
		c.after, c.is = is[path]
		if c.was != c.is || c.before != c.after {
			changes = append(changes, c)
		}
	}
	return changes
}

// fieldTexts returns the fields of a JSON object by their paths, or else the whole value under "".
func fieldTexts(value []byte) map[string]string {
	fields := map[string]string{}
	if value == nil {
		return fields
	}
	var object map[string]any
	dec := json.NewDecoder(strings.NewReader(string(value)))
	dec.UseNumber()
	if dec.Decode(&object) != nil || len(object) == 0 {
		fields[""] = string(value)
		return fields
	}
	flatten("", object, fields)
	return fields
}

// flatten adds the fields below a value.
func flatten(path string, value any, to map[string]string) {
	switch v := value.(type) {
	case map[string]any:
		if len(v) == 0 {
			to[path] = "{}"
		}
		for name, inner := range v {
			flatten(strings.TrimPrefix(path+"."+name, "."), inner, to)
		}
	case []any:
		if len(v) == 0 {
			to[path] = "[]"
		}
		for i, inner := range v {
			flatten(fmt.Sprintf("%s[%d]", path, i), inner, to)
		}
	default:
		text, err := encode(v, "")
		if err != nil {
			return // what was read can be written
		}
		to[path] = string(text)
	}
}

// changeMark is how a change is shown: a letter and its colour.
func (a *cli) changeMark(c client.RecordChange) string {
	switch {
	case c.Before == nil:
		return a.style.good("+")
	case c.After == nil:
		return a.style.bad("-")
	default:
		return a.style.warn("~")
	}
}

// sayChange prints a change field by field, as a unified diff has its lines.
func (a *cli) sayChange(c client.RecordChange) {
	a.say("%s %s", a.changeMark(c), a.style.bold(c.Key))
	for _, f := range fieldChanges(bytesOf(c.Before), bytesOf(c.After)) {
		if f.was {
			a.sayField(a.style.bad, "- ", f.path, f.before)
		}
		if f.is {
			a.sayField(a.style.good, "+ ", f.path, f.after)
		}
	}
	was, is := expiry(c.Before), expiry(c.After)
	if was != is && was != "" {
		a.sayField(a.style.bad, "- ", "(expires)", was)
	}
	if was != is && is != "" {
		a.sayField(a.style.good, "+ ", "(expires)", is)
	}
}

// expiry is when a record expires, in words; "" is never.
func expiry(rec *client.Record) string {
	if rec == nil || rec.ExpiresAt.IsZero() {
		return ""
	}
	return exactly(rec.ExpiresAt)
}

// sayField prints what a field holds, or a value without fields, each of its lines behind the sign.
func (a *cli) sayField(paint func(string) string, sign, path, text string) {
	switch {
	case path != "":
		text = path + ": " + text
	case text == "":
		text = `""`
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		a.say("    %s", paint(sign+visible([]byte(line))))
	}
}

// bytesOf is a record's value, nil when there is no record.
func bytesOf(rec *client.Record) []byte {
	switch {
	case rec == nil:
		return nil
	case rec.Value == nil:
		return []byte{}
	default:
		return rec.Value
	}
}

// recordChange is a change as it is printed for programs.
type recordChange struct {
	Key    string    `json:"key"`
	Before *kvRecord `json:"before"`
	After  *kvRecord `json:"after"`
}

func recordChangeOf(c client.RecordChange) recordChange {
	out := recordChange{Key: c.Key}
	if c.Before != nil {
		rec := kvRecordOf(*c.Before)
		out.Before = &rec
	}
	if c.After != nil {
		rec := kvRecordOf(*c.After)
		out.After = &rec
	}
	return out
}
