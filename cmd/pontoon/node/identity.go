package node

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
)

// identity is what a data directory is, for good: written once at first boot, before anything else in it counts.
type identity struct {
	ClusterID uint64          `json:"cluster_id"`
	Node      ids.NodeID      `json:"node"`
	Name      string          `json:"name"`
	DiskID    uint64          `json:"disk_id"` // random: a wiped disk gets another one
	Members   []BootstrapNode `json:"members"` // of the initial cluster: how to reach the others at the next start
	Placement []ids.NodeID    `json:"placement"`
}

// The names of the node-local values.
const (
	identityName    = "identity"
	incarnationName = "incarnation"
)

// loadIdentity reads the identity of a data directory; ok is false at the first boot.
func loadIdentity(e *storage.Engine) (id identity, ok bool, err error) {
	v, ok, err := e.GetNodeValue(identityName)
	if err != nil || !ok {
		return id, false, err
	}
	if err := json.Unmarshal(v, &id); err != nil {
		return id, false, fmt.Errorf("the node's identity cannot be read: %w", err)
	}
	return id, true, nil
}

func (id *identity) save(e *storage.Engine) error {
	v, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return e.SetNodeValue(identityName, v)
}

// newIdentity is that of a first boot.
func newIdentity(c *Config, b *Bootstrap) identity {
	id := identity{
		ClusterID: b.ClusterID, Node: b.Self, Name: c.Name, DiskID: randomID(), Members: b.Nodes,
	}
	for _, d := range b.Ranges {
		if d.ID == ids.PlacementRange {
			for _, r := range d.Replicas {
				id.Placement = append(id.Placement, r.Node)
			}
		}
	}
	return id
}

// check refuses a data directory that was made for another cluster or node than the flags describe.
func (id *identity) check(c *Config, b *Bootstrap) error {
	if b == nil {
		return nil
	}
	if b.ClusterID != id.ClusterID && !sameMembers(b.Nodes, id.Members) {
		return invalid("data-dir", "%s belongs to another cluster (%x, the flags describe %x)", c.DataDir, id.ClusterID, b.ClusterID).
			fix("give the initial cluster, token and splits that it was made with, or another directory")
	}
	if b.Self != id.Node {
		return invalid("data-dir", "%s belongs to node %s (%v), not to %s (%v)", c.DataDir, id.Name, id.Node, c.Name, b.Self).
			fix("start it with --name=%s, or give this node a directory of its own", id.Name)
	}
	return nil
}

// sameMembers reports whether two clusters have the same nodes, and so the same token. Their ids still differ if one was
// given initial splits and the other not; these count at the first boot only.
func sameMembers(a, b []BootstrapNode) bool {
	return slices.EqualFunc(a, b, func(x, y BootstrapNode) bool { return x.ID == y.ID })
}

// nextIncarnation counts the processes that ran on a data directory.
func nextIncarnation(e *storage.Engine) (uint64, error) {
	v, ok, err := e.GetNodeValue(incarnationName)
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	if ok && len(v) == 8 {
		n = binary.BigEndian.Uint64(v)
	}
	n++
	return n, e.SetNodeValue(incarnationName, binary.BigEndian.AppendUint64(nil, n))
}

func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return max(1, binary.BigEndian.Uint64(b[:]))
}
