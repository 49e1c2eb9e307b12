package multiraft

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"
)

// Errors of proposals.
var (
	// ErrNotLeader: the replica does not lead its group.
	ErrNotLeader = errors.New("replica is not the leader")
	// ErrDropped: Raft did not take the proposal (leadership is being transferred, or the change is not possible now).
	ErrDropped = errors.New("proposal dropped")
)

// Group is one replica of one Raft group on this node.
type Group struct {
	// Set once.
	host    *Host
	r       ids.RangeID
	replica ids.ReplicaID
	sm      StateMachine

	// Atomic.
	state      atomic.Uint32 // events and the place in the queue, see scheduler.go
	desc       atomic.Pointer[ids.Descriptor]
	leaderNode atomic.Uint64 // node of the leader, 0 if unknown
	removing   atomic.Bool
	done       chan struct{} // closed when no worker will ever touch the group again

	inbox inbox

	published struct {
		sync.Mutex
		status Status
	}

	// The rest belongs to the worker that holds the group.
	raft *raft.RawNode
	soft raft.SoftState
	log  *groupLog
	out  *outbox // of the worker, during a turn
	// hard is the newest hard state. Where only the commit index is newer than what the log writer got, hardPending is
	// set: nothing needs it soon, and it rides along with the next append (or the next tick).
	hard        *raftpb.HardState
	hardPending bool
	// truncatePending is a truncation that also waits for an append, zero if none does.
	truncatePending storage.EntryID
	appends         int // handed to the log writer and not completed
	status          Status
	applied         storage.EntryID
	toApply         []*raftpb.Message // MsgStorageApply not done yet
	readStates      []raft.ReadState
	local           []*raftpb.Message // responses of this replica to itself
	outgoing        []*raftpb.Message // of this turn
	held            []*raftpb.Message // appends without entries that were not sent, see holdBack
	due             []*raftpb.Message // held back long enough
	tell            uint64            // the others are to know of this commit index, 0 for none
	reads           []pendingRead
	seen            map[uint64]ids.NodeID // nodes of replicas that the descriptor does not name
	truncator       truncator
	sleep           sleeper
	heardLeader     bool                // in this turn
	mail            mail                // being read
	again           bool                // Process wants to be called again
	damaged         error               // why the replica stopped for good
	inCallback      bool                // the state machine is running
	incoming        *incomingSnapshot   // a received snapshot that raft is being asked to take
	installing      bool                // one that raft took is being ingested
	fresh           *storage.RangeState // came as a snapshot, and the state machine was not told yet
	sending         []snapshotSend      // snapshots under way to followers
}

// pendingRead is a ReadIndex without answer.
type pendingRead struct {
	context string
	term    uint64
}

// Range returns the group's range.
func (g *Group) Range() ids.RangeID { return g.r }

// Status returns the newest published status. Any goroutine may call it.
func (g *Group) Status() Status {
	g.published.Lock()
	defer g.published.Unlock()
	return g.published.status
}

func (g *Group) publish() {
	g.published.Lock()
	g.published.status = g.status
	g.published.Unlock()
}

// Schedule asks for a call of StateMachine.Process. Any goroutine may call it; calls before Process begins are one.
func (g *Group) Schedule() { g.raise(evSchedule) }

// Descriptor returns the newest descriptor this replica knows. Any goroutine may call it.
func (g *Group) Descriptor() *ids.Descriptor { return g.desc.Load() }

// SetDescriptor tells where the replicas are now. StateMachine.Apply calls it when an entry changes that.
func (g *Group) SetDescriptor(d *ids.Descriptor) {
	old := g.desc.Swap(d)
	g.host.trackPeers(old, d)
	g.leaderNode.Store(uint64(g.nodeOf(g.status.Leader)))
}

// ReplicaNode returns the node of a replica. Any goroutine may call it.
func (g *Group) ReplicaNode(id ids.ReplicaID) (ids.NodeID, bool) { return g.desc.Load().NodeOf(id) }

// nodeOf returns the node of a replica, also of one that only sent us messages so far; 0 if unknown.
func (g *Group) nodeOf(id ids.ReplicaID) ids.NodeID {
	if n, ok := g.desc.Load().NodeOf(id); ok {
		return n
	}
	return g.seen[uint64(id)]
}

// Propose appends an entry to the log and returns its index. It fails with ErrNotLeader or ErrDropped, without effect.
// The data must not be changed afterwards. Only the group's StateMachine may call it, from one of its methods.
func (g *Group) Propose(data []byte) (index uint64, err error) {
	return g.propose(func() error { return g.raft.Propose(data) })
}

// ProposeConfChange appends a configuration change and returns its index. Raft turns a change that is not possible now
// into an empty entry, which the proposer finds at that index instead. Only the group's StateMachine may call it, from
// one of its methods.
func (g *Group) ProposeConfChange(cc raftpb.ConfChangeI) (index uint64, err error) {
	return g.propose(func() error { return g.raft.ProposeConfChange(cc) })
}

func (g *Group) propose(step func() error) (uint64, error) {
	if g.status.Role != Leader || g.damaged != nil {
		return 0, ErrNotLeader
	}
	if err := g.inRaft(step); err != nil {
		return 0, ErrDropped
	}
	g.status.Last++ // all that raft appends by itself was taken over before, see Group.turn
	g.host.metrics.proposals.Inc()
	return g.status.Last, nil
}

// ApplyConfChange makes a committed configuration change effective and returns the configuration that it leads to.
// StateMachine.Apply calls it for each one that it does not reject.
func (g *Group) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	_ = g.inRaft(func() error { g.log.conf = g.raft.ApplyConfChange(cc); return nil })
	return g.log.conf
}

// ReadIndex asks for a proof that this replica leads now, and for the commit index of a moment after the call. The answer
// comes as StateMachine.ReadState if the replica still leads in the same term then, and not at all otherwise; Changed
// tells of the end of a term. The group stays awake meanwhile, and the question is repeated with every heartbeat. Only
// the group's StateMachine may call it, from one of its methods.
func (g *Group) ReadIndex(context string) error {
	// A follower would forward the question, and the answer would prove somebody else's leadership.
	if g.status.Role != Leader || g.damaged != nil {
		return ErrNotLeader
	}
	g.reads = append(g.reads, pendingRead{context, g.status.Term})
	return g.inRaft(func() error { g.raft.ReadIndex([]byte(context)); return nil })
}

// TellCommit has the other replicas learn of the commit of an index, once it is committed, without delay. Otherwise they
// learn of it with the next entries or the next heartbeat. Only the group's StateMachine may call it, from one of its
// methods.
func (g *Group) TellCommit(index uint64) { g.tell = max(g.tell, index) }

// inRaft calls raft on behalf of the state machine: a panic is then raft's, not the state machine's, see endTurn.
func (g *Group) inRaft(fn func() error) error {
	was := g.inCallback
	g.inCallback = false
	err := fn()
	g.inCallback = was
	return err
}

// TransferLeader asks the group's leader to hand over to a voter, which must be up to date within an election timeout.
// Any goroutine may call it.
func (g *Group) TransferLeader(to ids.ReplicaID) { g.order(order{kind: orderTransfer, replica: to}) }

// Campaign makes the replica stand for election. Any goroutine may call it.
func (g *Group) Campaign() { g.order(order{kind: orderCampaign}) }

// Wake ends the group's sleep, here and at the leader: somebody found it not answering. Any goroutine may call it.
func (g *Group) Wake() { g.order(order{kind: orderWake}) }

func (g *Group) order(o order) {
	if g.inbox.addOrder(o) {
		g.raise(evInbox)
	} else if o.snapshot != nil {
		o.snapshot.finish(errRemoved)
	}
}

// peers calls fn for the progress of every other replica, as the leader sees it.
func (g *Group) peers(fn func(id uint64, pr *tracker.Progress)) {
	self := uint64(g.replica)
	g.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id != self {
			fn(id, &pr)
		}
	})
}

// parcel addresses an encoded message to a replica; ok is false if nobody knows its node.
func (g *Group) parcel(to uint64, payload []byte) (parcel, bool) {
	node := g.nodeOf(ids.ReplicaID(to))
	if node == 0 || node == g.host.cfg.Node {
		g.host.metrics.droppedNoNode.Inc()
		return parcel{}, false
	}
	return parcel{node, &pontoonpb.RaftMessage{RangeId: uint64(g.r), ToReplica: to, Message: payload}}, true
}

// damage stops the replica for good: it holds its data, says nothing and votes for nobody, until somebody looks at it.
func (g *Group) damage(err error) {
	if g.damaged != nil {
		return
	}
	g.damaged = err
	g.host.metrics.damaged.Inc()
	g.host.log.Error("replica stopped: it is damaged and must be rebuilt from the others",
		zap.Uint64("range", uint64(g.r)), zap.Uint64("replica", uint64(g.replica)), zap.Error(err), zap.Stack("stack"))
}
