package placement

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/placement/book"
	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.uber.org/zap"
)

// Client is what a node has of the placement group: revisions and confirmations for its range leaders through one
// session with the sequencer, and calls to the cluster's book.
//
// The first goroutine that finds something to do becomes the driver: it sends requests and delivers results one after
// the other, without any lock held, until nothing is left; the others only add to the heap and leave. So results come
// strictly in order, a Done may join again, and whatever gathers while the driver is busy shares the next exchange.
//
//	Join ──► pending ──► driver: Next ──► outbox ──► sequencer, here or elsewhere
//	Done ◄── driver: Take ◄── Receive ◄──────────────┘
type Client struct {
	cfg     ClientConfig
	log     *zap.Logger
	metrics *clientMetrics
	born    time.Time

	known   atomic.Uint64
	current atomic.Int64
	floor   atomic.Int64

	mu struct {
		sync.Mutex
		x        *sequencer.Exchanger
		outbox   []outgoing // opening requests, ahead of everything else
		driving  bool
		conn     connection
		heard    time.Duration // when the newest answer came; see now
		sent     time.Duration // when the newest exchange left
		onFloor  []func(ids.Revision)
		told     ids.Revision // the floor that onFloor was told
		closed   bool
		diskSeen map[ids.NodeID]uint64
		// voucher said last, at vouched, that another node is the sequencer.
		voucher ids.NodeID
		vouched time.Duration
	}
	// ctx ends with the client; it is handed to the transport with every call.
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	done   sync.WaitGroup
}

// connection is where the session goes and what is known about where it should.
type connection struct {
	node   ids.NodeID // the sequencer of the open or opening session
	opened bool
	since  time.Duration // of the opening request under way; 0: none
	hint   ids.NodeID    // who to try next; 0: the next in turn
	turn   int
	failed int           // attempts in a row
	notAt  time.Duration // no attempt before this
}

// outgoing is a request and where it goes.
type outgoing struct {
	to  ids.NodeID
	req sequencer.Request
	at  time.Duration
}

// NewClient returns a client, not started.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Node == 0 || len(cfg.Nodes) == 0 {
		return nil, errors.New("placement: ClientConfig needs Node and Nodes")
	}
	if cfg.LeaseDuration == 0 {
		cfg.LeaseDuration = defaultLease
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	c := &Client{cfg: cfg, log: cfg.Logger, born: time.Now(), wake: make(chan struct{}, 1)}
	c.mu.x = sequencer.NewExchanger(cfg.Node, cfg.Incarnation)
	c.mu.diskSeen = map[ids.NodeID]uint64{}
	c.mu.told = book.NoFloor
	c.floor.Store(int64(book.NoFloor))
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.metrics = newClientMetrics(cfg.Registerer, c)
	return c, nil
}

// Start begins to look for the sequencer.
func (c *Client) Start() {
	c.done.Add(1)
	go func() {
		defer c.done.Done()
		c.keepSession()
	}()
}

// Close fails everybody who waits, with ErrClosed or ErrSessionLost, and waits for the client's goroutine.
func (c *Client) Close() error {
	c.mu.Lock()
	c.mu.closed = true
	c.mu.x.Close()
	c.mu.conn.opened = false
	c.mu.x.Expire(1<<62, ErrClosed)
	c.drive()
	c.cancel()
	c.done.Wait()
	return nil
}

// now is the client's own time, for patience only: nothing that must be right depends on it.
func (c *Client) now() time.Duration { return time.Since(c.born) }

// Known returns the newest epoch that this node has learnt of. A proof of leadership counts for an epoch only if it
// began after Known returned that epoch.
func (c *Client) Known() uint64 { return c.known.Load() }

// Current is the greatest `current` that this node has seen in any answer. All revisions issued later are greater.
func (c *Client) Current() ids.Revision { return ids.Revision(c.current.Load()) }

// Floor is the newest logical compaction floor F that this node has seen; -1 before the first compaction.
func (c *Client) Floor() ids.Revision { return ids.Revision(c.floor.Load()) }

// OnFloor has f told of every rise of the floor, in order, from the driver: it must not block. Call it before Start.
func (c *Client) OnFloor(f func(ids.Revision)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.onFloor = append(c.mu.onFloor, f)
}

// SequencerNode returns the node that the session goes to, or went to last; 0 if none was found yet.
func (c *Client) SequencerNode() ids.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.conn.node
}

// Silent returns for how long no answer came from the sequencer. A node that is cut off from it alone hands its
// leaderships to others when this passes 2·D.
func (c *Client) Silent() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now() - c.mu.heard
}

// CutOff reports whether this node alone seems to be without the sequencer: no answer came for 2·D, while another node,
// which it returns, says just now that there is a sequencer. Leaderships are better off there.
func (c *Client) CutOff() (better ids.NodeID, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, d := c.now(), c.cfg.LeaseDuration
	return c.mu.voucher, c.mu.voucher != 0 && now-c.mu.heard > 2*d && now-c.mu.vouched < d
}

// Join puts j into an exchange that starts after this call. j.Done is called exactly once: possibly before Join
// returns, possibly on another goroutine; it must not block, and it may join again. The Done calls of one node are made
// one at a time, in the order of exchanges, and within one answer those that wanted revisions come first.
func (c *Client) Join(j Join) {
	now := c.now()
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		j.Done(Answer{Err: ErrClosed})
		return
	}
	c.mu.x.Join(now, j)
	c.metrics.joined()
	c.drive()
}

// Confirm takes part in an exchange for somebody without a range: it returns a revision at or above that of everything
// completed before the call, and the compaction floor then.
func (c *Client) Confirm(ctx context.Context) (current, floor ids.Revision, err error) {
	ch := make(chan Answer, 1)
	for {
		c.Join(Join{Done: func(a Answer) { ch <- a }})
		select {
		case a := <-ch:
			if errors.Is(a.Err, ErrSessionLost) {
				continue // nothing was asked for that could be lost
			}
			return a.Current, a.Floor, a.Err
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}

// drive is called with mu held and returns without it. See Client.
func (c *Client) drive() {
	if c.mu.driving {
		c.mu.Unlock()
		return
	}
	c.mu.driving = true
	var results []sequencer.Delivery
	for {
		floor, listeners := c.floorLocked()
		out, send := c.nextLocked(false)
		// After the request was made: making it refuses the joins that lack a proof, whether or not anything is sent.
		results = c.mu.x.Take(results[:0])
		if len(results) == 0 && !send && listeners == nil {
			break
		}
		c.mu.Unlock()
		for _, f := range listeners {
			f(floor)
		}
		for i := range results {
			results[i].Done(results[i].Result)
		}
		clear(results)
		if send {
			c.send(out)
		}
		c.mu.Lock()
	}
	c.mu.driving = false
	c.mu.Unlock()
}

func (c *Client) floorLocked() (ids.Revision, []func(ids.Revision)) {
	f := c.mu.x.Fresh().Floor
	if f <= c.mu.told {
		return f, nil
	}
	c.mu.told = f
	return f, c.mu.onFloor
}

// nextLocked picks the next request to send.
func (c *Client) nextLocked(keepAlive bool) (outgoing, bool) {
	now := c.now()
	if n := len(c.mu.outbox); n > 0 {
		o := c.mu.outbox[0]
		c.mu.outbox = append(c.mu.outbox[:0], c.mu.outbox[1:]...)
		return o, true
	}
	if p := c.mu.x.Pacing(); p >= pacingLeast && !keepAlive && c.mu.x.InFlight() > 0 && now < c.mu.sent+p {
		return outgoing{}, false // the answer under way brings us back
	}
	req, ok := c.mu.x.Next(keepAlive)
	if ok {
		c.mu.sent = now
		c.metrics.exchanged()
	}
	return outgoing{to: c.mu.conn.node, req: req, at: now}, ok
}

// pacingLeast is the pacing below which a node does not bother: round trips space its exchanges anyway.
const pacingLeast = 100 * time.Microsecond

// send carries a request to the sequencer. The answer comes back through receive.
func (c *Client) send(o outgoing) {
	n := o.req.Session.N
	if o.to == c.cfg.Node && c.cfg.Local != nil {
		c.cfg.Local.exchange(o.req, func(a sequencer.Answer) { c.receive(o, a) })
		return
	}
	payload, err := encodeRequest(&o.req)
	if err != nil || c.cfg.Transport == nil {
		c.broke(n, errors.Join(err, transport.ErrNotSent))
		return
	}
	c.cfg.Transport.Go(c.ctx, o.to, transport.MethodExchange, payload, func(payload []byte, err error) {
		if err != nil {
			c.broke(n, err)
			return
		}
		a, err := decodeAnswer(payload)
		if err != nil {
			c.broke(n, err)
			return
		}
		c.receive(o, a)
	})
}

// receive takes an answer, from any goroutine.
func (c *Client) receive(o outgoing, a sequencer.Answer) {
	n := o.req.Session.N
	c.mu.Lock()
	if cur, _, _ := c.mu.x.Session(); cur != n {
		c.mu.Unlock()
		return // of a session that was replaced: dropped
	}
	alive := c.mu.x.Receive(n, o.req.Seq, a)
	now := c.now()
	switch {
	case !alive:
		if a.Leader != 0 && a.Leader != o.to {
			c.mu.voucher, c.mu.vouched = o.to, now
		}
		c.lostLocked(a.Leader, now)
	case a.Refusal == sequencer.Served:
		c.mu.heard = now
		if o.req.Seq == 0 {
			c.openedLocked(a.Epoch)
		} else {
			c.metrics.answered(now - o.at)
		}
	}
	c.publishLocked()
	c.drive()
}

// publishLocked makes what an answer taught visible, before anybody gets its results.
func (c *Client) publishLocked() {
	c.known.Store(c.mu.x.Known())
	c.current.Store(int64(c.mu.x.Current()))
	c.floor.Store(int64(c.mu.x.Fresh().Floor))
}

func (c *Client) openedLocked(epoch uint64) {
	k := &c.mu.conn
	if !k.opened {
		c.metrics.sessions.Inc()
		c.log.Info("session with the sequencer", zap.Stringer("node", k.node), zap.Uint64("epoch", epoch))
	}
	k.opened, k.failed, k.hint = true, 0, 0
}

// broke tells that the connection of session n failed.
func (c *Client) broke(n uint64, err error) {
	c.mu.Lock()
	cur, _, _ := c.mu.x.Session()
	if cur != n || c.mu.closed || c.mu.conn.node == 0 {
		c.mu.Unlock()
		return
	}
	c.log.Debug("session with the sequencer broke", zap.Error(err))
	c.mu.x.Close()
	c.lostLocked(0, c.now())
	c.drive()
}

// lostLocked notes that there is no session, and when to try where next.
func (c *Client) lostLocked(hint ids.NodeID, now time.Duration) {
	k := &c.mu.conn
	if k.opened {
		k.failed = 0
	}
	k.opened, k.hint, k.since = false, hint, 0
	k.failed++
	// The first few attempts follow at once: a hint, or another replica that may know. Then the group is electing.
	k.notAt = now
	if k.failed > 2 {
		step := min(retryMin<<min(k.failed-3, 4), retryMax)
		k.notAt = now + step/2 + time.Duration(rand.Int64N(int64(step)))
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// retryMin and retryMax bound the pause between two attempts to find the sequencer. A failover takes at least D, and a
// thousand nodes that look for it must not be a load.
const (
	retryMin = 10 * time.Millisecond
	retryMax = 100 * time.Millisecond
)
