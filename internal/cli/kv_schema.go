package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	"vortex/internal/kind/ksl"
	kindpb "vortex/proto/kind"
)

func (a *cli) kvSchemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "schema", Short: "Show and change the types of the store", Args: none,
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, _ []string) error {
			resp, err := k.Schema(ctx)
			if err != nil {
				return err
			}
			return show(a, typeList(resp.GetTypes()))
		}),
	}
	cmd.AddCommand(a.kvSchemaShowCommand(), a.kvSchemaCheckCommand(), a.kvSchemaApplyCommand(), a.kvSchemaRemoveCommand(),
		a.kvSchemaGenerateCommand())
	return cmd
}

// kvType is a type as it is printed.
type kvType struct {
	Name       string   `json:"name"`
	Prefix     string   `json:"prefix,omitempty"`
	Fields     []string `json:"fields"`
	Indexed    []string `json:"indexed,omitempty"`
	Building   []string `json:"building,omitempty"`
	Definition string   `json:"definition,omitempty"`
}

func kvTypeOf(t *kindpb.SchemaType) kvType {
	return kvType{
		Name: t.GetName(), Prefix: t.GetPrefix(), Fields: t.GetFields(), Indexed: t.GetIndexed(), Building: t.GetBuilding(),
		Definition: t.GetDefinition(),
	}
}

func typeList(types []*kindpb.SchemaType) list[kvType] {
	items := make([]kvType, len(types))
	for i, t := range types {
		items[i] = kvTypeOf(t)
		items[i].Definition = "" // `schema show` has it
	}
	return list[kvType]{
		items: items, object: items, empty: "no types", name: func(t kvType) string { return t.Name },
		columns: []column[kvType]{
			{"TYPE", false, func(t kvType) string { return t.Name }},
			{"PREFIX", false, func(t kvType) string { return orDash(t.Prefix) }},
			{"INDEXED", false, func(t kvType) string { return orDash(strings.Join(t.indexes(), ",")) }},
			{"FIELDS", true, func(t kvType) string { return strings.Join(t.Fields, ",") }},
		},
	}
}

// indexes are the indexed fields; those whose index is not complete yet say so.
func (t kvType) indexes() []string {
	names := make([]string, len(t.Indexed))
	for i, name := range t.Indexed {
		names[i] = name
		for _, b := range t.Building {
			if b == name {
				names[i] += " (building)"
			}
		}
	}
	return names
}

func (a *cli) kvSchemaShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [TYPE]", Short: "Print the schema in force, or one type with all it mentions, as KSL", Args: between(0, 1, "a type or nothing"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			resp, err := k.Schema(ctx)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.showTexts(resp.GetTexts())
			}
			return a.showType(resp.GetTypes(), args[0])
		}),
	}
}

// kvSchemaText is a schema's text as it is printed.
type kvSchemaText struct {
	Name     string `json:"name,omitempty"`
	BuiltIn  bool   `json:"built_in,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	Text     string `json:"text"`
}

func (a *cli) showTexts(texts []*kindpb.SchemaText) error {
	items := make([]kvSchemaText, len(texts))
	for i, t := range texts {
		items[i] = kvSchemaText{Name: t.GetName(), BuiltIn: t.GetRevision() == 0, Revision: t.GetRevision(), Text: string(t.GetText())}
	}
	switch a.output {
	case "json", "yaml":
		return a.object(items)
	case "name":
		for _, t := range items {
			if !t.BuiltIn {
				a.say("%s", t.Name)
			}
		}
		return nil
	}
	for i, t := range items {
		title := "# --- " + t.Name + ", loaded at revision " + strconv.FormatUint(t.Revision, 10) + " ---"
		if t.BuiltIn {
			title = "# --- built in ---"
		}
		if i > 0 {
			title = "\n" + title
		}
		a.say("%s\n\n%s", a.style.dim(title), a.style.ksl(strings.TrimSpace(t.Text)))
	}
	return nil
}

func (a *cli) showType(types []*kindpb.SchemaType, name string) error {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.GetName()
		if t.GetName() != name {
			continue
		}
		switch a.output {
		case "json", "yaml":
			return a.object(kvTypeOf(t))
		case "name":
			a.say("%s", name)
			return nil
		}
		a.say("%s", a.style.ksl(strings.TrimSpace(t.GetDefinition())))
		return nil
	}
	hint := "; `vortex kv schema` lists the types"
	if near := ksl.Nearest(name, names); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	}
	return vortex.Errorf(vortex.NotFound, "no type %q in the schema%s", name, hint)
}

func (a *cli) kvSchemaCheckCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Tell what a KSL file would change, and change nothing", Args: between(1, 1, "a KSL file, or - for stdin"),
		Example: "  vortex kv schema check pets.ksl",
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			file, err := a.schemaFile(name, args[0])
			if err != nil {
				return err
			}
			_, err = a.checkSchema(ctx, k, file, false)
			return err
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "the name it is kept under (default: that of the file)")
	return cmd
}

func (a *cli) kvSchemaApplyCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "apply [NAME] FILE", Short: "Put the types of a KSL file into force, in the place of what the name had",
		Args:    between(1, 2, "a KSL file, or a name and a file"),
		Example: "  vortex kv schema apply pets.ksl\n  vortex kv schema apply pets - < pets.ksl",
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			name := ""
			if len(args) == 2 {
				name = args[0]
			}
			file, err := a.schemaFile(name, args[len(args)-1])
			if err != nil {
				return err
			}
			return a.applySchema(ctx, k, file, force)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "also when it removes or retypes; records that do not fit stay as they are")
	return cmd
}

func (a *cli) applySchema(ctx context.Context, k *client.Kind, file schemaFile, force bool) error {
	checked, err := a.checkSchema(ctx, k, file, force)
	if err != nil {
		return err
	}
	resp, err := k.LoadSchema(ctx, file.name, file.text, force)
	if err != nil {
		return err
	}
	if !a.tableOnly() {
		return nil // the differences are printed
	}
	var building []string
	for _, t := range resp.GetTypes() {
		for _, field := range t.GetBuilding() {
			building = append(building, t.GetName()+"."+field)
		}
	}
	if len(building) > 0 {
		a.note("indexes are being built: %s; queries on them are right and slow until then", strings.Join(building, ", "))
	}
	if !a.quiet {
		a.say("schema %s is in force (%s)", file.name, count(len(checked.GetDifferences()), "change"))
	}
	return nil
}

func (a *cli) kvSchemaRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm NAME", Aliases: []string{"remove", "delete"}, Short: "Take the types of a loaded schema out of force", Args: between(1, 1, "a name"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			existed, err := k.RemoveSchema(ctx, args[0], force)
			if err != nil {
				return err
			}
			if !existed {
				return vortex.Errorf(vortex.NotFound, "no schema %q was loaded; `vortex kv schema show` prints those that were", args[0])
			}
			return a.result(map[string]string{"removed": args[0]}, args[0], "schema %s removed", args[0])
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "also while records are of its types; they become opaque")
	return cmd
}

// schemaFile is a KSL text that parses, and the name to keep it under.
type schemaFile struct {
	name, path string
	text       []byte
	schema     *ksl.Schema
}

// schemaFile reads a KSL file; without a name it is kept under the file's.
func (a *cli) schemaFile(name, path string) (schemaFile, error) {
	source := "@" + path
	if path == "-" {
		source, path = "-", "stdin"
	}
	text, err := a.valueOf(source)
	if err != nil {
		return schemaFile{}, err
	}
	schema, err := ksl.Parse(path, text)
	if err != nil {
		return schemaFile{}, err
	}
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	return schemaFile{name: name, path: path, text: text, schema: schema}, nil
}

// kvDifference is a difference as it is printed.
type kvDifference struct {
	Path     string `json:"path"`
	What     string `json:"what"`
	Breaking bool   `json:"breaking"`
}

// checkSchema prints what a file would change. What is breaking is an error unless it is forced.
func (a *cli) checkSchema(ctx context.Context, k *client.Kind, file schemaFile, force bool) (*kindpb.SchemaResponse, error) {
	resp, err := k.CheckSchema(ctx, file.name, file.text)
	if err != nil {
		return nil, err
	}
	differences, breaking := make([]kvDifference, len(resp.GetDifferences())), 0
	for i, d := range resp.GetDifferences() {
		differences[i] = kvDifference{d.GetPath(), d.GetWhat(), d.GetBreaking()}
		if d.GetBreaking() {
			breaking++
		}
	}
	if err := a.showDifferences(file, differences); err != nil {
		return nil, err
	}
	if breaking > 0 && !force {
		return nil, vortex.Errorf(vortex.Invalid, "%s of %d would break records or those who read them; `vortex kv schema apply --force` does them all the same",
			count(breaking, "change"), len(differences))
	}
	return resp, nil
}

func (a *cli) showDifferences(file schemaFile, differences []kvDifference) error {
	switch a.output {
	case "json", "yaml":
		return a.object(map[string]any{"name": file.name, "differences": differences})
	case "name":
		for _, d := range differences {
			a.say("%s", d.Path)
		}
		return nil
	}
	if len(differences) == 0 {
		a.say("%s changes nothing", file.path)
	}
	for _, d := range differences {
		text := d.Path + ": " + d.What
		if !d.Breaking {
			a.say("%s %s", a.style.good("~"), text)
			continue
		}
		if fault := file.schema.Fault(d.Path, text); fault != nil {
			text = strings.ReplaceAll(fault.Error(), "\n", "\n  ")
		}
		a.say("%s %s", a.style.bad("!"), text)
	}
	return nil
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
