package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"vortex"
	"vortex/internal/config"
	"vortex/internal/kind/ksl"
)

// storeFlags adds the flags of up that say which store it opens.
func storeFlags(flags *pflag.FlagSet) *daemonSources {
	src := &daemonSources{flags: flags}
	flags.StringVar(&src.file, "config", "", "configuration (default: ./vortex.yaml, else /etc/vortex/vortex.yaml)")
	for _, s := range config.Settings() {
		if s.Flag == "data" || strings.HasPrefix(s.Flag, "store") {
			flags.String(s.Flag, s.Default(), s.Usage+" ("+s.Env()+")")
		}
	}
	return src
}

// given reports whether one of these flags was given.
func (d *daemonSources) given(names ...string) bool {
	for _, name := range names {
		if f := d.flags.Lookup(name); f != nil && f.Changed {
			return true
		}
	}
	return false
}

// proofConfig is the configuration of a store that is thrown away.
func proofConfig(data string) config.Config {
	cfg := config.Default()
	cfg.Data, cfg.LogLevel = data, "error"
	return cfg
}

func builtinSchema() (*ksl.Schema, error) {
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		return nil, fmt.Errorf("parse the built-in schema: %w", err)
	}
	return schema, nil
}

// withoutPassword is a store's URL as it may be shown.
func withoutPassword(store string) string {
	scheme, rest, _ := strings.Cut(store, "://")
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		if user, _, ok := strings.Cut(rest[:at], ":"); ok {
			rest = user + ":xxxxx" + rest[at:]
		}
	}
	return scheme + "://" + rest
}
