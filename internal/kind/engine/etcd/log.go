package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"go.uber.org/zap/zapcore"
)

// bridge hands etcd's zap entries to slog. etcd's information is our debug: users did not ask for etcd.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func newBridge(log *slog.Logger) zapcore.Core {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &bridge{log: log}
}

// Enabled implements zapcore.Core.
func (b *bridge) Enabled(level zapcore.Level) bool {
	return b.log.Enabled(context.Background(), slogLevel(level))
}

// With implements zapcore.Core.
func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log, fields: append(slices.Clip(b.fields), fields...)}
}

// Check implements zapcore.Core.
func (b *bridge) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(entry.Level) {
		return checked.AddCore(entry, b)
	}
	return checked
}

// harmless are errors to etcd that are none to anybody else: an entry's words, and those of its error.
var harmless = []struct{ message, cause string }{
	{"failed to update storage version", "cannot detect storage schema version"}, // before the first write; it is tried again
	{"setting up serving from embedded etcd failed", "closed"},                   // its listener or server was, for it stops
}

// Write implements zapcore.Core.
func (b *bridge) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(slices.Clip(b.fields), fields...) {
		f.AddTo(enc)
	}
	level := slogLevel(entry.Level)
	cause := fmt.Sprint(enc.Fields["error"])
	for _, h := range harmless {
		if strings.HasPrefix(entry.Message, h.message) && strings.Contains(cause, h.cause) {
			level = slog.LevelDebug
		}
	}
	b.log.LogAttrs(context.Background(), level, "Engine message", slog.String("message", entry.Message), slog.Any("fields", enc.Fields))
	return nil
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }

func slogLevel(level zapcore.Level) slog.Level {
	switch {
	case level >= zapcore.ErrorLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}
