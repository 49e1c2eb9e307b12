package rangegroup

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/storage"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Replica is one copy of a range. It is the group's state machine (machine.go): everything that decides happens on the
// worker that runs the group, one turn at a time; other goroutines reach it through the inbox and read what it
// publishes.
type Replica struct {
	// Set at birth.
	host    *Host
	id      ids.RangeID
	replica ids.ReplicaID
	log     *zap.Logger

	// Reached from any goroutine.
	group  atomic.Pointer[group] // nil for a moment while the replica is added
	inbox  inbox
	waits  appliedWaiters
	claims claims
	shared atomic.Pointer[shared]
	load   load

	// Owned by the worker.
	desc      *ids.Descriptor
	conf      *raftpb.ConfState
	applied   storage.Applied
	lead      *lead // nil: follower
	orphans   []orphan
	spare     []event
	finished  int // requests and bytes that leave the inbox's limits at the end of the turn
	finishedB int
}

// shared is what a replica publishes for readers.
type shared struct {
	desc    *ids.Descriptor
	gcFloor ids.Revision
	gone    bool // destroyed: what is read from the engine now may be another replica's, or nothing
}

// load counts what a replica did since it was opened.
type load struct {
	writes, reads, writeBytes, readBytes atomic.Int64
	maxRevision                          atomic.Int64
}

func newReplica(h *Host, s storage.RangeState) *Replica {
	r := &Replica{
		host: h, id: s.Descriptor.ID, replica: s.Replica,
		log:  h.log.With(zap.Uint64("range", uint64(s.Descriptor.ID))),
		desc: s.Descriptor, conf: s.ConfState, applied: s.Applied,
	}
	r.waits.index.Store(s.Applied.Index)
	r.publish()
	return r
}

func (r *Replica) setGroup(g group) { r.group.Store(&g) }

// schedule asks for a turn.
func (r *Replica) schedule() {
	if g := r.group.Load(); g != nil {
		(*g).Schedule()
	}
}

// raft is the newest published state of the group.
func (r *Replica) raft() multiraft.Status {
	if g := r.group.Load(); g != nil {
		return (*g).Status()
	}
	return multiraft.Status{Range: r.id, Replica: r.replica}
}

func (r *Replica) publish() {
	r.shared.Store(&shared{desc: r.desc, gcFloor: r.applied.GCFloor})
	r.load.maxRevision.Store(int64(r.applied.MaxRevision))
}

// process looks at what was queued and moves the lane.
func (r *Replica) process(g group) {
	for {
		events := r.inbox.take(r.spare)
		for i := range events {
			r.handle(g, &events[i])
		}
		more := len(events) > 0
		clear(events)
		r.spare = events[:0]
		if l := r.lead; l != nil {
			r.advance(g, l)
		}
		if !more && !r.hold() {
			break
		}
	}
	r.settleLimits()
}

// hold tells the inbox how many requests are worth a turn now, and reports whether as many wait already.
func (r *Replica) hold() (due bool) {
	n := 0
	if l := r.serving(); l != nil && l.ready {
		if k := len(l.lane.segments); k == segmentsMax {
			n = inboxWritesMax
		} else if k > 0 {
			n = max(0, r.host.worthwhile[k]-len(l.lane.queue))
		}
	}
	return r.inbox.setHold(n)
}

func (r *Replica) handle(g group, e *event) {
	switch {
	case e.write != nil:
		r.acceptWrite(e.write)
	case e.confirm != nil:
		r.acceptConfirm(e.confirm)
	case e.answer != nil:
		r.answered(g, e.answer)
	case e.run != nil:
		e.run(r)
	case e.floor != 0:
		r.proposeFloor(g, e.floor)
	}
}

// serving returns the leader's state if this replica may take requests.
func (r *Replica) serving() *lead {
	if r.lead == nil || r.lead.fenced {
		return nil
	}
	return r.lead
}

func (r *Replica) acceptWrite(p *proposal) {
	l := r.serving()
	switch {
	case l == nil:
		r.finish(p, nil, r.notLeader())
	case p.gen != r.desc.Generation && !ownsOp(r.desc, p.op):
		r.finish(p, nil, r.wrongRange())
	default:
		l.lane.queue = append(l.lane.queue, p)
	}
}

func (r *Replica) acceptConfirm(c *confirmation) {
	l := r.serving()
	switch {
	case l == nil:
		c.done(Claim{}, r.notLeader())
	case c.gen != r.desc.Generation:
		c.done(Claim{}, r.wrongRange())
	default:
		l.confirms = append(l.confirms, c)
	}
}

// evaluateOne evaluates a request against applied state and lane.
func (r *Replica) evaluateOne(env *eval.Env, p *proposal) (eval.Result, error) {
	switch op := p.op.(type) {
	case *pb.PutRequest:
		return eval.Put(env, op)
	case *pb.DeleteRangeRequest:
		return eval.DeleteRange(env, op)
	case *pb.TxnRequest:
		return eval.Txn(env, op)
	}
	return eval.Result{}, fmt.Errorf("range %d: request of unknown type %T", r.id, p.op)
}

// finish answers a request, once.
func (r *Replica) finish(p *proposal, resp proto.Message, err error) {
	r.finished++
	r.finishedB += p.size
	p.done(resp, err)
}

// settleLimits gives the room of finished requests back, once per turn.
func (r *Replica) settleLimits() {
	if r.finished > 0 {
		r.inbox.release(r.finished, r.finishedB)
		r.finished, r.finishedB = 0, 0
	}
}

// changed takes a new role, term or leader.
func (r *Replica) changed(s multiraft.Status) {
	if l := r.lead; l != nil && (s.Role != multiraft.Leader || s.Term != l.term) {
		r.stopLeading()
	}
	if s.Role == multiraft.Leader && r.lead == nil {
		r.startLeading(s)
	}
	r.host.leadership(r, s)
	if r.hold() {
		r.schedule() // they wait for nothing here any more
	}
	r.settleLimits()
}

// apply answers who waits for the entries, then does all they say in one batch.
func (r *Replica) apply(g group, entries []*raftpb.Entry) error {
	last := entries[len(entries)-1]
	if l := r.lead; l != nil {
		r.answerThrough(l, last.GetIndex())
	}
	b := r.host.engine.NewBatch()
	defer b.Close()
	floor, resolved := r.applied.GCFloor, ids.Revision(0)
	for _, e := range entries {
		if err := r.applyEntry(g, b, e, &resolved); err != nil {
			return fmt.Errorf("range %d: entry %d (term %d): %w", r.id, e.GetIndex(), e.GetTerm(), err)
		}
		r.decideOrphans(e)
	}
	r.applied.Index, r.applied.Term = last.GetIndex(), last.GetTerm()
	b.SetApplied(r.id, r.applied)
	if err := b.Commit(false); err != nil {
		return fmt.Errorf("range %d: applying through entry %d: %w", r.id, r.applied.Index, err)
	}
	r.afterApply(resolved, floor)
	if l := r.lead; l != nil {
		r.dropThrough(l, r.applied.Index)
		if last.GetTerm() == l.term {
			l.ready, l.last = true, max(l.last, last.GetIndex())
		}
		if len(l.lane.queue) > 0 || len(l.confirms) > 0 || l.transfer != 0 {
			g.Schedule()
		}
	}
	if r.hold() {
		g.Schedule()
	}
	r.settleLimits()
	return nil
}

// afterApply publishes what the batch changed and wakes readers.
func (r *Replica) afterApply(resolved, oldFloor ids.Revision) {
	if r.applied.GCFloor != oldFloor {
		r.publish()
		r.host.collect(r, oldFloor, r.applied.GCFloor)
	}
	r.load.maxRevision.Store(int64(r.applied.MaxRevision))
	if resolved > 0 {
		r.claims.note(Claim{
			Revision: resolved, Index: r.applied.Index, Generation: r.desc.Generation,
			Floor: r.host.seq.Floor(), At: r.host.clock.Now(),
		}, r.applied.Index)
	}
	r.claims.applied(r.applied.Index)
	r.waits.advance(r.applied.Index)
}

// applyEntry adds one entry to the batch. Nothing is refused here: whatever could refuse was decided by the leader.
func (r *Replica) applyEntry(
	g group, b *storage.Batch, e *raftpb.Entry, resolved *ids.Revision,
) error {
	switch e.GetType() {
	case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
		return fmt.Errorf("configuration changes come with replica changes, which this version does not make")
	}
	if len(e.GetData()) == 0 {
		return nil // a new leader's first entry
	}
	h, writes, err := decodeEntry(e.GetData())
	if err != nil {
		return err
	}
	switch h.kind {
	case entryFloor:
		r.applied.GCFloor = max(r.applied.GCFloor, h.last)
		return nil
	case entryWrites:
		if adopted := max(r.claims.adopted(), r.applied.MaxRevision); h.first <= adopted {
			panic(fmt.Sprintf("range %d: revision %d comes after %d was adopted or applied", r.id, h.first, adopted))
		}
		if err := b.ApplyWrites(writes); err != nil {
			return err
		}
		r.applied.MaxRevision = h.last
		*resolved = max(*resolved, h.resolved)
	}
	return nil
}

// answerThrough answers everything in the lane whose fate is sealed by the commit of entry index.
func (r *Replica) answerThrough(l *lead, index uint64) {
	for _, s := range l.lane.segments {
		if !s.appended || s.index > index {
			return
		}
		if !s.answered {
			s.answered = true
			r.answer(s)
		}
	}
}

func (r *Replica) answer(s *segment) {
	now := time.Now()
	for i := range s.items {
		it := &s.items[i]
		r.load.writes.Add(1)
		r.load.writeBytes.Add(int64(it.p.size))
		r.host.metrics.writeSeconds.Observe(now.Sub(it.p.arrived).Seconds())
		if it.err != nil {
			r.finish(it.p, nil, it.err)
			continue
		}
		r.finish(it.p, it.result.Response, nil)
	}
}

// dropThrough forgets what is applied.
func (r *Replica) dropThrough(l *lead, index uint64) {
	n := &l.lane
	k := 0
	for _, s := range n.segments {
		if !s.appended || s.index > index {
			break
		}
		for i := range s.items {
			for j := range s.items[i].result.Writes {
				n.overlay.drop(&s.items[i].result.Writes[j], s.items[i].seq)
			}
		}
		k++
	}
	m := copy(n.segments, n.segments[k:])
	clear(n.segments[m:])
	n.segments = n.segments[:m]
}

// decideOrphans answers requests of an ended term by what the log says at their index.
func (r *Replica) decideOrphans(e *raftpb.Entry) {
	keep := r.orphans[:0]
	for _, o := range r.orphans {
		switch {
		case o.segment.index > e.GetIndex():
			keep = append(keep, o)
		case o.segment.index == e.GetIndex() && o.term == e.GetTerm():
			r.answer(o.segment)
		default:
			for i := range o.segment.items {
				r.finish(o.segment.items[i].p, nil,
					&ids.NotAppendedError{Range: r.id, Reason: "its entry was overwritten by a newer leader"})
			}
		}
	}
	clear(r.orphans[len(keep):])
	r.orphans = keep
}

// restored starts over from what a snapshot brought.
func (r *Replica) restored(s storage.RangeState) {
	for _, o := range r.orphans {
		// The snapshot may or may not hold them: nothing here can tell.
		for i := range o.segment.items {
			r.finish(o.segment.items[i].p, nil, &ids.AmbiguousError{Range: r.id, Reason: "replaced by a snapshot"})
		}
	}
	r.orphans = nil
	r.desc, r.conf, r.applied = s.Descriptor, s.ConfState, s.Applied
	r.publish()
	r.claims.applied(r.applied.Index)
	r.waits.advance(r.applied.Index)
	r.settleLimits()
}

// idle reports whether nothing is queued and nothing in flight.
func (r *Replica) idle() bool {
	l := r.lead
	return r.inbox.empty() && len(r.orphans) == 0 &&
		(l == nil || l.lane.empty() && len(l.confirms) == 0 && l.proving == "" && l.transfer == 0)
}

func (r *Replica) notLeader() error {
	e := &ids.NotLeaderError{Range: r.id}
	if s := r.raft(); s.Leader != r.replica {
		e.Leader, _ = r.desc.NodeOf(s.Leader)
	}
	return e
}

func (r *Replica) wrongRange() error {
	return &ids.WrongRangeError{Range: r.id, Descriptors: []*ids.Descriptor{r.desc}}
}

// stop ends a replica whose group has stopped: nobody runs it any more.
func (r *Replica) stop() {
	for _, e := range r.inbox.close() {
		switch {
		case e.write != nil:
			e.write.done(nil, r.closing())
		case e.confirm != nil:
			e.confirm.done(Claim{}, r.closing())
		case e.answer != nil:
			for _, c := range e.answer.waiters {
				c.done(Claim{}, r.closing())
			}
		}
	}
	if r.lead != nil {
		r.stopLeading()
	}
	for _, o := range r.orphans {
		for i := range o.segment.items {
			o.segment.items[i].p.done(nil, &ids.AmbiguousError{Range: r.id, Reason: "the node is shutting down"})
		}
	}
	r.orphans = nil
	r.waits.fail(r.closing())
}

func (r *Replica) closing() error {
	return &ids.UnavailableError{Range: r.id, Reason: "the node is shutting down"}
}
