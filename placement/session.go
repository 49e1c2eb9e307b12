package placement

import (
	"slices"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// keepSession is the client's only goroutine: it opens sessions, gives up those that are silent, and fails who waited
// too long.
func (c *Client) keepSession() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-t.C:
		}
		t.Reset(c.tend())
	}
}

// tend does what is due and returns when to look again.
func (c *Client) tend() time.Duration {
	d := c.cfg.LeaseDuration
	now := c.now()
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		return d
	}
	c.mu.x.Expire(now-5*d, ErrNoSequencer)
	_, _, ready := c.mu.x.Session()
	k := &c.mu.conn
	next := d / 4
	switch {
	case ready && c.mu.x.InFlight() > 0 && now-max(c.mu.heard, c.mu.sent) > 2*d:
		c.log.Warn("the sequencer is silent: giving the session up")
		c.mu.x.Close()
		c.lostLocked(0, now)
	case ready && now-max(c.mu.heard, c.mu.sent) > d:
		if o, ok := c.nextLocked(true); ok {
			c.mu.outbox = append(c.mu.outbox, o)
		}
	case ready:
	case k.since != 0 && now-k.since < d/2:
		next = k.since + d/2 - now // an opening request is under way
	case now >= k.notAt:
		c.openLocked(now)
	default:
		next = min(next, k.notAt-now)
	}
	c.drive()
	return max(next, time.Millisecond)
}

// openLocked begins a session with the node that is most likely the sequencer.
func (c *Client) openLocked(now time.Duration) {
	k := &c.mu.conn
	k.node = c.pickLocked()
	k.hint = 0
	k.since = now
	k.opened = false
	c.mu.outbox = append(c.mu.outbox[:0], outgoing{to: k.node, req: c.mu.x.Open(), at: now})
}

// pickLocked follows a hint, if it names one who may be it, and else goes round the placement nodes.
func (c *Client) pickLocked() ids.NodeID {
	k := &c.mu.conn
	if k.hint != 0 && slices.Contains(c.cfg.Nodes, k.hint) && (k.hint != c.cfg.Node || c.cfg.Local != nil) {
		return k.hint
	}
	if k.turn == 0 && c.cfg.Local != nil && k.node == 0 {
		return c.cfg.Node
	}
	for range c.cfg.Nodes {
		n := c.cfg.Nodes[k.turn%len(c.cfg.Nodes)]
		k.turn++
		if n != c.cfg.Node || c.cfg.Local != nil {
			return n
		}
	}
	return c.cfg.Nodes[0]
}
