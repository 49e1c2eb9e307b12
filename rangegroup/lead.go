package rangegroup

import (
	"errors"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
)

// ErrNeedProof is an Answer's error when the session's epoch is newer than the leader's proof: confirm leadership by
// ReadIndex and join again.
var ErrNeedProof = errors.New("leadership is not proven for the sequencer's epoch")

// ErrSuperseded is an Answer's error when a leader of a higher term has registered: this leader is finished for its term.
var ErrSuperseded = errors.New("a newer leader of the range has registered")

// lead is what a replica knows only while it leads, in one term. All of it belongs to the worker.
type lead struct {
	term      uint64
	ready     bool   // that entry is applied: it may evaluate, register, serve
	fenced    bool   // superseded: it serves nothing any more
	proven    uint64 // see Join.Proven
	proving   string // context of the ReadIndex under way
	provingTo uint64 // epoch that it will prove
	last      uint64 // greatest index it appended, or inherited
	lane      lane
	confirms  []*confirmation // waiting for their exchange
	freshAsk  bool            // an exchange for an undecided request is under way
	retryAt   time.Time       // no exchange before this, after a refusal
	// transfer is the replica that leadership goes to once the lane is empty; 0: none.
	transfer         ids.ReplicaID
	transferBy       time.Time // when it is given up
	transferPoke     time.Time // when to look at it again
	noTransferBefore time.Time // after one that failed
}

// orphan is an appended request whose leader's term ended before it was committed here. Its fate is in the log: the same
// entry at its index means it took effect, another one that it did not.
type orphan struct {
	segment *segment
	term    uint64
}

// startLeading begins a term.
func (r *Replica) startLeading(s multiraft.Status) {
	r.lead = &lead{term: s.Term, last: s.Last, lane: lane{rules: r.host.rules}}
	// The first entry of the term leaves for the followers after this: its commit proves leadership for every epoch
	// that is known now.
	r.lead.proven = r.host.seq.Known()
	r.lead.ready = r.applied.Term == s.Term
	r.host.metrics.terms.Inc()
}

// stopLeading ends a term: everybody who waits learns what is certain.
func (r *Replica) stopLeading() {
	l := r.lead
	r.lead = nil
	for _, s := range l.lane.segments {
		if s.appended && s.want > 0 {
			r.orphans = append(r.orphans, orphan{segment: s, term: l.term})
			continue
		}
		for i := range s.items {
			r.finish(s.items[i].p, nil, r.notLeader())
		}
	}
	for _, p := range l.lane.queue {
		r.finish(p, nil, r.notLeader())
	}
	for _, c := range l.confirms {
		c.done(Claim{}, r.notLeader())
	}
}

// advance moves the lane as far as it goes without waiting.
func (r *Replica) advance(g group, l *lead) {
	if !l.ready || l.fenced {
		return
	}
	if time.Until(l.retryAt) <= 0 && l.proving == "" {
		for s := r.evaluate(l); s != nil; s = r.evaluate(l) {
			r.join(l, s)
		}
		r.askFresh(l)
		r.joinConfirms(l)
	}
	r.maybeTransfer(g, l)
}

// join asks for a segment's revisions, and for the confirmation that its answers need.
func (r *Replica) join(l *lead, s *segment) {
	r.ask(l, s.want, func(a Answer) *joinAnswer { return &joinAnswer{term: l.term, segment: s, answer: a} })
}

// askFresh starts the exchange that an undecided request waits for, once nothing is pending ahead of it.
func (r *Replica) askFresh(l *lead) {
	if !l.lane.undecided || l.lane.fresh != nil || l.freshAsk || len(l.lane.segments) > 0 {
		return
	}
	l.freshAsk = true
	r.ask(l, 0, func(a Answer) *joinAnswer { return &joinAnswer{term: l.term, answer: a} })
}

// joinConfirms takes one confirmation for everybody who waits for a claim.
func (r *Replica) joinConfirms(l *lead) {
	if len(l.confirms) == 0 {
		return
	}
	w := l.confirms
	l.confirms = nil
	r.ask(l, 0, func(a Answer) *joinAnswer { return &joinAnswer{term: l.term, waiters: w, answer: a} })
}

func (r *Replica) ask(l *lead, want int, back func(Answer) *joinAnswer) {
	r.host.seq.Join(Join{
		Range: r.id, Term: l.term, Want: want, Proven: l.proven, Generation: r.desc.Generation,
		Done: func(a Answer) {
			if r.inbox.push(event{answer: back(a)}) {
				r.schedule()
			}
		},
	})
}

// answered takes a sequencer's answer.
func (r *Replica) answered(g group, j *joinAnswer) {
	l := r.lead
	if l == nil || l.fenced || l.term != j.term {
		for _, c := range j.waiters {
			c.done(Claim{}, r.notLeader())
		}
		return
	}
	if j.answer.Err != nil {
		r.refused(g, l, j)
		return
	}
	switch {
	case j.segment != nil:
		r.segmentAnswered(g, l, j.segment, &j.answer)
	case j.waiters != nil:
		c := Claim{
			Revision: j.answer.Current, Index: l.last, Generation: r.desc.Generation, Floor: j.answer.Floor,
			At: r.host.clock.Now(),
		}
		if r.host.rules.claimApplied {
			c.Index = r.applied.Index
		}
		r.claims.note(c, r.applied.Index)
		for _, w := range j.waiters {
			if w.remote {
				g.TellCommit(c.Index)
			}
			w.done(c, nil)
		}
	default:
		l.freshAsk = false
		if l.lane.undecided {
			a := j.answer
			l.lane.fresh = &a
		}
	}
}

// refused handles an exchange that brought nothing.
func (r *Replica) refused(g group, l *lead, j *joinAnswer) {
	l.freshAsk = l.freshAsk && (j.segment != nil || j.waiters != nil)
	l.confirms = append(j.waiters, l.confirms...)
	l.lane.flush() // what was evaluated for numbers that never came; its successors built on it
	switch {
	case errors.Is(j.answer.Err, ErrSuperseded):
		l.fenced = true
		r.stopLeading()
		r.lead = &lead{term: l.term, fenced: true}
	case errors.Is(j.answer.Err, ErrNeedProof):
		if l.proving == "" {
			l.provingTo = r.host.seq.Known()
			l.proving = r.host.nextReadContext()
			if err := g.ReadIndex(l.proving); err != nil {
				l.proving = ""
				r.retryLater(l)
			}
		}
	default:
		r.retryLater(l)
	}
}

func (r *Replica) retryLater(l *lead) {
	l.retryAt = time.Now().Add(refusedRetryWait)
	r.host.after(refusedRetryWait+time.Millisecond, r.schedule)
}

// readState takes the answer of a ReadIndex: leadership is proven for what was known when it began.
func (r *Replica) readState(g group, rs multiraft.ReadState) {
	l := r.lead
	if l == nil || l.proving != rs.Context {
		return
	}
	l.proven, l.proving = max(l.proven, l.provingTo), ""
	r.advance(g, l)
	g.Schedule()
}

// segmentAnswered takes the answer for a segment and appends what is at the head of the lane and answered. A segment
// that wants numbers is answered before one ahead of it that wants none, if they share an exchange; it waits for that.
func (r *Replica) segmentAnswered(g group, l *lead, s *segment, a *Answer) {
	if s.appended || !contains(l.lane.segments, s) {
		return // flushed: its numbers are thrown away
	}
	s.answer = a
	for {
		next := l.lane.firstOpen()
		if next == nil || next.answer == nil {
			return
		}
		r.appendSegment(g, l, next, next.answer)
		if !next.appended {
			return
		}
	}
}

// appendSegment gives the first open segment its numbers and appends it as one entry.
func (r *Replica) appendSegment(g group, l *lead, s *segment, a *Answer) {
	n := &l.lane
	if a.First > 0 && a.First <= n.lastRev {
		panic("rangegroup: the sequencer issued a revision below one that this leader appended")
	}
	before := n.lastRev
	n.number(s, a)
	s.resolved = a.Current
	if s.want == 0 {
		s.appended, s.index = true, l.last
		if r.host.rules.answerEarly {
			s.answered = true
			r.answer(s)
		}
		n.trim()
		r.answerThrough(l, r.applied.Index)
		r.dropThrough(l, r.applied.Index)
		return
	}
	index, err := r.proposeSegment(g, s, a)
	if err != nil {
		// Nothing was appended: the numbers are lost, the requests are evaluated again.
		n.lastRev = before
		n.forget(s)
		if r.host.rules.dropRefused {
			n.segments = n.segments[:len(n.segments)-n.open()]
		}
		n.flush()
		r.retryLater(l)
		return
	}
	s.appended, s.index, l.last = true, index, index
	n.trim()
}

// forget takes the numbers of a segment that could not be appended out of the table.
func (n *lane) forget(s *segment) {
	n.revs = n.revs[:len(n.revs)-s.want]
}

func contains(q []*segment, s *segment) bool {
	for _, o := range q {
		if o == s {
			return true
		}
	}
	return false
}

// proposeSegment builds the entry of a numbered segment and hands it to Raft.
func (r *Replica) proposeSegment(g group, s *segment, a *Answer) (uint64, error) {
	ws := storage.NewWriteSet()
	for i := range s.items {
		if it := &s.items[i]; it.err == nil {
			for j := range it.result.Writes {
				ws.PutVersion(it.result.Writes[j].Key, &it.result.Writes[j].Version)
			}
		}
	}
	h := entryHeader{
		kind: entryWrites, resolved: a.Current, first: a.First, last: a.First + ids.Revision(s.want) - 1,
	}
	body := ws.Bytes()
	data := make([]byte, 0, entryHeaderMax+len(body))
	data = append(h.append(data), body...)
	index, err := g.Propose(data)
	if err != nil {
		return 0, err
	}
	r.host.metrics.entryItems.Observe(float64(len(s.items)))
	return index, nil
}

// maybeTransfer hands leadership over once nothing is under way, so that no request fails. If that takes too long, say
// because the sequencer does not answer, it does not wait any more: what was appended is decided by the log, the rest has
// to be sent to the next leader.
func (r *Replica) maybeTransfer(g group, l *lead) {
	if l.transfer == 0 {
		return
	}
	now := time.Now()
	if now.After(l.transferBy) {
		// The other replica did not take over. What waits is served here, and the next attempt leaves time for that.
		l.transfer, l.noTransferBefore = 0, now.Add(transferPause)
		g.Schedule()
		return
	}
	if len(l.lane.segments) == 0 || now.After(l.transferBy.Add(transferDrain-transferMax)) {
		g.TransferLeader(l.transfer)
	}
	if now.After(l.transferPoke) {
		l.transferPoke = now.Add(transferPokeEvery)
		r.host.after(transferPokeEvery+time.Millisecond, r.schedule) // until it happened or its time is up
	}
}
