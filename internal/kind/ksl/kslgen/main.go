// Command kslgen writes the Go types and key tables of a schema.
//
//	kslgen -schema schema/vortex.ksl -out records_gen.go -package vortex
//	kslgen -check …   # writes nothing; exits 1 when the file is not what it would write
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"

	"vortex/internal/kind/ksl"
	"vortex/internal/kind/ksl/gen"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // the main of a command
	}
}

// run does what args ask for.
func run(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("kslgen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	schemaFile := flags.String("schema", "", "the schema to read")
	out := flags.String("out", "", "the Go file to write")
	pkg := flags.String("package", "", "the Go file's package")
	check := flags.Bool("check", false, "write nothing; fail when the Go file is stale")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("parse flags: %w", err)
	}
	src, err := generate(*schemaFile, *pkg)
	if err != nil {
		return err
	}
	if *check {
		return compare(*out, src)
	}
	if err := os.WriteFile(*out, src, 0o644); err != nil {
		return fmt.Errorf("write records: %w", err)
	}
	return nil
}

func generate(schemaFile, pkg string) ([]byte, error) {
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	schema, err := ksl.Parse(schemaFile, text)
	if err != nil {
		return nil, err
	}
	return gen.Generate(schema, gen.Options{Package: pkg, Source: schemaFile})
}

// compare fails when file does not hold src.
func compare(file string, src []byte) error {
	have, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	if !bytes.Equal(have, src) {
		return fmt.Errorf("%s is stale: run go generate", file)
	}
	return nil
}
