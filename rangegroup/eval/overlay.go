package eval

import (
	"bytes"
	"slices"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
)

// evaluator is one request under evaluation: the state before it, and its own writes so far laid over that.
type evaluator struct {
	env    *Env
	writes []Write
	// newest holds the index of a key's last write once there are more than ownLinear writes; fewer are searched.
	newest map[string]int
	late   []lateRange

	// memo is the last key read from the state before the request, as a txn mostly compares and writes the same key.
	memo struct {
		key       []byte // addressed; nil: nothing yet
		version   storage.Version
		ok        bool
		withValue bool
	}
}

// ownLinear is the number of own writes up to which a search is cheaper than a map.
const ownLinear = 16

// revision is what an operation reports now: the revision before the request until that has written something.
func (e *evaluator) revision() ids.Revision {
	if len(e.writes) > 0 {
		return e.env.Self
	}
	return e.env.Self - 1
}

func (e *evaluator) write(w Write) {
	e.writes = append(e.writes, w)
	switch n := len(e.writes); {
	case n > ownLinear+1:
		e.newest[string(w.Key)] = n - 1
	case n == ownLinear+1:
		e.newest = make(map[string]int, 2*n)
		for i := range e.writes {
			e.newest[string(e.writes[i].Key)] = i
		}
	}
}

// own returns the request's last write of a key, nil if none.
func (e *evaluator) own(key []byte) *Write {
	if e.newest != nil {
		if i, ok := e.newest[string(key)]; ok {
			return &e.writes[i]
		}
		return nil
	}
	for i := len(e.writes) - 1; i >= 0; i-- {
		if bytes.Equal(e.writes[i].Key, key) {
			return &e.writes[i]
		}
	}
	return nil
}

// before reads an etcd key from the state before the request. It returns the addressed key, and live = false for a
// tombstone, too.
func (e *evaluator) before(etcdKey []byte, withValue bool) (key []byte, v storage.Version, live bool, err error) {
	m := &e.memo
	if m.key != nil && bytes.Equal(ids.EtcdKey(m.key), etcdKey) {
		if m.withValue || !withValue {
			return m.key, m.version, m.ok && !m.version.Tombstone, nil
		}
		key = m.key
	} else {
		key = ids.UserKey(etcdKey)
	}
	if err := e.env.checkKey(key); err != nil {
		return nil, v, false, err
	}
	m.version, m.ok, err = e.env.State.Latest(key, withValue)
	if err != nil {
		m.key = nil
		return nil, v, false, err
	}
	m.key, m.withValue = key, withValue
	return key, m.version, m.ok && !m.version.Tombstone, nil
}

// now reads an etcd key with the request's own writes.
func (e *evaluator) now(etcdKey []byte, withValue bool) (key []byte, v storage.Version, live bool, err error) {
	if len(e.writes) > 0 {
		key = e.memo.key
		if key == nil || !bytes.Equal(ids.EtcdKey(key), etcdKey) {
			key = ids.UserKey(etcdKey)
		}
		if w := e.own(key); w != nil {
			return w.Key, w.Version, !w.Version.Tombstone, nil
		}
	}
	return e.before(etcdKey, withValue)
}

// scan goes through the live keys of a span with the request's own writes; key and version are valid during fn only.
func (e *evaluator) scan(span ids.Span, withValue bool, fn func(key []byte, v *storage.Version) bool) error {
	if span.Empty() {
		return nil
	}
	if err := e.env.checkSpan(span); err != nil {
		return err
	}
	own := e.ownIn(span)
	if len(own) == 0 {
		return e.env.State.Scan(span, withValue, fn)
	}
	more := true
	next := func() { // deliver own[0], if it is live
		if v := &own[0].Version; !v.Tombstone {
			more = fn(own[0].Key, v)
		}
		own = own[1:]
	}
	err := e.env.State.Scan(span, withValue, func(key []byte, v *storage.Version) bool {
		for more && len(own) > 0 {
			order := bytes.Compare(own[0].Key, key)
			if order > 0 {
				break
			}
			next()
			if order == 0 { // it hides the older version
				return more
			}
		}
		if more {
			more = fn(key, v)
		}
		return more
	})
	for err == nil && more && len(own) > 0 {
		next()
	}
	return err
}

// ownIn returns the last write of each key in the span, in key order.
func (e *evaluator) ownIn(span ids.Span) []*Write {
	var own []*Write
	for i := range e.writes {
		w := &e.writes[i]
		if span.Contains(w.Key) && e.own(w.Key) == w {
			own = append(own, w)
		}
	}
	slices.SortFunc(own, func(a, b *Write) int { return bytes.Compare(a.Key, b.Key) })
	return own
}
