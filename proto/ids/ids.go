package ids

import "fmt"

// NodeID names a node (one process, one engine) for good. It is etcd's member id on the wire. Zero is no node.
type NodeID uint64

// String prints the id as etcd prints member ids: hexadecimal, no leading zeros.
func (n NodeID) String() string { return fmt.Sprintf("%x", uint64(n)) }

// RangeID names a range for good; an id is never used again after its range was merged away. Zero is no range.
type RangeID uint64

// The ids that every cluster has from its bootstrap on.
const (
	// PlacementRange is the placement group. It owns no keys and lives on an engine of its own.
	PlacementRange RangeID = 1
	// SystemRange is the first range of the system space.
	SystemRange RangeID = 2
	// FirstUserRange is the range of the lowest user keys at bootstrap; pre-split ranges follow it.
	FirstUserRange RangeID = 3
)

// ReplicaID is a replica's id in its range's Raft group. It is never used twice within a range: a replica that was
// removed and comes back is a new one.
type ReplicaID uint64

// Revision is etcd's revision: one number line over the whole keyspace. A fresh store is at revision 1.
type Revision int64

// Generation counts the changes of a range's descriptor (bounds or replicas). It only grows.
type Generation uint64
