package clock

import (
	"sync"
	"time"
)

// Virtual is a clock for tests: it follows package time (virtual inside a synctest bubble) at a rate of its own, and can
// be made to jump, as a machine's clock does when it wakes from suspension, or to stand still.
type Virtual struct {
	mu    sync.Mutex
	base  time.Time     // guarded by mu: since when the rate holds
	value time.Duration // guarded by mu: what the clock showed then
	rate  float64       // guarded by mu
}

// NewVirtual returns a clock that runs at rate (1 is true time) and shows start now.
func NewVirtual(rate float64, start time.Duration) *Virtual {
	return &Virtual{base: time.Now(), value: start, rate: rate}
}

// Now implements Clock.
func (v *Virtual) Now() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.nowLocked()
}

func (v *Virtual) nowLocked() time.Duration {
	return v.value + time.Duration(float64(time.Since(v.base))*v.rate)
}

// Jump moves the clock forward by d at once.
func (v *Virtual) Jump(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.value, v.base = v.nowLocked()+d, time.Now()
}

// SetRate changes how fast the clock runs from now on; 0 stops it.
func (v *Virtual) SetRate(rate float64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.value, v.base, v.rate = v.nowLocked(), time.Now(), rate
}
