package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"vortex"
	"vortex/internal/runtime"
)

// unreachable reports whether an error means that the engine did not answer, rather than that it refused.
func (d *Driver) unreachable(err error) bool {
	if client.IsErrConnectionFailed(err) || errdefs.IsUnavailable(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	_, network := errors.AsType[*net.OpError](err)
	return network
}

// fail adds what was done to an engine's error and gives it its kind.
func (d *Driver) fail(doing string, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", doing, err)
	case d.unreachable(err):
		return vortex.Errorf(vortex.Unavailable, "Docker Engine at %s does not answer: cannot %s: %w", d.cfg.Host, doing, err)
	case errdefs.IsNotFound(err):
		return vortex.Errorf(vortex.NotFound, "cannot %s: %w", doing, err)
	case errdefs.IsInvalidArgument(err):
		return vortex.Errorf(vortex.Invalid, "cannot %s: %w", doing, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// refusals are parts of what the engine and its runtime answer when a spec cannot run as it is; the answer's
// status code does not tell.
var refusals = []struct {
	says string
	kind vortex.ErrorKind
	hint string
}{
	{"port is already allocated", vortex.Exists, "choose another host port"},
	{"address already in use", vortex.Exists, "choose another host port"},
	{"invalid reference format", vortex.Invalid, "expected an image like registry/name:tag"},
	{"no such file or directory", vortex.Invalid, "check command and image"},
	{"executable file not found", vortex.Invalid, "check command and image"},
	{"permission denied", vortex.Invalid, "check that the command is executable"},
	{"exec format error", vortex.Invalid, "the program is for another architecture or is no program"},
	{"unable to find user", vortex.Invalid, "check user"},
	{"unable to find group", vortex.Invalid, "check user"},
	{"No command specified", vortex.Invalid, "the image names no command: set one"},
	{"bind source path does not exist", vortex.Invalid, "create the directory or check the volume"},
	{"Minimum memory limit", vortex.Invalid, "raise the memory limit"},
}

// startError explains why an instance did not start.
func (d *Driver) startError(spec runtime.InstanceSpec, err error) error {
	if !d.unreachable(err) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		for _, r := range refusals {
			if strings.Contains(err.Error(), r.says) {
				return vortex.Errorf(r.kind, "instance %s of image %s cannot start: %s: %w", spec.ID, spec.Image, r.hint, err)
			}
		}
	}
	return d.fail("start instance "+spec.ID, err)
}

// isGone reports whether what was asked for does not exist any more.
func isGone(err error) bool { return vortex.IsKind(err, vortex.NotFound) }
