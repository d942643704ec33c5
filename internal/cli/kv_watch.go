package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"vortex/client"
)

func (a *cli) kvWatchCommand() *cobra.Command {
	var filter string
	opts := client.WatchOptions{Previous: true}
	cmd := &cobra.Command{
		Use: "watch [PREFIX]", Short: "Print every change of keys that start with PREFIX",
		Long: "Print every change of keys that start with PREFIX, until Ctrl-C. A lost server is connected to again, and what changed meanwhile is printed then. " +
			"With -o json each change is one line, with -o yaml one document.",
		Example: "  vortex kv watch vortex:container: --filter status=Running\n  vortex kv watch --from 1 -o json",
		Args:    between(0, 1, "a prefix or nothing"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			if filter != "" {
				f, err := fieldValue(filter)
				if err != nil {
					return err
				}
				opts.Filter = &f
			}
			opts.Broken = func(err error) { a.note("%s: connecting again", short(err.Error(), 100)) } //nolint:mnd // characters
			for ch, err := range k.Follow(ctx, strings.Join(args, ""), opts) {
				if err == nil {
					err = a.showChange(ch)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().Uint64Var(&opts.From, "from", 0, "replay every change from this revision on first")
	cmd.Flags().StringVar(&filter, "filter", "", "FIELD=VALUE: only records that match, or matched before the change; below a type's prefix the field must be indexed")
	cmd.Flags().BoolVar(&opts.Progress, "progress", false, "also print how far the watch is, when nothing changes")
	return cmd
}

// kvChange is a change as it is printed.
type kvChange struct {
	Operation   string    `json:"operation"`
	Key         string    `json:"key,omitempty"`
	Revision    uint64    `json:"revision"`
	Value       any       `json:"value,omitempty"`
	Encoding    string    `json:"encoding,omitempty"` // of a value that is no JSON: text or base64
	OldValue    any       `json:"old_value,omitempty"`
	OldEncoding string    `json:"old_encoding,omitempty"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
}

func kvChangeOf(ch client.KeyChange) kvChange {
	out := kvChange{Operation: operation(ch), Key: ch.Key, Revision: ch.Revision}
	if !ch.Deleted && !ch.Progress {
		out.Value, out.Encoding = printable(ch.Value)
	}
	if ch.Old != nil {
		out.OldValue, out.OldEncoding = printable(ch.Old)
	}
	if !ch.ExpiresAt.IsZero() {
		out.ExpiresAt = ch.ExpiresAt.UTC()
	}
	return out
}

func operation(ch client.KeyChange) string {
	switch {
	case ch.Progress:
		return "PROGRESS"
	case ch.Deleted:
		return "DELETE"
	default:
		return "PUT"
	}
}

func (a *cli) showChange(ch client.KeyChange) error {
	switch a.output {
	case "json":
		line, err := encode(kvChangeOf(ch), "")
		if err != nil {
			return err
		}
		a.say("%s", line)
		return nil
	case "yaml":
		a.say("---")
		return a.object(kvChangeOf(ch))
	case "name":
		if !ch.Progress {
			a.say("%s", ch.Key)
		}
		return nil
	default:
		a.say("%s", a.changeLine(ch))
		return nil
	}
}

// changeLine is a change for people: what happened, at which revision, to which key, and what it holds now.
func (a *cli) changeLine(ch client.KeyChange) string {
	const operationWidth, revisionWidth = 8, 6
	paint := a.style.good
	switch {
	case ch.Progress:
		paint = a.style.dim
	case ch.Deleted:
		paint = a.style.bad
	}
	line := fmt.Sprintf("%s %*d  %s", paint(fmt.Sprintf("%-*s", operationWidth, operation(ch))), revisionWidth, ch.Revision, ch.Key)
	if !ch.Deleted && !ch.Progress {
		line += "  " + a.changedValue(ch)
	}
	if a.output == "wide" && !ch.ExpiresAt.IsZero() {
		line += "  " + a.style.dim("expires in "+age(time.Until(ch.ExpiresAt)))
	}
	if a.output == "wide" && ch.Old != nil {
		line += "  " + a.style.dim("was "+visible(ch.Old))
	}
	return strings.TrimRight(line, " ")
}

// changedValue is the new value; on a terminal the fields that changed stand out.
func (a *cli) changedValue(ch client.KeyChange) string {
	now, fields := fieldsOf(ch.Value)
	before, _ := fieldsOf(ch.Old)
	if !a.style.on || now == nil || before == nil {
		return visible(ch.Value)
	}
	var parts []string
	for _, name := range fields {
		part := strconv.Quote(name) + ":" + visible(now[name])
		if !bytes.Equal(now[name], before[name]) {
			part = a.style.bold(a.style.warn(part))
		}
		parts = append(parts, part)
	}
	for name := range before {
		if _, ok := now[name]; !ok {
			parts = append(parts, a.style.bad("-"+strconv.Quote(name)))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// fieldsOf returns the top-level fields of a JSON object, compact, and their names in order; nil when it is none.
func fieldsOf(value []byte) (fields map[string]json.RawMessage, names []string) {
	if json.Unmarshal(value, &fields) != nil {
		return nil, nil
	}
	for name, raw := range fields {
		var compact bytes.Buffer
		if json.Compact(&compact, raw) == nil {
			fields[name] = compact.Bytes()
		}
		names = append(names, name)
	}
	at := func(name string) int {
		quoted, _ := json.Marshal(name) //nolint:errchkjson // a string always encodes
		return bytes.Index(value, quoted)
	}
	slices.SortFunc(names, func(x, y string) int { return at(x) - at(y) })
	return fields, names
}

// visible is a value as one line that a terminal shows and does not obey.
func visible(value []byte) string {
	var compact bytes.Buffer
	if json.Compact(&compact, value) == nil {
		value = compact.Bytes()
	}
	if !utf8.Valid(value) || bytes.ContainsFunc(value, unicode.IsControl) {
		return strconv.Quote(string(value))
	}
	return string(value)
}
