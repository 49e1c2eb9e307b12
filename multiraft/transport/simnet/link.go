package simnet

import (
	"container/heap"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// frame is something under way.
type frame struct {
	at      time.Time // of arrival
	seq     uint64    // order of sending
	class   calls.Class
	size    int
	conn    *connection
	deliver func() // runs on the link's goroutine, without the lock
}

// link is one direction between two nodes, owned by the receiver: its goroutine delivers what arrives.
type link struct {
	from ids.NodeID
	to   *Node
	wake chan struct{} // capacity 1

	frames   frameHeap
	seq      uint64
	last     [calls.NumClasses]time.Time // arrival of the newest frame: none of its class arrives before it
	messages [calls.NumClasses]int       // under way
	bytes    [calls.NumClasses]int
}

// linkLocked returns the way from another node to d, and nil if d is not up.
func (d *Node) linkLocked(from ids.NodeID) *link {
	if !d.up {
		return nil
	}
	l := d.in[from]
	if l == nil {
		l = &link{from: from, to: d, wake: make(chan struct{}, 1)}
		d.in[from] = l
		d.wg.Go(l.run)
	}
	return l
}

// roomLocked reports whether another n bytes may be under way.
func (l *link) roomLocked(c calls.Class, n int) bool {
	opt := &l.to.net.opt
	return l.messages[c] < opt.QueueMessages && (l.bytes[c] == 0 || l.bytes[c]+n <= opt.QueueBytes)
}

// pushLocked puts a frame on its way and returns when it arrives.
func (l *link) pushLocked(conn *connection, c calls.Class, size int, deliver func()) time.Time {
	w := l.to.net.weatherLocked(l.from, l.to.id)
	at := time.Now().Add(w.delay)
	if w.jitter > 0 {
		at = at.Add(time.Duration(w.rng.Int64N(int64(w.jitter) + 1)))
	}
	if at.Before(l.last[c]) {
		at = l.last[c]
	}
	l.last[c] = at
	l.seq++
	l.messages[c]++
	l.bytes[c] += size
	heap.Push(&l.frames, frame{at: at, seq: l.seq, class: c, size: size, conn: conn, deliver: deliver})
	l.signal()
	return at
}

func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run delivers frames at their times until the node ends.
func (l *link) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		f, wait := l.next()
		switch {
		case f != nil:
			f()
			continue
		case wait > 0:
			timer.Reset(wait)
		default:
			timer.Stop()
		}
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.to.stop:
			return
		}
	}
}

// next returns how to deliver the next frame if it has arrived, or how long to wait; 0: until woken.
func (l *link) next() (deliver func(), wait time.Duration) {
	n := l.to.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(l.frames) > 0 && l.to.up {
		f := l.frames[0]
		if !f.conn.vanished {
			if n.cutLocked(l.from, l.to.id) {
				return nil, 0
			}
			now := time.Now()
			if wait := f.at.Sub(now); wait > 0 {
				return nil, wait
			}
			l.to.heard[l.from] = now
			if f.conn.from == l.to {
				f.conn.heard = now
			}
			deliver = f.deliver
		}
		heap.Pop(&l.frames)
		l.messages[f.class]--
		l.bytes[f.class] -= f.size
		if deliver != nil {
			return deliver, 0
		}
	}
	return nil, 0
}

// frameHeap orders frames by arrival, and those that arrive together by sending.
type frameHeap []frame

func (h frameHeap) Len() int { return len(h) }
func (h frameHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h frameHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *frameHeap) Push(x any)   { *h = append(*h, x.(frame)) }
func (h *frameHeap) Pop() any {
	old := *h
	f := old[len(old)-1]
	old[len(old)-1] = frame{}
	*h = old[:len(old)-1]
	return f
}
