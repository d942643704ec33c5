package cli

import (
	"fmt"
	"sync"
)

// progress is the line of stderr that tells what is being waited for.
type progress struct {
	mu   sync.Mutex
	last string
	open bool // the line on the terminal is not ended yet
}

// status shows what is being waited for: on a terminal in one line that changes, else in a new line when it changed.
func (a *cli) status(format string, args ...any) {
	if a.quiet {
		return
	}
	text := fmt.Sprintf(format, args...)
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	if text == a.progress.last {
		return
	}
	a.progress.last = text
	if !a.style.on {
		_, _ = fmt.Fprintln(a.env.Stderr, text)
		return
	}
	const width = 120
	_, _ = fmt.Fprintf(a.env.Stderr, "\r\x1b[K%s", a.style.dim(short(text, width)))
	a.progress.open = true
}

// endStatus clears the line that status changes.
func (a *cli) endStatus() {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	if a.progress.open {
		_, _ = fmt.Fprint(a.env.Stderr, "\r\x1b[K")
		a.progress.open = false
	}
}
