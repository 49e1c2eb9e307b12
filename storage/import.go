package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Import receives a snapshot of a range into tables beside the engine, and Finish makes all of it visible at once. Until
// then nothing changes, and Open clears away what a crash leaves.
//
// Pebble excises one span per ingest. That is the range's data, which may be large; the rest is cleared by range
// tombstones inside the ingested tables, which hide what was there before and not what comes with them.
type Import struct {
	e     *Engine
	r     ids.RangeID
	span  ids.Span
	dir   string
	paths []string

	w       *sstable.Writer // table of the range's data being written, nil between two
	keyed   *bytes.Buffer   // records of state by user key, kept until Finish: locks, outcomes, lease index
	class   byte            // of the last record
	records uint64
	sum     uint32
	ended   bool
	scratch []byte
}

// keyedBytesMax bounds the state by user key of a snapshot: it is kept in memory until Finish. A range of the usual size
// has some megabytes of it at most.
const keyedBytesMax = 256 << 20

// NewImport begins to receive a snapshot of a range with that span (empty for the placement group). Abort or Finish ends
// it.
func (e *Engine) NewImport(r ids.RangeID, span ids.Span) (*Import, error) {
	if r == ids.PlacementRange && span.Empty() {
		span = ids.SystemSpan
	}
	if span.Empty() {
		return nil, fmt.Errorf("storage: import of range %d with empty span %v", r, span)
	}
	i := &Import{e: e, r: r, span: span, keyed: new(bytes.Buffer)}
	i.dir = e.fs.PathJoin(e.importRoot(), fmt.Sprintf("%d-%d", r, e.imports.Add(1)))
	if err := e.fs.MkdirAll(i.dir, 0o700); err != nil {
		return nil, e.wrap(err)
	}
	return i, nil
}

func (e *Engine) importRoot() string { return e.fs.PathJoin(e.dir, "import") }

// Add takes the next chunk of the snapshot. The chunk is not kept.
func (i *Import) Add(chunk []byte) error {
	if len(chunk) == 0 || i.ended {
		return i.malformed("a chunk that is empty or follows the last one")
	}
	switch chunk[0] {
	case chunkEnd:
		if len(chunk) != chunkEndLen {
			return i.malformed("bad end")
		}
		if records := binary.BigEndian.Uint64(chunk[1:]); records != i.records {
			return i.malformed("%d records came, %d were sent", i.records, records)
		}
		if sum := binary.BigEndian.Uint32(chunk[9:]); sum != i.sum {
			return i.malformed("bad checksum")
		}
		i.ended = true
		return nil
	case chunkData:
		i.sum = crc32.Update(i.sum, castagnoli(), chunk[1:])
		r := writeReader{rest: chunk[1:]}
		for len(r.rest) > 0 {
			k, ok := r.bytes()
			if !ok {
				return i.malformed("record cut short")
			}
			value, ok := r.bytes()
			if !ok {
				return i.malformed("record cut short")
			}
			if err := i.add(k, value); err != nil {
				return err
			}
		}
		return nil
	}
	return i.malformed("unknown chunk %d", chunk[0])
}

func (i *Import) malformed(format string, args ...any) error {
	return fmt.Errorf("%w of range %d: %s", errSnapshot, i.r, fmt.Sprintf(format, args...))
}

// add checks that a record belongs to the range and writes it.
func (i *Import) add(k, value []byte) error {
	var (
		key []byte
		ok  bool
	)
	if len(k) > 0 {
		switch k[0] {
		case classSystem:
			key, ok = splitSystemKey(k)
		case classUser:
			key, _, ok = splitVersionKey(k)
		case classKeyed:
			_, key, _, ok = splitKeyedKey(i.scratch[:0], k)
			i.scratch = key
		}
	}
	if !ok || !i.span.Contains(key) || k[0] < i.class {
		return i.malformed("key %x does not belong here", k)
	}
	i.class = k[0]
	i.records++
	if k[0] == classKeyed {
		if i.keyed.Len()+len(k)+len(value) > keyedBytesMax {
			return i.malformed("more than %d bytes of state by user key", keyedBytesMax)
		}
		i.keyed.Write(binary.AppendUvarint(i.keyed.AvailableBuffer(), uint64(len(k))))
		i.keyed.Write(k)
		i.keyed.Write(binary.AppendUvarint(i.keyed.AvailableBuffer(), uint64(len(value))))
		i.keyed.Write(value)
		return nil
	}
	if i.w != nil && i.w.Raw().EstimatedSize() > ingestFileBytes {
		if err := i.closeTable(); err != nil {
			return err
		}
	}
	if i.w == nil {
		w, err := i.newTable()
		if err != nil {
			return err
		}
		i.w = w
	}
	return i.e.wrap(i.w.Set(k, value))
}

func (i *Import) newTable() (*sstable.Writer, error) {
	path := i.e.fs.PathJoin(i.dir, fmt.Sprintf("%d.sst", len(i.paths)))
	f, err := i.e.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, i.e.wrap(err)
	}
	i.paths = append(i.paths, path)
	return sstable.NewWriter(objstorageprovider.NewFileWritable(f), i.e.opts.MakeWriterOptions(0, i.e.db.TableFormat())), nil
}

func (i *Import) closeTable() error {
	if i.w == nil {
		return nil
	}
	err := i.w.Close()
	i.w = nil
	return i.e.wrap(err)
}

// Finish replaces whatever this node has of the range and its span by the snapshot, in one step that is durable when it
// returns: the data, the state by user key, and the range's state s with a log that is truncated at s.Applied. The
// replicas named in destroy go with it (their data beyond the span too) and leave tombstones; every local replica whose
// span overlaps must be named. Nobody may write to any of these ranges meanwhile. A commit in s.HardState beyond the
// snapshot is lowered to it, for the log ends there. After an error the import is aborted.
func (i *Import) Finish(s RangeState, destroy []ids.RangeID) error {
	err := i.finish(s, destroy)
	return errors.Join(err, i.Abort())
}

func (i *Import) finish(s RangeState, destroy []ids.RangeID) error {
	if !i.ended {
		return i.malformed("its end is missing")
	}
	if s.Descriptor == nil || s.Descriptor.ID != i.r || s.Replica == 0 || s.ConfState == nil {
		return i.malformed("incomplete state %v", s.Descriptor)
	}
	if d := dataSpan(s.Descriptor); !bytes.Equal(d.Start, i.span.Start) || !bytes.Equal(d.End, i.span.End) {
		return i.malformed("span %v received for %v", i.span, s.Descriptor)
	}
	cleared := i.span
	var gone []RangeState
	own, had, err := i.e.Range(i.r)
	if err != nil {
		return err
	}
	if had && own.Replica != s.Replica { // it was removed and comes back as a new replica
		gone = append(gone, own)
	}
	if had {
		cleared = hull(cleared, dataSpan(own.Descriptor))
	}
	for _, r := range destroy {
		old, ok, err := i.e.Range(r)
		if err != nil {
			return err
		}
		if !ok || r == i.r {
			continue
		}
		d := dataSpan(old.Descriptor)
		if !d.Overlaps(cleared) {
			return fmt.Errorf("storage: %v does not overlap %v, whose snapshot would destroy it", old.Descriptor, s.Descriptor)
		}
		cleared = hull(cleared, d)
		gone = append(gone, old)
	}
	if err := i.closeTable(); err != nil {
		return err
	}
	if err := i.writeKeyed(cleared); err != nil {
		return err
	}
	if err := i.writeState(s, gone); err != nil {
		return err
	}
	// An ingest that touches nothing in a memtable reaches the disk ahead of unsynced batches. Syncing those first keeps
	// the rule that a crash leaves a prefix.
	if err := i.e.sync(); err != nil {
		return err
	}
	return i.e.guard(func() error {
		_, err := i.e.db.IngestAndExcise(context.Background(), i.paths, nil, nil,
			pebble.KeyRange{Start: appendPrefix(nil, cleared.Start), End: appendPrefix(nil, cleared.End)})
		return err
	})
}

// hull is the least span that covers two overlapping ones.
func hull(a, b ids.Span) ids.Span {
	if bytes.Compare(b.Start, a.Start) < 0 {
		a.Start = b.Start
	}
	if bytes.Compare(b.End, a.End) > 0 {
		a.End = b.End
	}
	return a
}

// writeKeyed writes the table of state by user key: everything of the cleared span goes, what was received comes.
func (i *Import) writeKeyed(cleared ids.Span) error {
	w, err := i.newTable()
	if err != nil {
		return err
	}
	for kind := byte(1); kind <= KeyedKindMax && err == nil; kind++ {
		err = w.DeleteRange(appendKeyedBound(nil, kind, cleared.Start), appendKeyedBound(nil, kind, cleared.End))
	}
	r := writeReader{rest: i.keyed.Bytes()}
	for len(r.rest) > 0 && err == nil {
		k, _ := r.bytes()
		value, _ := r.bytes()
		err = w.Set(k, value)
	}
	return i.e.wrap(errors.Join(err, w.Close()))
}

// writeState writes the table of the class by range id: the state of the imported range and tombstones for the others.
func (i *Import) writeState(s RangeState, gone []RangeState) error {
	w, err := i.newTable()
	if err != nil {
		return err
	}
	removed := map[ids.RangeID]ids.ReplicaID{}
	all := []ids.RangeID{i.r}
	for n := range gone {
		r := gone[n].Descriptor.ID
		removed[r] = gone[n].Replica
		all = append(all, r)
	}
	slices.Sort(all)
	for _, r := range slices.Compact(all) {
		if replica, ok := removed[r]; ok {
			id := binary.AppendUvarint(nil, uint64(replica))
			err = errors.Join(err, w.Set(appendRangeKey(nil, r, kindTombstone), id))
		}
		err = errors.Join(err, w.DeleteRange(appendRangeKey(nil, r, kindTombstone+1), appendRangeEnd(nil, r)))
		if r == i.r {
			err = errors.Join(err, i.writeNewState(w, &s))
		}
	}
	return i.e.wrap(errors.Join(err, w.Close()))
}

// writeNewState writes the pieces of one range's state in key order.
func (i *Import) writeNewState(w *sstable.Writer, s *RangeState) error {
	hs := &raftpb.HardState{
		Term:   proto.Uint64(max(s.HardState.GetTerm(), s.Applied.Term)),
		Vote:   proto.Uint64(s.HardState.GetVote()),
		Commit: proto.Uint64(s.Applied.Index),
	}
	truncated := binary.AppendUvarint(binary.AppendUvarint(nil, s.Applied.Term), s.Applied.Index)
	descriptor, err := proto.Marshal(descriptorToProto(s.Descriptor))
	if err != nil {
		return err
	}
	configuration, err := proto.Marshal(s.ConfState)
	if err != nil {
		return err
	}
	for _, p := range []struct {
		kind  byte
		value []byte
	}{
		{kindReplica, binary.AppendUvarint(nil, uint64(s.Replica))},
		{kindHardState, appendHardState(nil, hs)},
		{kindApplied, appendApplied(nil, s.Applied)},
		{kindTruncated, truncated},
		{kindDescriptor, descriptor},
		{kindConfState, configuration},
	} {
		if err := w.Set(appendRangeKey(nil, s.Descriptor.ID, p.kind), p.value); err != nil {
			return err
		}
	}
	return nil
}

// Abort drops what was received. It may follow Finish, and be called twice.
func (i *Import) Abort() error {
	err := i.closeTable()
	i.keyed, i.paths, i.ended = new(bytes.Buffer), nil, false
	return i.e.wrap(errors.Join(err, i.e.fs.RemoveAll(i.dir)))
}
