package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunWritesAndChecks(t *testing.T) {
	dir := t.TempDir()
	schema, out := filepath.Join(dir, "pot.ksl"), filepath.Join(dir, "pot_gen.go")
	args := []string{"-schema", schema, "-out", out, "-package", "pots"}
	write(t, schema, `@prefix("pot") type Pot { id: String }`)
	if err := run(append(args, "-check"), io.Discard); err == nil {
		t.Error("-check is content without the file")
	}
	if err := run(args, io.Discard); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(src, []byte("package pots\n")) || !bytes.Contains(src, []byte("type Pot struct")) {
		t.Errorf("wrong source:\n%s", src)
	}
	if err := run(append(args, "-check"), io.Discard); err != nil {
		t.Errorf("-check of a fresh file: %v", err)
	}
	write(t, schema, `@prefix("pot") type Pot { id: String, size: U8? }`)
	if err := run(append(args, "-check"), io.Discard); err == nil || !strings.Contains(err.Error(), "stale") {
		t.Errorf("-check of a stale file returned %v", err)
	}
}

func TestRunReportsFaults(t *testing.T) {
	schema := filepath.Join(t.TempDir(), "pot.ksl")
	write(t, schema, "type Pot { id: Strin }")
	out := filepath.Join(t.TempDir(), "pot_gen.go")
	err := run([]string{"-schema", schema, "-out", out, "-package", "p"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `pot.ksl:1:16: there is no type Strin (did you mean "String"?)`) {
		t.Errorf("run returned %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a file was written")
	}
	if err := run([]string{"-no-such-flag"}, io.Discard); err == nil {
		t.Error("an unknown flag is accepted")
	}
	if err := run([]string{"-schema", schema + "x"}, io.Discard); err == nil {
		t.Error("a schema that does not exist is accepted")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
