package rangegroup

import (
	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Status is one replica as its node sees it.
type Status struct {
	Descriptor  *ids.Descriptor
	Raft        multiraft.Status
	Leader      ids.NodeID   // 0: unknown
	Resolved    ids.Revision // newest usable claim; 0: none yet
	MaxRevision ids.Revision // greatest applied revision
	GCFloor     ids.Revision
	// Counted since the replica was opened on this node.
	Writes, Reads, WriteBytes, ReadBytes int64
}

// Status returns one local replica's status.
func (h *Host) Status(id ids.RangeID) (Status, bool) {
	r := h.replica(id)
	if r == nil {
		return Status{}, false
	}
	return r.status(), true
}

// Statuses returns the status of every local replica, in no particular order.
func (h *Host) Statuses() []Status {
	rs := h.all()
	out := make([]Status, 0, len(rs))
	for _, r := range rs {
		out = append(out, r.status())
	}
	return out
}

func (r *Replica) status() Status {
	s := r.shared.Load()
	st := Status{
		Descriptor: s.desc, Raft: r.raft(), GCFloor: s.gcFloor,
		MaxRevision: ids.Revision(r.load.maxRevision.Load()),
		Writes:      r.load.writes.Load(), Reads: r.load.reads.Load(),
		WriteBytes: r.load.writeBytes.Load(), ReadBytes: r.load.readBytes.Load(),
	}
	st.Leader, _ = s.desc.NodeOf(st.Raft.Leader)
	if c, ok := r.claims.newest(); ok {
		st.Resolved = c.Revision
	}
	return st
}

// Usage is what a span holds on this node.
type Usage struct {
	Bytes uint64 // estimate
	Keys  int64  // live keys at the newest resolved revision; exact
}

// Usage measures a local replica. Counting keys reads all of them: it is for operators, not for loops.
func (h *Host) Usage(id ids.RangeID, countKeys bool) (Usage, error) {
	r := h.replica(id)
	if r == nil {
		return Usage{}, &ids.WrongRangeError{Range: id}
	}
	span := r.shared.Load().desc.Span
	var u Usage
	var err error
	if u.Bytes, err = h.engine.SpanBytes(span); err != nil || !countKeys || !ids.UserSpace.Covers(span) {
		return u, err
	}
	view := h.engine.View()
	defer view.Close()
	u.Keys, err = view.Count(span, ids.Revision(1<<62))
	return u, err
}
