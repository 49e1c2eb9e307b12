package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// pointDeletesMax is up to how many log entries are removed one by one. A range tombstone is smaller than many point
// ones, but each one in a memtable makes the next iterator, of any reader, sort all range tombstones of that memtable
// again; entries are mostly removed while they and their tombstones meet in one memtable and cost no table anything.
const pointDeletesMax = 1024

// Batch collects changes that become visible, and durable, together. Batches are committed in the order of the Commit
// calls, and a crash keeps a prefix of that order that includes every batch committed with sync. The first error of any
// method makes Commit fail.
type Batch struct {
	e     *Engine
	pb    *pebble.Batch
	apply pebble.Batch // holds foreign bytes while they are appended to pb; its buffer is never ours
	empty [writeHeaderLen]byte
	err   error
	key   []byte
	buf   []byte
}

var batchPool = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch returns an empty batch, which must be closed.
func (e *Engine) NewBatch() *Batch {
	b := batchPool.Get().(*Batch)
	b.e, b.pb, b.err = e, e.db.NewBatch(), nil
	return b
}

// Close gives the batch back. What was not committed is dropped.
func (b *Batch) Close() {
	if b.pb == nil {
		return
	}
	_ = b.pb.Close() // fails only if closed twice
	b.e, b.pb, b.err = nil, nil, nil
	batchPool.Put(b)
}

// Len is the size of the batch in bytes, 0 if it changes nothing.
func (b *Batch) Len() int {
	if b.pb.Empty() {
		return 0
	}
	return b.pb.Len()
}

// Commit makes the batch visible, and with sync also durable together with everything committed before it. An error
// means that the batch may or may not be there, and that the engine is of no use any more, unless the batch itself was
// wrong (a bug of the caller), in which case nothing happened.
func (b *Batch) Commit(sync bool) error {
	if b.err != nil {
		return b.err
	}
	if err := b.e.Err(); err != nil {
		return err
	}
	if b.pb.Empty() && !sync {
		return nil
	}
	if !sync {
		return b.e.guard(func() error { return b.pb.Commit(pebble.NoSync) })
	}
	if b.pb.Empty() { // a sync of what was committed before
		if err := b.pb.LogData(nil, nil); err != nil {
			return err
		}
	}
	start := time.Now()
	err := b.e.guard(func() error {
		if b.e.delay != nil {
			return b.writeSlowly()
		}
		return b.pb.Commit(pebble.Sync)
	})
	if err == nil {
		b.e.observeSync(time.Since(start))
	}
	return err
}

// writeSlowly commits as on a slow disk. The wait must not come from a slow file: Pebble syncs some while it holds locks
// that others wait for, and virtual time stands still as long as anybody waits for a lock.
func (b *Batch) writeSlowly() error {
	if err := b.pb.Commit(pebble.NoSync); err != nil {
		return err
	}
	b.e.delay()
	return b.e.db.LogData(nil, pebble.Sync)
}

// sync makes everything durable that was committed before.
func (e *Engine) sync() error {
	b := e.NewBatch()
	defer b.Close()
	return b.Commit(true)
}

func (b *Batch) set(key, value []byte) {
	if err := b.pb.Set(key, value, nil); err != nil && b.err == nil {
		b.err = err
	}
}

func (b *Batch) delete(key []byte) {
	if err := b.pb.Delete(key, nil); err != nil && b.err == nil {
		b.err = err
	}
}

func (b *Batch) deleteRange(start, end []byte) {
	if err := b.pb.DeleteRange(start, end, nil); err != nil && b.err == nil {
		b.err = err
	}
}

func (b *Batch) setState(r ids.RangeID, kind byte, value []byte) {
	b.key = appendRangeKey(b.key[:0], r, kind)
	b.set(b.key, value)
}

// CreateRange writes the whole initial state of a replica with an empty log at s.Truncated (at bootstrap and at a
// split). s.Last is ignored.
func (b *Batch) CreateRange(s RangeState) {
	if s.Descriptor == nil || s.Replica == 0 {
		b.fail(fmt.Errorf("storage: create a range without descriptor or replica id: %v", s.Descriptor))
		return
	}
	r := s.Descriptor.ID
	b.buf = binary.AppendUvarint(b.buf[:0], uint64(s.Replica))
	b.setState(r, kindReplica, b.buf)
	b.SetHardState(r, s.HardState)
	b.SetApplied(r, s.Applied)
	b.setTruncated(r, s.Truncated)
	b.SetDescriptor(r, s.Descriptor, s.ConfState)
}

func (b *Batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// SetHardState writes term, vote and commit. It goes with every Ready that has one, Commit-only ones too.
func (b *Batch) SetHardState(r ids.RangeID, hs *raftpb.HardState) {
	b.buf = appendHardState(b.buf[:0], hs)
	b.setState(r, kindHardState, b.buf)
}

// SetApplied writes how far the state machine has come. It belongs into the batch that does the work.
func (b *Batch) SetApplied(r ids.RangeID, a Applied) {
	b.buf = appendApplied(b.buf[:0], a)
	b.setState(r, kindApplied, b.buf)
}

func (b *Batch) setTruncated(r ids.RangeID, to EntryID) {
	b.buf = binary.AppendUvarint(b.buf[:0], to.Term)
	b.buf = binary.AppendUvarint(b.buf, to.Index)
	b.setState(r, kindTruncated, b.buf)
}

// SetDescriptor writes a new descriptor, and the configuration that belongs to it unless cs is nil.
func (b *Batch) SetDescriptor(r ids.RangeID, d *ids.Descriptor, cs *raftpb.ConfState) {
	if d.ID != r {
		b.fail(fmt.Errorf("storage: descriptor of range %d written for range %d", d.ID, r))
		return
	}
	v, err := proto.Marshal(descriptorToProto(d))
	if err != nil {
		b.fail(err)
		return
	}
	b.setState(r, kindDescriptor, v)
	if cs == nil {
		return
	}
	if v, err = proto.Marshal(cs); err != nil {
		b.fail(err)
		return
	}
	b.setState(r, kindConfState, v)
}

// Append writes log entries, which replace those of the same index. prevLast is the last index in the log before; what
// lies above the last new entry up to it is removed.
func (b *Batch) Append(r ids.RangeID, ents []*raftpb.Entry, prevLast uint64) {
	if len(ents) == 0 {
		return
	}
	for _, ent := range ents {
		data := ent.GetData()
		var head [1 + binary.MaxVarintLen64]byte
		h := appendEntryHeader(head[:0], ent)
		op := b.pb.SetDeferred(logKeyLen, len(h)+len(data))
		appendLogKey(op.Key[:0], r, ent.GetIndex())
		copy(op.Value[copy(op.Value, h):], data)
		if err := op.Finish(); err != nil {
			b.fail(err)
		}
	}
	b.deleteEntries(r, ents[len(ents)-1].GetIndex()+1, prevLast)
}

// Truncate removes the log entries up to and including to.Index, which must be applied in this or an earlier batch.
func (b *Batch) Truncate(r ids.RangeID, to EntryID) {
	from, err := b.e.truncated(r)
	if err != nil {
		b.fail(err)
		return
	}
	if to.Index <= from.Index {
		return
	}
	b.deleteEntries(r, from.Index+1, to.Index)
	b.setTruncated(r, to)
}

// deleteEntries removes the entries first … last.
func (b *Batch) deleteEntries(r ids.RangeID, first, last uint64) {
	if last < first {
		return
	}
	if last-first < pointDeletesMax {
		for i := first; i <= last; i++ {
			b.key = appendLogKey(b.key[:0], r, i)
			b.delete(b.key)
		}
		return
	}
	b.key = appendLogKey(b.key[:0], r, first)
	b.buf = appendLogKey(b.buf[:0], r, last+1)
	b.deleteRange(b.key, b.buf)
}

// RemoveRange removes a replica: the data of span, the log and all state. A tombstone that names the replica stays for
// good (see Engine.Tombstone). The placement group's span is given as empty.
func (b *Batch) RemoveRange(r ids.RangeID, replica ids.ReplicaID, span ids.Span) {
	if r == ids.PlacementRange && span.Empty() {
		span = ids.SystemSpan
	}
	if !span.Empty() {
		b.key = appendPrefix(b.key[:0], span.Start)
		b.buf = appendPrefix(b.buf[:0], span.End)
		b.deleteRange(b.key, b.buf)
		for kind := byte(1); kind <= KeyedKindMax; kind++ {
			b.key = appendKeyedBound(b.key[:0], kind, span.Start)
			b.buf = appendKeyedBound(b.buf[:0], kind, span.End)
			b.deleteRange(b.key, b.buf)
		}
	}
	b.key = appendRangeKey(b.key[:0], r, kindTombstone+1)
	b.buf = appendRangeEnd(b.buf[:0], r)
	b.deleteRange(b.key, b.buf)
	b.buf = binary.AppendUvarint(b.buf[:0], uint64(replica))
	b.setState(r, kindTombstone, b.buf)
}

// ApplyWrites appends what an entry does: the bytes of a WriteSet, as they are. Anything that is not one, or that touches
// other than replicated state, is an error, and the batch is as before.
func (b *Batch) ApplyWrites(writeSet []byte) error {
	if len(writeSet) == 0 {
		return nil
	}
	if err := checkWriteSet(writeSet); err != nil {
		return err
	}
	if err := b.apply.SetRepr(writeSet); err != nil {
		return err
	}
	err := b.pb.Apply(&b.apply, nil)
	return errors.Join(err, b.apply.SetRepr(b.empty[:])) // lets go of the caller's bytes
}
