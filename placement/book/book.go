// Package book is the replicated state of the placement group: pure, deterministic, one command at a time. Book.Apply
// says what a command does; the caller writes the changed records in the batch of the command's log entry.
//
// Everything is kept in memory (a record per node and per range) and read from there; records.go has the layout on disk.
package book

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Node is a node of the cluster as the book knows it.
type Node struct {
	ID         ids.NodeID
	Name       string
	PeerURLs   []string
	ClientURLs []string
	// DiskID names the data directory that the node first registered with; 0 before that. It never changes: a node that
	// comes back with another disk is another node.
	DiskID uint64
	// Incarnation is that of the node's newest process.
	Incarnation uint64
	Labels      map[string]string
}

// Bootstrap is the content of a new cluster's book.
type Bootstrap struct {
	Nodes []Node
	// Ranges are the first descriptors, that of the placement group among them.
	Ranges []*ids.Descriptor
}

// NoFloor is the compaction floor of a store that was never compacted.
const NoFloor ids.Revision = -1

// Book is one replica's copy. It is not safe for concurrent use.
type Book struct {
	sequencer sequencer.State
	floor     ids.Revision
	nextRange ids.RangeID
	// settingsVersion counts the changes of settings.
	settingsVersion uint64
	settings        map[string][]byte
	nodes           map[ids.NodeID]Node
	ranges          map[ids.RangeID]*ids.Descriptor
}

// New returns the book of a new cluster. A fresh store is at revision 1, so the first ceiling is 1.
func New(b Bootstrap) *Book {
	k := empty()
	k.sequencer.Ceiling = 1
	for _, n := range b.Nodes {
		k.nodes[n.ID] = n
	}
	for _, d := range b.Ranges {
		k.ranges[d.ID] = d
		k.nextRange = max(k.nextRange, d.ID+1)
	}
	return k
}

func empty() *Book {
	return &Book{
		floor:     NoFloor,
		nextRange: ids.FirstUserRange + 1,
		settings:  map[string][]byte{},
		nodes:     map[ids.NodeID]Node{},
		ranges:    map[ids.RangeID]*ids.Descriptor{},
	}
}

// Sequencer returns the sequencer's part.
func (k *Book) Sequencer() sequencer.State { return k.sequencer }

// Floor returns F, the logical compaction floor; NoFloor before the first compaction.
func (k *Book) Floor() ids.Revision { return k.floor }

// SettingsVersion counts the changes of settings.
func (k *Book) SettingsVersion() uint64 { return k.settingsVersion }

// Setting returns a setting's value, which must not be modified.
func (k *Book) Setting(name string) ([]byte, bool) { v, ok := k.settings[name]; return v, ok }

// Settings returns a copy of all settings.
func (k *Book) Settings() map[string][]byte { return maps.Clone(k.settings) }

// Node returns one node.
func (k *Book) Node(id ids.NodeID) (Node, bool) { n, ok := k.nodes[id]; return n, ok }

// Nodes returns all nodes, by id.
func (k *Book) Nodes() []Node {
	return slices.SortedFunc(maps.Values(k.nodes), func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
}

// Ranges returns all descriptors, by id.
func (k *Book) Ranges() []*ids.Descriptor {
	return slices.SortedFunc(maps.Values(k.ranges), func(a, b *ids.Descriptor) int { return cmp.Compare(a.ID, b.ID) })
}

// Result is what a command answers to the one who proposed it.
type Result struct {
	// Err says that the command had no effect and why; every replica refuses it alike. It is a gRPC status.
	Err error
	// FirstRange is the first of the range ids that AllocateRanges took.
	FirstRange ids.RangeID
}

// Apply does a command and returns its result and the records that it changed.
func (k *Book) Apply(c *pontoonpb.PlacementCommand) (Result, []Record) {
	if s, ok := SequencerCommand(c); ok {
		return Result{}, k.sequence(s)
	}
	switch c := c.GetKind().(type) {
	case *pontoonpb.PlacementCommand_Compact:
		return k.compact(ids.Revision(c.Compact.GetRevision()))
	case *pontoonpb.PlacementCommand_RegisterNode:
		return k.registerNode(NodeFromProto(c.RegisterNode))
	case *pontoonpb.PlacementCommand_UpdateRange:
		return k.updateRange(wire.DescriptorFromProto(c.UpdateRange))
	case *pontoonpb.PlacementCommand_AllocateRanges:
		first := k.nextRange
		k.nextRange += ids.RangeID(c.AllocateRanges.GetCount())
		return Result{FirstRange: first}, []Record{k.counters()}
	case *pontoonpb.PlacementCommand_PutSetting:
		k.settings[c.PutSetting.GetName()] = c.PutSetting.GetValue()
		k.settingsVersion++
		return Result{}, []Record{k.counters(), settingRecord(c.PutSetting)}
	}
	return Result{Err: status.Error(codes.Unimplemented, "pontoon: unknown placement command: upgrade this node")}, nil
}

func (k *Book) sequence(c sequencer.Command) []Record {
	if !k.sequencer.Apply(c) {
		return nil
	}
	return []Record{k.sequencerRecord()}
}

// compact raises the floor as etcd does: to the floor itself is "compacted" already. That the revision exists is checked
// by the sequencer before it proposes this.
func (k *Book) compact(rev ids.Revision) (Result, []Record) {
	if rev <= k.floor {
		return Result{Err: rpctypes.ErrGRPCCompacted}, nil
	}
	k.floor = rev
	return Result{}, []Record{k.counters()}
}

func (k *Book) registerNode(n Node) (Result, []Record) {
	if err := k.CheckDisk(n.ID, n.DiskID); err != nil {
		return Result{Err: status.Error(codes.FailedPrecondition, err.Error())}, nil
	}
	if n.ID == 0 || n.DiskID == 0 {
		return Result{Err: status.Error(codes.InvalidArgument, "pontoon: a node registers with its id and its disk id")}, nil
	}
	if old, ok := k.nodes[n.ID]; ok && n.Labels == nil {
		n.Labels = old.Labels
	}
	k.nodes[n.ID] = n
	return Result{}, []Record{nodeRecord(n)}
}

// CheckDisk returns an error if the node is known with another disk than this. A node not known, or one that has never
// registered, may have any.
func (k *Book) CheckDisk(id ids.NodeID, disk uint64) error {
	old, ok := k.nodes[id]
	if !ok || old.DiskID == 0 || old.DiskID == disk {
		return nil
	}
	return DiskError(id, old.Name, old.DiskID, disk)
}

// DiskError says that a node came with another disk than it is known by, and what to do.
func DiskError(id ids.NodeID, name string, known, came uint64) error {
	return fmt.Errorf("pontoon: node %v %s is known with disk %x and came with disk %x: its data directory was lost or replaced; "+
		"bring the old directory back, or remove the node from the cluster and add it again as a new one", id, name, known, came)
}

// updateRange takes a descriptor if it is newer than the one known.
func (k *Book) updateRange(d *ids.Descriptor) (Result, []Record) {
	if d == nil {
		return Result{Err: status.Error(codes.InvalidArgument, "pontoon: no range descriptor")}, nil
	}
	if err := d.Validate(); err != nil {
		return Result{Err: status.Error(codes.InvalidArgument, "pontoon: "+err.Error())}, nil
	}
	if old := k.ranges[d.ID]; old != nil && old.Generation >= d.Generation {
		return Result{}, nil
	}
	k.ranges[d.ID] = d
	return Result{}, []Record{rangeRecord(d)}
}
