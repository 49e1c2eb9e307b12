package simnet

import (
	"context"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// Options says how the network behaves. The zero value is a perfect network without delay.
type Options struct {
	// Seed makes delays, drops and the fate of broken connections repeatable.
	Seed int64
	// Delay is the least time a frame is under way; up to Jitter comes on top, at random.
	Delay, Jitter time.Duration
	// DropRaft is the share of Raft batches that are lost, 0 to 1.
	DropRaft float64
	// LivenessTimeout is the silence after which a node counts as dead and its connections break (default 1 s).
	LivenessTimeout time.Duration
}

// Network is the in-memory network of one cluster.
type Network struct{ opt Options }

// New returns a network without nodes.
func New(opt Options) *Network { return &Network{opt: opt} }

// JoinOption adds to what Join says about a node.
type JoinOption func(*Node)

// WithDisk sets the disk id that the node tells others.
func WithDisk(disk uint64) JoinOption { return func(*Node) {} }

// WithCheckPeer sets the node's judge of other nodes' disk ids.
func WithCheckPeer(check func(node ids.NodeID, disk uint64) error) JoinOption { return func(*Node) {} }

// Join adds a node, or the next process of a node that crashed or closed. Nobody reaches it before Start.
func (n *Network) Join(id ids.NodeID, incarnation uint64, opts ...JoinOption) *Node { return &Node{} }

// Cut holds back everything from one node to another until Heal; the other direction works on.
func (n *Network) Cut(from, to ids.NodeID) {}

// Heal ends a Cut.
func (n *Network) Heal(from, to ids.NodeID) {}

// Isolate cuts a node from all others, present and future, in both directions.
func (n *Network) Isolate(id ids.NodeID) {}

// HealAll ends every Cut and Isolate.
func (n *Network) HealAll() {}

// SetDelay changes the delay and jitter of one direction.
func (n *Network) SetDelay(from, to ids.NodeID, delay, jitter time.Duration) {}

// SetDropRaft changes the share of Raft batches that are lost, everywhere.
func (n *Network) SetDropRaft(share float64) {}

// Crash ends a node's process as kill -9 does: its frames under way vanish, and calls to it fail with ErrLost. It
// waits for the node's goroutines, so it must not be called from a handler.
func (n *Network) Crash(id ids.NodeID) {}

// Close crashes all nodes.
func (n *Network) Close() {}

// Node is one process's transport on a Network.
type Node struct{}

// Start makes the node reachable. Handlers are installed before it.
func (d *Node) Start() error { return nil }

// Close takes the node off the network, fails its calls and waits for its goroutines.
func (d *Node) Close() error { return nil }

// SendRaft implements transport.Transport.
func (d *Node) SendRaft(to ids.NodeID, msgs []*pontoonpb.RaftMessage) bool { return false }

// Go implements transport.Transport.
func (d *Node) Go(ctx context.Context, to ids.NodeID, m transport.Method, payload []byte, done func([]byte, error)) {
	go done(nil, transport.ErrNotSent)
}

// Handle implements transport.Transport.
func (d *Node) Handle(m transport.Method, h transport.Handler) {}

// HandleRaft implements transport.Transport.
func (d *Node) HandleRaft(h transport.RaftHandler) {}

// OnIncarnation implements transport.Transport.
func (d *Node) OnIncarnation(f func(n ids.NodeID, incarnation uint64)) {}

// OnDown registers a function that is told when a node was silent for the liveness timeout, before Start.
func (d *Node) OnDown(f func(n ids.NodeID)) {}

// Alive implements transport.Transport.
func (d *Node) Alive(n ids.NodeID) bool { return false }
