package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// The engine's keys. Pebble sees a prefix that ends in one zero byte, and for versions a suffix of nine bytes: the
// revision, newest first, and the suffix's length. The comparer is Pebble's cockroachkvs, whose columnar key schema and
// block property know exactly this form.
//
//	class                 key                                             prefix end   suffix
//	01 system             the addressed system key (space byte 01 first)       00
//	02 user               the addressed user key   (space byte 02 first)       00      revision(8) 09
//	10 node               name                                                 00
//	11 by range id        range(8) 01  tombstone: newest replica removed here  00
//	                      range(8) 02  replica id                              00
//	                      range(8) 03  hard state                              00
//	                      range(8) 04  applied                                 00
//	                      range(8) 05  truncated                               00
//	                      range(8) 06  descriptor                              00
//	                      range(8) 07  configuration                           00
//	                      range(8) 10 index(8)  log entry                      00
//	12 by user key        kind(1) escaped(addressed key) 00 01 suffix          00
//
// An addressed key is its own engine prefix, so nothing is rewritten on the hot path. A zero byte inside an addressed
// key needs no escape: appending one zero to each of two keys keeps their order. Only the class by user key joins two
// strings, and there a zero byte of the key becomes 00 ff. A range's share is one contiguous span of each of: the system
// or user class (a range lies in one of them), the class by range id, and each kind of the class by user key.
//
// A bound for a key k is k 00: it sorts before every version of k, and it is all prefix, as excising demands.
const (
	classSystem  byte = ids.SpaceSystem
	classUser    byte = ids.SpaceUser
	classNode    byte = 0x10
	classRangeID byte = 0x11
	classKeyed   byte = 0x12

	kindTombstone  byte = 0x01
	kindReplica    byte = 0x02
	kindHardState  byte = 0x03
	kindApplied    byte = 0x04
	kindTruncated  byte = 0x05
	kindDescriptor byte = 0x06
	kindConfState  byte = 0x07
	kindLogEntry   byte = 0x10

	// KeyedKindMax is the greatest kind of state by user key; the least is 1.
	KeyedKindMax byte = 15

	versionSuffixLen = 9
	rangeKeyLen      = 1 + 8 + 1 + 1
	logKeyLen        = rangeKeyLen + 8
)

// formatVersion is the version of this layout and of the records in it. It is stored under nodeKey(formatName).
const (
	formatVersion = 1
	formatName    = "format"
)

func appendNodeKey(dst []byte, name string) []byte {
	dst = append(dst, classNode)
	dst = append(dst, name...)
	return append(dst, 0)
}

// appendPrefix appends the engine prefix of an addressed key, which is also the bound for it.
func appendPrefix(dst, key []byte) []byte {
	dst = append(dst, key...)
	return append(dst, 0)
}

// appendVersionKey appends the engine key of one version of an addressed user key.
func appendVersionKey(dst, key []byte, rev ids.Revision) []byte {
	dst = append(dst, key...)
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(rev))
	return append(dst, versionSuffixLen)
}

// splitVersionKey takes an engine key of the user class apart. key aliases k; ok is false if k has another form.
func splitVersionKey(k []byte) (key []byte, rev ids.Revision, ok bool) {
	n := len(k) - versionSuffixLen - 1
	if n < 1 || k[0] != classUser || k[len(k)-1] != versionSuffixLen || k[n] != 0 {
		return nil, 0, false
	}
	rev = ids.Revision(binary.BigEndian.Uint64(k[n+1:]))
	return k[:n], rev, rev > 0
}

// splitSystemKey returns the addressed key of an engine key of the system class.
func splitSystemKey(k []byte) (key []byte, ok bool) {
	if len(k) < 2 || k[0] != classSystem || k[len(k)-1] != 0 {
		return nil, false
	}
	return k[:len(k)-1], true
}

// appendRangeKey appends the key of one piece of a range's state.
func appendRangeKey(dst []byte, r ids.RangeID, kind byte) []byte {
	dst = append(dst, classRangeID)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r))
	return append(dst, kind, 0)
}

func appendLogKey(dst []byte, r ids.RangeID, index uint64) []byte {
	dst = append(dst, classRangeID)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r))
	dst = append(dst, kindLogEntry)
	dst = binary.BigEndian.AppendUint64(dst, index)
	return append(dst, 0)
}

// appendLogEnd appends the bound above all log entries of r.
func appendLogEnd(dst []byte, r ids.RangeID) []byte {
	return appendRangeKey(dst, r, kindLogEntry+1)
}

// splitRangeKey takes a key of the class by range id apart; index is set for log entries only.
func splitRangeKey(k []byte) (r ids.RangeID, kind byte, index uint64, ok bool) {
	if len(k) < rangeKeyLen || k[0] != classRangeID || k[len(k)-1] != 0 {
		return 0, 0, 0, false
	}
	r, kind = ids.RangeID(binary.BigEndian.Uint64(k[1:])), k[9]
	switch {
	case kind == kindLogEntry && len(k) == logKeyLen:
		return r, kind, binary.BigEndian.Uint64(k[10:]), true
	case kind != kindLogEntry && len(k) == rangeKeyLen:
		return r, kind, 0, true
	}
	return 0, 0, 0, false
}

// appendRangeEnd appends the bound above all state of r by range id.
func appendRangeEnd(dst []byte, r ids.RangeID) []byte {
	if r+1 == 0 {
		return append(dst, classKeyed, 0)
	}
	dst = append(dst, classRangeID)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r+1))
	return append(dst, 0)
}

// appendEscaped appends key with each 00 turned into 00 ff.
func appendEscaped(dst, key []byte) []byte {
	for {
		i := bytes.IndexByte(key, 0)
		if i < 0 {
			return append(dst, key...)
		}
		dst = append(dst, key[:i]...)
		dst = append(dst, 0, 0xff)
		key = key[i+1:]
	}
}

// appendKeyedKey appends the engine key of a piece of state by user key.
func appendKeyedKey(dst []byte, kind byte, key, suffix []byte) []byte {
	dst = append(dst, classKeyed, kind)
	dst = appendEscaped(dst, key)
	dst = append(dst, 0, 1)
	dst = append(dst, suffix...)
	return append(dst, 0)
}

// appendKeyedBound appends the bound below all state of that kind at key and above.
func appendKeyedBound(dst []byte, kind byte, key []byte) []byte {
	dst = append(dst, classKeyed, kind)
	dst = appendEscaped(dst, key)
	return append(dst, 0)
}

// splitKeyedKey is the inverse of appendKeyedKey. The key is appended to buf; the suffix aliases k.
func splitKeyedKey(buf, k []byte) (kind byte, key, suffix []byte, ok bool) {
	if len(k) < 5 || k[0] != classKeyed || k[1] == 0 || k[1] > KeyedKindMax || k[len(k)-1] != 0 {
		return 0, nil, nil, false
	}
	kind, k = k[1], k[2:len(k)-1]
	for {
		i := bytes.IndexByte(k, 0)
		if i < 0 || i+1 >= len(k) {
			return 0, nil, nil, false
		}
		buf = append(buf, k[:i]...)
		mark := k[i+1]
		k = k[i+2:]
		switch mark {
		case 0xff:
			buf = append(buf, 0)
		case 1:
			return kind, buf, k, true
		default:
			return 0, nil, nil, false
		}
	}
}

// checkWrite says whether an entry may write this key: only the replicated classes, in exactly their form.
func checkWrite(k []byte, del bool) error {
	if len(k) == 0 {
		return fmt.Errorf("empty key")
	}
	ok := false
	switch k[0] {
	case classUser:
		_, _, ok = splitVersionKey(k)
		ok = ok && !del // versions go by GC only
	case classSystem:
		_, ok = splitSystemKey(k)
	case classKeyed:
		_, _, _, ok = splitKeyedKey(nil, k)
	}
	if !ok {
		return fmt.Errorf("key %x is not replicated state", k)
	}
	return nil
}

// dataSpan is the span of addressed keys whose data belongs to a range. The placement group owns no span in the one key
// order; on its own engine it has all of the system class.
func dataSpan(d *ids.Descriptor) ids.Span {
	if d.ID == ids.PlacementRange && d.Span.Empty() {
		return ids.SystemSpan
	}
	return d.Span
}
