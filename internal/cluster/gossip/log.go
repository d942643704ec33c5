package gossip

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// listener takes the library's log: what a stranger tries is a warning, all else is for who looks for a fault.
type listener struct {
	log  *slog.Logger
	mu   sync.Mutex
	told time.Time // when the last warning was written
}

func newListener(log *slog.Logger) io.Writer {
	if log == nil {
		return io.Discard
	}
	return &listener{log: log}
}

// tellEvery is how often the log tells of strangers.
const tellEvery = time.Minute

// Write takes one line.
func (l *listener) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if strings.Contains(text, "installed keys could decrypt") && l.due() {
		l.log.Warn("Somebody without the right key wants to take part in gossip", "from", sender(text))
		return len(line), nil
	}
	l.log.Debug("Gossip", "detail", text)
	return len(line), nil
}

func (l *listener) due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.told) < tellEvery {
		return false
	}
	l.told = time.Now()
	return true
}

// sender is the host that a line of the library's log tells of.
func sender(text string) string {
	_, from, _ := strings.Cut(text, "from=")
	from, _, _ = strings.Cut(from, " ")
	if host, _, err := net.SplitHostPort(from); err == nil {
		return host
	}
	return from
}
