package router

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// cache maps keys to ranges. Look-ups take no lock: they read an immutable table that is replaced as a whole, which is
// rare (a split, a merge, a move) beside requests. It is a hint: ranges refuse what is not theirs.
type cache struct {
	self  ids.NodeID
	table atomic.Pointer[[]*route] // by start key, disjoint, with gaps
	mu    sync.Mutex               // held while the table is replaced
}

// route is one range in the cache.
type route struct {
	desc *ids.Descriptor
	// local says that this node has a replica.
	local bool
	// leader is the node that is believed to lead the range, 0 if nobody knows. It is guessed, followed, corrected.
	leader atomic.Uint64
}

func (c *cache) init(self ids.NodeID) {
	c.self = self
	c.table.Store(&[]*route{})
}

// lookup returns the range that holds a key, or nil.
func (c *cache) lookup(key []byte) *route {
	t := *c.table.Load()
	if i := search(t, key); i >= 0 && bytes.Compare(key, t[i].desc.Span.End) < 0 {
		return t[i]
	}
	return nil
}

// search returns the last route that starts at or before key, or -1.
func search(t []*route, key []byte) int {
	lo, hi := 0, len(t)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if bytes.Compare(t[m].desc.Span.Start, key) <= 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

// tile appends the routes that cover a span, in key order and without gaps; ok is false if there is a gap. A span
// without keys is covered by the range of its start.
func (c *cache) tile(into []*route, span ids.Span) (routes []*route, ok bool) {
	t := *c.table.Load()
	i := search(t, span.Start)
	if i < 0 || bytes.Compare(span.Start, t[i].desc.Span.End) >= 0 {
		return into, false
	}
	for {
		into = append(into, t[i])
		end := t[i].desc.Span.End
		if bytes.Compare(span.End, end) <= 0 {
			return into, true
		}
		i++
		if i == len(t) || !bytes.Equal(t[i].desc.Span.Start, end) {
			return into, false
		}
	}
}

// learn takes descriptors over that are newer than what is known of their spans. It reports whether anything changed.
func (c *cache) learn(ds []*ids.Descriptor) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.table.Load()
	known := make(map[ids.RangeID]*route, len(ds))
	for _, r := range old {
		known[r.desc.ID] = r
	}
	var news []*route
	for _, d := range ds {
		if d == nil || d.Span.Empty() || d.Validate() != nil {
			continue
		}
		was := known[d.ID]
		if was != nil && was.desc.Generation >= d.Generation {
			continue
		}
		r := &route{desc: d}
		_, r.local = d.On(c.self)
		if was != nil {
			r.leader.Store(was.leader.Load())
		}
		known[d.ID] = r
		news = append(news, r)
	}
	if len(news) == 0 {
		return false
	}
	table := merge(old, news, known)
	c.table.Store(&table)
	return true
}

// merge returns the newest routes of all: where spans overlap, the higher generation wins, and what it cuts goes.
func merge(old, news []*route, newest map[ids.RangeID]*route) []*route {
	all := make([]*route, 0, len(old)+len(news))
	for _, list := range [][]*route{news, old} {
		for _, r := range list {
			if newest[r.desc.ID] == r {
				all = append(all, r)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *route) int {
		return bytes.Compare(a.desc.Span.Start, b.desc.Span.Start)
	})
	out := all[:0]
	for _, r := range all {
		keep := true
		for len(out) > 0 {
			last := out[len(out)-1]
			if !last.desc.Span.Overlaps(r.desc.Span) {
				break
			}
			if cmp.Compare(last.desc.Generation, r.desc.Generation) >= 0 {
				keep = false
				break
			}
			out = out[:len(out)-1]
		}
		if keep {
			out = append(out, r)
		}
	}
	return slices.Clip(out)
}

// forget drops a route that turned out to be wrong when nobody knew a newer one, so that the directory is asked.
func (c *cache) forget(r *route) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.table.Load()
	if i := slices.Index(old, r); i >= 0 {
		table := slices.Delete(slices.Clone(old), i, i+1)
		c.table.Store(&table)
	}
}
