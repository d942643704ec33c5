//go:build !linux

package network

import (
	"context"
	"net/netip"

	"vortex"
)

// Network exists on Linux only; elsewhere every method fails with Precondition.
type Network struct{}

var errLinux = vortex.Errorf(vortex.Precondition, "container networking needs Linux: run agents on Linux machines")

// New fails.
func New(Config) (*Network, error) { return nil, errLinux }

// Setup fails.
func (*Network) Setup(context.Context) error { return errLinux }

// Run fails.
func (*Network) Run(context.Context) error { return errLinux }

// Attach fails.
func (*Network) Attach(context.Context, string, AttachSpec) (Attachment, error) {
	return Attachment{}, errLinux
}

// Detach fails.
func (*Network) Detach(context.Context, string) error { return errLinux }

// List fails.
func (*Network) List(context.Context) ([]Attachment, error) { return nil, errLinux }

// Reconcile fails.
func (*Network) Reconcile(context.Context, map[string]bool) error { return errLinux }

// SetRoutes fails.
func (*Network) SetRoutes(context.Context, map[netip.Prefix]netip.Addr) error { return errLinux }

// Close does nothing.
func (*Network) Close() error { return nil }

// Teardown fails.
func (*Network) Teardown(context.Context) error { return errLinux }
