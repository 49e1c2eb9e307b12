package rangegroup

import (
	"context"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.uber.org/zap"
)

// The collector turns the logical compaction floor F into freed space. Once F has stood for the retention, the leader of
// each range that has anything below it replicates the physical floor G = min(F then, its claim); every replica that
// applies it refuses older reads from that moment and removes what they would have needed, in the background.
type collector struct {
	h      *Host
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	work   chan collection
}

// collection is one span to clean.
type collection struct {
	r        *Replica
	from, to ids.Revision
}

const (
	gcPeriod     = 10 * time.Second
	gcBacklogMax = 4096 // a lost one is made up for by the next floor: GC looks at all blocks between old and new G
)

func newCollector(h *Host) *collector {
	ctx, cancel := context.WithCancel(context.Background())
	return &collector{h: h, ctx: ctx, cancel: cancel, work: make(chan collection, gcBacklogMax)}
}

func (c *collector) start() {
	c.wg.Add(2)
	go func() {
		defer c.wg.Done()
		c.runFloors()
	}()
	go func() {
		defer c.wg.Done()
		c.runRemovals()
	}()
}

func (c *collector) stop() {
	c.cancel()
	c.wg.Wait()
}

// runFloors watches F and asks the ranges led here to follow it after the retention.
func (c *collector) runFloors() {
	type seen struct {
		at    time.Duration
		floor ids.Revision
	}
	var history []seen // rising
	t := time.NewTicker(min(gcPeriod, max(c.h.cfg.Retention/4, 100*time.Millisecond)))
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-t.C:
		}
		now, f := c.h.clock.Now(), c.h.seq.Floor()
		if f > 0 && (len(history) == 0 || f > history[len(history)-1].floor) {
			history = append(history, seen{now, f})
		}
		due := ids.Revision(0)
		for len(history) > 0 && now-history[0].at >= c.h.cfg.Retention {
			due, history = history[0].floor, history[1:]
		}
		if due > 0 {
			c.raise(due)
		}
	}
}

// raise asks every range that this node leads, and that has versions which G would free, to replicate it.
func (c *collector) raise(floor ids.Revision) {
	for _, r := range c.h.all() {
		s := r.shared.Load()
		max := ids.Revision(r.load.maxRevision.Load())
		if max <= s.gcFloor || s.gcFloor >= floor || !ids.UserSpace.Covers(s.desc.Span) {
			continue // nothing was written since the last floor
		}
		if r.raft().Role != multiraft.Leader {
			continue
		}
		claim, err := c.h.ConfirmWait(c.ctx, r.id, s.desc.Generation)
		if err != nil {
			continue // the next leader, or the next floor, does it
		}
		g := min(floor, claim.Revision)
		if r.inbox.push(event{floor: g}) {
			r.schedule()
		}
	}
}

// proposeFloor appends the entry that raises G.
func (r *Replica) proposeFloor(g group, floor ids.Revision) {
	l := r.serving()
	if l == nil || !l.ready || floor <= r.applied.GCFloor {
		return
	}
	index, err := g.Propose(entryHeader{kind: entryFloor, last: floor}.append(nil))
	if err == nil {
		l.last = index
	}
}

// collect is called at apply when G rose.
func (h *Host) collect(r *Replica, from, to ids.Revision) {
	select {
	case h.gc.work <- collection{r, from, to}:
	default:
		h.log.Warn("garbage collection is behind: a range waits for the next compaction", zap.Uint64("range", uint64(r.id)))
	}
}

func (c *collector) runRemovals() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case w := <-c.work:
			s := w.r.shared.Load()
			n, err := c.h.engine.GC(c.ctx, s.desc.Span, w.from, w.to)
			c.h.metrics.gcVersions.Add(float64(n))
			if err != nil && c.ctx.Err() == nil {
				c.h.log.Warn("garbage collection failed", zap.Uint64("range", uint64(w.r.id)), zap.Error(err))
			}
		}
	}
}
