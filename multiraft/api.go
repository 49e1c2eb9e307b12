package multiraft

import (
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Config is what a Host needs.
type Config struct {
	Node      ids.NodeID
	Engine    *storage.Engine
	Transport transport.Transport
	// Workers step groups (default: GOMAXPROCS, at least 2).
	Workers int
	// HeartbeatInterval is one tick of an awake group (default 100 ms), ElectionTimeout the least silence after which a
	// follower campaigns (default 1 s).
	HeartbeatInterval, ElectionTimeout time.Duration
	// Seed makes the spreading of elections repeatable in tests; 0 means random. (Raft's own timeouts have no seed.)
	Seed int64
	// SnapshotBytesPerSecond bounds the snapshots that this node sends, all together (default 128 MiB/s).
	SnapshotBytesPerSecond int64
	// AcceptSnapshot decides about a snapshot for a range of which this node has no replica: it returns the state
	// machine of the replica to be made, or an error that refuses. Without it all such snapshots are refused. It is
	// called before any data comes, with Descriptor, Replica, ConfState and Applied set, and must not block; Restored is
	// the state machine's first call.
	AcceptSnapshot func(storage.RangeState) (StateMachine, error)
	Logger         *zap.Logger
	// Registerer takes the metrics; several hosts of one process wrap theirs with a label each. nil: no metrics.
	Registerer prometheus.Registerer
}

// Role is what a replica is in its group now.
type Role uint8

// The roles of a replica.
const (
	Follower Role = iota
	Candidate
	Leader
	Learner
)

// Status is a replica's view of its group. Group.Status returns the newest published one from any goroutine.
type Status struct {
	Range   ids.RangeID
	Replica ids.ReplicaID
	Role    Role
	Term    uint64
	Leader  ids.ReplicaID // 0 if unknown
	Commit  uint64
	Applied uint64
	Last    uint64 // last log index
	// TermStart is, on a leader, the index of the first entry of its own term.
	TermStart uint64
	Asleep    bool
}

// ReadState answers Group.ReadIndex.
type ReadState struct {
	Context string
	Index   uint64
}

// StateMachine is what a group drives. All methods are called by the worker that holds the group at that moment: never
// two at once, but from changing goroutines. They may use the engine; they must not wait for other groups, for the
// network, or for a client.
//
// The order within one turn of a group: messages and ticks are stepped; Changed if role, term or leader changed;
// Process if Schedule was called or it returned true; then Ready is handled: Raft messages go out, appends go to the
// log writer, Apply for what is committed; ReadStates. Raft messages that result from steps and proposals of a turn
// leave after that turn's Process, so an answer to them proves leadership at a moment after Process saw it.
type StateMachine interface {
	// Process does what was queued for this group from outside. It may call the Group's proposing methods. It returns
	// true if it wants to be called again soon.
	Process(g *Group) (again bool)
	// Changed tells of a new role, term or leader. It comes before anything of the new term is processed.
	Changed(g *Group, s Status)
	// Apply applies committed entries, in order and without gaps: it answers who waits for them, then writes one batch
	// that does all they say and sets the applied index (storage.Batch.SetApplied), unsynced. Empty entries (a new
	// leader's first) count. Configuration changes come here as well: Apply calls g.ApplyConfChange for each. An error
	// stops this replica for good (it is damaged), not the node.
	Apply(g *Group, entries []*raftpb.Entry) error
	// ReadState delivers the result of g.ReadIndex, on a replica that still leads in the same term.
	ReadState(g *Group, r ReadState)
	// Restored tells that a snapshot was ingested: everything in memory that derives from the replica's state is void.
	Restored(g *Group, s storage.RangeState) error
	// Idle reports whether the group may go to sleep: nothing queued, nothing in flight.
	Idle() bool
}

// GroupConfig describes a replica to Host.Add.
type GroupConfig struct {
	State        storage.RangeState
	StateMachine StateMachine
	// Campaign makes the replica campaign at once (a single replica, the right side of a split, first boot's preferred
	// leader).
	Campaign bool
}
