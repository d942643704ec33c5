//go:build !linux

package http1

import (
	"context"
	"net"

	"vortex/internal/edge/pool"
)

// lane needs Linux.
type lane struct{}

// lanes need Linux.
type lanes struct{}

func (*lanes) serve(context.Context, *Server, net.Listener, *Listener) bool { return false }
func (*lanes) retire(*Listener)                                             {}
func (*lanes) drain(context.Context) bool                                   { return false }
func (*lanes) sever(string)                                                 {}
func (*lanes) end()                                                         {}
func (*lanes) idle() map[*pool.Backend]int                                  { return nil }

func (*conn) goHome() bool { return false }
