package grpcnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// link is the outgoing side towards one node in one class: a queue, and a stream while there is one. Its life:
//
//	idle ──something to send──► connecting ──hello──► connected ──breaks──► connecting …
//	                                │ fails                                  (a Raft link at once, others when needed)
//	                                ▼
//	                              down: nothing is accepted; attempts go on, with pauses, until one succeeds
//
// What is queued while idle or connecting waits for the outcome of that attempt.
type link struct {
	p     *peer
	class calls.Class
	table *calls.Table  // calls; unused by a Raft link
	wake  chan struct{} // capacity 1: there is something to send
	retry chan struct{} // capacity 1: the node seems to be up

	ping   atomic.Bool  // a ping is due
	heard  atomic.Int64 // clock when the stream last brought something
	pinged atomic.Int64 // clock of the first ping after that; 0: none
	stats  *linkStats

	mu struct {
		sync.Mutex
		raft      calls.FIFO[*pontoonpb.RaftMessage]
		raftBytes int
		reject    bool    // down
		stream    *stream // nil: not connected
	}
}

// stream is an established outgoing stream.
type stream struct {
	grpc.ClientStream
	conn        *grpc.ClientConn
	cancel      context.CancelCauseFunc
	incarnation uint64 // the other side's
}

func newLink(p *peer, c calls.Class) *link {
	cfg := &p.t.cfg
	return &link{
		p: p, class: c, stats: &p.stats[c],
		table: calls.NewTable(calls.Limits{
			QueueMessages: cfg.CallQueueMessages, QueueBytes: cfg.CallQueueBytes, InFlight: cfg.CallsInFlight,
		}, p.t.finisher),
		wake:  make(chan struct{}, 1),
		retry: make(chan struct{}, 1),
	}
}

// run keeps the link connected and sends. It ends with the transport.
func (l *link) run() {
	defer l.setDown("this node is stopping")
	var backoff time.Duration
	down := false
	for {
		if !down && !l.waitUntilNeeded() {
			return
		}
		s, err := l.connect()
		if l.p.t.ctx.Err() != nil {
			if s != nil {
				l.closeStream(s)
			}
			return
		}
		if down = err != nil; down {
			l.setDown(err.Error())
		} else {
			since := time.Now()
			err = l.serve(s)
			if l.p.t.ctx.Err() != nil {
				return
			}
			l.p.t.log.Info("stream to a node broke", zap.Stringer("node", l.p.id), zap.Stringer("class", l.class),
				zap.Error(err))
			if time.Since(since) > steadyAfter {
				backoff = 0
				continue
			}
		}
		if backoff = l.nextBackoff(backoff, err); !l.pause(backoff) {
			return
		}
	}
}

// steadyAfter is the life of a stream after which the next one is dialled without a pause. Streams that break sooner
// must not turn into a storm of connecting.
const steadyAfter = time.Second

// serve sends until the stream breaks and returns why it did. On return every call that was handed to the stream has
// failed with ErrLost.
func (l *link) serve(s *stream) error {
	readerDone := make(chan struct{})
	l.p.t.wg.Go(func() { // wg is not at zero: run is counted in it
		defer close(readerDone)
		s.cancel(fmt.Errorf("reading: %w", l.read(s)))
	})
	l.setUp(s)
	err := l.send(s)
	s.cancel(fmt.Errorf("sending: %w", err)) // without effect if the reader was first
	<-readerDone
	cause := context.Cause(s.Context())
	l.mu.Lock()
	l.mu.stream = nil
	l.mu.Unlock()
	l.closeStream(s)
	l.stats.breaks.Add(1)
	l.table.Fail(cause.Error(), false)
	return cause
}

// send is the sender: the only goroutine that sends on the stream.
func (l *link) send(s *stream) error {
	var cs []*calls.Call
	var ms []*pontoonpb.RaftMessage
	for {
		var f outFrame
		cs, ms = cs[:0], ms[:0]
		messages := 0
		if l.class == calls.Raft {
			if ms = l.takeRaft(ms); len(ms) > 0 {
				f, messages = raftFrame(ms), len(ms)
			}
		} else if cs = l.table.Take(cs, frameBytesMax, messageOverhead); len(cs) > 0 {
			f, messages = callFrame(cs), len(cs)
		}
		pinged := l.ping.Swap(false)
		if messages == 0 {
			if !pinged {
				select {
				case <-l.wake:
				case <-s.Context().Done():
					return s.Context().Err()
				}
				continue
			}
			f = outFrame{new([]byte)}
		}
		size := len(*f.buf) // gRPC owns the buffer after SendMsg
		clear(cs)
		clear(ms)
		if err := s.SendMsg(f); err != nil {
			return err
		}
		l.stats.sent(size, messages)
	}
}

// read is the reader: it finishes calls with their answers.
func (l *link) read(s *stream) error {
	var f inFrame
	for {
		if err := s.RecvMsg(&f); err != nil {
			return err
		}
		l.noteHeard()
		l.stats.received(f.size, len(f.answers))
		l.table.Answer(f.answers)
	}
}

// noteHeard records that the stream brought something.
func (l *link) noteHeard() {
	l.heard.Store(l.p.t.clock())
	l.pinged.Store(0)
	l.p.noteHeard()
}

// sendRaft queues messages, or drops those that do not fit.
func (l *link) sendRaft(msgs []*pontoonpb.RaftMessage) bool {
	cfg := &l.p.t.cfg
	queued, tooLarge := 0, 0
	l.mu.Lock()
	for _, m := range msgs {
		n := len(m.GetMessage()) + messageOverhead
		switch {
		case n > transport.MaxPayload:
			tooLarge = n
		case l.mu.reject || l.mu.raft.Len() >= cfg.RaftQueueMessages ||
			(l.mu.raftBytes > 0 && l.mu.raftBytes+n > cfg.RaftQueueBytes):
		default:
			l.mu.raft.Push(m)
			l.mu.raftBytes += n
			queued++
		}
	}
	l.mu.Unlock()
	if queued > 0 {
		l.signal()
	}
	if dropped := len(msgs) - queued; dropped > 0 {
		l.stats.dropped.Add(uint64(dropped))
	}
	if tooLarge > 0 {
		l.p.t.log.Error("dropped a Raft message that is too large to send; lower the limits of entries and batches",
			zap.Stringer("node", l.p.id), zap.Int("bytes", tooLarge), zap.Int("max", transport.MaxPayload))
	}
	return queued == len(msgs)
}

// takeRaft appends the messages of the next frame to dst.
func (l *link) takeRaft(dst []*pontoonpb.RaftMessage) []*pontoonpb.RaftMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	for bytes := 0; l.mu.raft.Len() > 0; {
		n := len(l.mu.raft.Front().GetMessage()) + messageOverhead
		if bytes > 0 && bytes+n > frameBytesMax {
			break
		}
		dst = append(dst, l.mu.raft.Pop())
		bytes += n
		l.mu.raftBytes -= n
	}
	return dst
}

// signal wakes the sender.
func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// retrySoon ends the pause before the next attempt.
func (l *link) retrySoon() {
	select {
	case l.retry <- struct{}{}:
	default:
	}
}

// waitUntilNeeded waits until there is a reason to connect; false: the transport closes. A Raft link has one always:
// it tells whether the node is alive.
func (l *link) waitUntilNeeded() bool {
	for l.class != calls.Raft {
		if queued, _, _ := l.table.Size(); queued > 0 {
			break
		}
		select {
		case <-l.wake:
		case <-l.p.t.ctx.Done():
			return false
		}
	}
	return l.p.t.ctx.Err() == nil
}

// size returns how many messages and bytes wait to be sent, and how many calls wait for answers.
func (l *link) size() (messages, bytes, inFlight int) {
	if l.class != calls.Raft {
		return l.table.Size()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.raft.Len(), l.mu.raftBytes, 0
}

// pause waits before the next attempt; false: the transport closes.
func (l *link) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.retry:
	case <-l.p.t.ctx.Done():
		return false
	}
	return true
}

// nextBackoff doubles the pause within its bounds and adds up to a fifth at random, so that nodes do not meet in step.
func (l *link) nextBackoff(last time.Duration, err error) time.Duration {
	cfg := &l.p.t.cfg
	next := min(max(2*last, cfg.BackoffMin), cfg.BackoffMax)
	if isRefusal(err) {
		next = cfg.RefusedBackoff
	}
	return next + rand.N(next/5+1)
}

// setUp makes the stream the link's and lets calls and messages in.
func (l *link) setUp(s *stream) {
	l.mu.Lock()
	l.mu.stream = s
	l.mu.reject = false
	l.mu.Unlock()
	l.table.Accept()
	l.signal()
}

// setDown fails what is queued and keeps everything out until setUp.
func (l *link) setDown(cause string) {
	l.mu.Lock()
	dropped := l.mu.raft.Len()
	l.mu.raft, l.mu.raftBytes, l.mu.reject = calls.FIFO[*pontoonpb.RaftMessage]{}, 0, true
	l.mu.Unlock()
	l.stats.dropped.Add(uint64(dropped))
	l.table.Fail(cause, true)
}

// giveUpUnless ends the stream if it leads to another process of the node than inc.
func (l *link) giveUpUnless(inc uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.mu.stream; s != nil && s.incarnation != inc {
		s.cancel(errRestarted)
	}
}

// bulkPatience is how much longer than others a bulk stream may be silent: its pings wait behind large frames.
const bulkPatience = 5

// checkLiveness sends a ping if the stream has been silent for an interval, and gives it up if it stays so. Only Raft
// streams are pinged while nothing is asked of them.
func (l *link) checkLiveness(now int64) {
	l.mu.Lock()
	s := l.mu.stream
	l.mu.Unlock()
	if s == nil {
		return
	}
	limit := l.p.t.cfg.LivenessTimeout.Nanoseconds()
	if now-l.heard.Load() < limit/6 {
		return
	}
	if l.class != calls.Raft {
		if queued, _, inFlight := l.table.Size(); queued+inFlight == 0 {
			l.pinged.Store(0)
			return
		}
	}
	pinged := l.pinged.Load()
	if pinged == 0 {
		l.pinged.Store(now)
	}
	if l.class == calls.Bulk {
		limit *= bulkPatience
	}
	if pinged != 0 && now-pinged > limit {
		s.cancel(fmt.Errorf("nothing heard for %v", time.Duration(now-l.heard.Load()).Round(time.Millisecond)))
		return
	}
	l.ping.Store(true)
	l.signal()
}
