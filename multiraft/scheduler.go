package multiraft

import "sync"

// The events of a group. A group is queued when the first of them is raised, and whoever raises one more while it waits
// or runs only sets the bit.
const (
	evInbox    uint32 = 1 << iota // messages, completed appends or orders in the inbox
	evTick                        // a heartbeat interval passed
	evSchedule                    // the state machine asks for Process
	evRemove                      // Host.Remove waits

	evAll uint32 = evInbox | evTick | evSchedule | evRemove

	stQueued  uint32 = 1 << 30 // in the queue, or held by a worker
	stRunning uint32 = 1 << 31 // held by a worker
)

// turnsMax bounds how many groups a worker holds at once. It takes their turns one after the other and then sends what
// all of them had to say, grouped by node; only then may another worker have them, so that the messages of a group leave
// in order.
const turnsMax = 16

// runQueue is the line of groups that have something to do.
type runQueue struct {
	mu struct {
		sync.Mutex
		groups []*Group // ring: the oldest at head
		head   int
		count  int
		closed bool
	}
	ready sync.Cond // mu.count > 0 or mu.closed
}

func (q *runQueue) init() { q.ready.L = &q.mu.Mutex }

func (q *runQueue) push(g *Group) {
	q.mu.Lock()
	if q.mu.count == len(q.mu.groups) {
		q.growLocked()
	}
	q.mu.groups[(q.mu.head+q.mu.count)%len(q.mu.groups)] = g
	q.mu.count++
	q.mu.Unlock()
	q.ready.Signal()
}

func (q *runQueue) growLocked() {
	grown := make([]*Group, max(64, 2*len(q.mu.groups)))
	n := copy(grown, q.mu.groups[q.mu.head:])
	copy(grown[n:], q.mu.groups[:q.mu.head])
	q.mu.groups, q.mu.head = grown, 0
}

// pop waits for groups and appends to into a fair share of those that wait, at most turnsMax. It returns an empty slice
// when the queue is closed.
func (q *runQueue) pop(into []*Group, workers int) []*Group {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.mu.count == 0 && !q.mu.closed {
		q.ready.Wait()
	}
	if q.mu.closed {
		return into
	}
	n := min(turnsMax, (q.mu.count+workers-1)/workers)
	for range n {
		into = append(into, q.mu.groups[q.mu.head])
		q.mu.groups[q.mu.head] = nil
		q.mu.head = (q.mu.head + 1) % len(q.mu.groups)
		q.mu.count--
	}
	return into
}

func (q *runQueue) close() {
	q.mu.Lock()
	q.mu.closed = true
	q.mu.Unlock()
	q.ready.Broadcast()
}

// raise sets an event and queues the group unless it is queued or held.
func (g *Group) raise(event uint32) {
	if old := g.state.Or(event | stQueued); old&stQueued == 0 {
		g.host.queue.push(g)
	}
}

// begin takes the events of a group that was popped.
func (g *Group) begin() uint32 {
	old := g.state.Swap(stQueued | stRunning)
	return old & evAll
}

// release gives the group back after its turn, to the end of the queue if more came up meanwhile.
func (g *Group) release() {
	for {
		old := g.state.Load()
		if old&evAll != 0 {
			if g.state.CompareAndSwap(old, old&^stRunning) {
				g.host.queue.push(g)
				return
			}
		} else if g.state.CompareAndSwap(old, 0) {
			return
		}
	}
}

// work is the loop of one worker.
func (h *Host) work() {
	out := newOutbox(h)
	var held []*Group
	for {
		held = h.queue.pop(held[:0], h.cfg.Workers)
		if len(held) == 0 {
			return
		}
		for _, g := range held {
			g.turn(g.begin(), out)
		}
		out.flush()
		for i, g := range held {
			g.release()
			held[i] = nil
		}
	}
}
