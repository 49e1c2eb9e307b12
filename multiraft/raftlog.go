package multiraft

import (
	"errors"
	"fmt"
	"sort"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// groupLog is a group's log as raft reads it (raft.Storage): the engine's log with its newest part in memory. It belongs
// to whoever holds the group.
//
//	                    tail in memory
//	 truncated       ┌─────────────────────┐
//	     │           │                     │
//	─────┴───────────┴──────────┬──────────┴──── index
//	 gone   in the engine        applied   last: handed to the log writer
//
// Raft itself keeps what it has not heard to be durable, so an entry is looked up here only when the engine has it. The
// tail serves those who come soon: apply, and followers a little behind.
type groupLog struct {
	engine *storage.Engine
	r      ids.RangeID

	hard *raftpb.HardState      // at the start
	conf *raftpb.ConfState      // newest
	at   func() storage.EntryID // what is applied

	truncated storage.EntryID
	last      uint64 // of what was handed to the log writer; == truncated.Index if there is nothing

	tail      []*raftpb.Entry // contiguous, ends at last, or is empty
	tailBytes int64
	// runs says from which index on which term holds, for all indexes from runs[0].index to last. Terms change rarely,
	// so a lookup of a term hardly ever needs the engine.
	runs []termRun
}

type termRun struct{ index, term uint64 }

func newGroupLog(e *storage.Engine, s *storage.RangeState, hard *raftpb.HardState) *groupLog {
	l := &groupLog{engine: e, r: s.Descriptor.ID, hard: hard, conf: s.ConfState}
	l.reset(s.Truncated)
	l.last = max(s.Last, s.Truncated.Index)
	if l.last > l.truncated.Index {
		l.runs = nil // terms in between are not known
	}
	return l
}

// reset makes the log empty behind an entry: at the start, or by a snapshot.
func (l *groupLog) reset(at storage.EntryID) {
	l.truncated, l.last = at, at.Index
	l.tail, l.tailBytes = nil, 0
	l.runs = []termRun{{at.Index, at.Term}}
}

// append notes entries that are on their way to the log writer. They may overwrite the end of the log.
func (l *groupLog) append(ents []*raftpb.Entry) {
	first := ents[0].GetIndex()
	if first <= l.last {
		l.cut(first)
	}
	for _, e := range ents {
		if n := len(l.runs); n == 0 || l.runs[n-1].term != e.GetTerm() {
			l.runs = append(l.runs, termRun{e.GetIndex(), e.GetTerm()})
		}
		l.tailBytes += entryBytes(e)
	}
	l.tail = append(l.tail, ents...)
	l.last = ents[len(ents)-1].GetIndex()
}

// cut forgets the entries from index first on.
func (l *groupLog) cut(first uint64) {
	for n := len(l.runs); n > 0 && l.runs[n-1].index >= first; n-- {
		l.runs = l.runs[:n-1]
	}
	if len(l.tail) > 0 {
		from := l.tail[0].GetIndex()
		keep := 0
		if first > from {
			keep = int(first - from)
		}
		for _, e := range l.tail[keep:] {
			l.tailBytes -= entryBytes(e)
		}
		clear(l.tail[keep:])
		l.tail = l.tail[:keep]
	}
	l.last = first - 1
}

// dropTail lets go of the tail up to and including an index. The rest moves to a new array if much was dropped.
func (l *groupLog) dropTail(index uint64) {
	if len(l.tail) == 0 || index < l.tail[0].GetIndex() {
		return
	}
	n := min(int(index-l.tail[0].GetIndex())+1, len(l.tail))
	for i, e := range l.tail[:n] {
		l.tailBytes -= entryBytes(e)
		l.tail[i] = nil
	}
	l.tail = l.tail[n:]
	if len(l.tail) == 0 {
		l.tail = nil
	}
}

// truncate notes that the log up to and including an entry goes.
func (l *groupLog) truncate(to storage.EntryID) {
	l.dropTail(to.Index)
	i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].index > to.Index })
	if i > 0 {
		l.runs = append([]termRun{{to.Index, to.Term}}, l.runs[i:]...)
		if len(l.runs) > 1 && l.runs[1].term == to.Term {
			l.runs = append(l.runs[:1], l.runs[2:]...)
		}
	}
	l.truncated = to
}

func entryBytes(e *raftpb.Entry) int64 { return int64(len(e.GetData())) + 64 }

// InitialState implements raft.Storage.
func (l *groupLog) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hard, raftpb.EnsureConfState(l.conf), nil
}

// Entries implements raft.Storage.
func (l *groupLog) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= l.truncated.Index {
		return nil, raft.ErrCompacted
	}
	if hi > l.last+1 {
		return nil, raft.ErrUnavailable
	}
	if len(l.tail) == 0 || lo < l.tail[0].GetIndex() {
		ents, err := l.engine.Entries(l.r, lo, hi, maxSize)
		return ents, l.check(err)
	}
	from := lo - l.tail[0].GetIndex()
	ents := l.tail[from : hi-l.tail[0].GetIndex()]
	var size uint64
	for i, e := range ents {
		if size += uint64(entryBytes(e)); size > maxSize && i > 0 {
			return ents[:i:i], nil
		}
	}
	return ents[:len(ents):len(ents)], nil
}

// Term implements raft.Storage.
func (l *groupLog) Term(i uint64) (uint64, error) {
	switch {
	case i == l.truncated.Index:
		return l.truncated.Term, nil
	case i < l.truncated.Index:
		return 0, raft.ErrCompacted
	case i > l.last:
		return 0, raft.ErrUnavailable
	}
	for n := len(l.runs) - 1; n >= 0; n-- {
		if l.runs[n].index <= i {
			return l.runs[n].term, nil
		}
	}
	term, err := l.engine.Term(l.r, i)
	if err == nil && i == l.last {
		l.runs = []termRun{{i, term}} // asked for again and again
	}
	return term, l.check(err)
}

// check passes raft's own errors on and panics over all others, as raft would: a log that cannot be read, or has a hole,
// ends the replica (see Group.endTurn).
func (l *groupLog) check(err error) error {
	if err != nil && !errors.Is(err, raft.ErrCompacted) {
		panic(fmt.Errorf("reading the log: %w", err))
	}
	return err
}

// LastIndex implements raft.Storage. Raft asks only when it holds no entries itself, hence when all that was handed to
// the log writer is durable.
func (l *groupLog) LastIndex() (uint64, error) { return l.last, nil }

// FirstIndex implements raft.Storage.
func (l *groupLog) FirstIndex() (uint64, error) { return l.truncated.Index + 1, nil }

// Snapshot implements raft.Storage. The data travels on its own way, and its sender takes the state of the moment it
// begins, which is this one or a later one.
func (l *groupLog) Snapshot() (*raftpb.Snapshot, error) {
	at := l.at()
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(at.Index), Term: proto.Uint64(at.Term), ConfState: raftpb.EnsureConfState(l.conf),
	}}, nil
}
