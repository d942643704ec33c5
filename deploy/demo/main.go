// Command demo is the main job of Vortex, unattended, on a machine as it is: it deploys the sample app, sends it
// traffic through the edge, shows one instance become five and one again, kills a container and shows it replaced,
// measures each step, cleans up, and proves that it did.
//
// It starts the built binary with a data directory of its own and free ports, so it disturbs no other Vortex. It exits
// with 1 when a step failed, and within two minutes in any case.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"vortex/test/harness"
)

const (
	limit  = 110 * time.Second // for everything but the cleaning up
	target = 100               // requests a second and instance, in the sample app's spec
	base   = target            // requests a second that are sent all the time
	peak   = 5 * target        // and at the peak
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took longer than %s", limit))
	err := run(ctx, os.Stdout)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nFAILED: %v\n", err)
		os.Exit(1)
	}
}

// run plays the demo and cleans up after it, whatever happened.
func run(ctx context.Context, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes containers, networks and cgroups: run it as root (sudo make demo)")
	}
	d := &demo{out: out, began: time.Now()}
	v, err := harness.Start(ctx, harness.Options{})
	if err != nil {
		return err
	}
	d.vortex = v
	err = d.play(ctx)
	if err != nil {
		_, _ = fmt.Fprintf(out, "\nthe log of Vortex:\n%s\n", v.Log())
	}
	if d.base.cancel != nil { // a step failed: the requests still count
		err = errors.Join(err, d.endTraffic(ctx))
	}
	err = errors.Join(err, d.clean())
	return errors.Join(err, d.summary(err == nil))
}
