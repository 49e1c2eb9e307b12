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

// scanReverse goes over each key's versions from the oldest up, keeps the last one that counts, and hands it over when
// it stands before the key.
func (v *View) scanReverse(it *pebble.Iterator, at ids.Revision,
	fn func(key []byte, rev ids.Revision, record []byte) (bool, error),
) error {
	var r reverseKey
	for ok := it.Last(); ok; {
		var err error
		if ok, err = r.collect(v, it, at); err != nil {
			return err
		}
		if r.rev == 0 || isTombstone(r.record) {
			continue
		}
		more, err := fn(r.prefix[:len(r.prefix)-1], r.rev, r.record)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// reverseKey is the version of one key that counts, copied, since the iterator has left it.
type reverseKey struct {
	prefix, record, seek []byte
	rev                  ids.Revision // 0: all versions are too new
}

// collect starts at a key's oldest version and leaves the iterator before the key, ok=false at the end of the span.
func (r *reverseKey) collect(v *View, it *pebble.Iterator, at ids.Revision) (ok bool, err error) {
	r.rev = 0
	for steps := 0; ; steps++ {
		key, rev, valid := splitVersionKey(it.Key())
		if !valid {
			return false, v.e.corrupt("bad version key %x", it.Key())
		}
		if steps == 0 {
			r.prefix = appendPrefix(r.prefix[:0], key)
		} else if !bytes.Equal(key, r.prefix[:len(r.prefix)-1]) {
			return true, nil
		}
		if rev > at {
			return it.SeekLT(r.prefix), it.Error()
		}
		record, err := it.ValueAndErr()
		if err != nil {
			return false, err
		}
		r.rev, r.record = rev, append(r.record[:0], record...)
		if steps == stepsBeforeSeek {
			return r.jump(v, it, at)
		}
		if !it.Prev() {
			return false, it.Error()
		}
	}
}

// jump seeks the version that counts instead of stepping to it.
func (r *reverseKey) jump(v *View, it *pebble.Iterator, at ids.Revision) (ok bool, err error) {
	r.seek = appendVersionKey(r.seek[:0], r.prefix[:len(r.prefix)-1], at)
	if !it.SeekGE(r.seek) {
		return false, v.lost(it, r.prefix)
	}
	key, rev, valid := splitVersionKey(it.Key())
	if !valid || !bytes.Equal(key, r.prefix[:len(r.prefix)-1]) {
		return false, v.lost(it, r.prefix)
	}
	record, err := it.ValueAndErr()
	if err != nil {
		return false, err
	}
	r.rev, r.record = rev, append(r.record[:0], record...)
	return it.SeekLT(r.prefix), it.Error()
}

// lost is the error of a seek that misses a version which was just there.
func (v *View) lost(it *pebble.Iterator, key []byte) error {
	if err := it.Error(); err != nil {
		return err
	}
	return v.e.corrupt("%s: a version vanished during a scan", ids.KeyString(key))
}
