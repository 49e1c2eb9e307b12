package storage

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Config is what Open needs.
type Config struct {
	// Dir is the engine's directory; it is created if absent.
	Dir string
	// FS is the file system; nil means the machine's.
	FS vfs.FS
	// CacheBytes bounds the block cache (default 256 MiB; the placement engine takes less), MemTableBytes one memtable
	// (default 64 MiB, of which there are at most four).
	CacheBytes    int64
	MemTableBytes uint64
	// MaxCompactions bounds Pebble's concurrent compactions (default 2).
	MaxCompactions int
	// OnFatal is called at most once, when the engine can no longer make writes durable (a failed write or sync of the
	// WAL or the manifest, detected corruption). From then on every Commit fails. It may be called with Pebble's locks
	// held: it must not block and must not call the engine; the process is expected to stop.
	OnFatal func(error)
	// DiskFree replaces the question to FS how many bytes are free and how many there are in all.
	DiskFree func() (free, total uint64, err error)
	// SyncDelay, in simulations, is called between the write and the sync of a durable commit and takes as long as a
	// sync on a disk would.
	SyncDelay  func()
	Logger     *zap.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Name tells several engines of one process apart in metrics and logs: "data", "placement".
	Name string
}

// Applied says how far a replica's state machine has come. It moves in the batch that does the entries' work.
type Applied struct {
	Index, Term uint64
	// GCFloor is G, the physical compaction floor: versions that are not the last at or below it may be gone.
	GCFloor ids.Revision
	// MaxRevision is the greatest revision this replica has applied.
	MaxRevision ids.Revision
}

// RangeState is everything by range id that a replica starts from.
type RangeState struct {
	Descriptor *ids.Descriptor
	Replica    ids.ReplicaID // this node's
	ConfState  *raftpb.ConfState
	HardState  *raftpb.HardState // Commit is at least Applied.Index
	Applied    Applied
	// Truncated is the last log entry that is gone, Last the last one there; Last == Truncated.Index if the log is empty.
	Truncated EntryID
	Last      uint64
}

// EntryID names a log entry.
type EntryID struct{ Term, Index uint64 }

// Version is one version of a user key as stored.
type Version struct {
	Mod     ids.Revision // of this version; part of the engine key
	Create  ids.Revision // 0 for a tombstone
	Version int64        // 0 for a tombstone
	Lease   int64
	// Op is the ordinal of the operation within its revision (etcd's sub revision), by which events are ordered.
	Op        uint32
	Tombstone bool
	Value     []byte
}

// ScanOptions shape a read. The zero value reads everything.
type ScanOptions struct {
	// Reverse scans from the span's end.
	Reverse bool
	// WithoutValue leaves Version.Value nil, so that no value is copied.
	WithoutValue bool
}
