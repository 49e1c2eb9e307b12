package multiraft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A snapshot travels as calls of transport.MethodSnapshot, beside the Raft messages:
//
//	leader's node                              follower's node
//	  │ raft: MsgSnap to replica 3               │
//	  │ waits for one of sendersMax, pins a view │
//	  │── begin(state) ─────────────────────────►│ may it come? one import per range, importsMax in all
//	  │── chunk, chunk, … at most windowMax ────►│ into tables beside the engine
//	  │── end ──────────────────────────────────►│ MsgSnap is stepped now: raft takes it or not
//	  │                                          │ log writer: what came before is written; ingest; Restored
//	  │◄─ done, or why not ──────────────────────│
//	  │ raft: ReportSnapshot                     │
//
// Each call's payload ends in a trailer of fixed size, so that a chunk needs no copy: range(8) session(8) kind(1).

type snapshotKind byte

const (
	snapshotBegin snapshotKind = iota + 1
	snapshotChunk
	snapshotEnd

	trailerLen = 8 + 8 + 1
)

const (
	// sendersMax bounds the snapshots that a node sends at once, importsMax those that it receives. Each costs a pinned
	// view or a table writer, and some chunks of up to 1 MiB.
	sendersMax = 2
	importsMax = 4
	// windowMax bounds the chunks of a snapshot that are under way.
	windowMax = 4
)

type trailer struct {
	r       ids.RangeID
	session uint64
	kind    snapshotKind
}

func (t trailer) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(t.r))
	b = binary.BigEndian.AppendUint64(b, t.session)
	return append(b, byte(t.kind))
}

func splitTrailer(b []byte) (body []byte, t trailer, ok bool) {
	if len(b) < trailerLen {
		return nil, t, false
	}
	body, b = b[:len(b)-trailerLen], b[len(b)-trailerLen:]
	t = trailer{ids.RangeID(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:]), snapshotKind(b[16])}
	return body, t, t.kind >= snapshotBegin && t.kind <= snapshotEnd
}

// SnapshotRange returns the range that a payload of transport.MethodSnapshot is about, 0 if it is malformed, so that a
// node with several hosts knows whose HandleSnapshot takes it.
func SnapshotRange(payload []byte) ids.RangeID {
	_, t, ok := splitTrailer(payload)
	if !ok {
		return 0
	}
	return t.r
}

// snapshotHeader is the body of begin.
type snapshotHeader struct {
	from, to ids.ReplicaID
	term     uint64             // of the leader
	state    storage.RangeState // Descriptor, ConfState, Applied
}

func (h *snapshotHeader) encode() ([]byte, error) {
	desc, err := proto.Marshal(wire.DescriptorToProto(h.state.Descriptor))
	if err != nil {
		return nil, err
	}
	conf, err := proto.Marshal(h.state.ConfState)
	if err != nil {
		return nil, err
	}
	a := h.state.Applied
	var b []byte
	for _, v := range []uint64{
		uint64(h.from), uint64(h.to), h.term, a.Index, a.Term, uint64(a.GCFloor), uint64(a.MaxRevision), uint64(len(desc)),
	} {
		b = binary.AppendUvarint(b, v)
	}
	return append(append(b, desc...), conf...), nil
}

func decodeSnapshotHeader(b []byte) (h snapshotHeader, err error) {
	var v [8]uint64
	for i := range v {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return h, errMalformed
		}
		v[i], b = x, b[n:]
	}
	if v[7] > uint64(len(b)) {
		return h, errMalformed
	}
	var desc pontoonpb.Descriptor
	h.state.ConfState = new(raftpb.ConfState)
	if err := errors.Join(proto.Unmarshal(b[:v[7]], &desc), proto.Unmarshal(b[v[7]:], h.state.ConfState)); err != nil {
		return h, fmt.Errorf("%w: %w", errMalformed, err)
	}
	h.from, h.to, h.term = ids.ReplicaID(v[0]), ids.ReplicaID(v[1]), v[2]
	h.state.Descriptor = wire.DescriptorFromProto(&desc)
	h.state.Replica = h.to
	h.state.Applied = storage.Applied{
		Index: v[3], Term: v[4], GCFloor: ids.Revision(v[5]), MaxRevision: ids.Revision(v[6]),
	}
	if h.state.Descriptor == nil || h.from == 0 || h.to == 0 || h.term < v[4] || v[3] == 0 || v[4] == 0 {
		return h, errMalformed
	}
	return h, h.state.Descriptor.Validate()
}

// message is the MsgSnap that the snapshot stands for.
func (h *snapshotHeader) message() *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(),
		From: proto.Uint64(uint64(h.from)), To: proto.Uint64(uint64(h.to)), Term: proto.Uint64(h.term),
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			ConfState: raftpb.EnsureConfState(h.state.ConfState),
			Index:     proto.Uint64(h.state.Applied.Index), Term: proto.Uint64(h.state.Applied.Term),
		}},
	}
}
