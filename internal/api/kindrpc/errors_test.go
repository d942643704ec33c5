package kindrpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vortex"
)

// TestCodesSayWhoseFaultItWas: a client that did not cancel and set no limit is never told that it did.
func TestCodesSayWhoseFaultItWas(t *testing.T) {
	away := func(cause error) error {
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's engine does not answer; retry", Err: cause}
	}
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{away(context.Canceled), codes.Unavailable},
		{away(fmt.Errorf("commit: %w", context.DeadlineExceeded)), codes.Unavailable},
		{gone(errors.New("transport is closing")), codes.Unavailable},
		{fmt.Errorf("commit: %w: request timed out", context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("commit: %w", context.Canceled), codes.Canceled},
		{errors.New("odd"), codes.Internal},
	} {
		if got := status.Code((&Service{}).fail(c.err)); got != c.want {
			t.Errorf("%v: %s; want %s", c.err, got, c.want)
		}
	}
}
