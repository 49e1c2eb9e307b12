package storage

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// gcBatchBytes is the size at which GC commits what it has collected.
const gcBatchBytes = 256 << 10

// GC removes the versions in a span that the physical floor G = to makes unreachable: of each key all versions below its
// last one at or below to, and that one too if it is a tombstone below to. A tombstone exactly at to stays, for whoever
// watches from there; the next GC takes it, which is why from is the floor of the GC before and both ends count. Only
// blocks with revisions in [from, to] are looked at.
//
// The floor must be part of a committed Applied of the range before. Nothing here is synced: what a crash undoes is
// removed by the next GC from the same floor. The caller limits the rate by the size of the spans, and hands in a span
// again with the same from if GC returned an error.
func (e *Engine) GC(ctx context.Context, span ids.Span, from, to ids.Revision) (removed int64, err error) {
	span = span.Intersect(ids.UserSpace)
	if span.Empty() || to <= 0 || to < from {
		return 0, nil
	}
	v := e.View()
	defer v.Close()
	candidates, err := v.filtered(span, max(from, 1), to)
	if err != nil {
		return 0, err
	}
	g := gc{e: e, to: to, b: e.NewBatch()}
	err = g.run(ctx, v, candidates, max(from, 1))
	err = errors.Join(err, candidates.Error(), candidates.Close())
	if err == nil {
		err = g.b.Commit(false)
	}
	g.b.Close()
	return g.removed, e.wrap(err)
}

// gc is one run of GC.
type gc struct {
	e       *Engine
	to      ids.Revision
	b       *Batch
	removed int64
	seek    []byte
}

// run visits each key that has a version in [from, to].
func (g *gc) run(ctx context.Context, v *View, candidates *pebble.Iterator, from ids.Revision) error {
	c, err := v.points()
	if err != nil {
		return err
	}
	for ok := candidates.First(); ok; {
		key, rev, valid := splitVersionKey(candidates.Key())
		if !valid {
			return g.e.corrupt("bad version key %x", candidates.Key())
		}
		if rev < from || rev > g.to {
			ok = candidates.Next()
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := g.collect(c.it, key); err != nil {
			return err
		}
		if g.b.Len() > gcBatchBytes {
			if err := g.b.Commit(false); err != nil {
				return err
			}
			g.b.Close()
			g.b = g.e.NewBatch()
		}
		ok = candidates.NextPrefix()
	}
	return nil
}

// collect puts the deletions for one key into the batch. They carry the size of what they delete, which lets Pebble see
// what a compaction would gain.
func (g *gc) collect(it *pebble.Iterator, key []byte) error {
	g.seek = appendVersionKey(g.seek[:0], key, g.to)
	for ok, last := it.SeekPrefixGE(g.seek), true; ok; ok, last = it.Next(), false {
		value := it.LazyValue()
		if last {
			record, _, err := value.Value(nil)
			if err != nil {
				return err
			}
			if _, rev, _ := splitVersionKey(it.Key()); !isTombstone(record) || rev == g.to {
				continue
			}
		}
		if err := g.b.pb.DeleteSized(it.Key(), uint32(value.Len()), nil); err != nil {
			return err
		}
		g.removed++
	}
	return it.Error()
}
