package storage

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage/storagetest"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// The crash test runs a random workload on a file system that is cloned, as a power failure would leave it, at every
// sync. Each clone is opened and must hold exactly what the plain model held after some step, not before the last step
// that was acknowledged as durable and not after the last one that had begun.

// crashModel is the plain twin of an engine.
type crashModel struct {
	ranges     map[ids.RangeID]*modelRange
	tombstones map[ids.RangeID]ids.ReplicaID
	versions   mvccModel
	plain      map[string]string // system keys and state by user key
}

type modelRange struct {
	state RangeState
	log   map[uint64]string
}

func newCrashModel() *crashModel {
	return &crashModel{
		ranges: map[ids.RangeID]*modelRange{}, tombstones: map[ids.RangeID]ids.ReplicaID{},
		versions: mvccModel{}, plain: map[string]string{},
	}
}

func describe(s RangeState) string {
	hs := s.HardState
	return fmt.Sprintf("%v replica %d %v hs %d/%d/%d applied %+v truncated %+v last %d", s.Descriptor, s.Replica,
		s.ConfState, hs.GetTerm(), hs.GetVote(), hs.GetCommit(), s.Applied, s.Truncated, s.Last)
}

// String is the model's state in the words of dumpEngine.
func (m *crashModel) String() string {
	var b strings.Builder
	for _, r := range slices.Sorted(maps.Keys(m.ranges)) {
		mr := m.ranges[r]
		s := mr.state
		s.HardState = proto.CloneOf(s.HardState)
		s.HardState.Commit = proto.Uint64(max(s.HardState.GetCommit(), s.Applied.Index))
		fmt.Fprintln(&b, describe(s))
		for i := s.Truncated.Index + 1; i <= s.Last; i++ {
			fmt.Fprintf(&b, "  %d %d %s\n", r, i, mr.log[i])
		}
	}
	for r := ids.RangeID(2); r < 8; r++ {
		fmt.Fprintf(&b, "tombstone %d: %d\n", r, m.tombstones[r])
	}
	for _, k := range m.versions.keys() {
		for _, v := range m.versions[k] {
			fmt.Fprintf(&b, "%q %+v\n", k, v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m.plain)) {
		fmt.Fprintf(&b, "%s = %s\n", k, m.plain[k])
	}
	return sortLines(b.String())
}

func dumpEngine(e *Engine) (string, error) {
	var b strings.Builder
	states, err := e.Ranges()
	if err != nil {
		return "", err
	}
	for _, s := range states {
		fmt.Fprintln(&b, describe(s))
		ents, err := e.Entries(s.Descriptor.ID, s.Truncated.Index+1, s.Last+1, NoLimit)
		if err != nil {
			return "", err
		}
		for _, ent := range ents {
			fmt.Fprintf(&b, "  %d %d %d:%s\n", s.Descriptor.ID, ent.GetIndex(), ent.GetTerm(), ent.GetData())
		}
	}
	for r := ids.RangeID(2); r < 8; r++ {
		id, err := e.Tombstone(r)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "tombstone %d: %d\n", r, id)
	}
	v := e.View()
	defer v.Close()
	err = v.Versions(ids.UserSpace, 0, 1<<60, func(key []byte, ver *Version) bool {
		fmt.Fprintf(&b, "%q %+v\n", key, *ver)
		return true
	})
	if err != nil {
		return "", err
	}
	for kind := byte(1); kind <= KeyedKindMax; kind++ {
		err := v.ScanKeyed(kind, ids.Span{Start: []byte{1}, End: []byte{9}}, func(key, suffix, value []byte) bool {
			fmt.Fprintf(&b, "keyed %02d %q %q = %s\n", kind, key, suffix, value)
			return true
		})
		if err != nil {
			return "", err
		}
	}
	err = v.ScanSystem(ids.SystemSpan, func(key, value []byte) bool {
		fmt.Fprintf(&b, "system %q = %s\n", key, value)
		return true
	})
	return sortLines(b.String()), err
}

// sortLines makes two descriptions of one state equal: the model sorts quoted keys, the engine keys.
func sortLines(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// crashRun is one run of the workload and what is known of each of its steps.
type crashRun struct {
	t     *testing.T
	rnd   *rand.Rand
	e     *Engine
	model *crashModel
	rev   ids.Revision

	mu      sync.Mutex
	want    []string // the model after each step; step 0 is the empty engine
	names   []string
	marked  []bool // the step wrote its number in its batch
	durable int    // last step known to be on the disk
	clones  []crashClone
}

type crashClone struct {
	fs               *storagetest.CrashFS
	durable, started int
	at               string
}

// step runs one change. do gets the batch in which a marked step writes; sync says that the step is durable, and with it
// all before, when do and the commit returned.
func (c *crashRun) step(name string, sync bool, change func(), do func(b *Batch)) {
	c.t.Helper()
	change()
	c.mu.Lock()
	n := len(c.want)
	c.names = append(c.names, name)
	c.want, c.marked = append(c.want, c.model.String()), append(c.marked, do != nil)
	c.mu.Unlock()
	if do != nil {
		commit(c.t, c.e, sync, func(b *Batch) {
			do(b)
			b.set(appendNodeKey(nil, "step"), binary.AppendUvarint(nil, uint64(n)))
		})
	}
	if sync {
		c.mu.Lock()
		c.durable = n
		c.mu.Unlock()
	}
}

// crashPoint clones the file system before a sync, once as the last syncs left it and once with some more.
func (c *crashRun) crashPoint(fs *storagetest.CrashFS, rnd *rand.Rand, at string) {
	for _, percent := range []int{0, 30 + rnd.IntN(71)} {
		c.mu.Lock()
		durable := c.durable
		c.mu.Unlock()
		clone := fs.Crash(percent, rnd)
		c.mu.Lock()
		c.clones = append(c.clones, crashClone{fs: clone, durable: durable, started: len(c.want) - 1, at: fmt.Sprintf("%s, %d %% of the rest", at, percent)})
		c.mu.Unlock()
	}
}

// diff shows the lines that only one of two texts has.
func diff(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	var b strings.Builder
	for _, l := range g {
		if !slices.Contains(w, l) {
			fmt.Fprintf(&b, "+ %.200s\n", l)
		}
	}
	for _, l := range w {
		if !slices.Contains(g, l) {
			fmt.Fprintf(&b, "- %.200s\n", l)
		}
	}
	return b.String()
}

func (c *crashRun) verify(cl crashClone) error {
	e, err := Open(testConfig(cl.fs))
	if err != nil {
		return err
	}
	defer e.Close()
	got, err := dumpEngine(e)
	if err != nil {
		return err
	}
	marker := 0
	if v, ok, err := e.GetNodeValue("step"); err != nil {
		return err
	} else if ok {
		n, _ := binary.Uvarint(v)
		marker = int(n)
	}
	if marker < 0 || marker >= len(c.want) {
		return fmt.Errorf("marker %d of %d", marker, len(c.want))
	}
	for j := marker; j < len(c.want) && (j == marker || !c.marked[j]); j++ {
		if j >= cl.durable && j <= cl.started && got == c.want[j] {
			return e.SetNodeValue("alive", []byte("yes"))
		}
	}
	best := marker
	for j := max(marker-2, 0); j <= min(cl.started+2, len(c.want)-1); j++ {
		if len(diff(got, c.want[j])) < len(diff(got, c.want[best])) {
			best = j
		}
	}
	return fmt.Errorf("marker %d, durable %d, started %d, steps from the marker on %v; step %d differs least:\n%s",
		marker, cl.durable, cl.started, c.names[marker:cl.started+1], best, diff(got, c.want[best]))
}

func TestCrashAtEverySync(t *testing.T) {
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		rnd := newRand(t)
		c := &crashRun{t: t, rnd: rnd, model: newCrashModel(), rev: 1}
		c.want, c.names, c.marked = []string{c.model.String()}, []string{"empty"}, []bool{true}
		var cloneMu sync.Mutex
		cloneRnd := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		var mem *storagetest.CrashFS
		mem = storagetest.NewCrashFS(func(name string) {
			cloneMu.Lock()
			defer cloneMu.Unlock()
			c.crashPoint(mem, cloneRnd, name)
		})
		cfg := testConfig(mem)
		var err error
		if c.e, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		for _, s := range []RangeState{
			testState(2, ids.SystemSpan), testState(3, userSpan("", "k")), testState(4, userSpan("k", "")),
		} {
			c.create(s)
		}
		for range 150 {
			c.random()
		}
		c.crashPoint(mem, cloneRnd, "the end")
		if err := c.e.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d steps, %d crashes", len(c.want), len(c.clones))
		for _, cl := range c.clones {
			if err := c.verify(cl); err != nil {
				t.Fatalf("crash at %s: %v", cl.at, err)
			}
		}
	}
}

func (c *crashRun) create(s RangeState) {
	r := s.Descriptor.ID
	c.step("create", true, func() { c.model.ranges[r] = &modelRange{state: s, log: map[uint64]string{}} },
		func(b *Batch) { b.CreateRange(s) })
}

func (c *crashRun) random() {
	all := slices.Sorted(maps.Keys(c.model.ranges))
	mr := c.model.ranges[all[c.rnd.IntN(len(all))]]
	switch n := c.rnd.IntN(20); {
	case n < 7:
		c.append(mr)
	case n < 14:
		c.apply(mr)
	case n < 16:
		c.truncate(mr)
	case n < 17:
		if err := c.e.Flush(); err != nil {
			c.t.Fatal(err)
		}
	case n < 18:
		c.gc(mr)
	case n < 19:
		c.importRange()
	default:
		c.removeOrCreate()
	}
}

// append adds entries, sometimes over the uncommitted end of the log, with the hard state, synced.
func (c *crashRun) append(mr *modelRange) {
	s := &mr.state
	r, prevLast := s.Descriptor.ID, s.Last
	commit := s.HardState.GetCommit()
	first := prevLast + 1
	if floor := max(commit, s.Applied.Index); prevLast > floor && c.rnd.IntN(3) == 0 {
		first = floor + 1 + c.rnd.Uint64N(prevLast-floor)
	}
	term := s.HardState.GetTerm() + c.rnd.Uint64N(2)
	var ents []*raftpb.Entry
	for i := range 1 + c.rnd.Uint64N(4) {
		ents = append(ents, entry(term, first+i, fmt.Sprintf("data %d of %d", c.rev, r)))
	}
	last := first + uint64(len(ents)) - 1
	hs := &raftpb.HardState{
		Term: proto.Uint64(term), Vote: proto.Uint64(1),
		Commit: proto.Uint64(max(commit, first-1+c.rnd.Uint64N(uint64(len(ents))+1))),
	}
	c.step("append", true, func() {
		for i := first; i <= prevLast; i++ {
			delete(mr.log, i)
		}
		for _, ent := range ents {
			mr.log[ent.GetIndex()] = fmt.Sprintf("%d:%s", ent.GetTerm(), ent.GetData())
		}
		s.Last, s.HardState = last, hs
	}, func(b *Batch) {
		b.Append(r, ents, prevLast)
		b.SetHardState(r, hs)
	})
}

// apply moves the applied index over stable entries and writes of every class, unsynced.
func (c *crashRun) apply(mr *modelRange) {
	s := &mr.state
	if s.Applied.Index >= s.Last {
		return
	}
	a := s.Applied
	a.Index += 1 + c.rnd.Uint64N(s.Last-a.Index)
	fmt.Sscanf(mr.log[a.Index], "%d:", &a.Term)
	span := s.Descriptor.Span
	w := NewWriteSet()
	defer w.Release()
	type plain struct{ name, value string }
	var puts []plain
	put := func(name, value string) { puts = append(puts, plain{name, value}) }
	var vers []struct {
		key string
		v   Version
	}
	c.rev++
	for op := range 1 + c.rnd.IntN(4) {
		key := append([]byte{span.Start[0]}, randKey(c.rnd)...)
		if !span.Contains(key) {
			continue
		}
		value := fmt.Sprintf("v%d-%d", c.rev, op)
		if span.Start[0] == ids.SpaceSystem {
			if name := fmt.Sprintf("system %q", key); c.rnd.IntN(3) == 0 {
				w.DeleteSystem(key)
				put(name, "")
			} else {
				w.PutSystem(key, []byte(value))
				put(name, value)
			}
		} else {
			v := Version{Mod: c.rev, Create: c.rev, Version: 1, Op: uint32(op), Value: []byte(value)}
			if c.rnd.IntN(4) == 0 {
				v = Version{Mod: c.rev, Op: uint32(op), Tombstone: true}
			}
			if !slices.ContainsFunc(vers, func(o struct {
				key string
				v   Version
			}) bool {
				return o.key == string(key)
			}) {
				w.PutVersion(key, &v)
				vers = append(vers, struct {
					key string
					v   Version
				}{string(key), v})
			}
		}
		kind := byte(1 + c.rnd.IntN(int(KeyedKindMax)))
		suffix := randKey(c.rnd)
		w.PutKeyed(kind, key, suffix, []byte(value))
		put(fmt.Sprintf("keyed %02d %q %q", kind, key, suffix), value)
	}
	a.MaxRevision = c.rev
	c.step("apply", c.rnd.IntN(4) == 0, func() {
		s.Applied = a
		for _, v := range vers {
			c.model.versions.put(v.key, v.v)
		}
		for _, p := range puts {
			if c.model.plain[p.name] = p.value; p.value == "" {
				delete(c.model.plain, p.name)
			}
		}
	}, func(b *Batch) {
		if err := b.ApplyWrites(w.Bytes()); err != nil {
			c.t.Fatal(err)
		}
		b.SetApplied(s.Descriptor.ID, a)
	})
}

func (c *crashRun) truncate(mr *modelRange) {
	s := &mr.state
	if s.Applied.Index == s.Truncated.Index {
		return
	}
	to := EntryID{Index: s.Truncated.Index + 1 + c.rnd.Uint64N(s.Applied.Index-s.Truncated.Index)}
	to.Term = must(c.e.Term(s.Descriptor.ID, to.Index))
	c.step("truncate", false, func() { s.Truncated = to }, func(b *Batch) { b.Truncate(s.Descriptor.ID, to) })
}

// gc makes the floor durable in the order of the WAL and then removes, which is a step without a mark.
func (c *crashRun) gc(mr *modelRange) {
	s := &mr.state
	from := s.Applied.GCFloor
	to := from + ids.Revision(c.rnd.Int64N(int64(c.rev-from)+1))
	a := s.Applied
	a.GCFloor = to
	c.step("gc", false, func() { s.Applied = a }, func(b *Batch) { b.SetApplied(s.Descriptor.ID, a) })
	c.step("gc", false, func() { c.model.versions.gc(s.Descriptor.Span, to); c.model.versions.tidy() }, nil)
	if _, err := c.e.GC(context.Background(), s.Descriptor.Span, from, to); err != nil {
		c.t.Fatal(err)
	}
}

func (m mvccModel) tidy() {
	maps.DeleteFunc(m, func(_ string, vs []Version) bool { return len(vs) == 0 })
}

// importRange ingests a snapshot, made on another engine, of a range over all of the user space or half of it, which
// destroys the others there.
func (c *crashRun) importRange() {
	src := openTest(c.t, vfs.NewMem())
	defer src.Close()
	r := ids.RangeID(3 + c.rnd.IntN(3))
	span := []ids.Span{ids.UserSpace, userSpan("k", ""), userSpan("", "k")}[c.rnd.IntN(3)]
	s := testState(r, span)
	s.Replica = ids.ReplicaID(2 + c.rnd.IntN(3))
	c.rev++
	s.Applied = Applied{Index: 10 + c.rnd.Uint64N(50), Term: 6, MaxRevision: c.rev}
	s.Truncated = EntryID{Index: s.Applied.Index, Term: s.Applied.Term}
	s.Last, s.HardState = s.Applied.Index, &raftpb.HardState{Term: proto.Uint64(6), Commit: proto.Uint64(s.Applied.Index)}
	fresh := mvccModel{}
	commit(c.t, src, false, func(b *Batch) { b.CreateRange(s) })
	for range 1 + c.rnd.IntN(5) {
		c.rev++
		fresh.write(c.t, c.rnd, src, span, c.rev)
	}
	imp := must(c.e.NewImport(r, span))
	if err := src.Export(context.Background(), s, imp.Add); err != nil {
		c.t.Fatal(err)
	}
	var destroy []ids.RangeID
	for id, mr := range c.model.ranges {
		if id != r && mr.state.Descriptor.Span.Overlaps(span) {
			destroy = append(destroy, id)
		}
	}
	if own, ok := c.model.ranges[r]; ok && !own.state.Descriptor.Span.Overlaps(span) {
		return // this cannot happen to a range
	}
	c.step("import", false, func() { c.model.restore(s, fresh, destroy) }, nil)
	if err := imp.Finish(s, destroy); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.durable = len(c.want) - 1
	c.mu.Unlock()
}

func (m *crashModel) restore(s RangeState, fresh mvccModel, destroy []ids.RangeID) {
	r := s.Descriptor.ID
	cleared := s.Descriptor.Span
	if own, ok := m.ranges[r]; ok {
		cleared = hull(cleared, own.state.Descriptor.Span)
		if own.state.Replica != s.Replica {
			m.tombstones[r] = own.state.Replica
		}
	}
	for _, d := range destroy {
		cleared = hull(cleared, m.ranges[d].state.Descriptor.Span)
		m.remove(d)
	}
	m.clear(cleared)
	maps.Copy(m.versions, fresh)
	m.ranges[r] = &modelRange{state: s, log: map[uint64]string{}}
}

func (m *crashModel) remove(r ids.RangeID) {
	mr := m.ranges[r]
	m.tombstones[r] = mr.state.Replica
	m.clear(mr.state.Descriptor.Span)
	delete(m.ranges, r)
}

func (m *crashModel) clear(span ids.Span) {
	maps.DeleteFunc(m.versions, func(k string, _ []Version) bool { return span.Contains([]byte(k)) })
	maps.DeleteFunc(m.plain, func(name, _ string) bool {
		var key []byte
		if _, err := fmt.Sscanf(name, "system %q", &key); err != nil {
			var kind int
			if _, err := fmt.Sscanf(name, "keyed %d %q", &kind, &key); err != nil {
				panic(err)
			}
		}
		return span.Contains(key)
	})
}

// removeOrCreate removes a user range, or creates one where there is none.
func (c *crashRun) removeOrCreate() {
	var covered []ids.Span
	for r, mr := range c.model.ranges {
		if r == 2 {
			continue
		}
		s := mr.state
		covered = append(covered, s.Descriptor.Span)
		if c.rnd.IntN(4) == 0 {
			c.step("remove", false, func() { c.model.remove(r) }, func(b *Batch) { b.RemoveRange(r, s.Replica, s.Descriptor.Span) })
			return
		}
	}
	for i, span := range []ids.Span{userSpan("", "k"), userSpan("k", "")} {
		r := ids.RangeID(6 + i)
		if !slices.ContainsFunc(covered, span.Overlaps) && c.model.ranges[r] == nil {
			s := testState(r, span)
			s.Replica = c.model.tombstones[r] + 1
			c.create(s)
			return
		}
	}
}
