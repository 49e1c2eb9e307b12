package calls

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
)

// Done takes the end of a call.
type Done = func(payload []byte, err error)

// state is how far a call is. It only moves forward.
type state uint8

const (
	queued   state = iota // accepted, not handed to a stream
	sent                  // handed to a stream
	finished              // done was or is being called by whoever made this move
)

// Call is one call on its way.
type Call struct {
	ID      uint64 // unique within its table, rising in the order of Add
	Method  transport.Method
	Payload []byte

	done  Done
	ctx   context.Context
	stop  func() bool // detaches from ctx
	state state       // guarded by the table's lock
}

// Limits bounds a table.
type Limits struct {
	QueueMessages, QueueBytes int // of calls that wait to be sent
	InFlight                  int // of calls that were sent and wait for their answers
}

// Table holds the calls of one node to one other, of one class.
type Table struct {
	limits   Limits
	finisher *Finisher

	mu struct {
		sync.Mutex
		reason error // not nil: calls are rejected with it
		nextID uint64
		// queue holds the calls to be sent, and those of them that ended before that; queueBytes counts both.
		queue      FIFO[*Call]
		queueBytes int
		inFlight   map[uint64]*Call
	}
}

// NewTable returns a table that accepts calls.
func NewTable(l Limits, f *Finisher) *Table {
	t := &Table{limits: l, finisher: f}
	t.mu.inFlight = map[uint64]*Call{}
	return t
}

// Add accepts a call or fails it with ErrNotSent, and reports which. done is called on the finisher or by Answer, never
// from within Add.
func (t *Table) Add(ctx context.Context, m transport.Method, payload []byte, done Done) bool {
	c := &Call{Method: m, Payload: payload, done: done, ctx: ctx}
	if len(payload) > transport.MaxPayload {
		err := fmt.Errorf("%w: %d bytes, at most %d", transport.ErrTooLarge, len(payload), transport.MaxPayload)
		t.finisher.Do(func() { done(nil, err) })
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.roomLocked(len(payload)); err != nil {
		t.finisher.Do(func() { done(nil, err) })
		return false
	}
	if ctx.Done() != nil { // cancel runs on a goroutine of its own and waits for the lock
		c.stop = context.AfterFunc(ctx, func() { t.cancel(c) })
	}
	t.mu.nextID++
	c.ID, c.state = t.mu.nextID, queued
	t.mu.queue.Push(c)
	t.mu.queueBytes += len(payload)
	return true
}

func (t *Table) roomLocked(n int) error {
	switch {
	case t.mu.reason != nil:
		return t.mu.reason
	case t.mu.queue.Len() >= t.limits.QueueMessages ||
		(t.mu.queueBytes > 0 && t.mu.queueBytes+n > t.limits.QueueBytes):
		return fmt.Errorf("%w: queue is full (%d calls, %d bytes)", transport.ErrNotSent, t.mu.queue.Len(), t.mu.queueBytes)
	case len(t.mu.inFlight)+t.mu.queue.Len() >= t.limits.InFlight:
		return fmt.Errorf("%w: %d calls wait for answers", transport.ErrNotSent, len(t.mu.inFlight))
	}
	return nil
}

// Take appends to dst the calls that go into the next frame and marks them sent: from now on they end with an answer,
// or with ErrLost. It takes at least one if there is one, and others while the payloads, each with overhead bytes on
// top, fit into maxBytes.
func (t *Table) Take(dst []*Call, maxBytes, overhead int) []*Call {
	t.mu.Lock()
	defer t.mu.Unlock()
	for bytes, n := 0, 0; t.mu.queue.Len() > 0; {
		c := t.mu.queue.Front()
		size := len(c.Payload) + overhead
		if c.state == queued && n > 0 && bytes+size > maxBytes {
			break
		}
		t.mu.queue.Pop()
		t.mu.queueBytes -= len(c.Payload)
		if c.state != queued {
			continue
		}
		c.state = sent
		t.mu.inFlight[c.ID] = c
		dst = append(dst, c)
		bytes, n = bytes+size, n+1
	}
	return dst
}

// Answer is the answer to one call.
type Answer struct {
	ID      uint64
	Payload []byte
	Err     error

	call *Call
}

// Answer finishes calls, on the calling goroutine. Answers to calls that ended before are ignored.
func (t *Table) Answer(answers []Answer) {
	t.mu.Lock()
	for i := range answers {
		a := &answers[i]
		if c := t.mu.inFlight[a.ID]; c != nil {
			a.call = c
			c.state = finished
			delete(t.mu.inFlight, a.ID)
		}
	}
	t.mu.Unlock()
	for i := range answers {
		a := &answers[i]
		if c := a.call; c != nil {
			a.call = nil
			c.detach()
			c.done(a.Payload, a.Err)
		}
	}
}

// Fail ends all calls: those sent with ErrLost, the others with ErrNotSent. cause goes into the text. Calls added
// later are accepted unless reject is set; then they fail with ErrNotSent until Accept.
func (t *Table) Fail(cause string, reject bool) {
	notSent := fmt.Errorf("%w: %s", transport.ErrNotSent, cause)
	lost := fmt.Errorf("%w: %s", transport.ErrLost, cause)
	t.mu.Lock()
	defer t.mu.Unlock()
	if reject {
		t.mu.reason = notSent
	}
	var ended []*Call
	for _, c := range t.mu.inFlight {
		ended = append(ended, c)
	}
	clear(t.mu.inFlight)
	sortByID(ended)
	nSent := len(ended)
	for t.mu.queue.Len() > 0 {
		if c := t.mu.queue.Pop(); c.state == queued {
			ended = append(ended, c)
		}
	}
	t.mu.queueBytes = 0
	for i, c := range ended {
		c.state = finished
		err := notSent
		if i < nSent {
			err = lost
		}
		t.finisher.Do(func() { c.detach(); c.done(nil, err) })
	}
}

// Accept ends the rejection of calls.
func (t *Table) Accept() {
	t.mu.Lock()
	t.mu.reason = nil
	t.mu.Unlock()
}

// Size returns the number of calls that wait to be sent, their bytes, and the number of those that wait for answers.
func (t *Table) Size() (queued, queuedBytes, inFlight int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.queue.Len(), t.mu.queueBytes, len(t.mu.inFlight)
}

// cancel ends a call whose context has ended. A queued one stays in the queue as a husk that Take skips.
func (t *Table) cancel(c *Call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.state == finished {
		return
	}
	if c.state == sent {
		delete(t.mu.inFlight, c.ID)
	}
	c.state = finished
	t.finisher.Do(func() { c.done(nil, c.ctx.Err()) })
}

func (c *Call) detach() {
	if c.stop != nil {
		c.stop()
	}
}

// sortByID restores the order of Add, so that failures come in it too.
func sortByID(cs []*Call) {
	slices.SortFunc(cs, func(a, b *Call) int { return cmp.Compare(a.ID, b.ID) })
}
