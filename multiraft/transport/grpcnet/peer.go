package grpcnet

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.uber.org/zap"
)

// peer is what a transport knows about one other node.
type peer struct {
	t  *Transport
	id ids.NodeID

	heard atomic.Int64 // clock when anything last came from the node; 0: never
	down  atomic.Bool  // it was heard once, and then not for the liveness timeout
	links [calls.NumClasses]atomic.Pointer[link]
	stats [calls.NumClasses]linkStats

	helloMu sync.Mutex // held while those who asked are told of a new incarnation; before mu

	mu struct {
		sync.Mutex
		inbound      [calls.NumClasses]*inbound // the newest accepted stream of each class
		incarnations []uint64                   // the last few seen, newest last
		refusal      string                     // the last refusal logged, and when
		refusalAt    time.Time
	}
}

// link returns the outgoing link of a class, which starts at its first use; nil if the transport is closed.
func (p *peer) link(c calls.Class) *link {
	if l := p.links[c].Load(); l != nil {
		return l
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[c].Load(); l != nil {
		return l
	}
	l := newLink(p, c)
	if !p.t.spawn(l.run) {
		return nil
	}
	p.links[c].Store(l)
	return l
}

// noteHeard records that something came from the node.
func (p *peer) noteHeard() { p.heard.Store(p.t.clock()) }

// incarnationsKept bounds how many of a node's processes are remembered: a frame of an older one would have to be
// under way through that many restarts.
const incarnationsKept = 16

// noteIncarnation records which process of the node has said hello. If it is a new one it tells those who asked, and
// gives up the streams to the process before it, which is gone.
func (p *peer) noteIncarnation(inc uint64) {
	p.helloMu.Lock() // no second stream of the process delivers anything before all are told
	defer p.helloMu.Unlock()
	p.mu.Lock()
	known := slices.Contains(p.mu.incarnations, inc)
	if !known {
		p.mu.incarnations = append(p.mu.incarnations, inc)
		if len(p.mu.incarnations) > incarnationsKept {
			p.mu.incarnations = slices.Delete(p.mu.incarnations, 0, 1)
		}
	}
	p.mu.Unlock()
	if known {
		return
	}
	p.t.log.Info("met a process of another node", zap.Stringer("node", p.id), zap.Uint64("incarnation", inc))
	for c := range p.links {
		if l := p.links[c].Load(); l != nil {
			l.giveUpUnless(inc)
		}
	}
	for _, f := range p.t.onIncarnation {
		f(p.id, inc)
	}
}

// replaceInbound makes in the accepted stream of its class, ends the one before it, and waits until that one's reader
// has delivered its last frame: what the node sent before is never delivered after what it sends now.
func (p *peer) replaceInbound(in *inbound) {
	p.mu.Lock()
	prev := p.mu.inbound[in.class]
	p.mu.inbound[in.class] = in
	p.mu.Unlock()
	if prev != nil {
		prev.kill("replaced by a newer stream")
		<-prev.readerDone
	}
	for c := range p.links { // the node is up: do not wait out the pause before the next attempt
		if l := p.links[c].Load(); l != nil {
			l.retrySoon()
		}
	}
}

func (p *peer) dropInbound(in *inbound) {
	p.mu.Lock()
	if p.mu.inbound[in.class] == in {
		p.mu.inbound[in.class] = nil
	}
	p.mu.Unlock()
}

// refusedUs tells of a stream that the other node refused.
func (p *peer) refusedUs(reason string) {
	if p.logRefusal("another node refuses this one", reason) && p.t.cfg.OnRefused != nil {
		p.t.finisher.Do(func() { p.t.cfg.OnRefused(p.id, reason) })
	}
}

// logRefusal tells of a refused stream, once a minute for the same reason. It reports whether it did.
func (p *peer) logRefusal(msg, reason string) bool {
	p.mu.Lock()
	again := p.mu.refusal == msg+reason && time.Since(p.mu.refusalAt) < time.Minute
	if !again {
		p.mu.refusal, p.mu.refusalAt = msg+reason, time.Now()
	}
	p.mu.Unlock()
	if !again {
		p.t.log.Error(msg, zap.Stringer("node", p.id), zap.String("reason", reason))
	}
	return !again
}

// checkLiveness is called every fifth of the liveness timeout.
func (p *peer) checkLiveness(now int64) {
	for c := range p.links {
		if l := p.links[c].Load(); l != nil {
			l.checkLiveness(now)
		}
	}
	heard := p.heard.Load()
	if heard == 0 {
		return
	}
	down := now-heard > p.t.cfg.LivenessTimeout.Nanoseconds()
	if p.down.Swap(down) == down {
		return
	}
	if !down {
		p.t.log.Info("node is heard again", zap.Stringer("node", p.id))
		return
	}
	p.t.log.Warn("node is silent", zap.Stringer("node", p.id), zap.Duration("for", time.Duration(now-heard)))
	for _, f := range p.t.onDown {
		p.t.finisher.Do(func() { f(p.id) })
	}
}
