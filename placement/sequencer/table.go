package sequencer

import (
	"slices"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// table is what an epoch's sequencer knows of range leaders and sessions. An entry for a range is never dropped within
// the epoch: the highest term that ever registered decides.
type table struct {
	ranges   map[ids.RangeID]*entry
	sessions map[ids.NodeID]*session
}

// entry is a range's standing.
type entry struct {
	term uint64 // the highest registered
	// generation is the least that counts: above that of the split by which a registered child left this range.
	generation ids.Generation
	registered ids.Generation // what holder registered at
	node       ids.NodeID     // of holder; the leader of term
	holder     *session       // the session that registered term
}

// session is a node's newest session.
type session struct {
	id   SessionID
	next uint64 // the Seq expected
	// notices are registrations of this session that don't count, until the node has acknowledged them or registers one
	// that counts.
	notices map[ids.RangeID]notice
	// retired are incarnations of the node that are over, newest last.
	retired []uint64

	stale []Standing // (rules.staleStandings)
}

type notice struct {
	Standing
	told uint64 // Seq of the first answer that held it; 0: none yet
}

// retiredMax bounds the incarnations remembered per node; older ones have no connection left.
const retiredMax = 16

func newTable() table {
	return table{ranges: map[ids.RangeID]*entry{}, sessions: map[ids.NodeID]*session{}}
}

// admit finds the session of a request, or opens it, and checks that the request is the next of the node's newest
// session in this epoch.
func (t *table) admit(req *Request, epoch uint64, r rules) (*session, bool) {
	cur := t.sessions[req.Session.Node]
	if req.Seq == 0 {
		return t.open(cur, req.Session, r)
	}
	if r.serveOldSessions && cur != nil && req.Epoch == epoch {
		return cur, true
	}
	if cur == nil || cur.id != req.Session || req.Epoch != epoch || req.Seq != cur.next && !r.anyRequestOrder {
		return nil, false
	}
	cur.next = req.Seq + 1
	return cur, true
}

func (t *table) open(cur *session, id SessionID, r rules) (*session, bool) {
	s := &session{id: id, next: 1, notices: map[ids.RangeID]notice{}}
	if cur != nil {
		s.retired = cur.retired
		if cur.id.Incarnation != id.Incarnation {
			s.retired = append(s.retired, cur.id.Incarnation)
			s.retired = s.retired[max(0, len(s.retired)-retiredMax):]
		}
		if cur.id.Incarnation == id.Incarnation && id.N <= cur.id.N || slices.Contains(cur.retired, id.Incarnation) {
			return nil, false
		}
	}
	if r.forgetTerms {
		for k, e := range t.ranges {
			if e.node == id.Node {
				delete(t.ranges, k)
			}
		}
	}
	t.sessions[id.Node] = s
	return s, true
}

// register takes a registration if it is not below what the table knows, and notes for whoever held the range before
// that it does not any more.
func (t *table) register(s *session, r Registration, off rules) {
	if r.Parent != 0 && !off.ignoreParent {
		t.supersedeParent(r)
	}
	e := t.entry(r.Range)
	switch {
	case r.Term < e.term && !off.acceptLowerTerms, r.Generation < e.generation:
		s.note(r.Range, e.term, e.generation)
		return
	case r.Term == e.term && e.node != 0 && e.node != s.id.Node:
		// Two leaders in one term: Raft forbids it. Neither counts.
		s.note(r.Range, r.Term+1, e.generation)
		e.holder.note(r.Range, r.Term+1, e.generation)
		return
	}
	if e.holder != nil && e.holder != s && r.Term > e.term {
		e.holder.note(r.Range, r.Term, e.generation)
	}
	e.term, e.registered, e.node, e.holder = r.Term, r.Generation, s.id.Node, s
	delete(s.notices, r.Range)
}

// supersedeParent keeps the leader of the range that a child left from serving the child's keys: it must have applied
// the split, which shows in its generation.
func (t *table) supersedeParent(child Registration) {
	p := t.entry(child.Parent)
	if p.generation > child.ParentGeneration {
		return
	}
	p.generation = child.ParentGeneration + 1
	if p.holder != nil && p.registered < p.generation {
		p.holder.note(child.Parent, p.term, p.generation)
	}
}

func (t *table) entry(r ids.RangeID) *entry {
	e := t.ranges[r]
	if e == nil {
		e = &entry{}
		t.ranges[r] = e
	}
	return e
}

func (s *session) note(r ids.RangeID, term uint64, gen ids.Generation) {
	s.notices[r] = notice{Standing: Standing{r, term, gen}}
}

// standings lists the notices for the answer to req and drops those that the node has processed.
func (s *session) standings(req *Request, off rules) []Standing {
	var out []Standing
	for r, n := range s.notices {
		if n.told != 0 && (n.told <= req.Ack || off.tellOnce) {
			delete(s.notices, r)
			continue
		}
		if n.told == 0 {
			n.told = req.Seq
			s.notices[r] = n
		}
		out = append(out, n.Standing)
	}
	if off.staleStandings {
		out, s.stale = s.stale, out
	}
	return out
}
