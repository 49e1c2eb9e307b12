package calls

import "sync"

// Finisher runs functions one after the other, in the order of Do, on one goroutine: callbacks that must not run on
// the goroutine that happens to cause them, since that one may hold the caller's locks. What waits is bounded by what
// the transport accepts: each call is finished once.
type Finisher struct {
	mu struct {
		sync.Mutex
		queue  []func()
		closed bool
	}
	wake chan struct{} // capacity 1
	done chan struct{}
}

// NewFinisher starts the goroutine; Close ends it.
func NewFinisher() *Finisher {
	f := &Finisher{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go f.run()
	return f
}

// Do queues fn. It never blocks. After Close, for callers that come too late, each fn gets a goroutine of its own.
func (f *Finisher) Do(fn func()) {
	f.mu.Lock()
	if f.mu.closed {
		f.mu.Unlock()
		go fn()
		return
	}
	f.mu.queue = append(f.mu.queue, fn)
	select { // under the lock, because Close closes the channel
	case f.wake <- struct{}{}:
	default:
	}
	f.mu.Unlock()
}

// Close runs what is queued and ends the goroutine. It must not be called from a function given to Do.
func (f *Finisher) Close() {
	f.mu.Lock()
	if !f.mu.closed {
		f.mu.closed = true
		close(f.wake)
	}
	f.mu.Unlock()
	<-f.done
}

func (f *Finisher) run() {
	defer close(f.done)
	for {
		_, open := <-f.wake
		for {
			f.mu.Lock()
			queue := f.mu.queue
			f.mu.queue = nil
			f.mu.Unlock()
			if len(queue) == 0 {
				break
			}
			for _, fn := range queue {
				fn()
			}
		}
		if !open {
			return
		}
	}
}
