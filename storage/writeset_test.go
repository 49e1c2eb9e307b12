package storage

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/cockroachkvs"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// TestWriteSetIsPebbleBatch holds our encoder to Pebble's own.
func TestWriteSetIsPebbleBatch(t *testing.T) {
	w := NewWriteSet()
	key := ids.UserKey([]byte("k\x00"))
	v := Version{Mod: 300, Create: 7, Version: 12, Lease: -2, Op: 3, Value: bytes.Repeat([]byte("v"), 300)}
	w.PutVersion(key, &v)
	w.PutSystem([]byte{1, 's'}, nil)
	w.DeleteSystem([]byte{1, 't'})
	w.PutKeyed(3, key, []byte("x"), []byte("y"))
	w.DeleteKeyed(3, key, nil)
	var b pebble.Batch
	err := errors.Join(
		b.Set(appendVersionKey(nil, key, 300), append(appendVersionHeader(nil, &v), v.Value...), nil),
		b.Set([]byte{1, 's', 0}, nil, nil),
		b.Delete([]byte{1, 't', 0}, nil),
		b.Set(appendKeyedKey(nil, 3, key, []byte("x")), []byte("y"), nil),
		b.Delete(appendKeyedKey(nil, 3, key, nil), nil),
	)
	if err != nil || !bytes.Equal(w.Bytes(), b.Repr()) {
		t.Fatalf("%v\n%x\n%x", err, w.Bytes(), b.Repr())
	}
	if w.Len() != len(b.Repr()) || w.Empty() {
		t.Error(w.Len(), w.Empty())
	}
	w.Reset()
	if w.Len() != 0 || !w.Empty() {
		t.Error("not empty after Reset")
	}
}

// TestDecodeWrites gets back the versions that went in, and nothing else.
func TestDecodeWrites(t *testing.T) {
	w := NewWriteSet()
	want := []Version{
		{Mod: 2, Create: 2, Version: 1, Value: []byte{}},
		{Mod: 9, Create: 1, Version: 1 << 40, Lease: 1, Op: 1<<32 - 1, Value: []byte("v")},
		{Mod: 1 << 60, Tombstone: true, Lease: 5, Op: 2},
	}
	for i := range want {
		w.PutVersion(ids.UserKey([]byte{byte(i)}), &want[i])
		w.PutSystem([]byte{1, 's'}, []byte("v"))
	}
	i := 0
	err := DecodeWrites(w.Bytes(), func(key []byte, v *Version) error {
		if !bytes.Equal(key, ids.UserKey([]byte{byte(i)})) {
			t.Errorf("key %x", key)
		}
		if err := equalVersion(*v, want[i], true); err != nil {
			t.Error(err)
		}
		i++
		return nil
	})
	if err != nil || i != 3 {
		t.Fatal(err, i)
	}
	stop := errors.New("stop")
	if err := DecodeWrites(w.Bytes(), func([]byte, *Version) error { return stop }); err != stop {
		t.Error(err)
	}
}

// TestApplyWritesRefuses: nothing but replicated state in exactly its form gets into a batch.
func TestApplyWritesRefuses(t *testing.T) {
	e := openTest(t, vfs.NewMem())
	defer e.Close()
	raw := func(fill func(b *pebble.Batch) error) []byte {
		var b pebble.Batch
		if err := fill(&b); err != nil {
			t.Fatal(err)
		}
		return b.Repr()
	}
	set := func(key []byte) []byte {
		return raw(func(b *pebble.Batch) error { return b.Set(key, []byte("v"), nil) })
	}
	good := set(appendVersionKey(nil, []byte{2, 'k'}, 5))
	miscounted := slices.Clone(good)
	miscounted[8] = 2
	sequenced := slices.Clone(good)
	sequenced[0] = 1
	endless := append(slices.Clone(good[:13]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)
	for name, bad := range map[string][]byte{
		"short header":       good[:11],
		"cut short":          good[:len(good)-1],
		"trailing":           append(slices.Clone(good), 0),
		"miscounted":         miscounted,
		"sequence number":    sequenced,
		"endless length":     endless,
		"node key":           set(appendNodeKey(nil, formatName)),
		"range state":        set(appendRangeKey(nil, 3, kindApplied)),
		"log entry":          set(appendLogKey(nil, 3, 7)),
		"no key":             set(nil),
		"bare user key":      set([]byte{2, 'k', 0}),
		"revision 0":         set(appendVersionKey(nil, []byte{2, 'k'}, 0)),
		"negative revision":  set(appendVersionKey(nil, []byte{2, 'k'}, -5)),
		"no user key at all": set(append([]byte{2}, 0, 0, 0, 0, 0, 0, 0, 1, 9)),
		"other suffix":       set(cockroachkvs.EncodeMVCCKey(nil, []byte{2, 'k'}, 5, 7)),
		"versioned system":   set(appendVersionKey(nil, []byte{1, 'k'}, 5)),
		"keyed kind 0":       set(appendKeyedKey(nil, 0, []byte{2, 'k'}, nil)),
		"keyed kind 16":      set(appendKeyedKey(nil, 16, []byte{2, 'k'}, nil)),
		"keyed unterminated": set([]byte{classKeyed, 1, 2, 'k', 0}),
		"delete a version": raw(func(b *pebble.Batch) error {
			return b.Delete(appendVersionKey(nil, []byte{2, 'k'}, 5), nil)
		}),
		"range tombstone": raw(func(b *pebble.Batch) error { return b.DeleteRange([]byte{2, 0}, []byte{3, 0}, nil) }),
		"merge":           raw(func(b *pebble.Batch) error { return b.Merge([]byte{1, 's', 0}, nil, nil) }),
		"log data":        raw(func(b *pebble.Batch) error { return b.LogData([]byte("x"), nil) }),
	} {
		b := e.NewBatch()
		if err := b.ApplyWrites(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if b.Len() != 0 {
			t.Errorf("%s: changed the batch", name)
		}
		b.Close()
	}
	commit(t, e, true, func(b *Batch) {
		if err := errors.Join(b.ApplyWrites(nil), b.ApplyWrites(good)); err != nil {
			t.Error(err)
		}
	})
}

// TestApplyWritesLeavesBytes: the entry's bytes belong to Raft, before and after the batch is used again.
func TestApplyWritesLeavesBytes(t *testing.T) {
	e := openTest(t, vfs.NewMem())
	defer e.Close()
	w := NewWriteSet()
	w.PutSystem([]byte{1, 's'}, []byte("value"))
	entryData := slices.Clone(w.Bytes())
	for range 10 {
		commit(t, e, false, func(b *Batch) {
			if err := errors.Join(b.ApplyWrites(entryData), b.ApplyWrites(entryData)); err != nil {
				t.Fatal(err)
			}
			b.SetApplied(3, Applied{Index: 1 << 60})
		})
		if !bytes.Equal(entryData, w.Bytes()) {
			t.Fatal("the entry's bytes were changed")
		}
	}
}

// FuzzApplyWrites: whatever comes from the network, no panic, and what is accepted can be committed and read.
func FuzzApplyWrites(f *testing.F) {
	w := NewWriteSet()
	w.PutVersion([]byte{2, 'k'}, &Version{Mod: 5, Create: 5, Version: 1, Value: []byte("v")})
	w.PutKeyed(1, []byte{2, 0, 0xff}, []byte{0, 1}, nil)
	w.DeleteSystem([]byte{1, 's'})
	f.Add(slices.Clone(w.Bytes()))
	e := openTest(f, vfs.NewMem())
	f.Cleanup(func() { _ = e.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = DecodeWrites(data, func([]byte, *Version) error { return nil })
		b := e.NewBatch()
		defer b.Close()
		if b.ApplyWrites(data) == nil {
			if err := b.Commit(false); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestKeyedKeys checks the escape: any keys and suffixes come back, and sort as (kind, key, suffix).
func TestKeyedKeys(t *testing.T) {
	rnd := newRand(t)
	type part struct {
		kind        byte
		key, suffix []byte
	}
	less := func(a, b part) int {
		if a.kind != b.kind {
			return int(a.kind) - int(b.kind)
		}
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		return bytes.Compare(a.suffix, b.suffix)
	}
	for range 20000 {
		a := part{byte(1 + rnd.IntN(2)), ids.UserKey(randKey(rnd)), randKey(rnd)}
		b := part{byte(1 + rnd.IntN(2)), ids.UserKey(randKey(rnd)), randKey(rnd)}
		ka, kb := appendKeyedKey(nil, a.kind, a.key, a.suffix), appendKeyedKey(nil, b.kind, b.key, b.suffix)
		if got, want := cockroachkvs.Compare(ka, kb), less(a, b); (got < 0) != (want < 0) || (got > 0) != (want > 0) {
			t.Fatalf("%+v %+v: engine %d, want %d", a, b, got, want)
		}
		kind, key, suffix, ok := splitKeyedKey(nil, ka)
		if !ok || less(a, part{kind, key, suffix}) != 0 {
			t.Fatalf("%+v came back as %d %x %x", a, kind, key, suffix)
		}
		bound := appendKeyedBound(nil, a.kind, b.key)
		if got, want := cockroachkvs.Compare(bound, ka) <= 0, bytes.Compare(b.key, a.key) <= 0; got != want {
			t.Fatalf("bound of %x against %+v: %v", b.key, a, got)
		}
		if cockroachkvs.Split(bound) != len(bound) {
			t.Fatalf("bound %x is not all prefix", bound)
		}
	}
}
