package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"vortex/client"
)

// terminalSizes sends the terminal's size now and whenever it changes.
func terminalSizes(ctx context.Context, size func() (client.WindowSize, bool)) <-chan client.WindowSize {
	sizes := make(chan client.WindowSize, 1)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changed)
		for {
			if s, ok := size(); ok {
				select {
				case sizes <- s:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
