package edge

import (
	"time"

	"vortex"
	"vortex/internal/edge/http1"
)

// ClientLimits are what clients of HTTP may do. Zero values are defaults.
type ClientLimits = http1.Limits

// What clients may do where nobody says otherwise.
const (
	DefaultClientConnections = http1.DefaultMaxClientConns
	DefaultMinBodyRate       = http1.DefaultMinBodyRate
	DefaultBodyGrace         = http1.DefaultBodyGrace
	DefaultIdleTimeout       = http1.DefaultIdleTimeout
)

// ClientLimitsOf returns limits as users write them: 0 bounds nothing, and is no grace. Connections idle for a time above 0.
func ClientLimitsOf(connections, requests, bodyRate uint32, grace, idle time.Duration) ClientLimits {
	l := ClientLimits{MaxClientConns: int(connections), MaxRequests: int(requests), MinBodyRate: int64(bodyRate), BodyGrace: grace, IdleTimeout: idle}
	if connections == 0 {
		l.MaxClientConns = -1
	}
	if bodyRate == 0 {
		l.MinBodyRate = -1
	}
	if grace == 0 {
		l.BodyGrace = -1
	}
	return l
}

// AcceptanceOf reads whether the PROXY protocol is taken, as users write it: off, optional or required.
func AcceptanceOf(text string) vortex.ProxyAcceptance {
	if text == "off" {
		return ""
	}
	return vortex.ProxyAcceptance(text)
}

// SetClientLimits changes what clients may do, for every request and connection from now on.
func (e *Edge) SetClientLimits(l ClientLimits) { e.server.SetLimits(l) }
