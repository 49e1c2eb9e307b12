package history

import (
	"cmp"
	"fmt"
	"slices"
)

// Violation is something that no correct store can have answered.
type Violation struct {
	Rule string
	Text string
	Ops  []Op // the witnesses, the accused one first
}

func (v Violation) String() string {
	s := v.Rule + ": " + v.Text
	for i := range v.Ops {
		s += fmt.Sprintf("\n    %+v", v.Ops[i])
	}
	return s
}

// violationsMax bounds a report: what follows the first few is mostly their echo.
const violationsMax = 20

// Check returns what is wrong with a history, at most twenty things. The order of ops does not matter.
func Check(ops []Op) []Violation {
	c := newChecker(ops)
	c.checkUnique()
	c.checkRealTime()
	for _, o := range c.ops {
		if o.reads() {
			c.checkRead(o)
		} else if o.Kind == CAS && o.mutates() {
			c.checkCondition(o)
		}
	}
	return c.found
}

// CheckDense returns where the revisions of a history do not rise by exactly one from first on. That is promised of
// clusters without faults, in which no outcome is unknown.
func CheckDense(ops []Op, first int64) []Violation {
	c := newChecker(ops)
	var at []*mutation
	for _, m := range c.mutations {
		switch {
		case m.rev != 0:
			at = append(at, m)
		case m.op.Outcome == Unknown:
			c.report("dense", "an outcome is unknown although nothing failed")(m.op)
		}
	}
	slices.SortFunc(at, func(a, b *mutation) int { return cmp.Compare(a.rev, b.rev) })
	for i, m := range at {
		if want := first + int64(i); m.rev != want {
			c.report("dense", "revision %d where %d was expected", m.rev, want)(m.op)
			break
		}
	}
	return c.found
}

// mutation is an operation that certainly or perhaps changed something.
type mutation struct {
	op  *Op
	rev int64 // 0: not known
}

// write is what a mutation did to one key.
type write struct {
	*mutation
	key, value string // value "": a delete
	// goneBy is the least revision at which a read did not find the key although no known delete explains it: a delete
	// of unknown outcome did happen, at or before it.
	goneBy int64
	// create and version are what etcd would say, 0 if that cannot be known.
	create, version int64
}

func (w *write) deletes() bool { return w.value == "" }

// keyWrites are the mutations of one key.
type keyWrites struct {
	known []*write // by revision
	// maybeDeletes have an unknown outcome; no read can prove them.
	maybeDeletes []*Op
	// unplaced reports that a put of unknown outcome was never seen.
	unplaced bool
	// seen is how the key looked at each of its mod revisions, when it was first read.
	seen map[int64]KV
}

type checker struct {
	ops       []*Op
	mutations []*mutation
	values    map[string]*write // by the value written
	keys      map[string]*keyWrites
	found     []Violation
}

func newChecker(ops []Op) *checker {
	c := &checker{values: map[string]*write{}, keys: map[string]*keyWrites{}}
	for i := range ops {
		c.ops = append(c.ops, &ops[i])
	}
	slices.SortStableFunc(c.ops, func(a, b *Op) int { return cmp.Compare(a.Began, b.Began) })
	c.collect()
	c.place()
	c.derive()
	return c
}

func (c *checker) report(rule, format string, args ...any) func(ops ...*Op) {
	v := Violation{Rule: rule, Text: fmt.Sprintf(format, args...)}
	return func(ops ...*Op) {
		for _, o := range ops {
			v.Ops = append(v.Ops, *o)
		}
		if len(c.found) < violationsMax {
			c.found = append(c.found, v)
		}
	}
}

// collect files the values that were written, the keys there are and the mutations.
func (c *checker) collect() {
	for _, o := range c.ops {
		if o.Kind == Read {
			continue
		}
		m := &mutation{op: o}
		if o.mutates() {
			m.rev = o.Revision
		}
		if o.mutates() || o.Outcome == Unknown {
			c.mutations = append(c.mutations, m)
		}
		if o.Kind != Delete {
			c.file(m, o.Key, o.Value)
			for _, kv := range o.More {
				c.file(m, kv.Key, kv.Value)
			}
		}
	}
}

func (c *checker) file(m *mutation, key, value string) {
	if other := c.values[value]; other != nil {
		c.report("history", "value %q is written twice, which makes the history worthless", value)(m.op, other.op)
	}
	c.values[value] = &write{mutation: m, key: key, value: value}
	if c.keys[key] == nil {
		c.keys[key] = &keyWrites{seen: map[int64]KV{}}
	}
}

// place gives the mutations of unknown outcome the revisions that reads saw them at, then sorts each key's writes.
func (c *checker) place() {
	for _, o := range c.ops {
		if !o.reads() {
			continue
		}
		for _, kv := range o.KVs {
			if w := c.values[kv.Value]; w != nil && w.rev == 0 && w.op.Outcome == Unknown && w.key == kv.Key {
				w.rev = kv.Mod
			}
		}
	}
	for _, w := range c.values {
		switch k := c.keys[w.key]; {
		case w.rev != 0:
			k.known = append(k.known, w)
		case w.op.Outcome == Unknown:
			k.unplaced = true
		}
	}
	for _, m := range c.mutations {
		if m.op.Kind != Delete {
			continue
		}
		for key, k := range c.keys {
			switch {
			case !m.op.covers(key):
			case m.rev != 0:
				k.known = append(k.known, &write{mutation: m, key: key})
			default:
				k.maybeDeletes = append(k.maybeDeletes, m.op)
			}
		}
	}
	for _, k := range c.keys {
		slices.SortFunc(k.known, func(a, b *write) int { return cmp.Compare(a.rev, b.rev) })
	}
}

// derive works out create revisions and versions where everything is known, and which deletes reads prove.
func (c *checker) derive() {
	for _, k := range c.keys {
		if k.unplaced || len(k.maybeDeletes) > 0 {
			continue
		}
		var create, version int64
		for _, w := range k.known {
			switch {
			case w.deletes():
				create, version = 0, 0
			case version == 0:
				create, version = w.rev, 1
			default:
				version++
			}
			w.create, w.version = create, version
		}
	}
	for _, o := range c.ops {
		if !o.reads() {
			continue
		}
		c.missing(o, func(_ string, k *keyWrites, w *write) {
			if k.maybeDeleted(o) && (w.goneBy == 0 || w.goneBy > o.state()) {
				w.goneBy = o.state()
			}
		})
	}
}

// missing calls f for every key that a read did not find although the newest known write at its revision put it.
func (c *checker) missing(o *Op, f func(key string, k *keyWrites, w *write)) {
	seen := make(map[string]bool, len(o.KVs))
	for _, kv := range o.KVs {
		seen[kv.Key] = true
	}
	for key, k := range c.keys {
		if seen[key] || !o.covers(key) {
			continue
		}
		if w := k.newest(o.state()); w != nil && !w.deletes() {
			f(key, k, w)
		}
	}
}

func (c *checker) checkUnique() {
	at := map[int64]*mutation{}
	for _, m := range c.mutations {
		if m.rev == 0 {
			continue
		}
		if other := at[m.rev]; other != nil {
			c.report("unique", "revision %d was given out twice", m.rev)(m.op, other.op)
		}
		at[m.rev] = m
	}
}

// checkRealTime walks through time with the greatest revision that is certainly in the past.
func (c *checker) checkRealTime() {
	type end struct {
		at, rev int64
		op      *Op
	}
	revs := map[*Op]int64{} // of operations that have a place in the order
	var ends []end
	for _, o := range c.ops {
		if o.Outcome == OK && o.Revision != 0 && !o.Serializable {
			revs[o] = o.Revision
			ends = append(ends, end{o.Ended, o.Revision, o})
		}
	}
	for _, m := range c.mutations {
		if m.op.Outcome == Unknown && m.rev != 0 {
			revs[m.op] = m.rev
			// It has no end, so nothing needs to come after it; but it comes after what ended before it began.
		}
	}
	slices.SortFunc(ends, func(a, b end) int { return cmp.Compare(a.at, b.at) })
	var past end
	next := 0
	for _, o := range c.ops {
		for next < len(ends) && ends[next].at < o.Began {
			if ends[next].rev > past.rev {
				past = ends[next]
			}
			next++
		}
		rev, ok := revs[o]
		if !ok || past.op == nil {
			continue
		}
		mutates := o.Changed || o.Outcome == Unknown
		if rev < past.rev || mutates && rev == past.rev {
			c.report("real time", "revision %d, although %d was there before it began", rev, past.rev)(o, past.op)
		}
	}
}

// checkRead compares what a read returned with the newest write at or below its revision, for every key it covers.
func (c *checker) checkRead(o *Op) {
	seen := make(map[string]bool, len(o.KVs))
	for _, kv := range o.KVs {
		if seen[kv.Key] || !o.covers(kv.Key) {
			c.report("exact", "key %q is there twice, or was not asked for", kv.Key)(o)
		}
		seen[kv.Key] = true
		c.checkKV(o, kv, o.state())
	}
	c.missing(o, func(key string, k *keyWrites, w *write) {
		if !k.maybeDeleted(o) {
			c.report("exact", "key %q is missing at revision %d: it was written at %d", key, o.state(), w.rev)(o, w.op)
		}
	})
}

// checkKV checks one key that a read of the state at a revision returned.
func (c *checker) checkKV(o *Op, kv KV, at int64) {
	w := c.values[kv.Value]
	switch {
	case w == nil || w.key != kv.Key:
		c.report("exact", "key %q has a value that nobody wrote to it: %q", kv.Key, kv.Value)(o)
		return
	case w.op.Outcome == Failed || w.op.Outcome == OK && !w.op.Changed:
		c.report("exact", "key %q has the value %q of a write that failed", kv.Key, kv.Value)(o, w.op)
		return
	case w.op.Began > o.Ended:
		c.report("exact", "key %q has a value %q from the future", kv.Key, kv.Value)(o, w.op)
	case kv.Mod > at:
		c.report("exact", "key %q has mod revision %d in a read at %d", kv.Key, kv.Mod, at)(o, w.op)
	case kv.Mod != w.rev:
		c.report("exact", "key %q has mod revision %d, but was written at %d", kv.Key, kv.Mod, w.rev)(o, w.op)
	case w.goneBy != 0 && at >= w.goneBy:
		c.report("exact", "key %q of revision %d is back at %d: at %d it was gone", kv.Key, kv.Mod, at, w.goneBy)(o, w.op)
	}
	k := c.keys[kv.Key]
	if newest := k.newest(at); newest != nil && newest.rev > kv.Mod {
		c.report("exact", "key %q is from revision %d in a read at %d: it was written again at %d", kv.Key, kv.Mod, at,
			newest.rev)(o, newest.op)
	}
	if kv.Version != 0 {
		c.checkLife(o, k, kv, w)
	}
}

// checkLife checks a key's create revision and version.
func (c *checker) checkLife(o *Op, k *keyWrites, kv KV, w *write) {
	switch first, ok := k.seen[kv.Mod]; {
	case !ok:
		k.seen[kv.Mod] = kv
	case first != kv:
		c.report("exact", "key %q was %+v and is now %+v", kv.Key, first, kv)(o)
	}
	switch {
	case kv.Create > kv.Mod || (kv.Create == kv.Mod) != (kv.Version == 1):
		c.report("exact", "key %q is impossible: %+v", kv.Key, kv)(o)
	case w.version != 0 && (kv.Create != w.create || kv.Version != w.version):
		c.report("exact", "key %q has create revision %d and version %d, not %d and %d", kv.Key, kv.Create, kv.Version,
			w.create, w.version)(o, w.op)
	}
}

// newest returns the last known write at or below a revision.
func (k *keyWrites) newest(at int64) *write {
	i, _ := slices.BinarySearchFunc(k.known, at, func(w *write, at int64) int {
		if w.rev > at {
			return 1
		}
		return -1
	})
	if i == 0 {
		return nil
	}
	return k.known[i-1]
}

// maybeDeleted reports whether a delete of unknown outcome may have come before the end of a read.
func (k *keyWrites) maybeDeleted(read *Op) bool {
	return slices.ContainsFunc(k.maybeDeletes, func(d *Op) bool { return d.Began < read.Ended })
}

// checkCondition looks at the newest write before a conditional one: its revision is the one that the condition named,
// or the key was deleted if the condition was that there is none.
func (c *checker) checkCondition(o *Op) {
	k := c.keys[o.Key]
	w := k.newest(o.Revision - 1)
	switch {
	case w == nil:
	case o.IfMod != 0 && (w.rev > o.IfMod || w.rev == o.IfMod && w.deletes()),
		o.IfMod == 0 && !w.deletes() && !k.maybeDeleted(o):
		c.report("condition", "key %q was last written at %d when this wrote it at %d, not at %d", o.Key, w.rev, o.Revision,
			o.IfMod)(o, w.op)
	case o.IfMod != 0 && w.rev == o.IfMod && w.goneBy != 0 && w.goneBy < o.Revision:
		c.report("condition", "key %q was gone at %d when this wrote it at %d", o.Key, w.goneBy, o.Revision)(o, w.op)
	}
}
