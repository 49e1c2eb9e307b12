package sequencer

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// The model test: real Machines and Exchangers, a small raft for the placement group and for two ranges, and small range
// leaders, driven by a seeded scheduler in one goroutine under virtual time. See TestModel and TestEveryRuleIsNeeded.

const modelD = 1000 * time.Millisecond

// laneRules switch off sentences that bind the range leaders and the world rather than this package.
type laneRules struct {
	clockStops bool // the lease's clock runs on while a machine is suspended
	staleProof bool // a proof counts for an epoch only if it began after the epoch was learnt
	noInFlight bool // a confirmation is used only after every revision delivered before it was appended
	noStop     bool // a leader that learns it is superseded stops for its term
}

type world struct {
	rng    *rand.Rand
	off    rules
	lane   laneRules
	now    time.Duration
	event  int
	nodes  [3]*wnode
	groups [3]*group
	conns  []*conn
	ops    int
	given  map[ids.Revision]bool
	acked  ids.Revision // greatest revision acknowledged to a client
	serves []serve
	viol   string
	trace  *strings.Builder
	count  struct{ acks, serves, epochs, superseded int }
}

type wnode struct {
	paused, cut, down bool
	rate              int64 // local time per 1000 of true time
	skew              time.Duration
	m                 *Machine
	state             State
	x                 *Exchanger
	boot              uint64
	read              time.Duration // its clock when it last looked
	conn              *conn
}

// conn carries one session. It may outlive its use: late requests and answers stay in it.
type conn struct {
	n        uint64
	from, to int
	boot     [2]uint64
	req      []Request
	resp     []reply
	closed   bool // the node gave it up
}

type reply struct {
	seq uint64
	a   Answer
}

type tag struct {
	c   *conn
	seq uint64
}

type op struct {
	id    int
	floor ids.Revision // greatest revision acknowledged before it began
	done  bool
}

type put struct {
	rev ids.Revision
	op  *op
}

// lead is a range leader's memory.
type lead struct {
	term   uint64
	proven uint64
	reading,
	readEpoch uint64
	fenced bool
	inbox  []got
	claims []claim
}

type got struct {
	op    *op
	write bool
	res   Result
}

type claim struct {
	op   *op
	v    ids.Revision
	i    int
	term uint64
}

// serve is something told to a client: all of the group's puts ≤ v lie at log positions ≤ i.
type serve struct {
	g    int
	v    ids.Revision
	i    int
	what string
}

func newWorld(seed uint64, off rules, lane laneRules, trace bool) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), off: off, lane: lane, given: map[ids.Revision]bool{}}
	if trace {
		w.trace = &strings.Builder{}
	}
	for g := range w.groups {
		w.groups[g] = &group{id: g}
		for n := range 3 {
			w.groups[g].reps[n] = &replica{node: n, group: g}
		}
	}
	for n := range 3 {
		w.nodes[n] = &wnode{rate: []int64{950, 1000, 1050}[w.rng.IntN(3)], skew: time.Duration(w.rng.Int64N(int64(time.Hour))), state: State{Ceiling: 1}}
		w.start(n)
	}
	return w
}

func (w *world) start(n int) {
	nd := w.nodes[n]
	nd.boot++
	nd.m = NewMachine(Config{Node: ids.NodeID(n + 1), LeaseDuration: modelD, rules: w.off}, w.local(n), nd.state, Fresh{Floor: -1})
	nd.x = NewExchanger(ids.NodeID(n+1), nd.boot)
	nd.x.rules = w.off
	nd.conn, nd.down = nil, false
}

func (w *world) tr(f string, a ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%4d %7v  %s\n", w.event, w.now, fmt.Sprintf(f, a...))
	}
}

func (w *world) fail(f string, a ...any) {
	if w.viol == "" {
		w.viol = fmt.Sprintf(f, a...)
		w.tr("VIOLATION %s", w.viol)
	}
}

func (w *world) up(n int) bool { return !w.nodes[n].paused && !w.nodes[n].down }
func (w *world) talk(a, b int) bool {
	return w.up(a) && w.up(b) && !w.nodes[a].cut && !w.nodes[b].cut
}
func (w *world) local(n int) time.Duration {
	return w.nodes[n].skew + w.now*time.Duration(w.nodes[n].rate)/1000
}

func (w *world) pass(d time.Duration) {
	w.now += d
	for _, nd := range w.nodes {
		if w.lane.clockStops && nd.paused {
			nd.skew -= d * time.Duration(nd.rate) / 1000
		}
	}
}

// ---- what raft tells ----

func (w *world) becameLeader(r *replica) {
	nd := w.nodes[r.node]
	if r.group == 0 {
		nd.m.Changed(true, r.term)
		return
	}
	r.l = &lead{term: r.term, proven: nd.x.Known()}
}

func (w *world) stoppedLeading(r *replica) {
	if r.group != 0 {
		r.l = nil
	}
}

// ---- checks ----

func (w *world) checkCommit(g *group, index int, p put) {
	for _, s := range w.serves {
		if s.g == g.id && p.rev <= s.v && index > s.i {
			w.fail("g%d: revision %d commits at index %d after %s said all ≤ %d lie ≤ index %d", g.id, p.rev, index, s.what, s.v, s.i)
		}
	}
	last := ids.Revision(0)
	for i, e := range g.committed {
		q, ok := e.cmd.(put)
		if !ok {
			continue
		}
		if q.rev <= last {
			w.fail("g%d: revision %d at index %d after %d", g.id, q.rev, i+1, last)
		}
		last = q.rev
	}
}

func (w *world) ack(p put) {
	p.op.done = true
	w.count.acks++
	w.tr("op%d is acknowledged at revision %d", p.op.id, p.rev)
	if p.rev <= p.op.floor {
		w.fail("op%d got revision %d although %d was acknowledged before it began", p.op.id, p.rev, p.op.floor)
	}
	w.acked = max(w.acked, p.rev)
}

func (w *world) served(g *group, o *op, v ids.Revision, i int, what string) {
	w.count.serves++
	if o != nil && v < o.floor {
		w.fail("g%d: op%d reads at %d although %d was acknowledged before it began", g.id, o.id, v, o.floor)
	}
	for x := i; x < len(g.committed); x++ {
		if p, ok := g.committed[x].cmd.(put); ok && p.rev <= v {
			w.fail("g%d: %s at %d misses revision %d, committed at index %d > %d", g.id, what, v, p.rev, x+1, i)
		}
	}
	w.serves = append(w.serves, serve{g.id, v, i, what})
}

// ---- range leaders ----

func (w *world) newOp() *op {
	w.ops++
	return &op{id: w.ops, floor: w.acked}
}

// ask has a leader of a range join for a new write or read.
func (w *world) ask(r *replica, write bool, o *op) bool {
	l := r.l
	if l == nil || !r.lead || l.fenced || !w.up(r.node) || r.applid < r.own || l.proven == 0 {
		return false
	}
	if o == nil {
		o = w.newOp()
	}
	want := 0
	if write {
		want = 1
	}
	w.tr("g%d n%d term %d: op%d joins, write %v", r.group, r.node, l.term, o.id, write)
	nd := w.nodes[r.node]
	nd.x.Join(w.local(r.node), Join{Range: ids.RangeID(r.group), Term: l.term, Want: want, Proven: l.proven,
		Done: func(res Result) { w.joined(r, l, got{o, write, res}) }})
	w.deliver(r.node)
	return true
}

func (w *world) joined(r *replica, l *lead, g got) {
	w.tr("g%d n%d: op%d gets current %d first %d err %v", r.group, r.node, g.op.id, g.res.Current, g.res.First, g.res.Err)
	switch g.res.Err {
	case nil:
	case ErrSuperseded:
		w.count.superseded++
		if !w.lane.noStop {
			l.fenced = true
		}
		return
	default:
		return // the client asks again, or not
	}
	if g.write {
		if w.given[g.res.First] {
			w.fail("revision %d is given out twice", g.res.First)
		}
		w.given[g.res.First] = true
	}
	if w.lane.noInFlight && !g.write {
		w.claim(r, l, g)
		return
	}
	l.inbox = append(l.inbox, g)
}

// work has the leader's worker take one thing that was delivered.
func (w *world) work(r *replica) bool {
	l := r.l
	if l == nil || len(l.inbox) == 0 || !w.up(r.node) {
		return false
	}
	g := l.inbox[0]
	l.inbox = l.inbox[1:]
	switch {
	case !r.lead || r.term != l.term:
	case l.fenced:
	case g.write:
		w.tr("g%d n%d appends revision %d at index %d", r.group, r.node, g.res.First, len(r.log)+1)
		w.append(r, put{g.res.First, g.op})
	default:
		w.claim(r, l, g)
	}
	return true
}

func (w *world) claim(r *replica, l *lead, g got) {
	if !l.fenced {
		l.claims = append(l.claims, claim{g.op, g.res.Current, len(r.log), l.term})
	}
}

// use serves a read at some replica that has applied as far as a claim says.
func (w *world) use(g *group, r *replica) bool {
	l := r.l
	if l == nil || len(l.claims) == 0 {
		return false
	}
	at := g.reps[w.rng.IntN(3)]
	if w.rng.IntN(2) == 0 {
		at = r
	}
	c := l.claims[0]
	if at.applid < c.i || !w.up(at.node) {
		return false
	}
	l.claims = l.claims[1:]
	w.tr("g%d n%d serves op%d at %d with index %d applied", g.id, at.node, c.op.id, c.v, at.applid)
	w.served(g, c.op, c.v, at.applid, fmt.Sprintf("op%d", c.op.id))
	return true
}

// prove advances a read index of a leader by one acknowledgement.
func (w *world) prove(g *group, r *replica) bool {
	l := r.l
	if l == nil || !r.lead || r.applid < r.own || !w.up(r.node) {
		return false
	}
	known := w.nodes[r.node].x.Known()
	if l.reading == 0 {
		if known <= l.proven {
			return false
		}
		l.reading, l.readEpoch = 1, known
		return true
	}
	f := w.rng.IntN(3)
	if f == r.node || !w.talk(f, r.node) {
		if w.rng.IntN(8) == 0 {
			l.reading = 0 // begun anew later
		}
		return false
	}
	o := g.reps[f]
	if o.term > r.term {
		w.setTerm(r, o.term)
		return true
	}
	w.setTerm(o, r.term)
	l.reading = 0
	if w.lane.staleProof {
		l.readEpoch = known
	}
	l.proven = max(l.proven, l.readEpoch)
	w.tr("g%d n%d term %d is proven for epoch %d", g.id, r.node, r.term, l.proven)
	return true
}

// preAck is the mutation's half: an acknowledgement that was on its way before the epoch was learnt.
func (w *world) preAck(g *group, r *replica) bool {
	if l := r.l; w.lane.staleProof && l != nil && r.lead && l.reading == 1 && w.up(r.node) {
		l.reading = 0
		l.proven = w.nodes[r.node].x.Known()
		return true
	}
	return false
}

func (w *world) deliver(n int) {
	for _, d := range w.nodes[n].x.Take(nil) {
		d.Done(d.Result)
	}
}
