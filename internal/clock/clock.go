// Package clock provides the one clock that protocols may compare over time: a monotonic one that goes on while the
// machine sleeps. Timers and deadlines within one process use package time.
package clock

import "time"

// Clock tells the time since some fixed moment, never backwards.
type Clock interface {
	// Now is the time since an arbitrary moment that is the same for the life of the machine's boot. It includes the
	// time the machine was suspended (Linux CLOCK_BOOTTIME), which Go's own monotonic clock leaves out.
	Now() time.Duration
}
