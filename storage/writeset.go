package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
)

// A WriteSet's bytes are Pebble's representation of a batch, so that applying an entry copies them into the node's batch
// and nothing is encoded twice, on the leader or on its followers:
//
//	header   sequence number (8, zero)   count (4, little endian)
//	op       kind (1)  uvarint(len) key  [uvarint(len) value]          kind 1 sets, kind 0 deletes (no value)
const (
	writeHeaderLen = 12
	opDelete       = 0
	opSet          = 1
	// writeSetKeepBytes is the size above which a pooled WriteSet's buffer is left to the garbage collector.
	writeSetKeepBytes = 1 << 20
)

// WriteSet is what an entry does to the replicated state, built by evaluation.
type WriteSet struct {
	buf   []byte
	count uint32
	key   []byte
	head  []byte
}

var writeSetPool = sync.Pool{New: func() any { return &WriteSet{buf: make([]byte, writeHeaderLen, 512)} }}

// NewWriteSet returns an empty write set. Release gives it back.
func NewWriteSet() *WriteSet {
	w := writeSetPool.Get().(*WriteSet)
	w.Reset()
	return w
}

// Release gives the write set to be used again; its bytes must not be used after that.
func (w *WriteSet) Release() {
	if cap(w.buf) <= writeSetKeepBytes {
		writeSetPool.Put(w)
	}
}

// Reset empties the write set.
func (w *WriteSet) Reset() {
	w.buf = w.buf[:writeHeaderLen]
	clear(w.buf)
	w.count = 0
}

// PutVersion writes one version of an addressed user key. v.Mod must be positive, and not below v.Create.
func (w *WriteSet) PutVersion(key []byte, v *Version) {
	w.key = appendVersionKey(w.key[:0], key, v.Mod)
	w.head = appendVersionHeader(w.head[:0], v)
	value := v.Value
	if v.Tombstone {
		value = nil
	}
	w.op(opSet, w.key)
	w.buf = binary.AppendUvarint(w.buf, uint64(len(w.head)+len(value)))
	w.buf = append(w.buf, w.head...)
	w.buf = append(w.buf, value...)
}

// PutSystem writes an addressed system key.
func (w *WriteSet) PutSystem(key, value []byte) {
	w.key = appendPrefix(w.key[:0], key)
	w.op(opSet, w.key)
	w.value(value)
}

// DeleteSystem removes an addressed system key.
func (w *WriteSet) DeleteSystem(key []byte) {
	w.key = appendPrefix(w.key[:0], key)
	w.op(opDelete, w.key)
}

// PutKeyed writes a piece of replicated state that belongs to an addressed key, and so to whatever range owns that key:
// locks, outcomes, registrations, the lease index. kind is 1 … KeyedKindMax; suffix tells several pieces of one kind and
// key apart.
func (w *WriteSet) PutKeyed(kind byte, key, suffix, value []byte) {
	w.key = appendKeyedKey(w.key[:0], kind, key, suffix)
	w.op(opSet, w.key)
	w.value(value)
}

// DeleteKeyed removes what PutKeyed wrote.
func (w *WriteSet) DeleteKeyed(kind byte, key, suffix []byte) {
	w.key = appendKeyedKey(w.key[:0], kind, key, suffix)
	w.op(opDelete, w.key)
}

func (w *WriteSet) op(kind byte, key []byte) {
	w.buf = append(w.buf, kind)
	w.value(key)
	w.count++
}

func (w *WriteSet) value(v []byte) {
	w.buf = binary.AppendUvarint(w.buf, uint64(len(v)))
	w.buf = append(w.buf, v...)
}

// Bytes are what an entry carries. They are valid until the next call of a method that changes the write set.
func (w *WriteSet) Bytes() []byte {
	binary.LittleEndian.PutUint32(w.buf[8:], w.count)
	return w.buf
}

// Len is the number of bytes so far, 0 if the write set is empty.
func (w *WriteSet) Len() int {
	if w.count == 0 {
		return 0
	}
	return len(w.buf)
}

// Empty reports whether the write set does nothing.
func (w *WriteSet) Empty() bool { return w.count == 0 }

// writeReader takes the bytes of a write set apart, trusting nothing.
type writeReader struct {
	rest []byte
	left uint32
}

func readWrites(writeSet []byte) (writeReader, error) {
	if len(writeSet) < writeHeaderLen || !bytes.Equal(writeSet[:8], make([]byte, 8)) {
		return writeReader{}, fmt.Errorf("malformed write set: bad header")
	}
	return writeReader{rest: writeSet[writeHeaderLen:], left: binary.LittleEndian.Uint32(writeSet[8:])}, nil
}

// next returns the next operation, or ok=false at the end.
func (r *writeReader) next() (del bool, key, value []byte, ok bool, err error) {
	if r.left == 0 {
		if len(r.rest) != 0 {
			return false, nil, nil, false, fmt.Errorf("malformed write set: %d bytes after the last operation", len(r.rest))
		}
		return false, nil, nil, false, nil
	}
	if len(r.rest) == 0 || r.rest[0] > opSet {
		return false, nil, nil, false, fmt.Errorf("malformed write set: missing or unknown operation")
	}
	del = r.rest[0] == opDelete
	r.rest = r.rest[1:]
	if key, ok = r.bytes(); ok && !del {
		value, ok = r.bytes()
	}
	if !ok {
		return false, nil, nil, false, fmt.Errorf("malformed write set: operation cut short")
	}
	r.left--
	return del, key, value, true, nil
}

// bytes reads a length and as many bytes. Lengths are at most five bytes long, which is all that Pebble reads.
func (r *writeReader) bytes() ([]byte, bool) {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 || used > binary.MaxVarintLen32 || n > uint64(len(r.rest)-used) {
		return nil, false
	}
	b := r.rest[used : used+int(n)]
	r.rest = r.rest[used+int(n):]
	return b, true
}

// checkWriteSet says what is wrong with the bytes of a write set, if anything is.
func checkWriteSet(writeSet []byte) error {
	r, err := readWrites(writeSet)
	if err != nil {
		return err
	}
	for {
		del, key, _, ok, err := r.next()
		if err != nil || !ok {
			return err
		}
		if err := checkWrite(key, del); err != nil {
			return fmt.Errorf("write set refused: %w", err)
		}
	}
}

// DecodeWrites calls fn for each version of a user key in the bytes of a write set, in the order in which they were put.
// key and v are valid only during the call; v.Value aliases writeSet.
func DecodeWrites(writeSet []byte, fn func(key []byte, v *Version) error) error {
	if len(writeSet) == 0 {
		return nil
	}
	r, err := readWrites(writeSet)
	if err != nil {
		return err
	}
	var v Version
	for {
		del, k, value, ok, err := r.next()
		if err != nil || !ok {
			return err
		}
		if del || len(k) == 0 || k[0] != classUser {
			continue
		}
		key, rev, ok := splitVersionKey(k)
		if !ok {
			return fmt.Errorf("malformed write set: bad version key %x", k)
		}
		if err := decodeVersion(value, rev, &v); err != nil {
			return err
		}
		if err := fn(key, &v); err != nil {
			return err
		}
	}
}
