package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"vortex"
	"vortex/client"
)

// changes lists the fields in which two specs differ, in the order of their paths.
func changes(before, after vortex.App) ([]client.Change, error) {
	old, err := flatten(before)
	if err != nil {
		return nil, err
	}
	now, err := flatten(after)
	if err != nil {
		return nil, err
	}
	var found []client.Change
	for path, value := range old {
		if now[path] != value {
			found = append(found, client.Change{Path: path, Old: value, New: now[path]})
		}
	}
	for path, value := range now {
		if _, had := old[path]; !had {
			found = append(found, client.Change{Path: path, New: value})
		}
	}
	slices.SortFunc(found, func(a, b client.Change) int { return cmp.Compare(a.Path, b.Path) })
	return found, nil
}

// flatten turns a spec into its leaves: path to JSON text.
func flatten(app vortex.App) (map[string]string, error) {
	data, err := json.Marshal(app)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	leaves := map[string]string{}
	flattenInto(leaves, "", tree)
	return leaves, nil
}

// flattenInto adds the leaves of a JSON value. The entries of lists that have a name go by it, so
// that one more in the middle is one change.
func flattenInto(leaves map[string]string, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			sub := key
			if path != "" {
				sub = path + "." + key
			}
			flattenInto(leaves, sub, v[key])
		}
	case []any:
		for i, item := range v {
			key, rest := itemKey(item, i)
			flattenInto(leaves, path+"["+key+"]", rest)
		}
	case string:
		leaves[path] = strconv.Quote(v)
	default:
		leaves[path] = fmt.Sprint(v)
	}
}

// itemKey names an entry of a list, by its name when it has one, else by its place, and returns what the name does not say.
func itemKey(item any, i int) (string, any) {
	fields, ok := item.(map[string]any)
	name, _ := fields["name"].(string)
	if !ok || name == "" || len(fields) == 1 {
		return strconv.Itoa(i), item
	}
	rest := maps.Clone(fields)
	delete(rest, "name")
	return name, rest
}
