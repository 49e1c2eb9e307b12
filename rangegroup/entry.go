package rangegroup

import (
	"encoding/binary"
	"fmt"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// entryKind is the first byte of an entry's data: what kind of command the entry is.
type entryKind byte

const (
	// entryWrites carries the versions that one or more requests wrote.
	entryWrites entryKind = 1
	// entryFloor raises the physical compaction floor G.
	entryFloor entryKind = 2
)

// entryHeader is what precedes the write set in an entry:
//
//	kind (1) | resolved (uvarint) | first (uvarint) | last (uvarint) | write set
//
// The write set is the batch that evaluation built, so that a follower applies it without encoding it again.
type entryHeader struct {
	kind entryKind
	// resolved is a claim of the leader that appended the entry: every event at or below it precedes this entry.
	resolved ids.Revision
	// first and last are the least and greatest revision in the entry; zero if there is none. For entryFloor, last is G.
	first, last ids.Revision
}

const entryHeaderMax = 1 + 3*binary.MaxVarintLen64

func (h entryHeader) append(dst []byte) []byte {
	dst = append(dst, byte(h.kind))
	dst = binary.AppendUvarint(dst, uint64(h.resolved))
	dst = binary.AppendUvarint(dst, uint64(h.first))
	return binary.AppendUvarint(dst, uint64(h.last))
}

// decodeEntry splits an entry's data. The write set aliases data.
func decodeEntry(data []byte) (h entryHeader, writes []byte, err error) {
	if len(data) == 0 {
		return h, nil, fmt.Errorf("entry without a kind")
	}
	h.kind = entryKind(data[0])
	if h.kind != entryWrites && h.kind != entryFloor {
		return h, nil, fmt.Errorf("entry of unknown kind %d: written by a newer version", data[0])
	}
	data = data[1:]
	for _, dst := range []*ids.Revision{&h.resolved, &h.first, &h.last} {
		v, n := binary.Uvarint(data)
		if n <= 0 || v > 1<<62 {
			return h, nil, fmt.Errorf("entry header is damaged")
		}
		*dst, data = ids.Revision(v), data[n:]
	}
	return h, data, nil
}
