package router

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"google.golang.org/protobuf/proto"
)

// Reads take claims in batches: whoever arrives while a batch is under way joins the next one, which leaves when that
// has come back.
//
//	arrive ──► next batch ──(nothing under way)──► sent ──► answered: everybody in it reads
//
// The rule that makes reads linearizable: a reader uses only a batch that was not sent yet when it arrived. So what the
// leader confirms, it confirms after the reader arrived.

const (
	// confirmSlow is when a batch counts as stuck, so that those who wait need not wait for it: another one leaves.
	confirmSlow = 50 * time.Millisecond
	// confirmFlying bounds the batches of one queue that are under way when some are stuck.
	confirmFlying = 8
)

// confirmer has one queue per other node, and one per range that is led here.
type confirmer struct {
	rt      *Router
	timeout time.Duration // of one batch; its readers try again until their own time is up
	mu      struct {
		sync.RWMutex
		nodes  map[ids.NodeID]*confirmQueue
		local  map[ids.RangeID]*confirmQueue
		closed bool
	}
}

func (c *confirmer) init(rt *Router) {
	c.rt = rt
	c.timeout = 2 * rt.cfg.ElectionTimeout
	c.mu.nodes = make(map[ids.NodeID]*confirmQueue)
	c.mu.local = make(map[ids.RangeID]*confirmQueue)
}

// ticket is a reader's place in a batch.
type ticket struct {
	batch *confirmBatch // nil: none is needed
	item  int
	asked ids.NodeID
}

// join asks the leader of a range for a claim that is made after this call.
func (c *confirmer) join(id ids.RangeID, gen ids.Generation, leader ids.NodeID) ticket {
	q := c.queue(id, leader)
	if q == nil {
		return ticket{batch: failedBatch(&ids.UnavailableError{Range: id, Reason: "shutting down"}), asked: leader}
	}
	b, item := q.join(confirmItem{id, gen})
	return ticket{b, item, leader}
}

// wait returns the claim.
func (t ticket) wait(ctx context.Context) (rangegroup.Claim, error) {
	b := t.batch
	select {
	case <-b.done:
	default:
		select {
		case <-b.done:
		case <-ctx.Done():
			return rangegroup.Claim{}, ctx.Err()
		}
	}
	if b.err != nil {
		return rangegroup.Claim{}, b.err
	}
	return b.claims[t.item], b.errs[t.item]
}

func (c *confirmer) queue(id ids.RangeID, leader ids.NodeID) *confirmQueue {
	local := leader == c.rt.self
	find := func() *confirmQueue {
		if local {
			return c.mu.local[id]
		}
		return c.mu.nodes[leader]
	}
	c.mu.RLock()
	q := find()
	closed := c.mu.closed
	c.mu.RUnlock()
	if q != nil || closed {
		return q
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if q = find(); q != nil || c.mu.closed {
		return q
	}
	q = &confirmQueue{timeout: c.timeout}
	if local {
		q.send = func(b *confirmBatch) { c.sendLocal(q, b) }
		c.mu.local[id] = q
	} else {
		q.send = func(b *confirmBatch) { c.sendTo(leader, q, b) }
		c.mu.nodes[leader] = q
	}
	return q
}

func (c *confirmer) close() {
	c.mu.Lock()
	var queues []*confirmQueue
	for _, q := range c.mu.nodes {
		queues = append(queues, q)
	}
	for _, q := range c.mu.local {
		queues = append(queues, q)
	}
	clear(c.mu.nodes)
	clear(c.mu.local)
	c.mu.closed = true
	c.mu.Unlock()
	for _, q := range queues {
		q.close()
	}
}

// sendLocal asks the local leader. A local queue's batches are of one range, in one generation but for moments.
func (c *confirmer) sendLocal(q *confirmQueue, b *confirmBatch) {
	if len(b.items) == 1 {
		c.rt.ranges.Confirm(b.items[0].id, b.items[0].gen, func(claim rangegroup.Claim, err error) {
			q.finish(b, []rangegroup.Claim{claim}, []error{err}, nil)
		})
		return
	}
	var mu sync.Mutex
	left := len(b.items)
	claims, errs := make([]rangegroup.Claim, left), make([]error, left)
	for i, it := range b.items {
		c.rt.ranges.Confirm(it.id, it.gen, func(claim rangegroup.Claim, err error) {
			mu.Lock()
			claims[i], errs[i] = claim, err
			left--
			last := left == 0
			mu.Unlock()
			if last {
				q.finish(b, claims, errs, nil)
			}
		})
	}
}

// sendTo asks another node.
func (c *confirmer) sendTo(node ids.NodeID, q *confirmQueue, b *confirmBatch) {
	call := &pontoonpb.ConfirmCall{Items: make([]*pontoonpb.ConfirmItem, len(b.items))}
	items := make([]pontoonpb.ConfirmItem, len(b.items))
	for i, it := range b.items {
		items[i].RangeId, items[i].Generation = uint64(it.id), uint64(it.gen)
		call.Items[i] = &items[i]
	}
	payload, err := proto.Marshal(call)
	if err != nil {
		q.finish(b, nil, nil, err)
		return
	}
	ctx, cancel := context.WithTimeout(c.rt.served.ctx, c.timeout)
	c.rt.metrics.confirms.Inc()
	c.rt.sender.Go(ctx, node, CallConfirm, payload, func(reply []byte, err error) {
		cancel()
		if err != nil {
			q.finish(b, nil, nil, err)
			return
		}
		claims, errs, err := c.decode(b.items, reply)
		q.finish(b, claims, errs, err)
	})
}

// decode reads the claims that another node made, and notes them for serializable reads.
func (c *confirmer) decode(items []confirmItem, reply []byte) ([]rangegroup.Claim, []error, error) {
	var r pontoonpb.ConfirmReply
	if err := proto.Unmarshal(reply, &r); err != nil {
		return nil, nil, fmt.Errorf("malformed confirm reply: %w", err)
	}
	if len(r.Results) != len(items) {
		return nil, nil, fmt.Errorf("malformed confirm reply: %d results for %d ranges", len(r.Results), len(items))
	}
	claims, errs := make([]rangegroup.Claim, len(items)), make([]error, len(items))
	for i, res := range r.Results {
		if res.GetError() != nil {
			errs[i] = wire.ErrorFromProto(res.GetError())
			continue
		}
		claims[i] = rangegroup.Claim{
			Revision: ids.Revision(res.GetRevision()), Index: res.GetIndex(),
			Generation: ids.Generation(res.GetGeneration()), Floor: ids.Revision(res.GetFloor()),
			At: c.rt.clock.Now(),
		}
		c.rt.ranges.Note(items[i].id, claims[i])
	}
	return claims, errs, nil
}

// confirmItem is what a claim is asked for.
type confirmItem struct {
	id  ids.RangeID
	gen ids.Generation
}

// confirmBatch is one call's worth of claims.
type confirmBatch struct {
	items []confirmItem // guarded by the queue until it is sent, then fixed
	index map[confirmItem]int
	sent  time.Time
	// Written before done is closed, read after.
	claims []rangegroup.Claim
	errs   []error
	err    error // instead of claims and errs
	done   chan struct{}
}

func failedBatch(err error) *confirmBatch {
	b := &confirmBatch{err: err, done: make(chan struct{})}
	close(b.done)
	return b
}

// add returns the place of an item in a batch, which each item has once.
func (b *confirmBatch) add(it confirmItem) int {
	const few = 8
	if b.index == nil {
		if i := slices.Index(b.items, it); i >= 0 {
			return i
		}
		if len(b.items) >= few {
			b.index = make(map[confirmItem]int, 4*few)
			for i, o := range b.items {
				b.index[o] = i
			}
		}
	}
	if i, ok := b.index[it]; ok {
		return i
	}
	b.items = append(b.items, it)
	if b.index != nil {
		b.index[it] = len(b.items) - 1
	}
	return len(b.items) - 1
}

// confirmQueue is one place where claims are asked for.
type confirmQueue struct {
	send    func(*confirmBatch) // begins a call that ends with finish
	timeout time.Duration
	mu      struct {
		sync.Mutex
		next    *confirmBatch   // those who wait for the next call; nil: nobody
		flying  []*confirmBatch // under way, oldest first
		sending bool            // somebody is in pump's loop
		timer   *time.Timer
		armed   bool
		closed  bool
	}
}

// join puts an item into a batch that has not been sent.
func (q *confirmQueue) join(it confirmItem) (b *confirmBatch, item int) {
	q.mu.Lock()
	if q.mu.closed {
		q.mu.Unlock()
		return failedBatch(&ids.UnavailableError{Range: it.id, Reason: "shutting down"}), 0
	}
	b = q.mu.next
	if b == nil {
		b = &confirmBatch{done: make(chan struct{})}
		q.mu.next = b
	}
	item = b.add(it)
	q.mu.Unlock()
	q.pump()
	return b, item
}

// pump sends what waits, as long as it may be sent. Whoever is in the loop sends for all.
func (q *confirmQueue) pump() {
	for {
		q.mu.Lock()
		b := q.mu.next
		if b == nil || q.mu.sending || q.mu.closed || !q.mayLocked() {
			q.mu.Unlock()
			return
		}
		q.mu.next = nil
		b.sent = time.Now()
		q.mu.flying = append(q.mu.flying, b)
		q.mu.sending = true
		q.armLocked()
		q.mu.Unlock()

		q.send(b)

		q.mu.Lock()
		q.mu.sending = false
		q.mu.Unlock()
	}
}

// mayLocked reports whether another batch may leave: when none is under way, or all of them are stuck.
func (q *confirmQueue) mayLocked() bool {
	n := len(q.mu.flying)
	return n == 0 || n < confirmFlying && time.Since(q.mu.flying[n-1].sent) >= confirmSlow
}

// finish ends a batch, unless its time was up before.
func (q *confirmQueue) finish(b *confirmBatch, claims []rangegroup.Claim, errs []error, err error) {
	q.mu.Lock()
	i := slices.Index(q.mu.flying, b)
	if i >= 0 {
		q.mu.flying = slices.Delete(q.mu.flying, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		return
	}
	b.claims, b.errs, b.err = claims, errs, err
	close(b.done)
	q.pump()
}

// armLocked makes the queue look at stuck batches from time to time while there are batches under way.
func (q *confirmQueue) armLocked() {
	if q.mu.armed {
		return
	}
	q.mu.armed = true
	if q.mu.timer == nil {
		q.mu.timer = time.AfterFunc(confirmSlow, q.tick)
	} else {
		q.mu.timer.Reset(confirmSlow)
	}
}

// tick fails batches whose time is up and lets others pass those that are stuck.
func (q *confirmQueue) tick() {
	var late []*confirmBatch
	q.mu.Lock()
	q.mu.armed = false
	for len(q.mu.flying) > 0 && time.Since(q.mu.flying[0].sent) >= q.timeout {
		late = append(late, q.mu.flying[0])
		q.mu.flying = slices.Delete(q.mu.flying, 0, 1)
	}
	if len(q.mu.flying) > 0 && !q.mu.closed {
		q.armLocked()
	}
	q.mu.Unlock()
	for _, b := range late {
		b.err = errExpired
		close(b.done)
	}
	q.pump()
}

// close fails everybody who waits.
func (q *confirmQueue) close() {
	q.mu.Lock()
	q.mu.closed = true
	all := q.mu.flying
	if q.mu.next != nil {
		all = append(all, q.mu.next)
	}
	q.mu.flying, q.mu.next = nil, nil
	if q.mu.timer != nil {
		q.mu.timer.Stop()
	}
	q.mu.Unlock()
	for _, b := range all {
		b.err = &ids.UnavailableError{Reason: "shutting down"}
		close(b.done)
	}
}
