package storage

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3/raftpb"
)

// exportAll takes a snapshot of a range as chunks.
func exportAll(t testing.TB, e *Engine, r ids.RangeID) (RangeState, [][]byte) {
	t.Helper()
	x, err := e.NewExport(r)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var chunks [][]byte
	err = x.Send(context.Background(), func(chunk []byte) error {
		if len(chunk) > chunkBytesMax {
			t.Errorf("chunk of %d bytes", len(chunk))
		}
		chunks = append(chunks, chunk)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return x.State, chunks
}

// TestSnapshot sends ranges with data of every class, above and below the floor, to a node whose replicas overlap, and
// compares what arrives with the model of what was sent.
func TestSnapshot(t *testing.T) {
	rnd := newRand(t)
	src, dst := openTest(t, vfs.NewMem()), openTest(t, vfs.NewMem())
	defer src.Close()
	defer dst.Close()
	span := userSpan("a", "")
	s := testState(3, span)
	commit(t, src, true, func(b *Batch) { b.CreateRange(s) })
	m := mvccModel{}
	rev := ids.Revision(1)
	for range 2000 {
		rev++
		m.write(t, rnd, src, span, rev)
	}
	s.Applied = Applied{Index: 10, Term: 5, GCFloor: rev / 2, MaxRevision: rev}
	key := ids.UserKey([]byte("a\x00\xff"))
	w := NewWriteSet()
	w.PutKeyed(4, key, []byte{0, 1}, []byte("lock"))
	w.PutKeyed(4, ids.UserKey([]byte{'A'}), nil, []byte("of another range"))
	commit(t, src, false, func(b *Batch) {
		b.SetApplied(3, s.Applied)
		if err := b.ApplyWrites(w.Bytes()); err != nil {
			t.Fatal(err)
		}
	})

	// The receiver has three replicas: one is replaced, one is inside the span, one reaches beyond it.
	old := testState(3, userSpan("a", "b"))
	old.Replica = 7
	for _, o := range []RangeState{old, testState(8, userSpan("b", "c")), testState(9, userSpan("c", "")), testState(2, ids.SystemSpan)} {
		commit(t, dst, true, func(b *Batch) {
			b.CreateRange(o)
			b.Append(o.Descriptor.ID, []*raftpb.Entry{entry(5, 11, "x"), entry(5, 12, "y")}, 10)
		})
	}
	junk := mvccModel{}
	for r := ids.Revision(2); r < 500; r++ {
		junk.write(t, rnd, dst, span, r)
	}
	if rnd.IntN(2) == 0 {
		if err := dst.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	w.Reset()
	w.PutKeyed(4, key, nil, []byte("stale"))
	w.PutKeyed(15, ids.UserKey([]byte("zz")), nil, []byte("stale"))
	w.PutKeyed(2, []byte{ids.SpaceSystem, 'q'}, nil, []byte("of the system range"))
	commit(t, dst, false, func(b *Batch) {
		if err := b.ApplyWrites(w.Bytes()); err != nil {
			t.Fatal(err)
		}
	})

	sent, chunks := exportAll(t, src, 3)
	sent.Replica = 8
	imp := must(dst.NewImport(3, span))
	for _, c := range chunks {
		if err := imp.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := imp.Finish(sent, []ids.RangeID{8, 9, 77}); err != nil {
		t.Fatal(err)
	}
	m.gc(span, s.Applied.GCFloor)
	m.tidy()
	if err := m.compare(rnd, dst, rev); err != nil {
		t.Fatal(err)
	}
	v := dst.View()
	defer v.Close()
	var keyed []string
	for kind := byte(1); kind <= KeyedKindMax; kind++ {
		if err := v.ScanKeyed(kind, ids.Span{Start: []byte{1}, End: []byte{9}}, func(k, suffix, value []byte) bool {
			keyed = append(keyed, string(value))
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(keyed, []string{"of the system range", "lock"}) {
		t.Errorf("state by user key %q", keyed)
	}
	states := must(dst.Ranges())
	if len(states) != 2 || states[1].Descriptor.ID != 3 || states[1].Replica != 8 || states[1].Applied != s.Applied ||
		states[1].Last != 10 || states[1].Truncated != (EntryID{Term: 5, Index: 10}) {
		t.Errorf("states %+v", states)
	}
	for r, want := range map[ids.RangeID]ids.ReplicaID{2: 0, 3: 7, 8: 1, 9: 1} {
		if got := must(dst.Tombstone(r)); got != want {
			t.Errorf("tombstone of %d is %d, want %d", r, got, want)
		}
	}
}

// TestSnapshotLarge crosses chunk and table boundaries and keeps a value above the chunk size.
func TestSnapshotLarge(t *testing.T) {
	src, dst := openTest(t, vfs.NewMem()), openTest(t, vfs.NewMem())
	defer src.Close()
	defer dst.Close()
	commit(t, src, true, func(b *Batch) { b.CreateRange(testState(3, ids.UserSpace)) })
	for i := range 40 {
		put(t, src, string(rune('a'+i)), 2, bytes.Repeat([]byte{byte(i)}, 100<<10))
	}
	put(t, src, "big", 3, make([]byte, chunkBytesMax-64))
	s, chunks := exportAll(t, src, 3)
	if len(chunks) < 6 {
		t.Errorf("%d chunks", len(chunks))
	}
	imp := must(dst.NewImport(3, ids.UserSpace))
	for _, c := range chunks {
		if err := imp.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := imp.Finish(s, nil); err != nil {
		t.Fatal(err)
	}
	v := dst.View()
	defer v.Close()
	if n := must(v.Count(ids.UserSpace, 9)); n != 41 {
		t.Errorf("%d keys", n)
	}
}

// TestImportRefuses feeds damaged snapshots; none may change the engine, and their files must go.
func TestImportRefuses(t *testing.T) {
	fs := vfs.NewMem()
	src, dst := openTest(t, vfs.NewMem()), openTest(t, fs)
	defer src.Close()
	defer dst.Close()
	commit(t, src, true, func(b *Batch) { b.CreateRange(testState(3, ids.UserSpace)) })
	put(t, src, "k", 2, []byte("v"))
	put(t, src, "l", 3, []byte("v"))
	put(t, dst, "old", 2, []byte("stays"))
	s, chunks := exportAll(t, src, 3)
	data, end := chunks[0], chunks[1]
	for name, c := range map[string]struct {
		span   ids.Span
		chunks [][]byte
	}{
		"no end":          {ids.UserSpace, [][]byte{data}},
		"twice":           {ids.UserSpace, [][]byte{data, data, end}},
		"lost":            {ids.UserSpace, [][]byte{end}},
		"cut":             {ids.UserSpace, [][]byte{data[:len(data)-1], end}},
		"changed":         {ids.UserSpace, [][]byte{append(slices.Clone(data[:len(data)-1]), 'x'), end}},
		"after the end":   {ids.UserSpace, [][]byte{data, end, data}},
		"empty":           {ids.UserSpace, [][]byte{{}}},
		"unknown":         {ids.UserSpace, [][]byte{{9}}},
		"out of the span": {userSpan("l", ""), [][]byte{data, end}},
		"other class":     {ids.SystemSpan, [][]byte{data, end}},
	} {
		imp := must(dst.NewImport(3, c.span))
		var err error
		for _, chunk := range c.chunks {
			if err = imp.Add(chunk); err != nil {
				break
			}
		}
		if err == nil {
			err = imp.Finish(s, nil)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if err := errors.Join(imp.Abort(), imp.Abort()); err != nil {
			t.Errorf("%s: abort: %v", name, err)
		}
	}
	if left := must(fs.List(dst.importRoot())); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	v := dst.View()
	defer v.Close()
	if n := must(v.Count(ids.UserSpace, 9)); n != 1 {
		t.Errorf("%d keys", n)
	}
}

// TestExportIsPinned changes the range between NewExport and Send, and asks for a state that is gone.
func TestExportIsPinned(t *testing.T) {
	e := openTest(t, vfs.NewMem())
	defer e.Close()
	s := testState(3, ids.UserSpace)
	commit(t, e, true, func(b *Batch) { b.CreateRange(s) })
	put(t, e, "k", 2, []byte("v"))
	x := must(e.NewExport(3))
	defer x.Close()
	put(t, e, "later", 3, []byte("v"))
	commit(t, e, false, func(b *Batch) {
		b.Append(3, []*raftpb.Entry{entry(5, 11, "")}, 10)
		b.SetApplied(3, Applied{Index: 11, Term: 5})
	})
	var all []byte
	if err := x.Send(context.Background(), func(c []byte) error { all = append(all, c...); return nil }); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(all, []byte("later")) || x.State.Applied.Index != 10 {
		t.Error("the export saw a later write")
	}
	err := e.Export(context.Background(), s, func([]byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "wanted") {
		t.Errorf("export of a past state: %v", err)
	}
	if _, err := e.NewExport(99); err == nil {
		t.Error("export of an absent range")
	}
}
