package multiraft

import (
	"errors"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"go.etcd.io/raft/v3/raftpb"
)

// Errors of proposals.
var (
	// ErrNotLeader: the replica does not lead its group.
	ErrNotLeader = errors.New("replica is not the leader")
	// ErrDropped: Raft did not take the proposal (leadership is being transferred, or the change is not possible now).
	ErrDropped = errors.New("proposal dropped")
)

// Group is one replica of one Raft group on this node.
type Group struct{}

// Range returns the group's range.
func (g *Group) Range() ids.RangeID { return 0 }

// Status returns the newest published status, from any goroutine.
func (g *Group) Status() Status { return Status{} }

// Schedule asks for a call of StateMachine.Process, from any goroutine.
func (g *Group) Schedule() {}

// Propose appends an entry and returns its index. Only from StateMachine methods.
func (g *Group) Propose(data []byte) (uint64, error) { return 0, ErrNotLeader }

// ProposeConfChange appends a configuration change.
func (g *Group) ProposeConfChange(cc raftpb.ConfChangeI) (uint64, error) { return 0, ErrNotLeader }

// ApplyConfChange is called by Apply.
func (g *Group) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState { return nil }

// SetDescriptor is called by Apply.
func (g *Group) SetDescriptor(d *ids.Descriptor) {}

// ReplicaNode returns the node of a replica.
func (g *Group) ReplicaNode(r ids.ReplicaID) (ids.NodeID, bool) { return 0, false }

// ReadIndex asks for a proof of leadership.
func (g *Group) ReadIndex(ctx string) error { return ErrNotLeader }

// TransferLeader asks the leader to hand over.
func (g *Group) TransferLeader(to ids.ReplicaID) {}

// Campaign makes the replica campaign.
func (g *Group) Campaign() {}

// Wake ends the group's sleep.
func (g *Group) Wake() {}

// Host runs groups.
type Host struct{}

// New checks the configuration.
func New(cfg Config) (*Host, error) { return &Host{}, nil }

// Start begins the host's loops.
func (h *Host) Start() error { return nil }

// Close stops everything and waits.
func (h *Host) Close() error { return nil }

// Add adds a replica.
func (h *Host) Add(cfg GroupConfig) (*Group, error) { return &Group{}, nil }

// Remove stops a replica and waits until no worker is in it.
func (h *Host) Remove(r ids.RangeID) error { return nil }

// Group returns the replica of a range or nil.
func (h *Host) Group(r ids.RangeID) *Group { return nil }

// HandleRaft takes the messages of one frame.
func (h *Host) HandleRaft(from ids.NodeID, msgs []*pontoonpb.RaftMessage) {}

// WakeNode wakes what a node led.
func (h *Host) WakeNode(n ids.NodeID) {}
