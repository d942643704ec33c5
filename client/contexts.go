package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v4"

	"vortex"
)

// Context is a server a user talks to, under a name.
type Context struct {
	Name   string `yaml:"name" json:"name"`
	Server string `yaml:"server" json:"server"`                 // URL of the API
	Kind   string `yaml:"kind,omitempty" json:"kind,omitempty"` // host:port of the store; "" is port 50051 of the server
	Token  string `yaml:"token,omitempty" json:"-"`
	TLS    TLS    `yaml:"tls,omitempty" json:"tls,omitzero"`
}

// Contexts are a user's contexts, as they are kept in config.yaml.
type Contexts struct {
	Current  string    `yaml:"current"`
	Contexts []Context `yaml:"contexts"`
}

// ContextsFile is where a user's contexts are kept.
func ContextsFile(xdgConfigHome, home string) string {
	if xdgConfigHome == "" {
		xdgConfigHome = filepath.Join(home, ".config")
	}
	return filepath.Join(xdgConfigHome, "vortex", "config.yaml")
}

// LoadContexts reads contexts; a file that does not exist holds none.
func LoadContexts(path string) (Contexts, error) {
	var c Contexts
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read contexts: %w", err)
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return c, vortex.Errorf(vortex.Invalid, "%s is damaged: %w\nmend it, or remove it and log in again", path, err)
	}
	return c, nil
}

// Save keeps contexts in a file that only its owner can read.
func (c *Contexts) Save(path string) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of contexts: %w", err)
	}
	if err := replaceFile(path, data); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	return nil
}

// Find returns the context of a name.
func (c *Contexts) Find(name string) (Context, bool) {
	i := slices.IndexFunc(c.Contexts, func(ctx Context) bool { return ctx.Name == name })
	if i < 0 {
		return Context{}, false
	}
	return c.Contexts[i], true
}

// Put adds a context, or replaces the one of its name.
func (c *Contexts) Put(ctx Context) {
	c.Remove(ctx.Name)
	c.Contexts = append(c.Contexts, ctx)
}

// Remove forgets the context of a name and reports whether there was one.
func (c *Contexts) Remove(name string) bool {
	before := len(c.Contexts)
	c.Contexts = slices.DeleteFunc(slices.Clone(c.Contexts), func(ctx Context) bool { return ctx.Name == name })
	return len(c.Contexts) < before
}

// Names lists the names of the contexts.
func (c *Contexts) Names() []string {
	names := make([]string, len(c.Contexts))
	for i, ctx := range c.Contexts {
		names[i] = ctx.Name
	}
	return names
}
