package storage

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// mvccModel is the plain twin of the engine's versions: every version of every key, newest first.
type mvccModel map[string][]Version

func (m mvccModel) put(key string, v Version) { m[key] = slices.Insert(m[key], 0, v) }

func (m mvccModel) keys() []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

// at returns the version of a key that counts at a revision, tombstones too.
func (m mvccModel) at(key string, at ids.Revision) (Version, bool) {
	for _, v := range m[key] {
		if v.Mod <= at {
			return v, true
		}
	}
	return Version{}, false
}

// gc forgets what a floor makes unreachable, by the words of the design.
func (m mvccModel) gc(span ids.Span, floor ids.Revision) {
	for k, versions := range m {
		if !span.Contains([]byte(k)) {
			continue
		}
		var keep []Version
		last := true
		for _, v := range versions {
			switch {
			case v.Mod > floor:
				keep = append(keep, v)
			case last:
				last = false
				if !v.Tombstone || v.Mod == floor {
					keep = append(keep, v)
				}
			}
		}
		m[k] = keep
	}
}

func randSpan(rnd *rand.Rand) ids.Span {
	a, b := ids.UserKey(randKey(rnd)), ids.UserKey(randKey(rnd))
	if bytes.Compare(a, b) > 0 {
		a, b = b, a
	}
	if rnd.IntN(8) == 0 {
		return ids.UserSpace
	}
	return ids.Span{Start: a, End: b}
}

// write puts one random version at rev into engine and model.
func (m mvccModel) write(t testing.TB, rnd *rand.Rand, e *Engine, span ids.Span, rev ids.Revision) {
	w := NewWriteSet()
	defer w.Release()
	for op := range 1 + rnd.IntN(3) {
		key := ids.UserKey(randKey(rnd))
		if prev, ok := m.at(string(key), rev); !span.Contains(key) || ok && prev.Mod == rev {
			continue
		}
		v := Version{Mod: rev, Op: uint32(op), Tombstone: rnd.IntN(4) == 0}
		if !v.Tombstone {
			v.Create, v.Version = rev-ids.Revision(rnd.Int64N(int64(rev))), 1+rnd.Int64N(1000)
			v.Value = bytes.Repeat([]byte{byte(rev)}, rnd.IntN(300))
			v.Lease = []int64{0, 7, -1}[rnd.IntN(3)]
		}
		w.PutVersion(key, &v)
		m.put(string(key), v)
	}
	commit(t, e, false, func(b *Batch) {
		if err := b.ApplyWrites(w.Bytes()); err != nil {
			t.Fatal(err)
		}
	})
}

func equalVersion(a, b Version, value bool) error {
	if value && !bytes.Equal(a.Value, b.Value) {
		return fmt.Errorf("value %q, want %q", a.Value, b.Value)
	}
	a.Value, b.Value = nil, nil
	if dump(a) != dump(b) {
		return fmt.Errorf("got %+v, want %+v", a, b)
	}
	return nil
}

// compare reads in every way, at random places and revisions, and returns the first difference.
func (m mvccModel) compare(rnd *rand.Rand, e *Engine, now ids.Revision) error {
	v := e.View()
	defer v.Close()
	for range 20 {
		key := ids.UserKey(randKey(rnd))
		at := ids.Revision(rnd.Int64N(int64(now) + 2))
		want, ok := m.at(string(key), at)
		got, found, err := v.Get(key, at, ScanOptions{})
		if err != nil || found != (ok && !want.Tombstone) {
			return fmt.Errorf("get %q at %d: found %v err %v, want %v %+v", key, at, found, err, ok, want)
		}
		if found {
			if err := equalVersion(got, want, true); err != nil {
				return fmt.Errorf("get %q at %d: %w", key, at, err)
			}
		}
		want, ok = m.at(string(key), 1<<60)
		got, found, err = v.Latest(key)
		if err != nil || found != ok {
			return fmt.Errorf("latest %q: found %v err %v, want %v", key, found, err, ok)
		}
		if found {
			if err := equalVersion(got, want, false); err != nil {
				return fmt.Errorf("latest %q: %w", key, err)
			}
		}
	}
	for range 4 {
		if err := m.compareSpan(rnd, v, randSpan(rnd), ids.Revision(rnd.Int64N(int64(now)+2))); err != nil {
			return err
		}
	}
	return nil
}

func (m mvccModel) compareSpan(rnd *rand.Rand, v *View, span ids.Span, at ids.Revision) error {
	var live []string
	for _, k := range m.keys() {
		if ver, ok := m.at(k, at); span.Contains([]byte(k)) && ok && !ver.Tombstone {
			live = append(live, k)
		}
	}
	if n, err := v.Count(span, at); err != nil || int(n) != len(live) {
		return fmt.Errorf("count %v at %d: %d %v, want %d", span, at, n, err, len(live))
	}
	for _, reverse := range []bool{false, true} {
		limit := rnd.IntN(2 * (len(live) + 1))
		var got []string
		var bad error
		err := v.Scan(span, at, ScanOptions{Reverse: reverse}, func(key []byte, ver *Version) bool {
			want, _ := m.at(string(key), at)
			if err := equalVersion(*ver, want, true); err != nil {
				bad = fmt.Errorf("scan %v at %d, key %q: %w", span, at, key, err)
			}
			if nested, _, err := v.Get(key, at, ScanOptions{}); err != nil || nested.Mod != ver.Mod {
				bad = fmt.Errorf("get %q inside a scan: %+v %v", key, nested, err)
			}
			got = append(got, string(key))
			return len(got) <= limit
		})
		want := slices.Clone(live)
		if reverse {
			slices.Reverse(want)
		}
		if err != nil || bad != nil || !slices.Equal(got, want[:min(len(want), limit+1)]) {
			return fmt.Errorf("scan %v at %d reverse %v: %q %v %v, want %q", span, at, reverse, got, err, bad, want)
		}
	}
	from := ids.Revision(rnd.Int64N(int64(at) + 1))
	var got, want []string
	for _, k := range m.keys() {
		for _, ver := range m[k] {
			if span.Contains([]byte(k)) && ver.Mod > from && ver.Mod <= at {
				want = append(want, fmt.Sprint(k, ver.Mod, ver.Op, ver.Tombstone))
			}
		}
	}
	err := v.Versions(span, from, at, func(key []byte, ver *Version) bool {
		got = append(got, fmt.Sprint(string(key), ver.Mod, ver.Op, ver.Tombstone))
		return true
	})
	if err != nil || !slices.Equal(got, want) {
		return fmt.Errorf("versions %v (%d,%d]: %q %v, want %q", span, from, at, got, err, want)
	}
	return nil
}

// TestReadsAgainstModel writes random versions, flushes, compacts and collects garbage at random, and compares every way
// of reading with the model; GC must leave exactly what the design says.
func TestReadsAgainstModel(t *testing.T) {
	rnd := newRand(t)
	e := openTest(t, vfs.NewMem())
	defer e.Close()
	m := mvccModel{}
	rev, floor := ids.Revision(1), ids.Revision(0)
	for step := range 3000 {
		rev += ids.Revision(1 + rnd.IntN(3))
		m.write(t, rnd, e, ids.UserSpace, rev)
		switch rnd.IntN(60) {
		case 0:
			if err := e.Flush(); err != nil {
				t.Fatal(err)
			}
		case 1:
			to := floor + ids.Revision(rnd.Int64N(int64(rev-floor)+1))
			before := m.count()
			m.gc(ids.UserSpace, to)
			removed, err := e.GC(context.Background(), ids.UserSpace, floor, to)
			if err != nil || int(removed) != before-m.count() {
				t.Fatalf("step %d: gc (%d,%d] removed %d (%v), want %d", step, floor, to, removed, err, before-m.count())
			}
			floor = to
		case 2:
			if err := e.db.Compact(context.Background(), []byte{1, 0}, []byte{0x20, 0}, false); err != nil {
				t.Fatal(err)
			}
		}
		if step%20 == 0 {
			if err := m.compare(rnd, e, rev); err != nil {
				t.Fatalf("step %d, floor %d: %v", step, floor, err)
			}
		}
	}
}

func (m mvccModel) count() (n int) {
	for _, vs := range m {
		n += len(vs)
	}
	return n
}

// TestViewIsPinned holds a view over later writes, a flush and garbage collection.
func TestViewIsPinned(t *testing.T) {
	e := openTest(t, vfs.NewMem())
	defer e.Close()
	put(t, e, "a", 2, []byte("two"))
	v := e.View()
	defer v.Close()
	put(t, e, "a", 3, []byte("three"))
	put(t, e, "b", 4, []byte("four"))
	if _, err := e.GC(context.Background(), ids.UserSpace, 0, 4); err != nil {
		t.Fatal(err)
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	got, ok, err := v.Latest(ids.UserKey([]byte("a")))
	if err != nil || !ok || got.Mod != 2 {
		t.Fatalf("latest %+v %v %v", got, ok, err)
	}
	if n, err := v.Count(ids.UserSpace, 9); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	v2 := e.View()
	defer v2.Close()
	if n := must(v2.Count(ids.UserSpace, 9)); n != 2 {
		t.Fatal(n)
	}
}

// TestGCFilteredBlocks is #52: deletions written by GC must reach through the block filter, wherever the versions and
// their deletions lie.
func TestGCFilteredBlocks(t *testing.T) {
	e := openTest(t, vfs.NewMem())
	defer e.Close()
	for rev := ids.Revision(2); rev < 2000; rev++ {
		put(t, e, fmt.Sprintf("key%04d", rev%50), rev, make([]byte, 200))
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := e.db.Compact(context.Background(), []byte{1, 0}, []byte{3, 0}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := e.GC(context.Background(), ids.UserSpace, 0, 1000); err != nil {
		t.Fatal(err)
	}
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	v := e.View()
	defer v.Close()
	err := v.Versions(ids.UserSpace, 0, 900, func(key []byte, ver *Version) bool {
		t.Errorf("removed version %d of %s is back", ver.Mod, key)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}
