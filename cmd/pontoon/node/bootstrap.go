package node

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
)

// Every replica of a new cluster starts as if its log had been cut at this entry, so that a replica that starts empty
// later can only be filled by a snapshot, never by a log that begins at 1.
const (
	bootTerm  = 5
	bootIndex = 10
)

const (
	// placementReplicasMax bounds the placement group: five survive two failures, and more only slow the sequencer.
	placementReplicasMax = 5
	// replicationFactor is that of every other range.
	replicationFactor = 3
)

// BootstrapNode is one node of a new cluster.
type BootstrapNode struct {
	ID       ids.NodeID
	Name     string
	PeerURLs []string // sorted
}

// Bootstrap is what a new cluster consists of. Every node works it out for itself from the same configuration and gets
// the same; nothing is asked of the others. The cluster id covers everything that went into it, so nodes that were
// started with different values refuse each other's connections.
type Bootstrap struct {
	ClusterID uint64
	Self      ids.NodeID
	Nodes     []BootstrapNode   // by name
	Ranges    []*ids.Descriptor // by id: placement, system, then the user ranges in key order
}

// NewBootstrap computes the cluster of a validated configuration.
func NewBootstrap(c *Config) (*Bootstrap, error) {
	b := &Bootstrap{}
	for _, m := range c.InitialCluster {
		urls := slices.Clone(m.PeerURLs)
		slices.Sort(urls)
		n := BootstrapNode{ID: memberID(urls, c.InitialClusterToken), Name: m.Name, PeerURLs: urls}
		if n.Name == c.Name {
			b.Self = n.ID
		}
		b.Nodes = append(b.Nodes, n)
	}
	if b.Self == 0 {
		return nil, invalid("initial-cluster", "does not list this node, --name=%s", c.Name).fix("add %s=<its peer URL>", c.Name)
	}
	slices.SortFunc(b.Nodes, func(x, y BootstrapNode) int { return strings.Compare(x.Name, y.Name) })
	for i, n := range b.Nodes {
		if j := slices.IndexFunc(b.Nodes[:i], func(o BootstrapNode) bool { return o.ID == n.ID }); j >= 0 {
			return nil, invalid("initial-cluster", "%s and %s have the same peer URLs", b.Nodes[j].Name, n.Name).
				fix("give every node its own")
		}
	}
	b.ClusterID = clusterID(b.Nodes, c.InitialSplits)
	b.Ranges = b.ranges(c.InitialSplits)
	for _, d := range b.Ranges {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	return b, nil
}

// memberID is etcd's: the head of a hash over the sorted peer URLs and the token. etcd's members of the same initial
// cluster have the same ids.
func memberID(sortedURLs []string, token string) ids.NodeID {
	sum := sha1.Sum([]byte(strings.Join(sortedURLs, "") + token))
	return ids.NodeID(binary.BigEndian.Uint64(sum[:8]))
}

// clusterID is etcd's, a hash over the sorted member ids, unless there are initial splits, which it then covers too.
func clusterID(nodes []BootstrapNode, splits [][]byte) uint64 {
	members := make([]ids.NodeID, len(nodes))
	for i, n := range nodes {
		members[i] = n.ID
	}
	slices.Sort(members)
	h := sha1.New()
	var word [8]byte
	for _, m := range members {
		binary.BigEndian.PutUint64(word[:], uint64(m))
		h.Write(word[:])
	}
	for _, s := range splits {
		binary.BigEndian.PutUint64(word[:], uint64(len(s)))
		h.Write(word[:])
		h.Write(s)
	}
	return binary.BigEndian.Uint64(h.Sum(nil)[:8])
}

func (b *Bootstrap) ranges(splits [][]byte) []*ids.Descriptor {
	out := []*ids.Descriptor{
		{ID: ids.PlacementRange, Generation: 1, Replicas: b.replicas(0, placementReplicasMax)},
		{ID: ids.SystemRange, Span: ids.SystemSpan, Generation: 1, Replicas: b.replicas(0, replicationFactor)},
	}
	start := ids.UserSpace.Start
	for i := range len(splits) + 1 {
		end := ids.UserSpace.End
		if i < len(splits) {
			end = ids.UserKey(splits[i])
		}
		out = append(out, &ids.Descriptor{
			ID:         ids.FirstUserRange + ids.RangeID(i),
			Span:       ids.Span{Start: start, End: end},
			Generation: 1,
			Replicas:   b.replicas(i, replicationFactor),
		})
		start = end
	}
	return out
}

// replicas puts up to n replicas on neighbours in the circle of nodes, beginning at node first: consecutive ranges begin
// at consecutive nodes, so every node gets its share to within n. If all nodes get one, the order is the nodes' own.
// The first one listed is the range's preferred first leader.
func (b *Bootstrap) replicas(first, n int) []ids.ReplicaDesc {
	if len(b.Nodes) <= n {
		first, n = 0, len(b.Nodes)
	}
	out := make([]ids.ReplicaDesc, n)
	for i := range out {
		node := b.Nodes[(first+i)%len(b.Nodes)]
		out[i] = ids.ReplicaDesc{Node: node.ID, Replica: ids.ReplicaID(i + 1)}
	}
	return out
}

// Local returns the initial states of this node's replicas, the placement group's apart (nil if this node has none).
func (b *Bootstrap) Local() (placement *storage.RangeState, ranges []storage.RangeState) {
	for _, d := range b.Ranges {
		r, ok := d.On(b.Self)
		if !ok {
			continue
		}
		s := initialState(d, r.Replica)
		if d.ID == ids.PlacementRange {
			placement = &s
		} else {
			ranges = append(ranges, s)
		}
	}
	return placement, ranges
}

func initialState(d *ids.Descriptor, replica ids.ReplicaID) storage.RangeState {
	cs := &raftpb.ConfState{}
	for _, r := range d.Replicas {
		cs.Voters = append(cs.Voters, uint64(r.Replica))
	}
	term, commit := uint64(bootTerm), uint64(bootIndex)
	return storage.RangeState{
		Descriptor: d,
		Replica:    replica,
		ConfState:  cs,
		HardState:  &raftpb.HardState{Term: &term, Commit: &commit},
		Applied:    storage.Applied{Index: bootIndex, Term: bootTerm, MaxRevision: 1},
		Truncated:  storage.EntryID{Term: bootTerm, Index: bootIndex},
		Last:       bootIndex,
	}
}
