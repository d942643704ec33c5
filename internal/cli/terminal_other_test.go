//go:build !linux

package cli_test

import (
	"errors"
	"os"
)

// openTerminal is not known how to do here.
func openTerminal() (master, tty *os.File, err error) { return nil, nil, errors.ErrUnsupported }
