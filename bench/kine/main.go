// Command kine is kine in the version that go.mod pins: etcd's interface over PostgreSQL, a peer of bench/kind.
package main

import (
	"fmt"
	"os"

	"github.com/k3s-io/kine/pkg/app"
)

func main() {
	if err := app.New().Run(os.Args); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "kine:", err)
		os.Exit(1)
	}
}
