package storage

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// stepsBeforeSeek is how many newer versions of a key are stepped over before a seek is cheaper.
const stepsBeforeSeek = 4

// Scan calls fn for the keys of a span that live at a revision, in key order (or from the end with opt.Reverse), until
// it returns false. Key and version are valid only during the call; fn may read the same view.
func (v *View) Scan(span ids.Span, at ids.Revision, opt ScanOptions, fn func(key []byte, ver *Version) (more bool)) error {
	var ver Version
	return v.scan(span, at, opt.Reverse, func(key []byte, rev ids.Revision, record []byte) (bool, error) {
		if err := decodeVersion(record, rev, &ver); err != nil {
			return false, v.e.corrupt("%s: %w", ids.KeyString(key), err)
		}
		if opt.WithoutValue {
			ver.Value = nil
		}
		return fn(key, &ver), nil
	})
}

// Count returns how many keys of a span live at a revision. It decodes no record.
func (v *View) Count(span ids.Span, at ids.Revision) (n int64, err error) {
	err = v.scan(span, at, false, func([]byte, ids.Revision, []byte) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}

// scan finds for each key the newest version at or below a revision and hands over those that are not tombstones.
func (v *View) scan(span ids.Span, at ids.Revision, reverse bool,
	fn func(key []byte, rev ids.Revision, record []byte) (bool, error),
) error {
	span = span.Intersect(ids.UserSpace)
	if span.Empty() || at <= 0 {
		return nil
	}
	c, err := v.within(func(c *cursor) {
		c.lower, c.upper = appendPrefix(c.lower[:0], span.Start), appendPrefix(c.upper[:0], span.End)
	})
	if err != nil {
		return err
	}
	c.busy = true
	defer func() { c.busy = false }()
	if reverse {
		err = v.scanReverse(c.it, at, fn)
	} else {
		err = v.scanForward(c.it, at, fn)
	}
	if err != nil {
		return v.e.wrap(err)
	}
	return v.e.wrap(c.it.Error())
}

func (v *View) scanForward(it *pebble.Iterator, at ids.Revision,
	fn func(key []byte, rev ids.Revision, record []byte) (bool, error),
) error {
	var seek []byte
	steps := 0 // over versions newer than at, of the key the iterator is on
	for ok := it.First(); ok; {
		key, rev, valid := splitVersionKey(it.Key())
		if !valid {
			return v.e.corrupt("bad version key %x", it.Key())
		}
		if rev > at {
			// The next version may belong to another key, so counting steps is a guess; a seek is right anyway.
			if steps++; steps < stepsBeforeSeek {
				ok = it.Next()
				continue
			}
			steps = 0
			seek = appendVersionKey(seek[:0], key, at)
			ok = it.SeekGE(seek)
			continue
		}
		steps = 0
		record, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if !isTombstone(record) {
			more, err := fn(key, rev, record)
			if err != nil || !more {
				return err
			}
		}
		ok = it.NextPrefix()
	}
	return nil
}

// scanReverse stands on the oldest version of a key, seeks the one that counts, and goes before the key.
func (v *View) scanReverse(it *pebble.Iterator, at ids.Revision,
	fn func(key []byte, rev ids.Revision, record []byte) (bool, error),
) error {
	var seek, prefix []byte
	for ok := it.Last(); ok; ok = it.SeekLT(prefix) {
		key, rev, valid := splitVersionKey(it.Key())
		if !valid {
			return v.e.corrupt("bad version key %x", it.Key())
		}
		prefix = appendPrefix(prefix[:0], key)
		if rev > at {
			continue // even the oldest is too new
		}
		seek = appendVersionKey(seek[:0], key, at)
		if !it.SeekGE(seek) {
			return v.lost(it, key)
		}
		key, rev, valid = splitVersionKey(it.Key())
		if !valid || !bytes.Equal(key, prefix[:len(prefix)-1]) {
			return v.lost(it, key)
		}
		record, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if isTombstone(record) {
			continue
		}
		more, err := fn(key, rev, record)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// lost is the error of a seek that misses a version which was just there.
func (v *View) lost(it *pebble.Iterator, key []byte) error {
	if err := it.Error(); err != nil {
		return err
	}
	return v.e.corrupt("%s: a version vanished during a scan", ids.KeyString(key))
}
