package rangegroup

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// appliedWaiters wakes readers when the replica has applied far enough.
type appliedWaiters struct {
	index atomic.Uint64 // applied; readable by all
	mu    struct {
		sync.Mutex
		byIndex map[uint64]chan struct{} // closed when its index is applied; one channel for all that wait for it
		err     error                    // set when the replica is gone
	}
}

// wait returns once index is applied, the replica is gone, or ctx ends.
func (w *appliedWaiters) wait(ctx context.Context, index uint64) error {
	if w.index.Load() >= index {
		return nil
	}
	w.mu.Lock()
	if w.mu.err != nil {
		w.mu.Unlock()
		return w.mu.err
	}
	if w.index.Load() >= index {
		w.mu.Unlock()
		return nil
	}
	if w.mu.byIndex == nil {
		w.mu.byIndex = make(map[uint64]chan struct{})
	}
	ch := w.mu.byIndex[index]
	if ch == nil {
		ch = make(chan struct{})
		w.mu.byIndex[index] = ch
	}
	w.mu.Unlock()
	select {
	case <-ch:
		if w.index.Load() >= index {
			return nil
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.mu.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// advance publishes a new applied index and wakes who waited for it.
func (w *appliedWaiters) advance(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index.Store(index)
	for i, ch := range w.mu.byIndex {
		if i <= index {
			close(ch)
			delete(w.mu.byIndex, i)
		}
	}
}

// fail wakes everybody with an error, now and for good.
func (w *appliedWaiters) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.err = err
	for i, ch := range w.mu.byIndex {
		close(ch)
		delete(w.mu.byIndex, i)
	}
}

// claims keeps the newest claim that a replica may use, by its own applied index.
type claims struct {
	mu struct {
		sync.Mutex
		usable  Claim // Index is applied here
		pending Claim // newest one whose Index is not applied yet
	}
}

// note takes a claim over, if it is newer than those known.
func (c *claims) note(n Claim, applied uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.Index > applied {
		if n.Revision > c.mu.pending.Revision {
			c.mu.pending = n
		}
		return
	}
	c.useLocked(n)
}

// applied promotes a pending claim once its index is reached.
func (c *claims) applied(index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.mu.pending; p.Revision > 0 && p.Index <= index {
		c.mu.pending = Claim{}
		c.useLocked(p)
	}
}

func (c *claims) useLocked(n Claim) {
	if n.Revision >= c.mu.usable.Revision {
		c.mu.usable = n
	}
}

func (c *claims) newest() (Claim, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.usable, c.mu.usable.Revision > 0
}

// adopted is the greatest revision at or below which no event may come any more at this replica.
func (c *claims) adopted() ids.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.usable.Revision
}
