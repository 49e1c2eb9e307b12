package ids

import (
	"bytes"
	"fmt"
)

// A key here is an addressed key: one space byte followed by the key proper. System keys sort below user keys, and no
// range spans the boundary, so that one kind of descriptor and one cache serve both spaces.
const (
	// SpaceSystem is the first byte of keys of unversioned cluster state (leases, auth, settings).
	SpaceSystem byte = 0x01
	// SpaceUser is the first byte of the keys that clients see, which are versioned (MVCC).
	SpaceUser byte = 0x02
	// spaceEnd is the first byte above every key.
	spaceEnd byte = 0x03
)

// The bounds of the two spaces. They must not be modified.
var (
	SystemSpan = Span{Start: []byte{SpaceSystem}, End: []byte{SpaceUser}}
	UserSpace  = Span{Start: []byte{SpaceUser}, End: []byte{spaceEnd}}
)

// UserKey returns the addressed key of an etcd key.
func UserKey(key []byte) []byte {
	k := make([]byte, 1+len(key))
	k[0] = SpaceUser
	copy(k[1:], key)
	return k
}

// EtcdKey returns the etcd key of an addressed user key; the result aliases its argument.
func EtcdKey(addressed []byte) []byte { return addressed[1:] }

// Span is a half-open slice [Start, End) of the one key order. Both bounds are addressed keys and never empty in a
// valid span. Spans are values; their bytes must not be modified.
type Span struct{ Start, End []byte }

// UserSpan translates the key and range_end of an etcd request: an empty rangeEnd means the single key, a rangeEnd of
// one zero byte means every key from key on. The span is empty if rangeEnd is not above key.
func UserSpan(key, rangeEnd []byte) Span {
	start := UserKey(key)
	switch {
	case len(rangeEnd) == 0:
		return Span{Start: start, End: Next(start)}
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		return Span{Start: start, End: UserSpace.End}
	}
	return Span{Start: start, End: UserKey(rangeEnd)}
}

// Next returns the least key above key.
func Next(key []byte) []byte {
	n := make([]byte, len(key)+1)
	copy(n, key)
	return n
}

// Single reports whether the span holds exactly one possible key.
func (s Span) Single() bool {
	n := len(s.Start)
	return len(s.End) == n+1 && s.End[n] == 0 && bytes.Equal(s.End[:n], s.Start)
}

// Empty reports whether no key lies in the span.
func (s Span) Empty() bool { return bytes.Compare(s.Start, s.End) >= 0 }

// Contains reports whether key lies in the span.
func (s Span) Contains(key []byte) bool {
	return bytes.Compare(s.Start, key) <= 0 && bytes.Compare(key, s.End) < 0
}

// Covers reports whether all of o lies in the span.
func (s Span) Covers(o Span) bool {
	return bytes.Compare(s.Start, o.Start) <= 0 && bytes.Compare(o.End, s.End) <= 0
}

// Overlaps reports whether the spans share a key.
func (s Span) Overlaps(o Span) bool {
	return bytes.Compare(s.Start, o.End) < 0 && bytes.Compare(o.Start, s.End) < 0
}

// Intersect returns what the spans share; it is empty if they share nothing.
func (s Span) Intersect(o Span) Span {
	if bytes.Compare(s.Start, o.Start) < 0 {
		s.Start = o.Start
	}
	if bytes.Compare(o.End, s.End) < 0 {
		s.End = o.End
	}
	return s
}

// String prints the bounds with the space byte as a word: user["a","b").
func (s Span) String() string {
	return fmt.Sprintf("[%s,%s)", KeyString(s.Start), KeyString(s.End))
}

// KeyString prints an addressed key for people.
func KeyString(k []byte) string {
	if len(k) == 0 {
		return "-"
	}
	switch k[0] {
	case SpaceSystem:
		return fmt.Sprintf("system:%q", k[1:])
	case SpaceUser:
		return fmt.Sprintf("%q", k[1:])
	}
	return "max"
}
