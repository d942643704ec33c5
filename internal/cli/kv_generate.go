package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/internal/kind/ksl/gen"
)

func (a *cli) kvSchemaGenerateCommand() *cobra.Command {
	var out, pkg string
	var check bool
	cmd := &cobra.Command{
		Use: "generate go FILE", Short: "Write the Go types of a KSL file",
		Long: "Write the Go types of a KSL file: a string type per enum, a struct per type, and a key table per record.\n" +
			"With package vortex/client, client.GetRecord, PutRecord, DeleteRecord, ListRecords and FindRecords take such a table\n" +
			"and read and write records of its type.",
		Example: "  vortex kv schema generate go pets.ksl -o pets/pets.go\n  vortex kv schema generate go pets.ksl -o pets/pets.go --check   # in CI",
		Args:    between(2, 2, "the word go and a KSL file"),
		RunE: func(_ *cobra.Command, args []string) error {
			if args[0] != "go" {
				return errUsage("expected the language go, got %s", args[0])
			}
			file, err := a.schemaFile("", args[1])
			if err != nil {
				return err
			}
			src, err := gen.Generate(file.schema, gen.Options{
				Package: packageOf(pkg, out, file.name), Source: filepath.Base(file.path), Import: true,
				Command: "vortex kv schema generate",
			})
			if err != nil {
				return err
			}
			return a.writeGenerated(out, src, check)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "the file to write (default: print it)")
	cmd.Flags().StringVar(&pkg, "package", "", "the Go package (default: the name of the file's directory)")
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; fail when the file is not what would be written")
	return cmd
}

// packageOf is the package as it was given, or as the directory of out, or the schema, is called.
func packageOf(pkg, out, schema string) string {
	name := pkg
	if name == "" && out != "" {
		if abs, err := filepath.Abs(out); err == nil {
			name = filepath.Base(filepath.Dir(abs))
		}
	}
	if name == "" {
		name = schema
	}
	var letters []byte
	for i := range len(name) {
		c := name[i] | 0x20
		if 'a' <= c && c <= 'z' || len(letters) > 0 && '0' <= name[i] && name[i] <= '9' {
			letters = append(letters, c)
		}
	}
	if len(letters) == 0 {
		return "records"
	}
	return string(letters)
}

func (a *cli) writeGenerated(out string, src []byte, check bool) error {
	switch {
	case out == "":
		_, err := a.env.Stdout.Write(src)
		return err
	case check:
		have, err := os.ReadFile(out)
		if err != nil {
			return vortex.Errorf(vortex.NotFound, "the generated file cannot be read: %w", err)
		}
		if !bytes.Equal(have, src) {
			return vortex.Errorf(vortex.Precondition, "%s is stale: generate it again", out)
		}
		return nil
	}
	if err := os.WriteFile(out, src, 0o644); err != nil {
		return fmt.Errorf("write the generated file: %w", err)
	}
	if !a.quiet {
		a.say("%s written", out)
	}
	return nil
}
