package etcd

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"

	"go.uber.org/zap/zapcore"

	"vortex"
)

// failure is the end of a member inside this process. etcd ends the process where it cannot write its files, or finds them
// not as they must be; as a part of Vortex it only ends, or stops for good, the goroutine that found out. Nothing is written from then on, what was acknowledged
// is on disk, and reads go on from memory.
type failure struct {
	log     *slog.Logger
	started atomic.Bool // before, a failure is a panic, which the start recovers
	cause   atomic.Pointer[vortex.Error]
}

// OnWrite implements zapcore.CheckWriteHook for entries after which etcd does not go on.
func (f *failure) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	enc := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(enc)
	}
	cause := fmt.Errorf("%s: %v", entry.Message, enc.Fields["error"])
	if !f.started.Load() {
		panic(cause)
	}
	err := &vortex.Error{
		Kind: vortex.Unavailable, Err: cause,
		Msg: "the embedded store cannot write its files any more; reads go on from memory. Is the disk full, read-only or broken? Mend that, then restart this server",
	}
	if f.cause.CompareAndSwap(nil, err) && f.log != nil {
		f.log.Error("Embedded store failed: restart this server when its disk is well again", "err", cause)
	}
	if entry.Message == unsaved { // other goroutines of etcd go on with the one that applies, and panic where it has ended
		select {}
	}
	runtime.Goexit()
}

// unsaved is what etcd says where it cannot write a snapshot, in the goroutine that applies entries.
const unsaved = "failed to save snapshot"

// err is why the member ended, nil while it runs.
func (f *failure) err() error {
	if cause := f.cause.Load(); cause != nil {
		return cause
	}
	return nil
}
