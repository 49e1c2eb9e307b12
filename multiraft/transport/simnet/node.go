package simnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Node is one process's transport on a Network.
type Node struct {
	net         *Network
	id          ids.NodeID
	incarnation uint64
	disk        uint64
	check       func(ids.NodeID, uint64) error
	onRefused   func(ids.NodeID, string)
	finisher    *calls.Finisher
	stop        chan struct{} // closed by Close
	wg          sync.WaitGroup

	// Set before Start.
	handlers      map[transport.Method]transport.Handler
	raftHandler   transport.RaftHandler
	onIncarnation []func(ids.NodeID, uint64)
	onDown        []func(ids.NodeID)

	// Guarded by the network's lock.
	up, closed bool
	in         map[ids.NodeID]*link
	out        map[ids.NodeID]*connection
	wanted     map[ids.NodeID]bool // nodes that it ever wanted to talk to
	heard      map[ids.NodeID]time.Time
	down       map[ids.NodeID]bool     // was heard once, then not for the liveness timeout
	met        map[ids.NodeID][]uint64 // incarnations
}

var _ transport.Transport = (*Node)(nil)

func newNode(n *Network, id ids.NodeID, incarnation uint64) *Node {
	return &Node{
		net: n, id: id, incarnation: incarnation,
		check:       func(ids.NodeID, uint64) error { return nil },
		onRefused:   func(ids.NodeID, string) {},
		finisher:    calls.NewFinisher(),
		stop:        make(chan struct{}),
		handlers:    map[transport.Method]transport.Handler{},
		raftHandler: func(ids.NodeID, []*pontoonpb.RaftMessage) {},
		in:          map[ids.NodeID]*link{},
		out:         map[ids.NodeID]*connection{},
		wanted:      map[ids.NodeID]bool{},
		heard:       map[ids.NodeID]time.Time{},
		down:        map[ids.NodeID]bool{},
		met:         map[ids.NodeID][]uint64{},
	}
}

// Start makes the node reachable. Handlers are installed before it. It fails while another process of the node is up.
func (d *Node) Start() error {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	if d.closed || d.up || d.net.mu.nodes[d.id] != nil {
		return fmt.Errorf("simnet: node %v is up already, or was closed", d.id)
	}
	d.up = true
	d.net.mu.nodes[d.id] = d
	d.wg.Go(d.watchLiveness)
	return nil
}

// Close takes the node off the network as Network.Crash does. It may be called twice.
func (d *Node) Close() error {
	n := d.net
	n.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.stop)
	}
	if d.up {
		d.up = false
		delete(n.mu.nodes, d.id)
		for _, e := range n.mu.nodes {
			if c := e.out[d.id]; c != nil && c.to == d {
				c.vanished = true
				if !n.cutLocked(d.id, e.id) {
					n.breakLocked(c, "the node is gone")
				}
			}
		}
		for _, c := range d.out {
			c.vanished = true
			n.breakLocked(c, "this node is stopping")
		}
	}
	n.mu.Unlock()
	d.wg.Wait()
	d.finisher.Close()
	return nil
}

// Handle implements transport.Transport.
func (d *Node) Handle(m transport.Method, h transport.Handler) { d.handlers[m] = h }

// HandleRaft implements transport.Transport.
func (d *Node) HandleRaft(h transport.RaftHandler) { d.raftHandler = h }

// OnIncarnation implements transport.Transport.
func (d *Node) OnIncarnation(f func(n ids.NodeID, incarnation uint64)) {
	d.onIncarnation = append(d.onIncarnation, f)
}

// OnDown registers a function that is told when a node that was heard was silent for the liveness timeout, before
// Start. It must not block.
func (d *Node) OnDown(f func(n ids.NodeID)) { d.onDown = append(d.onDown, f) }

// Alive implements transport.Transport.
func (d *Node) Alive(to ids.NodeID) bool {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	if _, err := d.net.connectLocked(d, to); err != nil && !d.up {
		return false
	}
	heard, ok := d.heard[to]
	return ok && time.Since(heard) <= d.net.opt.LivenessTimeout
}

// SendRaft implements transport.Transport.
func (d *Node) SendRaft(to ids.NodeID, msgs []*pontoonpb.RaftMessage) bool {
	size := 0
	for _, m := range msgs {
		if len(m.GetMessage()) > transport.MaxPayload {
			return false
		}
		size += len(m.GetMessage())
	}
	n := d.net
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.connectLocked(d, to)
	if err != nil {
		return false
	}
	l := c.to.linkLocked(d.id)
	switch {
	case l == nil:
		return true // the node crashed and we do not know yet
	case !l.roomLocked(calls.Raft, size):
		return false
	case n.mu.dropRaft > 0 && n.weatherLocked(d.id, to).rng.Float64() < n.mu.dropRaft:
		return true
	}
	copied := make([]*pontoonpb.RaftMessage, len(msgs))
	for i, m := range msgs {
		copied[i] = &pontoonpb.RaftMessage{
			RangeId: m.GetRangeId(), ToReplica: m.GetToReplica(), Message: bytes.Clone(m.GetMessage()),
		}
	}
	l.pushLocked(c, calls.Raft, size, func() { c.to.raftHandler(d.id, copied) })
	return true
}

// Go implements transport.Transport.
func (d *Node) Go(ctx context.Context, to ids.NodeID, m transport.Method, payload []byte, done func([]byte, error)) {
	n := d.net
	n.mu.Lock()
	defer n.mu.Unlock()
	class := calls.ClassOf(m)
	c, err := n.connectLocked(d, to)
	var l *link
	if err == nil {
		if l = c.to.linkLocked(d.id); l != nil && !l.roomLocked(class, len(payload)) {
			err = errors.New("queue is full")
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", transport.ErrNotSent, err)
		d.finisher.Do(func() { done(nil, err) })
		return
	}
	table := c.tables[class]
	if !table.Add(ctx, m, payload, done) {
		return
	}
	for _, call := range table.Take(nil, transport.MaxPayload, 0) {
		if l == nil {
			continue // the node crashed and we do not know yet: the call ends when the connection does
		}
		id, copied := call.ID, bytes.Clone(call.Payload)
		l.pushLocked(c, class, len(copied), func() { c.to.handleCall(c, class, id, m, copied) })
	}
}

// handleCall runs on the link's goroutine.
func (d *Node) handleCall(c *connection, class calls.Class, id uint64, m transport.Method, payload []byte) {
	var used atomic.Bool
	reply := func(payload []byte, err error) {
		if used.Swap(true) {
			panic(fmt.Sprintf("node %v: a call of method %d from node %v was answered twice", d.id, m, c.from.id))
		}
		d.reply(c, class, id, payload, err)
	}
	if h := d.handlers[m]; h != nil {
		h(c.from.id, payload, reply)
	} else {
		reply(nil, status.Errorf(codes.Unimplemented, "this node has no method %d", m))
	}
}

func (d *Node) reply(c *connection, class calls.Class, id uint64, payload []byte, err error) {
	if err == nil && len(payload) > transport.MaxPayload {
		err = status.Errorf(codes.ResourceExhausted, "the answer is too large to send: %d bytes, at most %d",
			len(payload), transport.MaxPayload)
	}
	answer := []calls.Answer{{ID: id}}
	if err != nil {
		answer[0].Err = copyError(err)
	} else {
		answer[0].Payload = bytes.Clone(payload)
	}
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	if !d.up || c.broken {
		return
	}
	if l := c.from.linkLocked(d.id); l != nil {
		l.pushLocked(c, class, len(payload), func() { c.tables[class].Answer(answer) })
	}
}

// copyError sends an error through the bytes of the wire.
func copyError(err error) error {
	b, merr := proto.Marshal(wire.ErrorToProto(err))
	var p pontoonpb.Error
	if merr != nil || proto.Unmarshal(b, &p) != nil {
		return status.Error(codes.Unknown, "an error that cannot be sent")
	}
	return wire.ErrorFromProto(&p)
}

// pushHelloLocked lets d hear who the other end of a new connection is, before anything else that comes over it.
func (d *Node) pushHelloLocked(c *connection, other *Node) {
	l := d.linkLocked(other.id)
	at := l.pushLocked(c, calls.Raft, 0, func() { d.meet(other) })
	for i := range l.last {
		if l.last[i].Before(at) {
			l.last[i] = at
		}
	}
}

// meet tells who asked of a new process of another node, and gives up the connection to the one before it.
func (d *Node) meet(other *Node) {
	n := d.net
	n.mu.Lock()
	known := slices.Contains(d.met[other.id], other.incarnation)
	if !known {
		d.met[other.id] = append(d.met[other.id], other.incarnation)
	}
	if c := d.out[other.id]; c != nil && c.to != other && !known {
		n.breakLocked(c, "the node was restarted")
	}
	n.mu.Unlock()
	if !known {
		for _, f := range d.onIncarnation {
			f(other.id, other.incarnation)
		}
	}
}

// watchLiveness keeps connections to the nodes wanted, pings where nothing is heard, gives up what stays silent, and
// tells of nodes that went silent.
func (d *Node) watchLiveness() {
	ticker := time.NewTicker(d.net.opt.LivenessTimeout / 5)
	defer ticker.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
			for _, id := range d.checkLiveness() {
				for _, f := range d.onDown {
					f(id)
				}
			}
		}
	}
}

// checkLiveness returns the nodes that have just become silent.
func (d *Node) checkLiveness() (silent []ids.NodeID) {
	n := d.net
	n.mu.Lock()
	defer n.mu.Unlock()
	limit, now := n.opt.LivenessTimeout, time.Now()
	for _, id := range sortedKeys(d.wanted) {
		c, err := n.connectLocked(d, id)
		switch {
		case err != nil:
		case now.Sub(c.heard) > limit:
			n.breakLocked(c, "nothing heard for the liveness timeout")
		case now.Sub(c.heard) >= limit/6:
			d.pingLocked(c)
		}
	}
	for _, id := range sortedKeys(d.heard) {
		down := now.Sub(d.heard[id]) > limit
		if down && !d.down[id] {
			silent = append(silent, id)
		}
		d.down[id] = down
	}
	return silent
}

// pingLocked sends something that is answered by something.
func (d *Node) pingLocked(c *connection) {
	l := c.to.linkLocked(d.id)
	if l == nil || !l.roomLocked(calls.Raft, 0) {
		return
	}
	l.pushLocked(c, calls.Raft, 0, func() {
		d.net.mu.Lock()
		defer d.net.mu.Unlock()
		if back := d.linkLocked(c.to.id); back != nil && c.to.up && !c.broken {
			back.pushLocked(c, calls.Raft, 0, func() {})
		}
	})
}

// sortedKeys makes what follows independent of the order of maps.
func sortedKeys[V any](m map[ids.NodeID]V) []ids.NodeID {
	keys := make([]ids.NodeID, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
