package rangegroup

import (
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"google.golang.org/protobuf/proto"
)

// proposal is one mutating request on its way through the lane.
type proposal struct {
	op      proto.Message
	gen     ids.Generation
	size    int
	arrived time.Time
	done    func(proto.Message, error)
}

// event is something that the worker has to look at: exactly one field group is set.
type event struct {
	write   *proposal
	confirm *confirmation
	answer  *joinAnswer
	run     func(*Replica) // control, rare
	floor   ids.Revision   // propose this physical compaction floor
}

// confirmation is somebody who waits for a claim.
type confirmation struct {
	gen    ids.Generation
	remote bool // it will be used at another node's replica
	done   func(Claim, error)
}

// joinAnswer is a sequencer's answer on its way back to the worker.
type joinAnswer struct {
	term    uint64
	segment *segment        // the segment whose revisions these are, or
	waiters []*confirmation // the readers that are confirmed
	answer  Answer
}

// Limits of what may wait at one range before its leader looks at it. They bound memory, not throughput: at 20,000
// requests per second a queue of 32,768 is more than a second of work, and a client is better served by an error.
const (
	inboxWritesMax = 32768
	inboxBytesMax  = 64 << 20
)

// inbox is where other goroutines leave work for the worker that runs the replica next.
type inbox struct {
	mu struct {
		sync.Mutex
		events []event
		closed bool
		// hold is how many requests the worker lets gather here before it wants a turn for them: while others are in the
		// lane, fewer are not worth one. 0: every request wants a turn.
		hold, held int
		// writes and bytes count what is queued here or waits in the lane without having been appended.
		writes, bytes int
	}
}

// pushWrite queues a request; ok is false if the limits are reached. turn says that the worker must be asked for a turn.
func (b *inbox) pushWrite(p *proposal) (turn, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed || b.mu.writes >= inboxWritesMax || b.mu.bytes+p.size > inboxBytesMax {
		return false, false
	}
	b.mu.held++
	b.mu.writes++
	b.mu.bytes += p.size
	b.mu.events = append(b.mu.events, event{write: p})
	return b.mu.held >= b.mu.hold, true
}

// setHold lets up to n requests gather from now on. It reports whether as many wait already.
func (b *inbox) setHold(n int) (due bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.hold = n
	return b.mu.held > 0 && b.mu.held >= n
}

// push queues anything that is bounded elsewhere. It returns false after close.
func (b *inbox) push(e event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return false
	}
	b.mu.events = append(b.mu.events, e)
	return true
}

// release says that requests have left the state in which they count against the limits.
func (b *inbox) release(writes, bytes int) {
	b.mu.Lock()
	b.mu.writes -= writes
	b.mu.bytes -= bytes
	b.mu.Unlock()
}

// take swaps the queued events for an empty slice.
func (b *inbox) take(spare []event) []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.mu.events) == 0 {
		return spare[:0]
	}
	e := b.mu.events
	b.mu.events, b.mu.held = spare[:0], 0
	return e
}

func (b *inbox) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mu.events) == 0
}

// close refuses everything from now on and returns what was queued.
func (b *inbox) close() []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.closed = true
	e := b.mu.events
	b.mu.events = nil
	return e
}
