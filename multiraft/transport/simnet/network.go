package simnet

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Options says how the network behaves. The zero value is a perfect network without delay. The zero value of a field
// that has a default means the default.
type Options struct {
	// Seed makes delays, drops and the fate of broken connections repeatable.
	Seed int64
	// Delay is the least time a frame is under way; up to Jitter comes on top, at random.
	Delay, Jitter time.Duration
	// DropRaft is the share of Raft batches that are lost, 0 to 1.
	DropRaft float64
	// LivenessTimeout is the silence after which a node counts as dead and its connections break (default 1 s).
	LivenessTimeout time.Duration
	// QueueMessages and QueueBytes bound what is under way from one node to another, per class (default 8192 batches or
	// calls, 64 MiB); CallsInFlight the calls that wait for answers (default 32768).
	QueueMessages, QueueBytes, CallsInFlight int
}

func (o *Options) setDefaults() {
	if o.LivenessTimeout <= 0 {
		o.LivenessTimeout = time.Second
	}
	if o.QueueMessages <= 0 {
		o.QueueMessages = 8192
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = 64 << 20
	}
	if o.CallsInFlight <= 0 {
		o.CallsInFlight = 32768
	}
}

// direction is one way between two nodes.
type direction struct{ from, to ids.NodeID }

// weather is how one direction behaves.
type weather struct {
	cut           bool
	delay, jitter time.Duration
	rng           *rand.Rand
}

// Network is the in-memory network of one cluster. Its one lock guards everything in the package that is not said to
// be otherwise; no handler, callback or done function runs under it, except the judges given to WithCheckPeer.
type Network struct {
	opt Options

	mu struct {
		sync.Mutex
		nodes    map[ids.NodeID]*Node // those that are up
		weather  map[direction]*weather
		isolated map[ids.NodeID]bool
		dropRaft float64
	}
}

// New returns a network without nodes.
func New(opt Options) *Network {
	opt.setDefaults()
	n := &Network{opt: opt}
	n.mu.nodes = map[ids.NodeID]*Node{}
	n.mu.weather = map[direction]*weather{}
	n.mu.isolated = map[ids.NodeID]bool{}
	n.mu.dropRaft = opt.DropRaft
	return n
}

// JoinOption adds to what Join says about a node.
type JoinOption func(*Node)

// WithDisk sets the disk id that the node tells others.
func WithDisk(disk uint64) JoinOption { return func(d *Node) { d.disk = disk } }

// WithCheckPeer sets the node's judge of other nodes' disk ids. It must neither block nor use the network.
func WithCheckPeer(check func(node ids.NodeID, disk uint64) error) JoinOption {
	return func(d *Node) { d.check = check }
}

// WithOnRefused sets who is told that another node refuses this one.
func WithOnRefused(f func(by ids.NodeID, reason string)) JoinOption {
	return func(d *Node) { d.onRefused = f }
}

// Join makes a node, or the next process of a node that crashed or closed. Nobody reaches it before Start.
func (n *Network) Join(id ids.NodeID, incarnation uint64, opts ...JoinOption) *Node {
	d := newNode(n, id, incarnation)
	for _, o := range opts {
		o(d)
	}
	return d
}

// Cut holds back everything from one node to another until Heal; the other direction works on. A connection that is
// used meanwhile breaks after the liveness timeout; what it carried is delivered late or never.
func (n *Network) Cut(from, to ids.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weatherLocked(from, to).cut = true
}

// Heal ends a Cut. What was held back arrives now, unless its connection broke.
func (n *Network) Heal(from, to ids.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weatherLocked(from, to).cut = false
	n.wakeAllLocked()
}

// Isolate cuts a node from all others, present and future, in both directions, until Reconnect.
func (n *Network) Isolate(id ids.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.isolated[id] = true
}

// Reconnect ends Isolate. Cuts stay.
func (n *Network) Reconnect(id ids.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.mu.isolated, id)
	n.wakeAllLocked()
}

// HealAll ends every Cut and Isolate.
func (n *Network) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.mu.isolated)
	for _, w := range n.mu.weather {
		w.cut = false
	}
	n.wakeAllLocked()
}

// SetDelay changes the delay and jitter of one direction, for what is sent from now on.
func (n *Network) SetDelay(from, to ids.NodeID, delay, jitter time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.weatherLocked(from, to)
	w.delay, w.jitter = delay, jitter
}

// SetDropRaft changes the share of Raft batches that are lost, everywhere.
func (n *Network) SetDropRaft(share float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.dropRaft = share
}

// Crash ends a node's process as kill -9 does: what it sent and has not arrived vanishes, calls to it fail with
// ErrLost (after the liveness timeout where the way back is cut), and its own calls fail too, so that who waits for
// them can end. It waits for the node's goroutines, so it must not be called from a handler or a done function. It does
// nothing if the node is not up.
func (n *Network) Crash(id ids.NodeID) {
	n.mu.Lock()
	d := n.mu.nodes[id]
	n.mu.Unlock()
	if d != nil {
		_ = d.Close()
	}
}

// Close crashes all nodes.
func (n *Network) Close() {
	n.mu.Lock()
	var nodes []*Node
	for _, d := range n.mu.nodes {
		nodes = append(nodes, d)
	}
	n.mu.Unlock()
	for _, d := range nodes {
		_ = d.Close()
	}
}

func (n *Network) weatherLocked(from, to ids.NodeID) *weather {
	dir := direction{from, to}
	w := n.mu.weather[dir]
	if w == nil {
		// A generator per direction: what happens in one does not shift the dice of another.
		w = &weather{delay: n.opt.Delay, jitter: n.opt.Jitter,
			rng: rand.New(rand.NewPCG(uint64(n.opt.Seed), uint64(from)*0x9e3779b97f4a7c15^uint64(to)))}
		n.mu.weather[dir] = w
	}
	return w
}

func (n *Network) cutLocked(from, to ids.NodeID) bool {
	return n.mu.isolated[from] || n.mu.isolated[to] || n.weatherLocked(from, to).cut
}

func (n *Network) wakeAllLocked() {
	for _, d := range n.mu.nodes {
		for _, l := range d.in {
			l.signal()
		}
	}
}

// connection is what one node dialled to another: all it sends there, and the answers back.
type connection struct {
	from, to *Node
	tables   [calls.NumClasses]*calls.Table // its calls
	heard    time.Time                      // when from last got something over it
	broken   bool                           // from gave it up
	vanished bool                           // its frames under way are lost
}

// connectLocked returns the connection between two nodes, made at need, or why there is none.
func (n *Network) connectLocked(from *Node, to ids.NodeID) (*connection, error) {
	if !from.up || to == from.id {
		return nil, fmt.Errorf("this transport is closed, not started, or is node %v itself", to)
	}
	from.wanted[to] = true
	if c := from.out[to]; c != nil {
		return c, nil
	}
	d := n.mu.nodes[to]
	switch {
	case d == nil:
		return nil, fmt.Errorf("node %v: connection refused", to)
	case n.cutLocked(from.id, to) || n.cutLocked(to, from.id):
		return nil, fmt.Errorf("node %v: no route", to)
	}
	if err := from.check(to, d.disk); err != nil {
		return nil, fmt.Errorf("refused: %w", err)
	}
	if err := d.check(from.id, from.disk); err != nil {
		from.finisher.Do(func() { from.onRefused(to, err.Error()) })
		return nil, fmt.Errorf("refused by node %v: %w", to, err)
	}
	c := &connection{from: from, to: d, heard: time.Now()}
	for i := range c.tables {
		c.tables[i] = calls.NewTable(calls.Limits{
			QueueMessages: n.opt.QueueMessages, QueueBytes: n.opt.QueueBytes, InFlight: n.opt.CallsInFlight,
		}, from.finisher)
	}
	from.out[to] = c
	d.pushHelloLocked(c, from)
	from.pushHelloLocked(c, d)
	return c, nil
}

// breakLocked gives a connection up. Frames under way vanish, or they arrive all the same, and the answers do not.
func (n *Network) breakLocked(c *connection, cause string) {
	if c.broken {
		return
	}
	c.broken = true
	c.vanished = c.vanished || n.weatherLocked(c.from.id, c.to.id).rng.IntN(2) == 0
	if c.from.out[c.to.id] == c {
		delete(c.from.out, c.to.id)
	}
	for _, t := range c.tables {
		t.Fail(cause, true)
	}
}
