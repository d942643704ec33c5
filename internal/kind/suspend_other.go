//go:build !linux

package kind

import "time"

// suspended is not known here.
func suspended() time.Duration { return 0 }
