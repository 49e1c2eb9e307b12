package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// A snapshot of a range is a stream of chunks in the order of engine keys: the range's versions (or system keys), then
// its state by user key, kind by kind.
//
//	data chunk   01  { uvarint(len) engine key  uvarint(len) value } …
//	end chunk    02  records(8)  crc32c of the bytes of all data chunks after their first byte (4)
const (
	chunkData byte = 1
	chunkEnd  byte = 2
	// chunkBytesMax bounds a chunk, unless a single record is larger.
	chunkBytesMax = 1 << 20
	chunkEndLen   = 1 + 8 + 4
)

// Export is a pinned view of one range, from which a snapshot is sent.
type Export struct {
	// State is the range's state at the moment of the view; the data is exactly that of State.Applied.
	State RangeState

	v       *View
	emit    func(chunk []byte) error
	chunk   []byte
	records uint64
	sum     uint32
}

// NewExport pins a range as it is now.
func (e *Engine) NewExport(r ids.RangeID) (*Export, error) {
	x := &Export{v: e.View()}
	c, err := x.v.within(func(c *cursor) {
		c.lower, c.upper = appendRangeKey(c.lower[:0], r, 0), appendRangeEnd(c.upper[:0], r)
	})
	if err != nil {
		x.Close()
		return nil, err
	}
	s, ok, err := e.readState(c.it, r)
	if err == nil && !ok {
		err = fmt.Errorf("storage: no replica of range %d to take a snapshot of", r)
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	x.State = s
	return x, nil
}

// Close lets go of the view.
func (x *Export) Close() { x.v.Close() }

// Export sends a snapshot of the state s, which must be what the range is at now: NewExport and Send in one, for a caller
// that holds the range still meanwhile.
func (e *Engine) Export(ctx context.Context, s RangeState, emit func(chunk []byte) error) error {
	x, err := e.NewExport(s.Descriptor.ID)
	if err != nil {
		return err
	}
	defer x.Close()
	if x.State.Applied.Index != s.Applied.Index {
		return fmt.Errorf("storage: snapshot of range %d at index %d wanted, it is at %d",
			s.Descriptor.ID, s.Applied.Index, x.State.Applied.Index)
	}
	return x.Send(ctx, emit)
}

// Send emits the snapshot: the versions above the physical floor G and each key's last one below (unless that is a
// tombstone below G), and all state by user key. A chunk belongs to emit. An error of emit ends it.
func (x *Export) Send(ctx context.Context, emit func(chunk []byte) error) error {
	x.emit, x.records, x.sum = emit, 0, 0
	span := dataSpan(x.State.Descriptor)
	send := func(fn func(key, value []byte) error, lower, upper []byte) error {
		c, err := x.v.within(func(c *cursor) {
			c.lower, c.upper = append(c.lower[:0], lower...), append(c.upper[:0], upper...)
		})
		if err != nil {
			return err
		}
		return x.v.plainScan(c, func(k, value []byte) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			return true, fn(k, value)
		})
	}
	data := x.add
	if !ids.SystemSpan.Covers(span) {
		data = x.versionFilter(x.State.Applied.GCFloor)
	}
	if err := send(data, appendPrefix(nil, span.Start), appendPrefix(nil, span.End)); err != nil {
		return err
	}
	for kind := byte(1); kind <= KeyedKindMax; kind++ {
		lower, upper := appendKeyedBound(nil, kind, span.Start), appendKeyedBound(nil, kind, span.End)
		if err := send(x.add, lower, upper); err != nil {
			return err
		}
	}
	if err := x.flush(); err != nil {
		return err
	}
	end := append(make([]byte, 0, chunkEndLen), chunkEnd)
	end = binary.BigEndian.AppendUint64(end, x.records)
	return emit(binary.BigEndian.AppendUint32(end, x.sum))
}

// versionFilter returns a function that adds the versions which a replica with floor G must have and leaves out those
// that GC may have removed or will remove.
func (x *Export) versionFilter(floor ids.Revision) func(k, value []byte) error {
	var below []byte // the key whose last version at or below the floor was seen
	return func(k, value []byte) error {
		key, rev, ok := splitVersionKey(k)
		if !ok {
			return x.v.e.corrupt("bad version key %x", k)
		}
		if rev > floor {
			return x.add(k, value)
		}
		if below != nil && string(below) == string(key) {
			return nil
		}
		below = append(below[:0], key...)
		if isTombstone(value) && rev < floor {
			return nil
		}
		return x.add(k, value)
	}
}

func (x *Export) add(k, value []byte) error {
	need := len(k) + len(value) + 2*binary.MaxVarintLen32
	if len(x.chunk) > 0 && len(x.chunk)+need > chunkBytesMax {
		if err := x.flush(); err != nil {
			return err
		}
	}
	if len(x.chunk) == 0 {
		x.chunk = append(make([]byte, 0, min(chunkBytesMax, 64<<10)+need), chunkData)
	}
	x.chunk = binary.AppendUvarint(x.chunk, uint64(len(k)))
	x.chunk = append(x.chunk, k...)
	x.chunk = binary.AppendUvarint(x.chunk, uint64(len(value)))
	x.chunk = append(x.chunk, value...)
	x.records++
	return nil
}

func (x *Export) flush() error {
	if len(x.chunk) == 0 {
		return nil
	}
	chunk := x.chunk
	x.chunk = nil
	x.sum = crc32.Update(x.sum, castagnoli(), chunk[1:])
	return x.emit(chunk)
}

// castagnoli is the table of CRC-32C, for which processors have an instruction.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

var errSnapshot = errors.New("malformed snapshot")
