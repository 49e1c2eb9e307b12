//go:build !linux

package clock

import "time"

// Machine is the machine's clock. On this system it is Go's monotonic clock, which may stand still while the machine
// sleeps: run the sequencer with --sequencer-proof=quorum where that matters.
type Machine struct{}

var start = time.Now()

// Now implements Clock.
func (Machine) Now() time.Duration { return time.Since(start) }
