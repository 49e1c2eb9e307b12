package rangegroup

import (
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/storage"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// The model test drives a real Replica on a real engine through random schedules: a sequencer that answers late, refuses
// or loses its session; a group that refuses proposals, commits late, deposes its leader and lets another one write; and
// requests of every kind on few keys. Then it judges what the clients saw: every answer must be what the request gives
// on the state just before its revision, and whoever was told "not appended" has no effect.

var laneSeed = flag.Int64("lane.seed", 0, "run only this seed of the lane's model test")

// fakeSequencer holds joins until the schedule answers them, in order.
type fakeSequencer struct {
	joins   []Join
	current ids.Revision
	epoch   uint64
}

func (s *fakeSequencer) Join(j Join)           { s.joins = append(s.joins, j) }
func (s *fakeSequencer) Known() uint64         { return s.epoch }
func (s *fakeSequencer) Current() ids.Revision { return s.current }
func (s *fakeSequencer) Floor() ids.Revision   { return -1 }

// answer answers one exchange, which up to n joins share: those that want revisions come first.
func (s *fakeSequencer) answer(err error, n int) bool {
	joins := s.joins[:min(n, len(s.joins))]
	s.joins = s.joins[len(joins):]
	a := Answer{Err: err, Session: 1, Current: s.current, Floor: -1}
	for _, j := range joins {
		if j.Want > 0 {
			b := a
			if err == nil {
				b.First = s.current + 1
				s.current += ids.Revision(j.Want)
			}
			j.Done(b)
		}
	}
	for _, j := range joins {
		if j.Want == 0 {
			j.Done(a)
		}
	}
	return len(joins) > 0
}

// fakeGroup is a Raft group whose fate the schedule decides.
type fakeGroup struct {
	status multiraft.Status
	log    []*raftpb.Entry // log[i] has index first+i
	first  uint64
	commit uint64
	refuse bool
	reads  []string

	scheduled bool
	transfers int
}

func (g *fakeGroup) Status() multiraft.Status     { return g.status }
func (g *fakeGroup) Schedule()                    { g.scheduled = true }
func (g *fakeGroup) TransferLeader(ids.ReplicaID) { g.transfers++ }
func (g *fakeGroup) TellCommit(uint64)            {}
func (g *fakeGroup) last() uint64                 { return g.first + uint64(len(g.log)) - 1 }

func (g *fakeGroup) ReadIndex(ctx string) error {
	g.reads = append(g.reads, ctx)
	return nil
}

func (g *fakeGroup) Propose(data []byte) (uint64, error) {
	if g.refuse {
		g.refuse = false
		return 0, multiraft.ErrDropped
	}
	return g.append(data), nil
}

func (g *fakeGroup) append(data []byte) uint64 {
	i := g.last() + 1
	g.log = append(g.log, &raftpb.Entry{Term: new(g.status.Term), Index: new(i), Data: data})
	return i
}

// seen is one request as its client saw it.
type seen struct {
	op      proto.Message
	value   string // unique, written by it if it writes
	floor   ids.Revision
	answers int
	resp    proto.Message
	err     error
}

type laneWorld struct {
	t     *testing.T
	rng   *rand.Rand
	seq   *fakeSequencer
	g     *fakeGroup
	h     *Host
	r     *Replica
	ops   []*seen
	maxed ids.Revision // greatest revision that a client has been told
	claim []struct{ c Claim }
	fail  string
}

func newLaneWorld(t *testing.T, seed int64, ru rules) *laneWorld {
	e, err := storage.Open(storage.Config{Dir: "lane", FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	d := &ids.Descriptor{ID: 3, Span: ids.UserSpace, Generation: 1, Replicas: []ids.ReplicaDesc{
		{Node: 1, Replica: 1}, {Node: 2, Replica: 2}, {Node: 3, Replica: 3}}}
	st := storage.RangeState{
		Descriptor: d, Replica: 1, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
		HardState: &raftpb.HardState{Term: new(uint64(5)), Commit: new(uint64(10))},
		Applied:   storage.Applied{Index: 10, Term: 5}, Truncated: storage.EntryID{Term: 5, Index: 10}, Last: 10,
	}
	b := e.NewBatch()
	b.CreateRange(st)
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	b.Close()
	w := &laneWorld{t: t, rng: rand.New(rand.NewSource(seed)), seq: &fakeSequencer{current: 1, epoch: 1}}
	w.g = &fakeGroup{first: 11, commit: 10, status: multiraft.Status{Range: 3, Replica: 1, Term: 5}}
	w.h = &Host{
		engine: e, seq: w.seq, clock: clock.NewVirtual(1, 0), metrics: NewMetrics(nil),
		leadership: func(*Replica, multiraft.Status) {}, rules: ru, worthwhile: worthwhile{1, 1, 1, 1},
	}
	w.h.mu.closed = true // no timers: the schedule retries
	w.h.log = noLog
	w.h.gc = newCollector(w.h)
	w.r = newReplica(w.h, st)
	w.r.setGroup(w.g)
	t.Cleanup(func() { _ = e.Close() })
	return w
}

var modelKeys = []string{"a", "b", "b\x00", "c"}

func (w *laneWorld) key() []byte { return []byte(modelKeys[w.rng.Intn(len(modelKeys))]) }

// request makes a random request that writes value, if it writes.
func (w *laneWorld) request(value string) proto.Message {
	put := func() *pb.PutRequest {
		return &pb.PutRequest{Key: w.key(), Value: []byte(value), PrevKv: w.rng.Intn(2) == 0}
	}
	switch w.rng.Intn(8) {
	case 0:
		return &pb.DeleteRangeRequest{Key: w.key(), PrevKv: true}
	case 1:
		return &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true}
	case 2: // an error that depends on state
		p := &pb.PutRequest{Key: w.key(), IgnoreValue: true}
		return p
	case 3, 4: // compare and swap
		k := w.key()
		c := &pb.Compare{Key: k, Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_Version{Version: int64(w.rng.Intn(3))}}
		if w.rng.Intn(2) == 0 {
			c = &pb.Compare{Key: k, Target: pb.Compare_MOD, Result: pb.Compare_LESS,
				TargetUnion: &pb.Compare_ModRevision{ModRevision: int64(w.seq.current) + int64(w.rng.Intn(6)) - 2}}
		}
		get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}}}
		return &pb.TxnRequest{Compare: []*pb.Compare{c},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put()}}, get},
			Failure: []*pb.RequestOp{get}}
	}
	return put()
}

func (w *laneWorld) submit() {
	o := &seen{value: fmt.Sprintf("v%d", len(w.ops)), floor: w.maxed}
	o.op = w.request(o.value)
	w.ops = append(w.ops, o)
	w.r.inbox.pushWrite(&proposal{op: o.op, gen: 1, size: 100, arrived: now(), done: func(resp proto.Message, err error) {
		o.answers++
		o.resp, o.err = resp, err
		if resp != nil {
			w.maxed = max(w.maxed, headerOf(resp))
		}
	}})
}

func (w *laneWorld) confirm() {
	floor := w.maxed
	w.r.inbox.push(event{confirm: &confirmation{gen: 1, done: func(c Claim, err error) {
		if err != nil {
			return
		}
		if c.Revision < floor {
			w.violate("claim %d for a read that began after %d was answered", c.Revision, floor)
		}
		w.claim = append(w.claim, struct{ c Claim }{c})
	}}})
}

func (w *laneWorld) violate(format string, args ...any) {
	if w.fail == "" {
		w.fail = fmt.Sprintf(format, args...)
	}
}

// commitSome commits and applies up to n more entries.
func (w *laneWorld) commitSome(n int) {
	to := min(w.g.last(), w.g.commit+uint64(n))
	if to <= w.g.commit {
		return
	}
	ents := w.g.log[w.g.commit+1-w.g.first : to+1-w.g.first]
	w.g.commit = to
	if err := w.r.apply(w.g, ents); err != nil {
		w.violate("apply: %v", err)
	}
}

func (w *laneWorld) elect() {
	w.g.status.Term++
	w.g.status.Role, w.g.status.Leader = multiraft.Leader, 1
	w.g.status.Last = w.g.last()
	w.r.changed(w.g.status)
	w.g.append(nil)
}

// depose ends the leader's term; part of what was not committed is lost, and another leader may write.
func (w *laneWorld) depose() {
	w.g.status.Term++
	w.g.status.Role, w.g.status.Leader = multiraft.Follower, 2
	w.r.changed(w.g.status)
	keep := w.g.commit
	if open := w.g.last() - w.g.commit; open > 0 {
		keep += uint64(w.rng.Int63n(int64(open) + 1))
	}
	w.g.log = w.g.log[:keep+1-w.g.first]
	w.g.append(nil)
	for range w.rng.Intn(3) {
		w.seq.current++
		ws := storage.NewWriteSet()
		k := ids.UserKey(w.key())
		ws.PutVersion(k, &storage.Version{Mod: w.seq.current, Create: w.seq.current, Version: 1,
			Value: fmt.Appendf(nil, "other%d", w.seq.current)})
		h := entryHeader{kind: entryWrites, resolved: w.seq.current - 1, first: w.seq.current, last: w.seq.current}
		w.g.append(append(h.append(nil), ws.Bytes()...))
	}
	w.commitSome(1 << 20)
}

func (w *laneWorld) step() {
	leads := w.g.status.Role == multiraft.Leader
	switch p := w.rng.Intn(100); {
	case p < 35:
		w.submit()
	case p < 43:
		w.confirm()
	case p < 68:
		w.r.process(w.g)
	case p < 80:
		w.seq.answer(nil, 1+w.rng.Intn(4)*(w.rng.Intn(4)/3))
	case p < 82:
		w.seq.answer([]error{errors.New("session lost"), ErrNeedProof}[w.rng.Intn(2)], 1+w.rng.Intn(4))
	case p < 95:
		w.commitSome(1 + w.rng.Intn(2))
	case p < 96:
		w.g.refuse = true
	case p < 97 && leads:
		w.depose()
	case !leads:
		w.elect()
	}
	if len(w.g.reads) > 0 && w.rng.Intn(4) == 0 {
		w.r.readState(w.g, multiraft.ReadState{Context: w.g.reads[0]})
		w.g.reads = w.g.reads[1:]
	}
	if w.r.lead != nil {
		w.r.lead.retryAt = zeroTime // the schedule decides when it is time
	}
}

// run executes a schedule and returns the violation, if there is one.
func (w *laneWorld) run(steps int) (violation string) {
	defer func() {
		if p := recover(); p != nil {
			violation = fmt.Sprint("panic: ", p)
		}
	}()
	w.elect()
	for range steps {
		w.step()
		if w.fail != "" {
			return w.fail
		}
	}
	w.settle()
	if w.fail == "" {
		w.judge()
	}
	return w.fail
}

// settle stops the faults and lets everything finish.
func (w *laneWorld) settle() {
	for range 400 {
		if w.g.status.Role != multiraft.Leader {
			w.elect()
		}
		w.g.refuse = false
		if w.r.lead != nil {
			w.r.lead.retryAt = zeroTime
		}
		w.r.process(w.g)
		for w.seq.answer(nil, 4) {
			w.r.process(w.g)
		}
		for _, ctx := range w.g.reads {
			w.r.readState(w.g, multiraft.ReadState{Context: ctx})
		}
		w.g.reads = nil
		w.commitSome(1 << 20)
	}
	if !w.r.idle() {
		w.violate("not idle after the faults ended")
	}
	for i, o := range w.ops {
		if o.answers != 1 {
			w.violate("request %d (%v) was answered %d times", i, o.op, o.answers)
			return
		}
	}
}

// judge compares every answer with the request's evaluation on the state before its revision.
func (w *laneWorld) judge() {
	entries := map[ids.Revision]uint64{} // revision → index
	values := map[string]bool{}
	for _, e := range w.g.log {
		if len(e.GetData()) == 0 {
			continue
		}
		_, ws, err := decodeEntry(e.GetData())
		if err != nil {
			w.violate("%v", err)
			return
		}
		_ = storage.DecodeWrites(ws, func(_ []byte, v *storage.Version) error {
			entries[v.Mod] = e.GetIndex()
			values[string(v.Value)] = true
			return nil
		})
	}
	for rev, index := range entries {
		for _, c := range w.claim {
			if rev <= c.c.Revision && index > c.c.Index {
				w.violate("revision %d at index %d lies below claim (%d, %d)", rev, index, c.c.Revision, c.c.Index)
				return
			}
		}
	}
	for i, o := range w.ops {
		w.judgeOne(i, o, entries, values)
	}
}

func (w *laneWorld) judgeOne(i int, o *seen, entries map[ids.Revision]uint64, values map[string]bool) {
	if o.err != nil && ids.Retryable(o.err) {
		if values[o.value] {
			w.violate("request %d has an effect and was told %v", i, o.err)
		}
		return
	}
	if o.err != nil {
		return // an error by state: which states it could have seen is not recorded
	}
	rev := headerOf(o.resp)
	if rev < o.floor {
		w.violate("request %d (%v) answered at %d, after %d had been answered", i, o.op, rev, o.floor)
		return
	}
	before := rev
	if mutated(o.resp) {
		before = rev - 1
		if rev <= o.floor {
			w.violate("request %d took revision %d, after %d had been answered", i, rev, o.floor)
		}
		if entries[rev] == 0 {
			w.violate("request %d was acknowledged at %d, which is not in the log", i, rev)
			return
		}
	}
	view := w.h.engine.View()
	defer view.Close()
	env := eval.Env{
		State: eval.AtRevision(view, before), Self: before + 1, Current: before, Floor: -1, Fresh: true, Span: ids.UserSpace,
	}
	var res eval.Result
	var err error
	switch op := o.op.(type) {
	case *pb.PutRequest:
		res, err = eval.Put(&env, op)
	case *pb.DeleteRangeRequest:
		res, err = eval.DeleteRange(&env, op)
	case *pb.TxnRequest:
		res, err = eval.Txn(&env, op)
	}
	if err != nil {
		w.violate("request %d (%v): answered at %d, but on that state it fails: %v", i, o.op, rev, err)
		return
	}
	res.Patch(func(r ids.Revision) ids.Revision { return r })
	if !proto.Equal(res.Response, o.resp) {
		w.violate("request %d (%v)\n answered %v\n but the state before %d gives %v", i, o.op, o.resp, rev, res.Response)
	}
}

func headerOf(m proto.Message) ids.Revision {
	h, ok := m.(interface{ GetHeader() *pb.ResponseHeader })
	if !ok {
		return 0
	}
	return ids.Revision(h.GetHeader().GetRevision())
}

// mutated tells from a response whether its request took a revision.
func mutated(m proto.Message) bool {
	switch r := m.(type) {
	case *pb.PutResponse:
		return true
	case *pb.DeleteRangeResponse:
		return r.Deleted > 0
	case *pb.TxnResponse:
		for _, op := range r.Responses {
			if op.GetResponsePut() != nil {
				return true
			}
		}
	}
	return false
}

// TestFailedTransfer: what waited for a transfer of leadership that came to nothing is served without anything else
// happening, and the next transfer leaves time for it.
func TestFailedTransfer(t *testing.T) {
	w := newLaneWorld(t, 1, rules{})
	w.elect()
	w.commitSome(1)
	l := w.r.lead
	l.transfer, l.transferBy = 2, now().Add(transferMax)
	w.submit()
	w.r.process(w.g)
	if len(w.seq.joins) > 0 {
		t.Fatal("a request was taken on in the middle of a transfer")
	}
	l.transferBy = now().Add(-1)
	w.r.process(w.g) // the timer
	if !w.g.scheduled {
		t.Fatal("nobody will look at what waits")
	}
	w.r.process(w.g)
	if len(w.seq.joins) != 1 {
		t.Fatalf("%d joins after the transfer failed, want 1", len(w.seq.joins))
	}
	if !l.noTransferBefore.After(now()) {
		t.Error("the next transfer may begin at once")
	}
}

// TestTransferWithoutSequencer: a leader whose sequencer does not answer hands over all the same, a little later.
func TestTransferWithoutSequencer(t *testing.T) {
	w := newLaneWorld(t, 1, rules{})
	w.elect()
	w.commitSome(1)
	w.submit()
	w.r.process(w.g)
	l := w.r.lead
	l.transfer, l.transferBy = 2, now().Add(transferMax)
	w.r.process(w.g)
	if w.g.transfers > 0 {
		t.Error("did not wait for what is under way")
	}
	l.transferBy, l.retryAt = now().Add(transferMax-transferDrain-1), now().Add(time.Hour)
	w.r.process(w.g)
	if w.g.transfers == 0 {
		t.Error("waits for a sequencer that does not answer")
	}
}

func TestLaneModel(t *testing.T) {
	seeds := int64(300)
	if testing.Short() {
		seeds = 50
	}
	first := int64(1)
	if *laneSeed != 0 {
		first, seeds = *laneSeed, 1
	}
	for seed := first; seed < first+seeds; seed++ {
		w := newLaneWorld(t, seed, rules{})
		if v := w.run(400); v != "" {
			t.Fatalf("seed %d (replay with -lane.seed=%d): %s", seed, seed, v)
		}
	}
}

// TestLaneRules switches each rule off and expects the model test to notice.
func TestLaneRules(t *testing.T) {
	for name, ru := range map[string]rules{
		"noOverlay":         {noOverlay: true},
		"noChangeAtCurrent": {noChangeAtCurrent: true},
		"answerEarly":       {answerEarly: true},
		"claimApplied":      {claimApplied: true},
		"dropRefused":       {dropRefused: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := int64(1); seed <= 400; seed++ {
				if v := newLaneWorld(t, seed, ru).run(400); v != "" {
					t.Logf("seed %d: %.200s", seed, v)
					return
				}
			}
			t.Fatal("nothing noticed that the rule is off")
		})
	}
}
