package storage

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var seedFlag = flag.Uint64("storage.seed", 0, "seed of random tests; 0 takes a new one")

// newRand returns a random source whose seed is printed if the test fails.
func newRand(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed: -storage.seed=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

func testConfig(fs vfs.FS) Config {
	return Config{Dir: "data", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 256 << 10}
}

func openTest(t testing.TB, fs vfs.FS) *Engine {
	t.Helper()
	e, err := Open(testConfig(fs))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func userSpan(start, end string) ids.Span {
	s := ids.Span{Start: ids.UserKey([]byte(start)), End: ids.UserKey([]byte(end))}
	if end == "" {
		s.End = ids.UserSpace.End
	}
	return s
}

// testState is the state of a fresh replica.
func testState(r ids.RangeID, span ids.Span) RangeState {
	return RangeState{
		Descriptor: &ids.Descriptor{ID: r, Span: span, Generation: 1, Replicas: []ids.ReplicaDesc{{Node: 1, Replica: 1}}},
		Replica:    1,
		ConfState:  &raftpb.ConfState{Voters: []uint64{1}},
		HardState:  &raftpb.HardState{Term: proto.Uint64(5), Vote: proto.Uint64(0), Commit: proto.Uint64(10)},
		Applied:    Applied{Index: 10, Term: 5},
		Truncated:  EntryID{Term: 5, Index: 10},
		Last:       10,
	}
}

func entry(term, index uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Term: &term, Index: &index, Data: []byte(data)}
}

func commit(t testing.TB, e *Engine, sync bool, fill func(b *Batch)) {
	t.Helper()
	b := e.NewBatch()
	defer b.Close()
	fill(b)
	if err := b.Commit(sync); err != nil {
		t.Fatal(err)
	}
}

// put writes one live version; a nil value means a tombstone.
func put(t testing.TB, e *Engine, key string, rev ids.Revision, value []byte) {
	t.Helper()
	w := NewWriteSet()
	defer w.Release()
	v := Version{Mod: rev, Create: rev, Version: 1, Value: value, Tombstone: value == nil}
	if v.Tombstone {
		v.Create, v.Version = 0, 0
	}
	w.PutVersion(ids.UserKey([]byte(key)), &v)
	commit(t, e, false, func(b *Batch) {
		if err := b.ApplyWrites(w.Bytes()); err != nil {
			t.Fatal(err)
		}
	})
}

// randKey draws keys that are prefixes of one another and full of the bytes that escaping could get wrong.
func randKey(rnd *rand.Rand) []byte {
	alphabet := []byte{0, 1, 9, 'a', 'b', 0xff}
	k := make([]byte, 1+rnd.IntN(4))
	for i := range k {
		k[i] = alphabet[rnd.IntN(len(alphabet))]
	}
	return k
}

func dump(v any) string { return fmt.Sprintf("%+v", v) }
