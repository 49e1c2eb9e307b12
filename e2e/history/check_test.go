package history

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// op builds an operation that ran from began to ended.
func op(began, ended int64, kind Kind, key, value string, rev int64) Op {
	return Op{Kind: kind, Key: key, Value: value, Began: began, Ended: ended, Outcome: OK, Revision: rev, Changed: kind != Read}
}

func kv(key, value string, mod int64) KV { return KV{Key: key, Value: value, Mod: mod} }

func read(began, ended int64, key string, rev int64, kvs ...KV) Op {
	o := op(began, ended, Read, key, "", rev)
	o.KVs = kvs
	return o
}

func unknown(o Op) Op {
	o.Outcome, o.Revision, o.Changed = Unknown, 0, false
	return o
}

func failed(o Op) Op {
	o = unknown(o)
	o.Outcome = Failed
	return o
}

func TestPlantedViolations(t *testing.T) {
	scan := func(o Op) Op { o.End = "z"; return o }
	span := func(o Op, end string) Op { o.End = end; return o }
	with := func(o Op, key, value string) Op { o.More = []KV{{Key: key, Value: value}}; return o }
	life := func(kv KV, create, version int64) KV { kv.Create, kv.Version = create, version; return kv }
	serial := func(o Op) Op { o.Serializable = true; return o }
	cas := func(began, ended int64, key, value string, ifMod, rev int64) Op {
		o := op(began, ended, CAS, key, value, rev)
		o.IfMod = ifMod
		return o
	}
	for _, tc := range []struct {
		name string
		ops  []Op
		rule string // "" is a good history
	}{
		{"good", []Op{op(1, 2, Put, "a", "1", 2), read(3, 4, "a", 2, kv("a", "1", 2)), op(5, 6, Delete, "a", "", 3), read(7, 8, "a", 3)}, ""},
		{"concurrent puts in either order", []Op{op(1, 5, Put, "a", "1", 3), op(2, 4, Put, "a", "2", 2), read(6, 7, "a", 3, kv("a", "1", 3))}, ""},
		{"lost write", []Op{op(1, 2, Put, "a", "1", 2), read(3, 4, "a", 2)}, "exact"},
		{"lost overwrite", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "a", "2", 3), read(5, 6, "a", 3, kv("a", "1", 2))}, "exact"},
		{"lost in a scan", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "b", "2", 3), scan(read(5, 6, "a", 3, kv("b", "2", 3)))}, "exact"},
		{"same revision twice", []Op{op(1, 5, Put, "a", "1", 2), op(2, 4, Put, "b", "2", 2)}, "unique"},
		{"revision goes back", []Op{op(1, 2, Put, "a", "1", 5), op(3, 4, Put, "b", "2", 4)}, "real time"},
		{"revision stands still", []Op{read(1, 2, "a", 5), op(3, 4, Put, "b", "2", 5)}, "real time"},
		{"stale read", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "a", "2", 3), read(5, 6, "a", 2, kv("a", "1", 2))}, "real time"},
		{"stale serializable read", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "a", "2", 3), serial(read(5, 6, "a", 2, kv("a", "1", 2)))}, ""},
		{"torn serializable read", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "b", "2", 3), scan(serial(read(5, 6, "a", 3, kv("b", "2", 3))))}, "exact"},
		{"reads go back", []Op{read(1, 2, "a", 9), read(3, 4, "a", 8)}, "real time"},
		{"failed write seen", []Op{failed(op(1, 2, Put, "a", "1", 2)), read(3, 4, "a", 2, kv("a", "1", 2))}, "exact"},
		{"value from nowhere", []Op{read(3, 4, "a", 2, kv("a", "x", 2))}, "exact"},
		{"value of another key", []Op{op(1, 2, Put, "b", "1", 2), read(3, 4, "a", 2, kv("a", "1", 2))}, "exact"},
		{"value from the future", []Op{read(1, 2, "a", 2, kv("a", "1", 2)), op(3, 4, Put, "a", "1", 2)}, "exact"},
		{"newer than the read", []Op{op(1, 4, Put, "a", "1", 3), read(2, 3, "a", 2, kv("a", "1", 3))}, "exact"},
		{"wrong mod revision", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "b", "2", 4), read(5, 6, "a", 4, kv("a", "1", 3))}, "exact"},
		{"unknown write not seen", []Op{unknown(op(1, 2, Put, "a", "1", 0)), read(3, 4, "a", 2)}, ""},
		{"unknown write seen late", []Op{unknown(op(1, 2, Put, "a", "1", 0)), read(3, 4, "a", 1), read(5, 6, "a", 2, kv("a", "1", 2))}, ""},
		{"unknown write seen, then gone", []Op{unknown(op(1, 2, Put, "a", "1", 0)), read(3, 4, "a", 2, kv("a", "1", 2)), read(5, 6, "a", 3)}, "exact"},
		{"unknown write seen in two places", []Op{unknown(op(1, 2, Put, "a", "1", 0)), read(3, 4, "a", 2, kv("a", "1", 2)), read(5, 6, "a", 3, kv("a", "1", 3))}, "exact"},
		{"unknown write before its time", []Op{op(1, 2, Put, "b", "0", 7), unknown(op(3, 4, Put, "a", "1", 0)), read(5, 6, "a", 7, kv("a", "1", 5))}, "real time"},
		{"unknown write on a taken revision", []Op{op(1, 9, Put, "b", "0", 7), unknown(op(3, 4, Put, "a", "1", 0)), read(5, 6, "a", 7, kv("a", "1", 7))}, "unique"},
		{"unknown delete explains", []Op{op(1, 2, Put, "a", "1", 2), unknown(op(3, 4, Delete, "a", "", 0)), read(5, 6, "a", 3)}, ""},
		{"later unknown delete does not", []Op{op(1, 2, Put, "a", "1", 2), read(3, 4, "a", 3), unknown(op(5, 6, Delete, "a", "", 0))}, "exact"},
		{"cas", []Op{op(1, 2, Put, "a", "1", 2), cas(3, 4, "a", "2", 2, 3)}, ""},
		{"cas over a write", []Op{op(1, 2, Put, "a", "1", 2), op(3, 6, Put, "a", "2", 3), cas(4, 5, "a", "3", 2, 4)}, "condition"},
		{"cas creates", []Op{cas(1, 2, "a", "1", 0, 2)}, ""},
		{"cas creates what exists", []Op{op(1, 2, Put, "a", "1", 2), cas(3, 4, "a", "2", 0, 3)}, "condition"},
		{"cas creates after a delete", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Delete, "a", "", 3), cas(5, 6, "a", "2", 0, 4)}, ""},
		{"historical read", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "a", "2", 3), func() Op {
			o := read(5, 6, "a", 3, kv("a", "1", 2))
			o.At = 2
			return o
		}()}, ""},
		{"delete proven, then undone", []Op{op(1, 2, Put, "a", "1", 2), unknown(op(3, 4, Delete, "a", "", 0)), read(5, 6, "a", 3),
			read(7, 8, "a", 4, kv("a", "1", 2))}, "exact"},
		{"delete happens late", []Op{op(1, 2, Put, "a", "1", 2), unknown(op(3, 4, Delete, "a", "", 0)), read(5, 6, "a", 3, kv("a", "1", 2)),
			read(7, 8, "a", 4)}, ""},
		{"delete proven, then condition", []Op{op(1, 2, Put, "a", "1", 2), unknown(op(3, 4, Delete, "a", "", 0)), read(5, 6, "a", 3),
			cas(7, 8, "a", "2", 2, 4)}, "condition"},
		{"range delete", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "c", "2", 3), span(op(5, 6, Delete, "a", "", 4), "c"),
			scan(read(7, 8, "a", 4, kv("c", "2", 3)))}, ""},
		{"range delete lost", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "b", "2", 3), span(op(5, 6, Delete, "a", "", 4), "c"),
			scan(read(7, 8, "a", 4, kv("b", "2", 3)))}, "exact"},
		{"two keys in one write", []Op{with(op(1, 2, Put, "a", "1", 2), "b", "2"), scan(read(3, 4, "a", 2, kv("a", "1", 2), kv("b", "2", 2)))}, ""},
		{"half a write", []Op{with(op(1, 2, Put, "a", "1", 2), "b", "2"), scan(read(3, 4, "a", 2, kv("a", "1", 2)))}, "exact"},
		{"half an unknown write", []Op{unknown(with(op(1, 2, Put, "a", "1", 2), "b", "2")),
			scan(read(3, 4, "a", 2, kv("b", "2", 2)))}, "exact"},
		{"unknown write at two revisions", []Op{unknown(with(op(1, 2, Put, "a", "1", 2), "b", "2")),
			scan(read(3, 4, "a", 3, kv("a", "1", 3), kv("b", "2", 2)))}, "exact"},
		{"version", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "a", "2", 3), read(5, 6, "a", 3, life(kv("a", "2", 3), 2, 2))}, ""},
		{"wrong version", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "a", "2", 3), read(5, 6, "a", 3, life(kv("a", "2", 3), 2, 3))}, "exact"},
		{"version after a delete", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Delete, "a", "", 3), op(5, 6, Put, "a", "2", 4),
			read(7, 8, "a", 4, life(kv("a", "2", 4), 2, 2))}, "exact"},
		{"create revision changes", []Op{op(1, 2, Put, "a", "1", 2), unknown(op(3, 4, Delete, "a", "", 0)), op(5, 6, Put, "a", "2", 5),
			read(7, 8, "a", 5, life(kv("a", "2", 5), 2, 2)), read(9, 10, "a", 5, life(kv("a", "2", 5), 5, 1))}, "exact"},
		{"key twice", []Op{op(1, 2, Put, "a", "1", 2), scan(read(3, 4, "a", 2, kv("a", "1", 2), kv("a", "1", 2)))}, "exact"},
		{"value written twice", []Op{op(1, 2, Put, "a", "1", 2), op(3, 4, Put, "a", "1", 3)}, "history"},
	} {
		found := Check(tc.ops)
		switch {
		case tc.rule == "" && len(found) > 0:
			t.Errorf("%s: wrongly accused:\n%v", tc.name, found[0])
		case tc.rule != "" && !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == tc.rule }):
			t.Errorf("%s: want a violation of %q, got %v", tc.name, tc.rule, found)
		}
	}
}

// simulate runs clients against a correct store, operation by operation at a moment between its beginning and its end.
func simulate(rng *rand.Rand, n int) []Op {
	var (
		ops   []Op
		rev   int64    = 1
		state          = map[string]KV{}
		busy  [4]int64 // until when each client is
	)
	for now := int64(0); len(ops) < n; now += 10 {
		client := rng.IntN(len(busy))
		if busy[client] > now {
			continue
		}
		o := Op{Client: client, Key: fmt.Sprint(rng.IntN(3)), Outcome: OK, Began: now - rng.Int64N(10), Ended: now + rng.Int64N(60)}
		o.Began = max(o.Began, busy[client])
		busy[client] = o.Ended
		lost := false // unknown, and did not happen
		if rng.IntN(5) == 0 {
			o.Outcome, lost = Unknown, rng.IntN(2) == 0
		}
		old, exists := state[o.Key]
		switch o.Kind = []Kind{Put, Delete, CAS, Read}[rng.IntN(4)]; o.Kind {
		case Put:
			o.Changed = true
		case Delete:
			o.Changed = exists
		case CAS:
			o.IfMod = old.Mod - int64(rng.IntN(2))
			o.Changed = o.IfMod == old.Mod
		}
		if o.Kind == Put || o.Kind == CAS {
			o.Value = fmt.Sprintf("v%d", len(ops))
		}
		if o.Changed && !lost {
			rev++
			delete(state, o.Key)
			if o.Value != "" {
				state[o.Key] = kv(o.Key, o.Value, rev)
			}
		} else if exists && !o.Changed && o.Kind != Delete {
			o.KVs = []KV{old}
		}
		o.Revision = rev
		if o.Outcome == Unknown {
			o.Revision, o.Changed, o.KVs = 0, false, nil
		}
		ops = append(ops, o)
	}
	return ops
}

// TestRandomHistories accuses no correct store, and nearly always notices when an acknowledged write is dropped from a
// read or a revision is moved.
func TestRandomHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	planted, noticed := 0, 0
	for range 300 {
		ops := simulate(rng, 60)
		if v := Check(ops); len(v) > 0 {
			t.Fatalf("seed %d: a correct store is accused: %v", seed, v[0])
		}
		for i := range ops {
			if ops[i].reads() && len(ops[i].KVs) > 0 && rng.IntN(10) == 0 {
				ops[i].KVs[0].Mod--
				planted++
				if len(Check(ops)) > 0 {
					noticed++
				}
				break
			}
		}
	}
	if noticed < planted*9/10 || planted == 0 {
		t.Errorf("seed %d: %d of %d planted violations were noticed", seed, noticed, planted)
	}
}

func TestDense(t *testing.T) {
	good := []Op{op(1, 2, Put, "a", "1", 2), read(3, 4, "a", 2, kv("a", "1", 2)), op(5, 6, Delete, "a", "", 3)}
	if v := CheckDense(good, 2); len(v) > 0 {
		t.Errorf("wrongly accused: %v", v)
	}
	for _, bad := range [][]Op{
		{op(1, 2, Put, "a", "1", 3)},
		append(good[:3:3], op(7, 8, Put, "a", "2", 5)),
		append(good[:3:3], unknown(op(7, 8, Put, "a", "2", 5))),
	} {
		if v := CheckDense(bad, 2); len(v) == 0 {
			t.Errorf("accepted: %+v", bad)
		}
	}
}

func TestRecorderRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	r := NewRecorder(&buf)
	o := r.Begin(Op{Client: 1, Kind: Put, Key: "a", Value: "1"})
	o.Outcome, o.Revision, o.Changed = OK, 2, true
	r.End(o)
	ops, err := r.Finish()
	if err != nil || len(ops) != 1 || ops[0].Ended < ops[0].Began {
		t.Fatalf("%+v, %v", ops, err)
	}
	loaded, err := Load(&buf)
	if err != nil || fmt.Sprint(loaded) != fmt.Sprint(ops) {
		t.Errorf("%+v, %v", loaded, err)
	}
	if _, err := Load(strings.NewReader(`{"client":1}` + "\n{")); err == nil {
		t.Error("half a line accepted")
	}
}
