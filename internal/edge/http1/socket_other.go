//go:build !linux

package http1

import (
	"net"
	"time"
)

// tuneClient does nothing: only Linux can bound the time a client takes nothing.
func tuneClient(net.Conn, time.Duration) {}
