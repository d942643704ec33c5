package kind

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended is for how long the machine has been suspended since it was booted: the clock that measures durations stood still then.
func suspended() time.Duration {
	var whole, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &whole) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil {
		return 0
	}
	return time.Duration(whole.Nano() - awake.Nano())
}
