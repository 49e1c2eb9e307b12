package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// A log entry is stored as type(1) uvarint(term) data.

func appendEntryHeader(dst []byte, ent *raftpb.Entry) []byte {
	dst = append(dst, byte(ent.GetType()))
	return binary.AppendUvarint(dst, ent.GetTerm())
}

func splitEntry(v []byte) (typ raftpb.EntryType, term uint64, data []byte, err error) {
	if len(v) < 2 {
		return 0, 0, nil, fmt.Errorf("unreadable log entry %x", v)
	}
	term, n := binary.Uvarint(v[1:])
	if n <= 0 {
		return 0, 0, nil, fmt.Errorf("unreadable log entry")
	}
	return raftpb.EntryType(v[0]), term, v[1+n:], nil
}

// storedEntry keeps an entry and the numbers it points to in one allocation.
type storedEntry struct {
	entry       raftpb.Entry
	term, index uint64
	typ         raftpb.EntryType
}

// Entries returns the log entries lo … hi-1, fewer if their data exceeds maxBytes, but at least one. It returns
// raft.ErrCompacted if lo was truncated and raft.ErrUnavailable if an entry is not there.
func (e *Engine) Entries(r ids.RangeID, lo, hi uint64, maxBytes uint64) ([]*raftpb.Entry, error) {
	if lo >= hi {
		return nil, nil
	}
	it, err := e.rangeIter(appendLogKey(nil, r, lo), appendLogKey(nil, r, hi))
	if err != nil {
		return nil, err
	}
	ents, err := readEntries(it, lo, hi, maxBytes)
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, e.wrap(err)
	}
	if len(ents) > 0 {
		return ents, nil
	}
	at, err := e.truncated(r)
	switch {
	case err != nil:
		return nil, err
	case lo <= at.Index:
		return nil, raft.ErrCompacted
	}
	return nil, raft.ErrUnavailable
}

// readEntries reads consecutive entries from lo on; none if lo itself is not there.
func readEntries(it *pebble.Iterator, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	var (
		ents []*raftpb.Entry
		size uint64
	)
	next := lo
	for ok := it.First(); ok; ok = it.Next() {
		_, _, index, valid := splitRangeKey(it.Key())
		if !valid || index != next {
			break
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		size += uint64(len(v))
		if len(ents) > 0 && size > maxBytes {
			return ents, nil
		}
		s := &storedEntry{index: index}
		var data []byte
		if s.typ, s.term, data, err = splitEntry(v); err != nil {
			return nil, err
		}
		s.entry.Type, s.entry.Term, s.entry.Index = &s.typ, &s.term, &s.index
		if len(data) > 0 {
			s.entry.Data = append(make([]byte, 0, len(data)), data...)
		}
		ents = append(ents, &s.entry)
		next++
	}
	if len(ents) > 0 && next < hi {
		return nil, raft.ErrUnavailable
	}
	return ents, nil
}

// Term returns the term of a log entry, or of the last truncated one. It returns raft.ErrCompacted below that and
// raft.ErrUnavailable above the log's end.
func (e *Engine) Term(r ids.RangeID, index uint64) (uint64, error) {
	var buf [logKeyLen]byte
	v, closer, err := e.db.Get(appendLogKey(buf[:0], r, index))
	if err == nil {
		_, term, _, err := splitEntry(v)
		return term, e.wrap(errors.Join(err, closer.Close()))
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return 0, e.wrap(err)
	}
	at, err := e.truncated(r)
	switch {
	case err != nil:
		return 0, err
	case index == at.Index:
		return at.Term, nil
	case index < at.Index:
		return 0, raft.ErrCompacted
	}
	return 0, raft.ErrUnavailable
}

// truncated returns the last entry that is gone from the log.
func (e *Engine) truncated(r ids.RangeID) (at EntryID, err error) {
	var buf [rangeKeyLen]byte
	v, closer, err := e.db.Get(appendRangeKey(buf[:0], r, kindTruncated))
	if errors.Is(err, pebble.ErrNotFound) {
		return EntryID{}, nil
	}
	if err != nil {
		return EntryID{}, e.wrap(err)
	}
	err = decodeTruncated(v, &at)
	return at, e.wrap(errors.Join(err, closer.Close()))
}

// NoLimit as maxBytes returns all entries asked for.
const NoLimit = math.MaxUint64
