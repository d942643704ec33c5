// Command pulse sends and watches heartbeats for its parent, which hands it a UDP socket, a control socket and a page of memory (see package
// pulse). It ends when its parent does, talks to nobody else and costs a few megabytes.
package main

import (
	"os"

	"vortex/internal/heartbeat/pulse"
)

func main() {
	if err := pulse.Main(); err != nil {
		_, _ = os.Stderr.WriteString("pulse: " + err.Error() + "\n")
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
}
