package history

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
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
	c := &checker{values: map[string]*write{}, keys: map[string]*keyWrites{}}
	c.collect(ops)
	c.place()
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

// write is a mutation of a key that certainly or perhaps happened.
type write struct {
	op  *Op
	rev int64 // 0: not known
}

// keyWrites are the mutations of one key.
type keyWrites struct {
	known []*write // by revision
	// maybeDeletes have an unknown outcome; no read can prove them.
	maybeDeletes []*write
}

type checker struct {
	ops    []*Op
	values map[string]*write // by the value written
	writes []*write
	keys   map[string]*keyWrites
	found  []Violation
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

// collect sorts the operations by their beginning and files the writes among them.
func (c *checker) collect(ops []Op) {
	for i := range ops {
		o := &ops[i]
		c.ops = append(c.ops, o)
		if o.Kind == Read {
			continue
		}
		w := &write{op: o}
		if o.mutates() {
			w.rev = o.Revision
		}
		if o.Value != "" {
			if other := c.values[o.Value]; other != nil {
				c.report("history", "value %q is written twice, which makes the history worthless", o.Value)(o, other.op)
			}
			c.values[o.Value] = w
		}
		if o.mutates() || o.Outcome == Unknown {
			c.writes = append(c.writes, w)
			if c.keys[o.Key] == nil {
				c.keys[o.Key] = &keyWrites{}
			}
		}
		if o.Outcome == Unknown && o.Kind == Delete {
			c.keys[o.Key].maybeDeletes = append(c.keys[o.Key].maybeDeletes, w)
		}
	}
	slices.SortStableFunc(c.ops, func(a, b *Op) int { return cmp.Compare(a.Began, b.Began) })
}

// place gives the writes of unknown outcome the revisions that reads saw them at, then sorts each key's writes.
func (c *checker) place() {
	for _, o := range c.ops {
		if !o.reads() {
			continue
		}
		for _, kv := range o.KVs {
			if w := c.values[kv.Value]; w != nil && w.rev == 0 && w.op.Outcome == Unknown && w.op.Key == kv.Key {
				w.rev = kv.Mod
			}
		}
	}
	for _, w := range c.writes {
		if w.rev != 0 {
			k := c.keys[w.op.Key]
			k.known = append(k.known, w)
		}
	}
	for _, k := range c.keys {
		slices.SortFunc(k.known, func(a, b *write) int { return cmp.Compare(a.rev, b.rev) })
	}
}

func (c *checker) checkUnique() {
	at := map[int64]*write{}
	for _, w := range c.writes {
		if w.rev == 0 {
			continue
		}
		if other := at[w.rev]; other != nil {
			c.report("unique", "revision %d was given out twice", w.rev)(w.op, other.op)
		}
		at[w.rev] = w
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
	for _, w := range c.writes {
		if w.op.Outcome == Unknown && w.rev != 0 {
			revs[w.op] = w.rev
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
	at := o.Revision
	if o.At != 0 {
		at = o.At
	}
	seen := make(map[string]KV, len(o.KVs))
	for _, kv := range o.KVs {
		if _, twice := seen[kv.Key]; twice || !o.covers(kv.Key) {
			c.report("exact", "key %q is there twice, or was not asked for", kv.Key)(o)
		}
		seen[kv.Key] = kv
		c.checkKV(o, kv, at)
	}
	for key, k := range c.keys {
		if _, ok := seen[key]; ok || !o.covers(key) {
			continue
		}
		w := k.newest(at)
		if w != nil && w.op.Kind != Delete && !k.maybeDeleted(o) {
			c.report("exact", "key %q is missing at revision %d: it was written at %d", key, at, w.rev)(o, w.op)
		}
	}
}

// checkKV checks one key that a read returned.
func (c *checker) checkKV(o *Op, kv KV, at int64) {
	w := c.values[kv.Value]
	switch {
	case w == nil || w.op.Key != kv.Key:
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
	}
	if newest := c.keys[kv.Key].newest(at); newest != nil && newest.rev > kv.Mod {
		c.report("exact", "key %q is from revision %d in a read at %d: it was written again at %d", kv.Key, kv.Mod, at, newest.rev)(o, newest.op)
	}
}

// newest returns the last known write at or below a revision.
func (k *keyWrites) newest(at int64) *write {
	i := sort.Search(len(k.known), func(i int) bool { return k.known[i].rev > at })
	if i == 0 {
		return nil
	}
	return k.known[i-1]
}

// maybeDeleted reports whether a delete of unknown outcome may have come before the end of a read.
func (k *keyWrites) maybeDeleted(read *Op) bool {
	return slices.ContainsFunc(k.maybeDeletes, func(d *write) bool { return d.op.Began < read.Ended })
}

// checkCondition looks at the newest write before a conditional one: its revision is the one that the condition named,
// or the key was deleted if the condition was that there is none.
func (c *checker) checkCondition(o *Op) {
	k := c.keys[o.Key]
	w := k.newest(o.Revision - 1)
	switch {
	case w == nil:
	case o.IfMod != 0 && w.rev > o.IfMod,
		o.IfMod == 0 && w.op.Kind != Delete && !k.maybeDeleted(o):
		c.report("condition", "key %q was last written at %d when this wrote it at %d, not at %d", o.Key, w.rev, o.Revision,
			o.IfMod)(o, w.op)
	}
}
