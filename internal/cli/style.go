package cli

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// style colours words; the zero value leaves them as they are.
type style struct{ on bool }

func (s style) paint(colour, text string) string {
	if !s.on {
		return text
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(colour)).Render(text)
}

func (s style) good(text string) string { return s.paint("2", text) }
func (s style) busy(text string) string { return s.paint("6", text) }
func (s style) warn(text string) string { return s.paint("3", text) }
func (s style) bad(text string) string  { return s.paint("1", text) }
func (s style) dim(text string) string  { return s.paint("8", text) }

func (s style) bold(text string) string {
	if !s.on {
		return text
	}
	return lipgloss.NewStyle().Bold(true).Render(text)
}

// state colours a word by what it means: green is well, blue on its way, yellow doubtful, red bad.
func (s style) state(word string) string {
	switch strings.ToLower(word) {
	case "running", "healthy", "ready", "complete", "ok", "created":
		return s.good(word)
	case "starting", "provisioning", "pending", "draining", "progressing", "configured":
		return s.busy(word)
	case "degraded", "suspect", "unknown", "warning", "warn", "reverted":
		return s.warn(word)
	case "error", "dead", "unhealthy", "down", "lost", "failed", "fail":
		return s.bad(word)
	case "stopped", "unchanged", "info":
		return s.dim(word)
	default:
		return word
	}
}
