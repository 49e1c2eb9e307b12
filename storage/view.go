package storage

import (
	"bytes"
	"errors"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/cockroachkvs"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// View is a pinned read of the engine: it sees exactly what was committed when it was made. Make one per request or
// batch of requests; its first iterator is opened at once and used for everything, more of them (all of the same state)
// only while a scan's callback reads. A view keeps memtables and tables alive, so it is closed soon. It belongs to one
// goroutine at a time.
type View struct {
	e       *Engine
	cursors []*cursor // cursors[0] pins the view
	err     error     // of opening it
	key     []byte
}

// cursor is an iterator and what it is being used for.
type cursor struct {
	it      *pebble.Iterator
	busy    bool // a scan is running over it
	bounded bool // it has bounds, which point reads must lift
	lower   []byte
	upper   []byte
}

var viewPool = sync.Pool{New: func() any { return new(View) }}

// View pins the present state. An error of opening it is returned by the first read.
func (e *Engine) View() *View {
	v := viewPool.Get().(*View)
	v.e = e
	it, err := e.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	v.err = e.wrap(err)
	if v.err != nil {
		return v
	}
	if cap(v.cursors) > 0 { // the pool keeps a view's first cursor for its buffers
		v.cursors = v.cursors[:1]
		v.cursors[0].it = it
		return v
	}
	v.cursors = append(v.cursors, &cursor{it: it})
	return v
}

// Close lets go of the pinned state. It may be called twice, but not after the view was handed to somebody else.
func (v *View) Close() {
	if v.e == nil {
		return
	}
	for _, c := range v.cursors {
		_ = c.it.Close() // its errors were reported by the reads
		c.it, c.busy, c.bounded = nil, false, false
	}
	v.cursors = v.cursors[:0]
	v.e, v.err = nil, nil
	viewPool.Put(v)
}

// cursor returns one that is not in use.
func (v *View) cursor() (*cursor, error) {
	if v.err != nil {
		return nil, v.err
	}
	if v.e == nil {
		return nil, errViewClosed
	}
	for _, c := range v.cursors {
		if !c.busy {
			return c, nil
		}
	}
	it, err := v.cursors[0].it.Clone(pebble.CloneOptions{})
	if err != nil {
		return nil, v.e.wrap(err)
	}
	c := &cursor{it: it, bounded: true} // the clone has the bounds of the first
	v.cursors = append(v.cursors, c)
	return c, nil
}

// points returns a cursor without bounds, for reads of single keys.
func (v *View) points() (*cursor, error) {
	c, err := v.cursor()
	if err == nil && c.bounded {
		c.it.SetBounds(nil, nil)
		c.bounded = false
	}
	return c, err
}

// within returns a cursor whose bounds are set, by the caller, in c.lower and c.upper.
func (v *View) within(bounds func(c *cursor)) (*cursor, error) {
	c, err := v.cursor()
	if err != nil {
		return nil, err
	}
	bounds(c)
	c.it.SetBounds(c.lower, c.upper)
	c.bounded = true
	return c, nil
}

var errViewClosed = errors.New("storage: read of a closed view")

// Get returns the newest version at or below a revision, found=false if there is none or it is a tombstone. The value
// belongs to the caller.
func (v *View) Get(key []byte, at ids.Revision, opt ScanOptions) (ver Version, found bool, err error) {
	if at <= 0 {
		return Version{}, false, nil
	}
	c, err := v.points()
	if err != nil {
		return Version{}, false, err
	}
	v.key = appendVersionKey(v.key[:0], key, at)
	found, err = v.first(c.it, v.key, &ver)
	if err != nil || !found || ver.Tombstone {
		return Version{}, false, err
	}
	if opt.WithoutValue {
		ver.Value = nil
	} else {
		ver.Value = append([]byte{}, ver.Value...)
	}
	return ver, true, nil
}

// Latest returns the newest version of a key, tombstones too, without its value. It is found=false only if the key has
// no version at all: it never existed, or GC removed its tombstone.
func (v *View) Latest(key []byte) (ver Version, found bool, err error) {
	c, err := v.points()
	if err != nil {
		return Version{}, false, err
	}
	v.key = appendPrefix(v.key[:0], key)
	found, err = v.first(c.it, v.key, &ver)
	ver.Value = nil
	return ver, found, err
}

// LatestValue is Latest with the value, which belongs to the caller.
func (v *View) LatestValue(key []byte) (ver Version, found bool, err error) {
	c, err := v.points()
	if err != nil {
		return Version{}, false, err
	}
	v.key = appendPrefix(v.key[:0], key)
	found, err = v.first(c.it, v.key, &ver)
	if found && !ver.Tombstone {
		ver.Value = append([]byte{}, ver.Value...)
	}
	return ver, found, err
}

// first decodes the first version at or after an engine key within the key's prefix. The value aliases the iterator's.
func (v *View) first(it *pebble.Iterator, engineKey []byte, ver *Version) (bool, error) {
	if !it.SeekPrefixGE(engineKey) {
		return false, v.e.wrap(it.Error())
	}
	_, rev, ok := splitVersionKey(it.Key())
	if !ok {
		return false, v.e.corrupt("bad version key %x", it.Key())
	}
	record, err := it.ValueAndErr()
	if err != nil {
		return false, v.e.wrap(err)
	}
	if err := decodeVersion(record, rev, ver); err != nil {
		return false, v.e.corrupt("%s: %w", ids.KeyString(engineKey), err)
	}
	return true, nil
}

// exact returns the value of a key without versions. It belongs to the caller.
func (v *View) exact(engineKey []byte) ([]byte, bool, error) {
	c, err := v.points()
	if err != nil {
		return nil, false, err
	}
	if !c.it.SeekPrefixGE(engineKey) {
		return nil, false, v.e.wrap(c.it.Error())
	}
	if !bytes.Equal(c.it.Key(), engineKey) {
		return nil, false, nil
	}
	value, err := c.it.ValueAndErr()
	if err != nil {
		return nil, false, v.e.wrap(err)
	}
	return append([]byte{}, value...), true, nil
}

// GetSystem returns the value of an addressed system key. It belongs to the caller.
func (v *View) GetSystem(key []byte) ([]byte, bool, error) {
	v.key = appendPrefix(v.key[:0], key)
	return v.exact(v.key)
}

// GetKeyed returns a piece of state by user key (see WriteSet.PutKeyed). It belongs to the caller.
func (v *View) GetKeyed(kind byte, key, suffix []byte) ([]byte, bool, error) {
	v.key = appendKeyedKey(v.key[:0], kind, key, suffix)
	return v.exact(v.key)
}

// ScanSystem calls fn for the system keys of a span in order, until it returns false. Key and value are valid only
// during the call.
func (v *View) ScanSystem(span ids.Span, fn func(key, value []byte) (more bool)) error {
	span = span.Intersect(ids.SystemSpan)
	if span.Empty() {
		return nil
	}
	c, err := v.within(func(c *cursor) {
		c.lower, c.upper = appendPrefix(c.lower[:0], span.Start), appendPrefix(c.upper[:0], span.End)
	})
	if err != nil {
		return err
	}
	return v.plainScan(c, func(k, value []byte) (bool, error) {
		key, ok := splitSystemKey(k)
		if !ok {
			return false, v.e.corrupt("bad system key %x", k)
		}
		return fn(key, value), nil
	})
}

// ScanKeyed calls fn for the state by user key of one kind in a span, in order of key and then suffix, until it returns
// false. Its arguments are valid only during the call.
func (v *View) ScanKeyed(kind byte, span ids.Span, fn func(key, suffix, value []byte) (more bool)) error {
	if span.Empty() {
		return nil
	}
	c, err := v.within(func(c *cursor) {
		c.lower = appendKeyedBound(c.lower[:0], kind, span.Start)
		c.upper = appendKeyedBound(c.upper[:0], kind, span.End)
	})
	if err != nil {
		return err
	}
	var buf []byte
	return v.plainScan(c, func(k, value []byte) (bool, error) {
		_, key, suffix, ok := splitKeyedKey(buf[:0], k)
		if !ok {
			return false, v.e.corrupt("bad key %x in the class by user key", k)
		}
		buf = key
		return fn(key, suffix, value), nil
	})
}

// plainScan goes over all engine keys within the cursor's bounds.
func (v *View) plainScan(c *cursor, fn func(key, value []byte) (bool, error)) error {
	c.busy = true
	defer func() { c.busy = false }()
	for ok := c.it.First(); ok; ok = c.it.Next() {
		value, err := c.it.ValueAndErr()
		if err != nil {
			return v.e.wrap(err)
		}
		more, err := fn(c.it.Key(), value)
		if err != nil || !more {
			return err
		}
	}
	return v.e.wrap(c.it.Error())
}

// Versions calls fn for every version in (from, to] of the keys of a span, tombstones too: keys in order, each key's
// versions newest first, until fn returns false. Blocks and tables without such versions are not read. Key and version
// are valid only during the call.
func (v *View) Versions(span ids.Span, from, to ids.Revision, fn func(key []byte, ver *Version) (more bool)) error {
	span = span.Intersect(ids.UserSpace)
	if span.Empty() || to <= from {
		return nil
	}
	it, err := v.filtered(span, from+1, to)
	if err != nil {
		return err
	}
	return v.e.wrap(errors.Join(v.versions(it, from, to, fn), it.Error(), it.Close()))
}

func (v *View) versions(it *pebble.Iterator, from, to ids.Revision, fn func(key []byte, ver *Version) (more bool)) error {
	var ver Version
	for ok := it.First(); ok; ok = it.Next() {
		key, rev, valid := splitVersionKey(it.Key())
		if !valid {
			return v.e.corrupt("bad version key %x", it.Key())
		}
		if rev <= from || rev > to {
			continue
		}
		record, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := decodeVersion(record, rev, &ver); err != nil {
			return v.e.corrupt("%s: %w", ids.KeyString(key), err)
		}
		if !fn(key, &ver) {
			return nil
		}
	}
	return nil
}

// filtered opens an iterator over a span of user keys that skips blocks without revisions in [from, to]. It may return
// other revisions too, and hides deletions of a version only together with the version.
func (v *View) filtered(span ids.Span, from, to ids.Revision) (*pebble.Iterator, error) {
	if v.err != nil {
		return nil, v.err
	}
	filters := make([]pebble.BlockPropertyFilter, 1, 2)
	filters[0] = cockroachkvs.NewMVCCTimeIntervalFilter(uint64(from), uint64(to))
	it, err := v.cursors[0].it.Clone(pebble.CloneOptions{IterOptions: &pebble.IterOptions{
		LowerBound: appendPrefix(nil, span.Start), UpperBound: appendPrefix(nil, span.End), PointKeyFilters: filters,
	}})
	return it, v.e.wrap(err)
}
