package storage

import (
	"encoding/binary"
	"fmt"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// A version record is
//
//	flags(1) [uvarint(mod - create) uvarint(version)] [lease(8)] [uvarint(op)] value
//
// where a tombstone has neither the first bracket nor a value, and the others are there if their flag is set. The
// revision itself is in the key.
const (
	flagTombstone byte = 1 << iota
	flagLease
	flagOp
	flagsKnown = flagTombstone | flagLease | flagOp
)

// appendVersionHeader appends the record of v up to its value.
func appendVersionHeader(dst []byte, v *Version) []byte {
	at := len(dst)
	dst = append(dst, 0)
	flags := byte(0)
	if v.Tombstone {
		flags |= flagTombstone
	} else {
		dst = binary.AppendUvarint(dst, uint64(v.Mod-v.Create))
		dst = binary.AppendUvarint(dst, uint64(v.Version))
	}
	if v.Lease != 0 {
		flags |= flagLease
		dst = binary.BigEndian.AppendUint64(dst, uint64(v.Lease))
	}
	if v.Op != 0 {
		flags |= flagOp
		dst = binary.AppendUvarint(dst, uint64(v.Op))
	}
	dst[at] = flags
	return dst
}

// isTombstone looks at nothing but a record's flags.
func isTombstone(record []byte) bool { return len(record) > 0 && record[0]&flagTombstone != 0 }

// decodeVersion reads the record of revision mod into v, every field. v.Value aliases record; it is not nil unless v is
// a tombstone.
func decodeVersion(record []byte, mod ids.Revision, v *Version) error {
	*v = Version{Mod: mod}
	if len(record) == 0 || record[0]&^flagsKnown != 0 {
		return errBadVersion(mod)
	}
	flags, p := record[0], record[1:]
	if flags&flagTombstone != 0 {
		v.Tombstone = true
	} else {
		age, n := binary.Uvarint(p)
		if n <= 0 || age >= uint64(mod) {
			return errBadVersion(mod)
		}
		p = p[n:]
		count, n := binary.Uvarint(p)
		if n <= 0 {
			return errBadVersion(mod)
		}
		p = p[n:]
		v.Create, v.Version = mod-ids.Revision(age), int64(count)
	}
	if flags&flagLease != 0 {
		if len(p) < 8 {
			return errBadVersion(mod)
		}
		v.Lease, p = int64(binary.BigEndian.Uint64(p)), p[8:]
	}
	if flags&flagOp != 0 {
		op, n := binary.Uvarint(p)
		if n <= 0 || op > 1<<32-1 {
			return errBadVersion(mod)
		}
		v.Op, p = uint32(op), p[n:]
	}
	if v.Tombstone {
		if len(p) != 0 {
			return errBadVersion(mod)
		}
		return nil
	}
	v.Value = p
	return nil
}

func errBadVersion(mod ids.Revision) error {
	return fmt.Errorf("malformed record of revision %d", mod)
}
