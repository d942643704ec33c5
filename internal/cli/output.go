package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"go.yaml.in/yaml/v4"

	"vortex"
)

// outputs are the values of --output.
var outputs = []string{"table", "wide", "json", "yaml", "name"}

// column is one column of a table of Ts.
type column[T any] struct {
	head string
	wide bool // shown with -o wide only
	cell func(T) string
}

// list is what a listing command shows.
type list[T any] struct {
	columns []column[T]
	items   []T
	object  any            // for json and yaml: the whole answer
	name    func(T) string // for name
	empty   string         // what to tell when there are no items
}

// show prints a listing the way --output says.
func show[T any](a *cli, l list[T]) error {
	switch a.output {
	case "json", "yaml":
		return a.object(l.object)
	case "name":
		for _, item := range l.items {
			a.say("%s", l.name(item))
		}
		return nil
	}
	if len(l.items) == 0 {
		a.note("%s", l.empty)
		return nil
	}
	_, err := io.WriteString(a.env.Stdout, strings.Join(l.lines(a), "\n")+"\n")
	return err
}

// lines renders the table, its head first.
func (l list[T]) lines(a *cli) []string {
	rows := make([][]string, 0, 1+len(l.items))
	var head []string
	for _, c := range l.columns {
		if !c.wide || a.output == "wide" {
			head = append(head, a.style.dim(c.head))
		}
	}
	rows = append(rows, head)
	for _, item := range l.items {
		var row []string
		for _, c := range l.columns {
			if !c.wide || a.output == "wide" {
				row = append(row, c.cell(item))
			}
		}
		rows = append(rows, row)
	}
	return align(rows)
}

// align pads the cells of a table so that its columns stand under each other. Widths are those a terminal shows.
func align(rows [][]string) []string {
	const gap = 3
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], lipgloss.Width(cell))
		}
	}
	lines := make([]string, len(rows))
	for n, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-lipgloss.Width(cell)+gap))
			}
		}
		lines[n] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// object prints a value as JSON or YAML.
func (a *cli) object(value any) error {
	data, err := encode(value, "  ")
	if err != nil {
		return err
	}
	if a.output == "yaml" {
		if data, err = jsonToYAML(data); err != nil {
			return err
		}
	}
	_, err = a.env.Stdout.Write(append(bytes.TrimRight(data, "\n"), '\n'))
	return err
}

// encode makes JSON of a value, for a terminal: < and & stay what they are.
func encode(value any, indent string) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(value); err != nil {
		return nil, fmt.Errorf("encode output: %w", err)
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}

// jsonToYAML keeps the order of the fields.
func jsonToYAML(data []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	doc, err := yamlNode(dec)
	if err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	return out.Bytes(), nil
}

// yamlNode reads the next JSON value. YAML's own reader will not do: it refuses some of JSON's escapes.
func yamlNode(dec *json.Decoder) (*yaml.Node, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, text string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}, nil
	}
	switch t := token.(type) {
	case json.Delim:
		return yamlBranch(dec, t)
	case string:
		return scalar("!!str", t)
	case json.Number:
		if strings.ContainsAny(t.String(), ".eE") {
			return scalar("!!float", t.String())
		}
		return scalar("!!int", t.String())
	case bool:
		return scalar("!!bool", strconv.FormatBool(t))
	default:
		return scalar("!!null", "null")
	}
}

// yamlBranch reads what is inside an object or array.
func yamlBranch(dec *json.Decoder, open json.Delim) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	if open == '{' {
		n.Kind = yaml.MappingNode
	}
	for dec.More() {
		sub, err := yamlNode(dec)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, sub) // of an object the names and values in turn
	}
	_, err := dec.Token()
	return n, err
}

// tableOnly reports whether the output is for people, and not json, yaml or name.
func (a *cli) tableOnly() bool { return a.output == "table" || a.output == "wide" }

// result prints what a command did: a message for people unless they asked for quiet, object for programs, name alone for -o name.
func (a *cli) result(object any, name, format string, args ...any) error {
	if a.quiet && a.tableOnly() {
		return nil
	}
	return a.answer(object, name, format, args...)
}

// answer prints what a command was asked for, quiet or not.
func (a *cli) answer(object any, name, format string, args ...any) error {
	switch a.output {
	case "json", "yaml":
		return a.object(object)
	case "name":
		a.say("%s", name)
	default:
		a.say(format, args...)
	}
	return nil
}

// facts prints what is known of one thing: a label and a value a line.
func (a *cli) facts(rows [][]string) {
	for _, row := range rows {
		row[0] = a.style.dim(row[0])
	}
	a.say("%s", strings.Join(align(rows), "\n"))
}

// age is a span of time as people say it: 5s, 3m, 2h, 4d.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// since is how long ago a moment was; "-" when it never was.
func since(t *time.Time) string {
	if t == nil || t.Unix() <= 0 { // images that are the same at each build are of 1970
		return "-"
	}
	return age(time.Since(*t))
}

// size is a number of bytes as people say it: 512 B, 1.5 KiB, 20 MiB.
func size(n uint64) string {
	const step = 1024.0
	if n < uint64(step) {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= step && unit < 4 {
		value, unit = value/step, unit+1
	}
	digits := 1
	if value >= 10 || value == math.Trunc(value) {
		digits = 0
	}
	return fmt.Sprintf("%.*f %ciB", digits, value, " KMGT"[unit])
}

// orDash shows emptiness.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// short cuts a text to n characters.
func short(text string, n int) string {
	text, _, _ = strings.Cut(text, "\n")
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n-1]) + "…"
}

// errUsage is bad input of a command.
func errUsage(format string, args ...any) error {
	return vortex.Errorf(vortex.Invalid, format, args...)
}
