package storage

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3/raftpb"
)

// benchEngine is an engine on the disk with keys × 256 B, half of them rewritten, compacted but for the newest tenth.
func benchEngine(b *testing.B, keys int) *Engine {
	b.Helper()
	cfg := Config{Dir: b.TempDir(), CacheBytes: 256 << 20}
	e, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	rnd := rand.New(rand.NewPCG(1, 1))
	value := make([]byte, 256)
	rev := ids.Revision(1)
	write := func(i int) {
		rev++
		for j := 0; j < len(value); j += 8 {
			binary.LittleEndian.PutUint64(value[j:], rnd.Uint64()&0x0f0f0f0f0f0f0f0f)
		}
		w := NewWriteSet()
		w.PutVersion(benchKey(nil, i), &Version{Mod: rev, Create: rev, Version: 1, Value: value})
		commit(b, e, false, func(bt *Batch) { _ = bt.ApplyWrites(w.Bytes()) })
		w.Release()
	}
	for i := range keys {
		write(i)
	}
	for range keys / 2 {
		write(rnd.IntN(keys))
	}
	if err := e.Compact(context.Background()); err != nil {
		b.Fatal(err)
	}
	for range keys / 10 {
		write(rnd.IntN(keys))
	}
	return e
}

func benchKey(dst []byte, i int) []byte {
	dst = append(dst[:0], ids.SpaceUser)
	return fmt.Appendf(dst, "/registry/pods/%09d", i)
}

const benchKeys = 200_000

func BenchmarkRead(b *testing.B) {
	e := benchEngine(b, benchKeys)
	var key []byte
	rnd := rand.New(rand.NewPCG(2, 2))
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.View().Close()
		}
	})
	for _, fresh := range []bool{false, true} {
		name := "one-view"
		if fresh {
			name = "own-view"
		}
		point := func(b *testing.B, read func(v *View, key []byte) (bool, error), miss bool) {
			b.ReportAllocs()
			v := e.View()
			for b.Loop() {
				if fresh {
					v.Close()
					v = e.View()
				}
				key = benchKey(key, rnd.IntN(benchKeys))
				if miss {
					key = append(key, 'x')
				}
				if ok, err := read(v, key); err != nil || ok == miss {
					b.Fatal(ok, err)
				}
			}
			v.Close()
		}
		latest := func(v *View, key []byte) (bool, error) { _, ok, err := v.Latest(key); return ok, err }
		get := func(v *View, key []byte) (bool, error) {
			_, ok, err := v.Get(key, 1<<50, ScanOptions{})
			return ok, err
		}
		b.Run(name+"/latest-hit", func(b *testing.B) { point(b, latest, false) })
		b.Run(name+"/latest-miss", func(b *testing.B) { point(b, latest, true) })
		b.Run(name+"/get", func(b *testing.B) { point(b, get, false) })
	}
	for _, reverse := range []bool{false, true} {
		b.Run(fmt.Sprintf("scan-1000/reverse=%v", reverse), func(b *testing.B) {
			b.ReportAllocs()
			v := e.View()
			defer v.Close()
			for b.Loop() {
				start := rnd.IntN(benchKeys - 1000)
				span := ids.Span{Start: benchKey(nil, start), End: benchKey(nil, start+1000)}
				n := 0
				if err := v.Scan(span, 1<<50, ScanOptions{Reverse: reverse}, func([]byte, *Version) bool { n++; return true }); err != nil || n != 1000 {
					b.Fatal(n, err)
				}
			}
		})
	}
	b.Run("count-all", func(b *testing.B) {
		v := e.View()
		defer v.Close()
		for b.Loop() {
			if n, err := v.Count(ids.UserSpace, 1<<50); n != benchKeys || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}

// BenchmarkEntry is the life of an entry of 20 puts of 256 B on one node: append (synced or not), apply, and now and then
// a truncation. ns/op is per entry.
func BenchmarkEntry(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			e, err := Open(Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			s := testState(3, ids.UserSpace)
			commit(b, e, true, func(bt *Batch) { bt.CreateRange(s) })
			w := NewWriteSet()
			value := make([]byte, 256)
			index := uint64(10)
			var key []byte
			hs := &raftpb.HardState{Term: ptr(uint64(5)), Vote: ptr(uint64(1)), Commit: ptr(uint64(10))}
			b.ReportAllocs()
			b.SetBytes(20 * 256)
			for b.Loop() {
				index++
				w.Reset()
				for i := range 20 {
					key = benchKey(key, int(index)*20+i)
					w.PutVersion(key, &Version{Mod: ids.Revision(index), Create: ids.Revision(index), Version: 1, Value: value})
				}
				data := w.Bytes()
				bt := e.NewBatch()
				*hs.Commit = index - 1
				bt.Append(3, []*raftpb.Entry{{Term: ptr(uint64(5)), Index: &index, Data: data}}, index-1)
				bt.SetHardState(3, hs)
				if err := bt.Commit(sync); err != nil {
					b.Fatal(err)
				}
				bt.Close()
				bt = e.NewBatch()
				if err := bt.ApplyWrites(data); err != nil {
					b.Fatal(err)
				}
				bt.SetApplied(3, Applied{Index: index, Term: 5})
				if err := bt.Commit(false); err != nil {
					b.Fatal(err)
				}
				bt.Close()
				if index%128 == 0 {
					commit(b, e, false, func(bt *Batch) { bt.Truncate(3, EntryID{Term: 5, Index: index - 64}) })
				}
			}
			m := e.Metrics()
			b.ReportMetric(float64(m.FlushedBytes+m.CompactedBytes)/float64(max(1, (index-10)*20*280)), "table-B/B")
			b.ReportMetric(float64(m.WALWritten)/float64(max(1, (index-10)*20*280)), "wal-B/B")
		})
	}
}

func ptr[T any](v T) *T { return &v }
