package multiraft

import (
	"slices"
	"sync"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3/raftpb"
)

// inboxBytesMax bounds the messages that wait for a group, and inboxCountMax their number. What comes on top is dropped;
// raft sends again. Both are some times what a leader keeps in flight to one follower.
const (
	inboxBytesMax = 16 << 20
	inboxCountMax = 4096
)

// inbox is what comes to a group from other goroutines.
type inbox struct {
	mu struct {
		sync.Mutex
		letters []letter
		bytes   int
		done    []completion
		orders  []order
		closed  bool
	}
}

// letter is a message from another replica, still encoded.
type letter struct {
	from    ids.NodeID
	payload []byte
}

// completion tells of an append that is durable (or needed not be).
type completion struct {
	responses []*raftpb.Message // to this replica
	installed *incomingSnapshot // the append was a snapshot, which is in the engine now
	err       error
}

type orderKind uint8

const (
	orderCampaign orderKind = iota + 1
	orderTransfer
	orderWake
	orderLeaderDead // the leader's node died or restarted
	orderSnapshot   // step a received snapshot
	orderReport     // a snapshot that was sent arrived, or not
)

// order is what other goroutines want from a group.
type order struct {
	kind     orderKind
	replica  ids.ReplicaID
	node     ids.NodeID
	delay    int // ticks
	snapshot *incomingSnapshot
	err      error
}

// addLetter reports false if there is no room.
func (b *inbox) addLetter(l letter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed || len(b.mu.letters) >= inboxCountMax || b.mu.bytes+len(l.payload) > inboxBytesMax {
		return false
	}
	b.mu.letters = append(b.mu.letters, l)
	b.mu.bytes += len(l.payload)
	return true
}

func (b *inbox) addCompletion(c completion) {
	b.mu.Lock()
	b.mu.done = append(b.mu.done, c)
	b.mu.Unlock()
}

// addOrder adds an order; one that only repeats a waiting one is left out. It reports false if the inbox is closed.
func (b *inbox) addOrder(o order) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return false
	}
	if o.kind <= orderLeaderDead && slices.ContainsFunc(b.mu.orders, func(w order) bool {
		return w.kind == o.kind && w.replica == o.replica && w.node == o.node
	}) {
		return true
	}
	b.mu.orders = append(b.mu.orders, o)
	return true
}

// close makes the inbox refuse messages.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.closed = true
	b.mu.letters, b.mu.done, b.mu.orders = nil, nil, nil
}

func (b *inbox) closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.closed
}

// mail is what a turn took out of the inbox.
type mail struct {
	letters []letter
	done    []completion
	orders  []order
}

func (b *inbox) take() (m mail) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m = mail{b.mu.letters, b.mu.done, b.mu.orders}
	b.mu.letters, b.mu.done, b.mu.orders, b.mu.bytes = nil, nil, nil, 0
	return m
}
