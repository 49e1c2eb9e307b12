package rangegroup

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"google.golang.org/protobuf/proto"
)

// The lane of a range leader: everything that is proposed passes it, first in, first out.
//
//	queue ──evaluate──► open segment ──answer──► appended segment ──commit──► answered ──apply──► forgotten
//	  ▲                     │ waits for its         │ has its revisions,
//	  └── flush (refused) ──┘ exchange              │ is one Raft entry
//
// A segment is what was evaluated in one go. Evaluation sees applied state overlaid by every segment, open or appended.
// At most segmentsOpenMax wait for the sequencer and segmentsMax are in the lane at all, so that under load what
// arrives meanwhile is gathered into one larger entry.
const (
	segmentsOpenMax  = 2
	segmentsMax      = 4
	segmentItemsMax  = 4096
	segmentBytesMax  = 1 << 20
	proposalAgeMax   = 5 * time.Second // in the queue; the router has given up by then
	refusedRetryWait = 10 * time.Millisecond
	// A transfer of leadership stops the lane for at most transferMax. One that failed, say because the other replica
	// still waits for a snapshot, is tried again after transferPause.
	transferMax       = time.Second
	transferDrain     = 200 * time.Millisecond
	transferPause     = 5 * time.Second
	transferPokeEvery = 50 * time.Millisecond
)

// item is one evaluated request.
type item struct {
	p      *proposal
	result eval.Result
	err    error // a failure that depends on state; answered like a request that changes nothing
	seq    int64 // of the mutation; for others, of the last mutation ahead
}

// segment is a batch of evaluated requests.
type segment struct {
	items []item
	want  int
	bytes int
	// firstSeq is the sequence number of its first mutation; base is the least one that anything in it may refer to.
	firstSeq, base int64
	answer         *Answer // kept while a segment ahead of it waits for its own
	// Once appended:
	appended bool
	answered bool
	index    uint64 // of its entry; without mutations: of the last entry ahead of it
	resolved ids.Revision
}

type lane struct {
	rules    rules
	queue    []*proposal // waiting to be evaluated
	segments []*segment  // in order; appended ones first
	overlay  overlay
	nextSeq  int64
	// revs[i] is the revision of mutation revBase+i. Only numbers that an open segment may still refer to are kept.
	revs    []ids.Revision
	revBase int64
	// lastRev is the greatest revision appended in this term.
	lastRev ids.Revision
	// undecided is set when the request at the head of the queue can only be evaluated with nothing pending and an
	// exchange begun after its arrival.
	undecided bool
	fresh     *Answer
}

func (l *lane) empty() bool { return len(l.queue) == 0 && len(l.segments) == 0 }

func (l *lane) open() (n int) {
	for _, s := range l.segments {
		if !s.appended {
			n++
		}
	}
	return n
}

// firstOpen returns the first segment that is not appended, or nil.
func (l *lane) firstOpen() *segment {
	for _, s := range l.segments {
		if !s.appended {
			return s
		}
	}
	return nil
}

// provisional returns the placeholder for the revision of mutation seq.
func provisional(seq int64) ids.Revision { return eval.Pending(uint64(seq)) }

// revision resolves a placeholder that refers to a mutation whose number is known.
func (l *lane) revision(p ids.Revision) ids.Revision {
	n := int64(p - eval.PendingBase)
	seq, before := (n+1)/2, n%2 != 0
	i := seq - l.revBase
	if i < 0 || i >= int64(len(l.revs)) {
		panic("rangegroup: a provisional revision outlived its number")
	}
	r := l.revs[i]
	if before {
		r--
	}
	return r
}

// trim forgets the numbers that no open segment can refer to.
func (l *lane) trim() {
	keep := l.nextSeq
	for _, s := range l.segments {
		if !s.appended {
			keep = min(keep, s.base)
		}
	}
	if n := keep - l.revBase; n > 0 && n <= int64(len(l.revs)) {
		l.revs = append(l.revs[:0], l.revs[n:]...)
		l.revBase = keep
	}
}

// worthwhile says how many requests must wait before another segment is begun while k are in the lane. An empty lane takes
// what there is at once; behind others, requests gather until there are enough of them or the lane has drained, which
// takes a commit. Without this, many ranges with a few clients each would spend their time on entries of one request.
type worthwhile [segmentsMax]int

var defaultWorthwhile = worthwhile{1, 8, 32, 128}

// evaluate turns the queue's head into one segment. It returns nil if there is nothing to evaluate now.
func (r *Replica) evaluate(l *lead) *segment {
	n := &l.lane
	if len(n.queue) == 0 || n.open() >= segmentsOpenMax || len(n.segments) >= segmentsMax || l.transfer != 0 {
		return nil
	}
	if len(n.queue) < r.host.worthwhile[len(n.segments)] {
		return nil
	}
	if n.undecided && (len(n.segments) > 0 || n.fresh == nil) {
		return nil
	}
	view := r.host.engine.View()
	defer view.Close()
	env := eval.Env{
		State:       &laneState{view: view, overlay: &n.overlay},
		Current:     r.host.seq.Current(),
		Floor:       r.host.seq.Floor(),
		Span:        r.desc.Span,
		LeaseExists: r.host.cfg.LeaseExists,
	}
	s := &segment{firstSeq: n.nextSeq, base: n.nextSeq}
	for _, o := range n.segments {
		if !o.appended {
			s.base = min(s.base, o.base) // what it wrote may refer to what it built on
		}
	}
	now := time.Now()
	taken := 0
	for _, p := range n.queue {
		if len(s.items) >= segmentItemsMax || s.bytes >= segmentBytesMax {
			break
		}
		if now.Sub(p.arrived) > proposalAgeMax {
			taken++
			r.finish(p, nil, &ids.NotAppendedError{Range: r.id, Reason: "waited too long for its turn"})
			continue
		}
		env.Self = provisional(n.nextSeq)
		env.Fresh = n.undecided
		if n.fresh != nil {
			env.Current, env.Floor = n.fresh.Current, n.fresh.Floor
		}
		it := item{p: p}
		it.result, it.err = r.evaluateOne(&env, p)
		if it.err == eval.ErrUndecided {
			n.undecided, n.fresh = true, nil
			break
		}
		taken++
		n.undecided, n.fresh = false, nil
		n.admit(s, &it)
	}
	n.queue = dropFront(n.queue, taken)
	if len(s.items) == 0 {
		return nil
	}
	n.segments = append(n.segments, s)
	return s
}

// admit adds an evaluated request to a segment and to the overlay.
func (n *lane) admit(s *segment, it *item) {
	it.seq = n.nextSeq - 1
	s.bytes += it.p.size
	if it.err == nil && it.result.Mutates {
		it.seq = n.nextSeq
		n.nextSeq++
		s.want++
		for i := range it.result.Writes {
			if n.rules.noOverlay {
				break
			}
			n.overlay.set(&it.result.Writes[i], it.seq)
		}
	}
	s.items = append(s.items, *it)
}

// dropFront removes the first k elements without keeping them reachable.
func dropFront(q []*proposal, k int) []*proposal {
	if k == len(q) {
		clear(q)
		return q[:0]
	}
	m := copy(q, q[k:])
	clear(q[m:])
	return q[:m]
}

// flush takes back every segment that is not appended: its requests are evaluated again, in the same order.
func (n *lane) flush() {
	i := 0
	for i < len(n.segments) && n.segments[i].appended {
		i++
	}
	if i == len(n.segments) {
		return
	}
	var back []*proposal
	for _, s := range n.segments[i:] {
		for j := range s.items {
			back = append(back, s.items[j].p)
		}
	}
	clear(n.segments[i:])
	n.segments = n.segments[:i]
	n.queue = append(back, n.queue...)
	// The overlay is what remains: it is rebuilt, since what the flushed items overwrote is not in it any more.
	n.overlay = overlay{}
	for _, s := range n.segments {
		for j := range s.items {
			it := &s.items[j]
			for k := range it.result.Writes {
				n.overlay.set(&it.result.Writes[k], it.seq)
			}
		}
	}
	n.undecided, n.fresh = false, nil
	n.nextSeq = n.revBase + int64(len(n.revs)) // numbers of flushed mutations were never resolved
}

// number gives a segment the revisions of an answer: its writes and responses are complete after that.
func (n *lane) number(s *segment, a *Answer) {
	for i := 0; i < s.want; i++ {
		n.revs = append(n.revs, a.First+ids.Revision(i))
	}
	last := n.lastRev
	for i := range s.items {
		it := &s.items[i]
		if it.err != nil {
			continue
		}
		if !it.result.Mutates {
			// A state between the mutations ahead of it and those behind it (design: requests that change nothing).
			r := max(a.Current, last)
			if n.rules.noChangeAtCurrent {
				r = a.Current
			}
			it.result.Patch(func(p ids.Revision) ids.Revision {
				if p >= provisional(it.seq+1)-1 { // its own placeholder, or the one before it
					return r
				}
				return n.revision(p)
			})
			continue
		}
		it.result.Patch(n.revision)
		last = n.revision(provisional(it.seq))
		for j := range it.result.Writes {
			n.overlay.settle(&it.result.Writes[j], it.seq)
		}
	}
	n.lastRev = last
}

// size is what a request counts against the limits.
func size(op proto.Message) int { return proto.Size(op) + 64 }
