package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Ranges returns the state of every replica in the engine, by range id. It checks what must hold after any crash: each
// replica's state is complete, Commit ≥ Applied ≥ Truncated, the log covers what is committed and not yet applied, and no
// two replicas share a key. HardState.Commit is raised to Applied.Index: what was applied was committed, although the
// hard state that says so may have been lost.
func (e *Engine) Ranges() ([]RangeState, error) {
	it, err := e.rangeIter(nil, nil)
	if err != nil {
		return nil, err
	}
	var states []RangeState
	for ok := it.First(); ok && err == nil; {
		r, _, _, valid := splitRangeKey(it.Key())
		if !valid {
			err = e.corrupt("unknown key %x", it.Key())
			break
		}
		var s RangeState
		var there bool
		if s, there, err = e.readState(it, r); there {
			states = append(states, s)
		}
		ok = it.SeekGE(appendRangeEnd(nil, r))
	}
	if err := e.wrap(errors.Join(err, it.Error(), it.Close())); err != nil {
		return nil, err
	}
	return states, e.checkDisjoint(states)
}

// Range returns the state of one replica, ok=false if there is none.
func (e *Engine) Range(r ids.RangeID) (s RangeState, ok bool, err error) {
	it, err := e.rangeIter(appendRangeKey(nil, r, 0), appendRangeEnd(nil, r))
	if err != nil {
		return RangeState{}, false, err
	}
	s, ok, err = e.readState(it, r)
	return s, ok, e.wrap(errors.Join(err, it.Error(), it.Close()))
}

// Tombstone returns the greatest replica id that was ever removed from this node for a range, 0 if none was.
func (e *Engine) Tombstone(r ids.RangeID) (ids.ReplicaID, error) {
	v, ok, err := e.get(appendRangeKey(nil, r, kindTombstone))
	if err != nil || !ok {
		return 0, err
	}
	id, n := binary.Uvarint(v)
	if n <= 0 {
		return 0, e.corrupt("range %d: unreadable tombstone %x", r, v)
	}
	return ids.ReplicaID(id), nil
}

// rangeIter iterates over the class by range id within bounds, nil for all of it.
func (e *Engine) rangeIter(lower, upper []byte) (*pebble.Iterator, error) {
	if lower == nil {
		lower, upper = []byte{classRangeID, 0}, []byte{classKeyed, 0}
	}
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	return it, e.wrap(err)
}

// readState reads and checks one replica. ok is false if there is only a tombstone or nothing.
func (e *Engine) readState(it *pebble.Iterator, r ids.RangeID) (s RangeState, ok bool, err error) {
	var have [kindConfState + 1]bool
	end := appendRangeKey(nil, r, kindLogEntry)
	for valid := it.SeekGE(appendRangeKey(nil, r, kindTombstone+1)); valid && bytes.Compare(it.Key(), end) < 0; valid = it.Next() {
		_, kind, _, known := splitRangeKey(it.Key())
		v, verr := it.ValueAndErr()
		if verr != nil {
			return s, false, verr
		}
		if !known || kind > kindConfState {
			return s, false, e.corrupt("range %d: unknown key %x", r, it.Key())
		}
		if err := s.decode(kind, v); err != nil {
			return s, false, e.corrupt("range %d: %w", r, err)
		}
		have[kind] = true
	}
	first, last, err := e.logBounds(it, r)
	if err != nil {
		return s, false, err
	}
	if !slices.Contains(have[:], true) && last == 0 {
		return s, false, nil
	}
	for kind := kindReplica; kind <= kindConfState; kind++ {
		if !have[kind] {
			return s, false, e.corrupt("range %d: part %d of its state is missing", r, kind)
		}
	}
	s.Last = max(last, s.Truncated.Index)
	if err := s.check(r, first); err != nil {
		return s, false, e.corrupt("range %d: %w", r, err)
	}
	if s.HardState.GetCommit() < s.Applied.Index {
		s.HardState.Commit = proto.Uint64(s.Applied.Index)
	}
	return s, true, nil
}

// logBounds returns the indexes of the first and last entry in the log, 0 if it is empty.
func (e *Engine) logBounds(it *pebble.Iterator, r ids.RangeID) (first, last uint64, err error) {
	index := func() (uint64, error) {
		of, kind, i, ok := splitRangeKey(it.Key())
		if ok && of == r && kind == kindLogEntry {
			return i, nil
		}
		return 0, e.corrupt("range %d: unknown key %x", r, it.Key())
	}
	start, end := appendLogKey(nil, r, 0), appendLogEnd(nil, r)
	if !it.SeekGE(start) || bytes.Compare(it.Key(), end) >= 0 {
		return 0, 0, it.Error()
	}
	if first, err = index(); err != nil {
		return 0, 0, err
	}
	if !it.SeekLT(end) {
		return 0, 0, it.Error()
	}
	last, err = index()
	return first, last, err
}

// check verifies the laws of one replica's state; first is the index of the first log entry, 0 if there is none.
func (s *RangeState) check(r ids.RangeID, first uint64) error {
	commit := max(s.HardState.GetCommit(), s.Applied.Index)
	switch {
	case s.Descriptor.ID != r:
		return fmt.Errorf("its descriptor names range %d", s.Descriptor.ID)
	case s.Applied.Index < s.Truncated.Index:
		return fmt.Errorf("log truncated at %d, applied only %d", s.Truncated.Index, s.Applied.Index)
	case first != 0 && first != s.Truncated.Index+1:
		return fmt.Errorf("log starts at %d, truncated at %d", first, s.Truncated.Index)
	case commit > s.Last:
		return fmt.Errorf("log ends at %d, committed %d, applied %d", s.Last, s.HardState.GetCommit(), s.Applied.Index)
	}
	return nil
}

// checkDisjoint verifies that no two replicas share a key.
func (e *Engine) checkDisjoint(states []RangeState) error {
	byStart := make([]*ids.Descriptor, 0, len(states))
	for i := range states {
		if d := states[i].Descriptor; !d.Span.Empty() {
			byStart = append(byStart, d)
		}
	}
	slices.SortFunc(byStart, func(a, b *ids.Descriptor) int {
		return bytes.Compare(a.Span.Start, b.Span.Start)
	})
	for i := 1; i < len(byStart); i++ {
		if byStart[i-1].Span.Overlaps(byStart[i].Span) {
			return e.corrupt("replicas of %v and %v overlap", byStart[i-1], byStart[i])
		}
	}
	return nil
}

// decode reads one piece of the state.
func (s *RangeState) decode(kind byte, v []byte) error {
	switch kind {
	case kindReplica:
		id, _, err := uvarints1(v)
		s.Replica = ids.ReplicaID(id)
		return err
	case kindHardState:
		hs, err := decodeHardState(v)
		s.HardState = hs
		return err
	case kindApplied:
		return decodeApplied(v, &s.Applied)
	case kindTruncated:
		return decodeTruncated(v, &s.Truncated)
	case kindDescriptor:
		var m pontoonpb.Descriptor
		if err := proto.Unmarshal(v, &m); err != nil {
			return fmt.Errorf("unreadable descriptor: %w", err)
		}
		s.Descriptor = descriptorFromProto(&m)
		return nil
	case kindConfState:
		s.ConfState = new(raftpb.ConfState)
		if err := proto.Unmarshal(v, s.ConfState); err != nil {
			return fmt.Errorf("unreadable configuration: %w", err)
		}
	}
	return nil
}

// The small records below are sequences of uvarints.

func uvarints1(v []byte) (a uint64, rest []byte, err error) {
	a, n := binary.Uvarint(v)
	if n <= 0 {
		return 0, nil, fmt.Errorf("unreadable number in %x", v)
	}
	return a, v[n:], nil
}

func uvarintsInto(v []byte, dst ...*uint64) (err error) {
	for _, d := range dst {
		if *d, v, err = uvarints1(v); err != nil {
			return err
		}
	}
	return nil
}

func appendHardState(dst []byte, hs *raftpb.HardState) []byte {
	dst = binary.AppendUvarint(dst, hs.GetTerm())
	dst = binary.AppendUvarint(dst, hs.GetVote())
	return binary.AppendUvarint(dst, hs.GetCommit())
}

func decodeHardState(v []byte) (*raftpb.HardState, error) {
	var term, vote, commit uint64
	if err := uvarintsInto(v, &term, &vote, &commit); err != nil {
		return nil, err
	}
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}, nil
}

func appendApplied(dst []byte, a Applied) []byte {
	dst = binary.AppendUvarint(dst, a.Index)
	dst = binary.AppendUvarint(dst, a.Term)
	dst = binary.AppendUvarint(dst, uint64(a.GCFloor))
	return binary.AppendUvarint(dst, uint64(a.MaxRevision))
}

func decodeApplied(v []byte, a *Applied) error {
	var floor, most uint64
	err := uvarintsInto(v, &a.Index, &a.Term, &floor, &most)
	a.GCFloor, a.MaxRevision = ids.Revision(floor), ids.Revision(most)
	return err
}

func decodeTruncated(v []byte, to *EntryID) error { return uvarintsInto(v, &to.Term, &to.Index) }

func descriptorToProto(d *ids.Descriptor) *pontoonpb.Descriptor {
	m := &pontoonpb.Descriptor{
		Id: uint64(d.ID), Start: d.Span.Start, End: d.Span.End, Generation: uint64(d.Generation),
	}
	for _, r := range d.Replicas {
		m.Replicas = append(m.Replicas, &pontoonpb.ReplicaDescriptor{
			Node: uint64(r.Node), Replica: uint64(r.Replica), Learner: r.Learner,
		})
	}
	return m
}

func descriptorFromProto(m *pontoonpb.Descriptor) *ids.Descriptor {
	d := &ids.Descriptor{
		ID: ids.RangeID(m.GetId()), Span: ids.Span{Start: m.GetStart(), End: m.GetEnd()},
		Generation: ids.Generation(m.GetGeneration()),
	}
	for _, r := range m.GetReplicas() {
		d.Replicas = append(d.Replicas, ids.ReplicaDesc{
			Node: ids.NodeID(r.GetNode()), Replica: ids.ReplicaID(r.GetReplica()), Learner: r.GetLearner(),
		})
	}
	return d
}
