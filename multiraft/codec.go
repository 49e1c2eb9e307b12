package multiraft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// What travels in pontoonpb.RaftMessage.Message is a raftpb.Message in its protobuf form, or one of our own notes about
// sleeping. A note begins with a zero byte, with which no protobuf message begins.

// noteKind says what a note is.
type noteKind byte

const (
	// noteSleep asks a follower to confirm (term, commit) and to fall asleep.
	noteSleep noteKind = iota + 1
	// noteAsleep is the follower's confirmation.
	noteAsleep
	// noteWake asks a replica to wake; a leader then sends heartbeats.
	noteWake
)

// note is a message between replicas about sleeping.
type note struct {
	kind         noteKind
	from         uint64 // replica
	term, commit uint64
	serial       uint64 // of the proposal to sleep
}

func (n note) encode() []byte {
	b := make([]byte, 0, 2+4*binary.MaxVarintLen64)
	b = append(b, 0, byte(n.kind))
	b = binary.AppendUvarint(b, n.from)
	b = binary.AppendUvarint(b, n.term)
	b = binary.AppendUvarint(b, n.commit)
	return binary.AppendUvarint(b, n.serial)
}

var errMalformed = errors.New("malformed message")

func decodeNote(b []byte) (n note, err error) {
	if len(b) < 2 || b[0] != 0 || b[1] < byte(noteSleep) || b[1] > byte(noteWake) {
		return n, errMalformed
	}
	n.kind = noteKind(b[1])
	b = b[2:]
	for _, dst := range []*uint64{&n.from, &n.term, &n.commit, &n.serial} {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return n, errMalformed
		}
		*dst, b = v, b[size:]
	}
	return n, nil
}

func isNote(b []byte) bool { return len(b) > 0 && b[0] == 0 }

// The field numbers of raftpb.Message and raftpb.Entry that travel.
const (
	fieldType, fieldTo, fieldFrom, fieldTerm, fieldLogTerm protowire.Number = 1, 2, 3, 4, 5
	fieldIndex, fieldEntries, fieldCommit                  protowire.Number = 6, 7, 8
	fieldReject, fieldRejectHint, fieldContext             protowire.Number = 10, 11, 12

	entryType, entryTerm, entryIndex, entryData protowire.Number = 1, 2, 3, 4
)

// encodeMessage is proto.Marshal for the messages that travel, without reflection and in one allocation.
func encodeMessage(m *raftpb.Message) []byte {
	size := 9*11 + 3 + len(m.GetContext())
	for _, e := range m.GetEntries() {
		size += 4*11 + 8 + len(e.GetData())
	}
	b := make([]byte, 0, size)
	b = appendField(b, fieldType, uint64(m.GetType()))
	b = appendField(b, fieldTo, m.GetTo())
	b = appendField(b, fieldFrom, m.GetFrom())
	b = appendField(b, fieldTerm, m.GetTerm())
	b = appendField(b, fieldLogTerm, m.GetLogTerm())
	b = appendField(b, fieldIndex, m.GetIndex())
	for _, e := range m.GetEntries() {
		b = appendEntry(b, e)
	}
	b = appendField(b, fieldCommit, m.GetCommit())
	if m.GetReject() {
		b = appendField(b, fieldReject, 1)
		b = appendField(b, fieldRejectHint, m.GetRejectHint())
	}
	if c := m.GetContext(); len(c) > 0 {
		b = protowire.AppendTag(b, fieldContext, protowire.BytesType)
		b = protowire.AppendBytes(b, c)
	}
	return b
}

func appendField(b []byte, num protowire.Number, v uint64) []byte {
	b = append(b, byte(num)<<3) // varint type; all numbers are below 16
	return binary.AppendUvarint(b, v)
}

func appendEntry(b []byte, e *raftpb.Entry) []byte {
	term, index, data := e.GetTerm(), e.GetIndex(), e.GetData()
	size := 2 + 1 + protowire.SizeVarint(term) + 1 + protowire.SizeVarint(index)
	if len(data) > 0 {
		size += 1 + protowire.SizeBytes(len(data))
	}
	b = protowire.AppendTag(b, fieldEntries, protowire.BytesType)
	b = binary.AppendUvarint(b, uint64(size))
	b = appendField(b, entryType, uint64(e.GetType()))
	b = appendField(b, entryTerm, term)
	b = appendField(b, entryIndex, index)
	if len(data) > 0 {
		b = protowire.AppendTag(b, entryData, protowire.BytesType)
		b = protowire.AppendBytes(b, data)
	}
	return b
}

// wireMessage keeps a message and the numbers it points to in one allocation.
type wireMessage struct {
	raftpb.Message
	typ                                          raftpb.MessageType
	to, from, term, logTerm, index, commit, hint uint64
	reject                                       bool
}

// wireEntry does the same for an entry.
type wireEntry struct {
	raftpb.Entry
	typ         raftpb.EntryType
	term, index uint64
}

// decodeMessage reads a message from another node. The entries' data aliases b. It refuses what no replica sends:
// local messages, forwarded requests, entries out of order.
func decodeMessage(b []byte) (*raftpb.Message, error) {
	w := new(wireMessage)
	entries := countEntries(b)
	slots := make([]wireEntry, 0, entries)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, errMalformed
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return nil, errMalformed
			}
			b = b[n:]
			w.set(num, v)
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return nil, errMalformed
			}
			b = b[n:]
			switch num {
			case fieldEntries:
				if len(slots) == cap(slots) {
					return nil, errMalformed
				}
				slots = slots[:len(slots)+1]
				if err := slots[len(slots)-1].decode(v); err != nil {
					return nil, err
				}
			case fieldContext:
				w.Context = v
			}
		default:
			return nil, errMalformed
		}
	}
	w.Type, w.To, w.From, w.Term = &w.typ, &w.to, &w.from, &w.term
	w.LogTerm, w.Index, w.Commit = &w.logTerm, &w.index, &w.commit
	if w.reject {
		w.Reject, w.RejectHint = &w.reject, &w.hint
	}
	if len(slots) > 0 {
		w.Entries = make([]*raftpb.Entry, len(slots))
		for i := range slots {
			w.Entries[i] = slots[i].link()
		}
	}
	return &w.Message, checkMessage(&w.Message)
}

func (w *wireMessage) set(num protowire.Number, v uint64) {
	switch num {
	case fieldType:
		w.typ = raftpb.MessageType(v)
	case fieldTo:
		w.to = v
	case fieldFrom:
		w.from = v
	case fieldTerm:
		w.term = v
	case fieldLogTerm:
		w.logTerm = v
	case fieldIndex:
		w.index = v
	case fieldCommit:
		w.commit = v
	case fieldReject:
		w.reject = v != 0
	case fieldRejectHint:
		w.hint = v
	}
}

// countEntries counts the entries of a message, so that they get one allocation. It gives up at the first oddity, which
// decodeMessage then reports.
func countEntries(b []byte) (count int) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return count
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return count
		}
		if num == fieldEntries {
			count++
		}
		b = b[n+m:]
	}
	return count
}

func (e *wireEntry) decode(b []byte) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return errMalformed
			}
			b = b[n:]
			switch num {
			case entryType:
				e.typ = raftpb.EntryType(v)
			case entryTerm:
				e.term = v
			case entryIndex:
				e.index = v
			}
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return errMalformed
			}
			b = b[n:]
			if num == entryData {
				e.Data = v[:len(v):len(v)]
			}
		default:
			return errMalformed
		}
	}
	return nil
}

// link points the message's fields at the numbers beside it. The entry must not move afterwards.
func (e *wireEntry) link() *raftpb.Entry {
	e.Type, e.Term, e.Index = &e.typ, &e.term, &e.index
	return &e.Entry
}

// checkMessage refuses messages that would make the raft library panic or that go around our own rules: a read index
// is never asked for or answered between nodes (the leader asks for itself), nor is a proposal forwarded, and snapshots
// travel on their own way.
func checkMessage(m *raftpb.Message) error {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
		if m.GetTerm() == 0 {
			return fmt.Errorf("%w: %v without a term", errMalformed, m.GetType())
		}
	case raftpb.MsgTransferLeader: // a follower passes it on; it has no term
	default:
		return fmt.Errorf("%w: type %v", errMalformed, m.GetType())
	}
	if m.GetFrom() == raft.None || raft.IsLocalMsgTarget(m.GetFrom()) {
		return fmt.Errorf("%w: from %d", errMalformed, m.GetFrom())
	}
	if len(m.GetContext()) > 0 && m.GetType() == raftpb.MsgHeartbeatResp && len(m.GetContext()) != 8 {
		return fmt.Errorf("%w: context of %d bytes", errMalformed, len(m.GetContext()))
	}
	if len(m.GetEntries()) > 0 && m.GetType() != raftpb.MsgApp {
		return fmt.Errorf("%w: entries in %v", errMalformed, m.GetType())
	}
	term := m.GetLogTerm()
	for i, e := range m.GetEntries() {
		if e.GetIndex() != m.GetIndex()+1+uint64(i) || e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return fmt.Errorf("%w: entry (%d, %d) out of order", errMalformed, e.GetTerm(), e.GetIndex())
		}
		term = e.GetTerm()
	}
	return nil
}

func newHardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: proto.Uint64(term), Vote: proto.Uint64(vote), Commit: proto.Uint64(commit)}
}
