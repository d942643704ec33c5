package agent

import (
	"bytes"
	"sync"
)

// head keeps the first bytes written to it and drops the rest. It is safe for concurrent use.
type head struct {
	limit int

	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if room := h.limit - h.buf.Len(); room > 0 {
		h.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String returns what was kept.
func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}
