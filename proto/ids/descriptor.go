package ids

import (
	"fmt"
	"slices"
)

// ReplicaDesc is one copy of a range.
type ReplicaDesc struct {
	Node    NodeID
	Replica ReplicaID
	// Learner replicas get the log and do not vote.
	Learner bool
}

// Descriptor says what a range is: its span and where its replicas are. The truth is the range's own replicated state;
// every other copy only learns newer generations. A Descriptor is immutable once published.
type Descriptor struct {
	ID         RangeID
	Span       Span
	Generation Generation
	Replicas   []ReplicaDesc
}

// On returns the replica on a node.
func (d *Descriptor) On(n NodeID) (ReplicaDesc, bool) {
	for _, r := range d.Replicas {
		if r.Node == n {
			return r, true
		}
	}
	return ReplicaDesc{}, false
}

// NodeOf returns the node of a replica.
func (d *Descriptor) NodeOf(id ReplicaID) (NodeID, bool) {
	for _, r := range d.Replicas {
		if r.Replica == id {
			return r.Node, true
		}
	}
	return 0, false
}

// Validate returns an error that says what is wrong with the descriptor, if anything is.
func (d *Descriptor) Validate() error {
	switch {
	case d.ID == 0:
		return fmt.Errorf("range descriptor without an id")
	case d.ID != PlacementRange && d.Span.Empty():
		return fmt.Errorf("range %d: empty span %v", d.ID, d.Span)
	case d.ID != PlacementRange && !SystemSpan.Covers(d.Span) && !UserSpace.Covers(d.Span):
		return fmt.Errorf("range %d: span %v crosses the boundary of system and user space", d.ID, d.Span)
	case len(d.Replicas) == 0:
		return fmt.Errorf("range %d: no replicas", d.ID)
	}
	var nodes []NodeID
	var replicas []ReplicaID
	for _, r := range d.Replicas {
		if r.Node == 0 || r.Replica == 0 || slices.Contains(nodes, r.Node) || slices.Contains(replicas, r.Replica) {
			return fmt.Errorf("range %d: bad or repeated replica %d on node %v", d.ID, r.Replica, r.Node)
		}
		nodes, replicas = append(nodes, r.Node), append(replicas, r.Replica)
	}
	return nil
}

func (d *Descriptor) String() string {
	return fmt.Sprintf("range %d gen %d %v", d.ID, d.Generation, d.Span)
}
