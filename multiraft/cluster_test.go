package multiraft

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"
)

// oracle knows what was acknowledged: the entries that some leader's state machine saw committed.
type oracle struct {
	mu      sync.Mutex
	entries map[ids.RangeID]map[uint64]uint64 // index → hash of term and data, whoever applied it
	acked   map[ids.RangeID]map[string]bool   // data of acknowledged proposals
}

func newOracle() *oracle {
	return &oracle{
		entries: make(map[ids.RangeID]map[uint64]uint64),
		acked:   make(map[ids.RangeID]map[string]bool),
	}
}

// machine is a state machine that keeps a chain of hashes of all it applied, in the engine under one key.
type machine struct {
	c      *cluster
	node   *testNode
	r      ids.RangeID
	state  storage.RangeState
	chain  uint64
	count  uint64
	leader bool
	term   uint64
	mine   map[uint64]string // index → data proposed in this term

	waiters map[uint64]chan struct{} // benchmarks: who waits for an index

	mu           sync.Mutex
	calls        []func(g *Group)
	queueWaiters []chan struct{}
	queue        []string
	reads        []string
	answers      []ReadState
	restored     int
}

const chainRev = ids.Revision(2)

func (m *machine) key() []byte { return m.state.Descriptor.Span.Start }

// load reads the chain from the engine.
func (m *machine) load() error {
	v := m.node.engine.View()
	defer v.Close()
	ver, ok, err := v.Get(m.key(), 1<<60, storage.ScanOptions{})
	if err != nil {
		return err
	}
	m.chain, m.count = 0, 0
	if ok {
		m.chain, m.count = binary.BigEndian.Uint64(ver.Value), binary.BigEndian.Uint64(ver.Value[8:])
	}
	return nil
}

func (m *machine) submit(g *Group, data string) {
	m.mu.Lock()
	m.queue = append(m.queue, data)
	m.mu.Unlock()
	g.Schedule()
}

// inspect looks at what belongs to the worker, on the worker. It wakes nobody.
func (n *testNode) inspect(r ids.RangeID, fn func(g *Group, m *machine)) {
	g, m := n.host.Group(r), n.machines[r]
	done := make(chan struct{})
	m.mu.Lock()
	m.calls = append(m.calls, func(g *Group) { fn(g, m); close(done) })
	m.mu.Unlock()
	g.Schedule()
	<-done
}

func (m *machine) Process(g *Group) bool {
	m.mu.Lock()
	queue, reads, waiters, calls := m.queue, m.reads, m.queueWaiters, m.calls
	m.queue, m.reads, m.queueWaiters, m.calls = nil, nil, nil, nil
	m.mu.Unlock()
	for _, fn := range calls {
		fn(g)
	}
	for i, d := range queue {
		index, err := g.Propose([]byte(d))
		if err != nil {
			continue
		}
		if m.waiters != nil {
			m.waiters[index] = waiters[i]
		} else {
			m.mine[index] = d
		}
	}
	for _, r := range reads {
		_ = g.ReadIndex(r)
	}
	return false
}

func (m *machine) Changed(_ *Group, s Status) {
	if s.Role != Leader || s.Term != m.term {
		m.mine = make(map[uint64]string)
	}
	if s.Role == Leader && (s.TermStart == 0 || s.TermStart > s.Last) {
		m.c.t.Errorf("range %d: a leader's term starts at %d, its log ends at %d", m.r, s.TermStart, s.Last)
	}
	m.leader, m.term = s.Role == Leader, s.Term
}

func (m *machine) Apply(g *Group, entries []*raftpb.Entry) error {
	b := m.node.engine.NewBatch()
	defer b.Close()
	for _, e := range entries {
		if e.GetIndex() != m.state.Applied.Index+1 {
			return fmt.Errorf("entry %d after %d", e.GetIndex(), m.state.Applied.Index)
		}
		m.state.Applied.Index, m.state.Applied.Term = e.GetIndex(), e.GetTerm()
		h := fnv.New64a()
		_ = binary.Write(h, binary.BigEndian, []uint64{m.chain, e.GetIndex(), e.GetTerm()})
		_, _ = h.Write(e.GetData())
		m.chain = h.Sum64()
		m.count++
		if m.waiters != nil {
			if ch, ok := m.waiters[e.GetIndex()]; ok {
				delete(m.waiters, e.GetIndex())
				close(ch)
			}
		}
		if !m.c.quiet {
			m.check(e)
		}
		if e.GetType() != raftpb.EntryNormal {
			cc := new(raftpb.ConfChangeV2)
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				return err
			}
			m.state.ConfState = g.ApplyConfChange(cc)
			b.SetDescriptor(m.r, m.state.Descriptor, m.state.ConfState)
		}
	}
	value := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, m.chain), m.count)
	w := storage.NewWriteSet()
	defer w.Release()
	w.PutVersion(m.key(), &storage.Version{Mod: chainRev, Create: chainRev, Version: 1, Value: value})
	if b := m.c.ballast.Load(); b != nil && m.state.Applied.Index%32 == 0 {
		w.PutVersion(ids.Next(m.key()), &storage.Version{Mod: chainRev, Create: chainRev, Version: 1, Value: *b})
	}
	if err := b.ApplyWrites(w.Bytes()); err != nil {
		return err
	}
	b.SetApplied(m.r, m.state.Applied)
	return b.Commit(false)
}

// check compares an entry with what others applied at its index, and acknowledges it.
func (m *machine) check(e *raftpb.Entry) {
	if m.node.dead.Load() {
		return
	}
	h := fnv.New64a()
	_ = binary.Write(h, binary.BigEndian, e.GetTerm())
	_, _ = h.Write(e.GetData())
	o := m.c.oracle
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.entries[m.r] == nil {
		o.entries[m.r], o.acked[m.r] = make(map[uint64]uint64), make(map[string]bool)
	}
	if old, ok := o.entries[m.r][e.GetIndex()]; ok && old != h.Sum64() {
		m.c.t.Errorf("node %v range %d: entry %d differs from what another replica applied", m.node.id, m.r, e.GetIndex())
	}
	o.entries[m.r][e.GetIndex()] = h.Sum64()
	if d, ok := m.mine[e.GetIndex()]; ok && m.leader && d != string(e.GetData()) && e.GetTerm() == m.term {
		m.c.t.Errorf("range %d: Propose said index %d for %q, there is %q", m.r, e.GetIndex(), d, e.GetData())
	}
	if m.leader {
		o.acked[m.r][string(e.GetData())] = true
	}
	m.c.applied.Add(1)
}

func (m *machine) ReadState(_ *Group, r ReadState) {
	if !m.leader {
		m.c.t.Errorf("range %d: a read state without leadership", m.r)
	}
	m.mu.Lock()
	m.answers = append(m.answers, r)
	m.mu.Unlock()
}

func (m *machine) Restored(_ *Group, s storage.RangeState) error {
	m.state = s
	m.mu.Lock()
	m.restored++
	m.mu.Unlock()
	return m.load()
}

func (m *machine) Idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.queue) == 0 && len(m.reads) == 0
}

// cluster is some nodes on a simulated network, each with its own file system, all with replicas of the same ranges.
type cluster struct {
	t       testing.TB
	net     *simnet.Network
	nodes   []*testNode
	ranges  []ids.RangeID
	oracle  *oracle
	applied atomic.Int64           // entries, by all
	ballast atomic.Pointer[[]byte] // written now and then, to make snapshots large
	random  *rand.Rand
	quiet   bool
}

type testNode struct {
	c           *cluster
	id          ids.NodeID
	fs          *vfs.MemFS
	incarnation uint64
	dead        atomic.Bool
	net         *simnet.Node
	engine      *storage.Engine
	host        *Host
	machines    map[ids.RangeID]*machine
	disk        func(vfs.FS) vfs.FS // what the engine gets instead of fs
	wrap        func(transport.Transport) transport.Transport
}

func newCluster(t testing.TB, nodes, ranges int, opt simnet.Options) *cluster {
	return newClusterWith(t, nodes, ranges, opt, func(*testNode) {})
}

// newClusterWith lets adjust change each node before it starts.
func newClusterWith(t testing.TB, nodes, ranges int, opt simnet.Options, adjust func(*testNode)) *cluster {
	opt.LivenessTimeout = time.Second
	c := &cluster{t: t, net: simnet.New(opt), oracle: newOracle(), random: rand.New(rand.NewPCG(uint64(opt.Seed), 1))}
	for i := range ranges {
		c.ranges = append(c.ranges, ids.FirstUserRange+ids.RangeID(i))
	}
	for i := range nodes {
		n := &testNode{c: c, id: ids.NodeID(i + 1), fs: vfs.NewCrashableMem()}
		if _, ok := t.(*testing.B); ok {
			n.fs, c.quiet = vfs.NewMem(), true
		}
		adjust(n)
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		n.create()
		n.start()
	}
	return c
}

func (c *cluster) span(r ids.RangeID) ids.Span {
	key := func(r ids.RangeID) []byte { return ids.UserKey(fmt.Appendf(nil, "k%06d", r)) }
	return ids.Span{Start: key(r), End: key(r + 1)}
}

// initial is the state of every range's replica on a node at bootstrap.
func (c *cluster) initial(r ids.RangeID, n ids.NodeID) storage.RangeState {
	d := &ids.Descriptor{ID: r, Span: c.span(r), Generation: 1}
	cs := new(raftpb.ConfState)
	for i := range c.nodes {
		d.Replicas = append(d.Replicas, ids.ReplicaDesc{Node: ids.NodeID(i + 1), Replica: ids.ReplicaID(i + 1)})
		cs.Voters = append(cs.Voters, uint64(i+1))
	}
	return storage.RangeState{
		Descriptor: d, Replica: ids.ReplicaID(n), ConfState: raftpb.EnsureConfState(cs),
		HardState: newHardState(5, 0, 10), Applied: storage.Applied{Index: 10, Term: 5},
		Truncated: storage.EntryID{Term: 5, Index: 10}, Last: 10,
	}
}

func (n *testNode) open() {
	var err error
	fs := vfs.FS(n.fs)
	if n.disk != nil {
		fs = n.disk(fs)
	}
	n.engine, err = storage.Open(storage.Config{Dir: "data", FS: fs, CacheBytes: 4 << 20, MemTableBytes: 4 << 20})
	if err != nil {
		n.c.t.Fatal(err)
	}
}

func (n *testNode) create() {
	n.open()
	b := n.engine.NewBatch()
	defer b.Close()
	for _, r := range n.c.ranges {
		b.CreateRange(n.c.initial(r, n.id))
	}
	if err := b.Commit(true); err != nil {
		n.c.t.Fatal(err)
	}
}

// start runs the node on its opened engine.
func (n *testNode) start() {
	t := n.c.t
	n.incarnation++
	n.dead.Store(false)
	n.net = n.c.net.Join(n.id, n.incarnation)
	logger := zap.NewNop()
	if !n.c.quiet {
		if tt, ok := t.(*testing.T); ok {
			logger = zaptest.NewLogger(tt, zaptest.Level(zap.InfoLevel)).With(zap.Uint64("node", uint64(n.id)))
		}
	}
	var net transport.Transport = n.net
	if n.wrap != nil {
		net = n.wrap(net)
	}
	h, err := New(Config{
		Node: n.id, Engine: n.engine, Transport: net, Workers: 2, Seed: int64(n.id), Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.host = h
	n.machines = make(map[ids.RangeID]*machine)
	n.net.HandleRaft(h.HandleRaft)
	n.net.Handle(transport.MethodSnapshot, h.HandleSnapshot)
	n.net.OnIncarnation(func(peer ids.NodeID, _ uint64) { h.WakeNode(peer) })
	states, err := n.engine.Ranges()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		r := s.Descriptor.ID
		m := &machine{c: n.c, node: n, r: r, state: s, mine: make(map[uint64]string)}
		if err := m.load(); err != nil {
			t.Fatal(err)
		}
		n.machines[r] = m
		if _, err := h.Add(GroupConfig{State: s, StateMachine: m, Campaign: uint64(r)%uint64(len(n.c.nodes))+1 == uint64(n.id)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.net.Start(); err != nil {
		t.Fatal(err)
	}
}

// crash ends the process as a power failure does: what was not synced survives in part.
func (n *testNode) crash() {
	n.c.net.Crash(n.id)
	n.dead.Store(true)
	clone := n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: n.c.random.IntN(101), RNG: n.c.random})
	n.stop()
	n.fs = clone
}

func (n *testNode) stop() {
	if err := n.host.Close(); err != nil {
		n.c.t.Error(err)
	}
	if err := n.host.Close(); err != nil {
		n.c.t.Error("second Close:", err)
	}
	if err := n.engine.Close(); err != nil {
		n.c.t.Error(err)
	}
}

func (n *testNode) restart() {
	n.open()
	n.start()
}

func (c *cluster) close() {
	c.net.Close()
	for _, n := range c.nodes {
		if !n.dead.Load() {
			n.stop()
		}
	}
}

// leader returns the node whose replica leads a range in the highest term, nil if none does.
func (c *cluster) leader(r ids.RangeID) (best *testNode) {
	var term uint64
	for _, n := range c.nodes {
		if n.dead.Load() {
			continue
		}
		if s := n.host.Group(r).Status(); s.Role == Leader && s.Term > term {
			best, term = n, s.Term
		}
	}
	return best
}

// propose gives data to whoever leads.
func (c *cluster) propose(r ids.RangeID, data string) bool {
	n := c.leader(r)
	if n == nil {
		return false
	}
	n.machines[r].submit(n.host.Group(r), data)
	return true
}

// eventually waits, in virtual time, until a condition holds.
func (c *cluster) eventually(within time.Duration, what string, cond func() bool) {
	c.t.Helper()
	start := time.Now()
	for {
		synctest.Wait()
		if cond() {
			return
		}
		if time.Since(start) > within {
			c.t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// acked reports whether some leader told that data is committed.
func (c *cluster) acked(r ids.RangeID, data string) bool {
	c.oracle.mu.Lock()
	defer c.oracle.mu.Unlock()
	return c.oracle.acked[r][data]
}

func (c *cluster) allLed() bool {
	for _, r := range c.ranges {
		if c.leader(r) == nil {
			return false
		}
	}
	return true
}

// converged reports whether all live replicas have applied the same log to its end, and none is damaged.
func (c *cluster) converged() bool {
	for _, r := range c.ranges {
		var first *Status
		for _, n := range c.nodes {
			if n.dead.Load() {
				continue
			}
			s := n.host.Group(r).Status()
			if first == nil {
				first = &s
			}
			if s.Applied != first.Applied || s.Applied != s.Last || s.Applied != s.Commit || s.Leader == 0 {
				return false
			}
		}
	}
	return true
}

// verify compares the state machines, and what was acknowledged with what is there. Call it when all is quiet.
func (c *cluster) verify() {
	c.t.Helper()
	for _, r := range c.ranges {
		var first *machine
		for _, n := range c.nodes {
			if n.dead.Load() {
				continue
			}
			if count(n.host.metrics.damaged) > 0 {
				c.t.Fatalf("node %v has a damaged replica", n.id)
			}
			m := new(machine)
			n.inspect(r, func(_ *Group, now *machine) {
				if err := now.load(); err != nil {
					c.t.Error(err)
				}
				m.node, m.state, m.chain, m.count = n, now.state, now.chain, now.count
			})
			if first == nil {
				first = m
			}
			if m.chain != first.chain || m.count != first.count || m.count != m.state.Applied.Index-10 {
				c.t.Errorf("range %d: node %v has %d entries with chain %x, node %v %d with %x (applied %d)",
					r, n.id, m.count, m.chain, first.node.id, first.count, first.chain, m.state.Applied.Index)
			}
		}
		// The chain covers all entries, and check compared each one: what was acknowledged must be among them.
		if got, want := len(c.oracle.entries[r]), int(first.count); got < want {
			c.t.Errorf("range %d: %d entries in the state machines, %d were seen applied", r, want, got)
		}
		for i := range c.oracle.entries[r] {
			if i > first.state.Applied.Index {
				c.t.Errorf("range %d: entry %d was committed and is lost", r, i)
			}
		}
	}
}

func (c *cluster) sum(value func(*Host) float64) (sum float64) {
	for _, n := range c.nodes {
		if !n.dead.Load() {
			sum += value(n.host)
		}
	}
	return sum
}
