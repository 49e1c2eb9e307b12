package sequencer

import (
	"testing"
	"time"
)

// ---- sessions ----

func (w *world) connect(n int) bool {
	nd := w.nodes[n]
	if !w.up(n) || nd.conn != nil && w.rng.IntN(30) > 0 {
		return false
	}
	if nd.conn != nil {
		nd.conn.closed = true
	}
	to := w.rng.IntN(3)
	for i, o := range w.nodes {
		if _, _, ok := o.m.Serving(); ok && w.rng.IntN(4) > 0 {
			to = i // most often the hint is right
		}
	}
	if _, _, ok := nd.m.Serving(); ok && w.rng.IntN(4) > 0 {
		to = n
	}
	req := nd.x.Open()
	nd.conn = &conn{n: req.Session.N, from: n, to: to, boot: [2]uint64{nd.boot, w.nodes[to].boot}, req: []Request{req}}
	w.conns = append(w.conns, nd.conn)
	w.conns = w.conns[max(0, len(w.conns)-8):]
	w.tr("n%d opens session %d to n%d", n, req.Session.N, to)
	w.deliver(n)
	return true
}

func (w *world) breakConn(n int) bool {
	nd := w.nodes[n]
	if nd.conn == nil || !w.up(n) {
		return false
	}
	nd.conn.closed = true
	nd.conn = nil
	w.tr("n%d: its session breaks", n)
	nd.x.Close()
	w.deliver(n)
	return true
}

func (w *world) sendNext(n int) bool {
	nd := w.nodes[n]
	if nd.conn == nil || !w.up(n) {
		return false
	}
	req, ok := nd.x.Next(w.rng.IntN(20) == 0)
	if ok {
		nd.conn.req = append(nd.conn.req, req)
	}
	w.deliver(n)
	return ok
}

// pick takes an index that is mostly 0: networks reorder and repeat, but rarely.
func (w *world) pick(n int) (i int, repeat bool) {
	if w.rng.IntN(12) == 0 {
		i = w.rng.IntN(n)
	}
	return i, w.rng.IntN(25) == 0
}

func (w *world) arrive(c *conn) bool {
	if len(c.req) == 0 || !w.up(c.to) || w.nodes[c.to].boot != c.boot[1] {
		return false
	}
	i, repeat := w.pick(len(c.req))
	req := c.req[i]
	if !repeat {
		c.req = append(c.req[:i:i], c.req[i+1:]...)
	}
	// The time that Submit is given was read a while ago: a process may stop between any two instructions.
	w.nodes[c.to].m.Submit(w.nodes[c.to].read, req, tag{c, req.Seq})
	w.tr("n%d computes exchange %d of n%d's session %d: wanted %d, registers %v", c.to, req.Seq, c.from, c.n, req.Wanted, req.Registrations)
	return true
}

func (w *world) flush(n int) bool {
	if !w.up(n) {
		return false
	}
	w.nodes[n].read = w.local(n)
	out := w.nodes[n].m.Flush(w.local(n), nil)
	for _, r := range out {
		t := r.Tag.(tag)
		t.c.resp = append(t.c.resp, reply{t.seq, r.Answer})
		w.tr("n%d lets go exchange %d of n%d's session %d: refusal %d current %d standings %v", n, t.seq, t.c.from, t.c.n, r.Answer.Refusal, r.Answer.Current, r.Answer.Standings)
	}
	return len(out) > 0
}

func (w *world) receive(c *conn) bool {
	nd := w.nodes[c.from]
	if len(c.resp) == 0 || !w.up(c.from) || nd.boot != c.boot[0] {
		return false
	}
	i, repeat := w.pick(len(c.resp))
	r := c.resp[i]
	if !repeat {
		c.resp = append(c.resp[:i:i], c.resp[i+1:]...)
	}
	alive := nd.x.Receive(c.n, r.seq, r.a)
	if !alive && nd.conn == c {
		c.closed, nd.conn = true, nil
	}
	w.deliver(c.from)
	return true
}

// ---- the placement leader ----

func (w *world) tick(n int) bool {
	r := w.groups[0].reps[n]
	if !r.lead || !w.up(n) {
		return false
	}
	nd := w.nodes[n]
	cmds := nd.m.Tick(w.local(n))
	for _, c := range cmds {
		if c.Ceiling != nil && c.Ceiling.Ceiling > nd.m.counter+8 {
			c.Ceiling.Ceiling = nd.m.counter + 8 // small blocks, so that runs meet the ceiling
		}
		if c.Lease != nil {
			w.tr("n%d proposes lease of epoch %d", n, c.Lease.Epoch)
		}
		w.append(r, c)
	}
	return len(cmds) > 0
}

func (w *world) release(n int) bool {
	r := w.groups[0].reps[n]
	if !r.lead || !w.up(n) {
		return false
	}
	c, ok := w.nodes[n].m.Release()
	if ok {
		w.tr("n%d proposes release of epoch %d at %d", n, c.Release.Epoch, c.Release.Counter)
		w.append(r, c)
	}
	return ok
}

func (w *world) crash(n int) {
	nd := w.nodes[n]
	nd.down, nd.paused = true, false
	nd.conn = nil
	w.tr("n%d crashes", n)
	for _, g := range w.groups {
		r := g.reps[n]
		r.lead, r.l = false, nil
	}
}

// ---- the scheduler ----

// profile says how rare things are: the greater, the rarer.
type profile struct {
	raft0, raft, cuts, breaks, stops, jumps int
	pace                                    int64 // how many steps of time make D
	gather                                  bool
}

var profiles = []profile{
	{raft0: 2, raft: 20, cuts: 1, breaks: 20, stops: 2, jumps: 1, pace: 300, gather: true}, // epochs
	{raft0: 40, raft: 2, cuts: 1, breaks: 20, stops: 8, jumps: 60, pace: 20},               // leaders
	{raft0: 10, raft: 3, cuts: 1, breaks: 2, stops: 8, jumps: 30, pace: 20},                // sessions
	{raft0: 4, raft: 4, cuts: 1, breaks: 5, stops: 2, jumps: 6, pace: 60, gather: true},    // everything
}

func (w *world) step(p profile) {
	w.event++
	n, o := w.rng.IntN(3), w.rng.IntN(3)
	g := w.groups[1+w.rng.IntN(2)]
	l, pl := w.leader(g), w.leader(w.groups[0])
	once := func(x int) bool { return w.rng.IntN(4*x) == 0 }
	switch w.rng.IntN(20) {
	case 0:
		if once(2*p.raft0) || !w.led(w.groups[0]) && once(1) {
			w.elect(w.groups[0], n, o)
		}
		if p.gather && once(p.raft0) {
			for _, g := range w.groups {
				w.elect(g, n, o)
			}
		}
		if once(2*p.raft) || !w.led(g) && once(1) {
			w.elect(g, o, n)
		}
	case 1, 2:
		w.replicate(w.groups[0], pl, o)
		w.apply(w.groups[0].reps[pl])
		w.apply(w.groups[0].reps[o])
	case 3, 4:
		w.replicate(g, l, o)
		w.apply(g.reps[l])
	case 5, 6:
		w.apply(g.reps[n])
		w.apply(g.reps[o])
	case 7:
		w.faults(n, p)
	case 8:
		w.pass(time.Duration(w.rng.Int64N(int64(modelD) / p.pace)))
		if once(p.jumps) {
			w.jump()
		}
		w.tick(n)
		w.tick(pl)
	case 9:
		w.connect(n)
		if once(p.breaks) {
			w.breakConn(o)
		}
	case 10, 11, 16, 17:
		w.arriveAny()
		if w.rng.IntN(3) > 0 {
			w.flush(pl)
		}
		if once(1) {
			w.flush(o)
		}
	case 12, 18, 19:
		w.receiveAny()
		w.sendNext(n)
		w.sendNext(l)
	case 13, 14:
		w.ask(g.reps[l], w.rng.IntN(2) == 0, nil)
		w.work(g.reps[o])
		if w.rng.IntN(3) > 0 {
			w.hurry(g, l)
		}
	case 15:
		w.prove(g, g.reps[l])
		w.preAck(g, g.reps[o])
		w.use(g, g.reps[l])
		w.use(g, g.reps[o])
	}
}

// jump lets time pass: at random, for a renewal to fall due, or until a new sequencer has waited long enough.
func (w *world) jump() {
	d := time.Duration(w.rng.Int64N(int64(modelD) * 3 / 2))
	switch w.rng.IntN(3) {
	case 0:
		d = modelD / 3
	case 1:
		for n, nd := range w.nodes {
			if f := nd.m.foreign; nd.m.phase == phaseIdle && nd.m.leading && f.waits {
				d = max(0, f.at+f.d-w.local(n))*1000/time.Duration(nd.rate) + time.Millisecond
			}
		}
	}
	w.tr("time passes: %v", d)
	w.pass(d)
}

// hurry takes a range leader's next exchange all the way, as far as nothing is in the way: most exchanges meet no fault.
func (w *world) hurry(g *group, n int) {
	w.sendNext(n)
	c := w.nodes[n].conn
	if c == nil || !w.up(n) {
		return
	}
	for w.arrive(c) {
	}
	if w.rng.IntN(4) == 0 {
		return
	}
	w.flush(c.to)
	for w.receive(c) {
	}
	for w.work(g.reps[n]) {
	}
	if o := w.rng.IntN(3); w.replicate(g, n, o) {
		for w.rng.IntN(4) > 0 && w.apply(g.reps[n]) {
		}
	}
}

// leader returns a replica that believes to lead, if there is one.
func (w *world) leader(g *group) int {
	n := w.rng.IntN(3)
	for i := range 3 {
		if r := g.reps[(n+i)%3]; r.lead && w.up(r.node) {
			return r.node
		}
	}
	return n
}

// led reports whether a leader could make progress.
func (w *world) led(g *group) bool {
	for _, r := range g.reps {
		if r.lead && w.up(r.node) && !w.nodes[r.node].cut {
			return true
		}
	}
	return false
}

func (w *world) arriveAny() {
	for i := w.rng.IntN(len(w.conns) + 1); i < len(w.conns); i++ {
		if w.arrive(w.conns[i]) {
			return
		}
	}
}

func (w *world) receiveAny() {
	for i := w.rng.IntN(len(w.conns) + 1); i < len(w.conns); i++ {
		if w.receive(w.conns[i]) {
			return
		}
	}
}

func (w *world) faults(n int, p profile) {
	nd := w.nodes[n]
	once := func(x int) bool { return w.rng.IntN(4*x) == 0 }
	switch {
	case nd.down:
		if once(1) {
			w.tr("n%d restarts", n)
			w.start(n)
		}
	case nd.paused:
		if once(1) {
			nd.paused = false
			w.tr("n%d goes on", n)
		}
	case nd.cut:
		if once(2) {
			nd.cut = false
			w.tr("n%d is joined again", n)
		}
	case w.faulty() && w.rng.IntN(10) > 0: // two of three nodes at once leave nothing to see
	case once(2 * p.stops):
		nd.paused = true
		w.tr("n%d pauses", n)
	case once(3 * p.cuts):
		nd.cut = true // from its peers' rafts, not from the sequencer
		w.tr("n%d is cut off", n)
	case once(5 * p.stops):
		w.crash(n)
	case once(4 * p.stops):
		w.release(n)
	}
}

// faulty reports whether some node is away.
func (w *world) faulty() bool {
	for _, nd := range w.nodes {
		if nd.cut || nd.paused || nd.down {
			return true
		}
	}
	return false
}

// run plays one schedule and returns what broke.
func run(seed uint64, steps int, off rules, lane laneRules, trace bool) *world {
	w := newWorld(seed, off, lane, trace)
	p := profiles[seed%uint64(len(profiles))]
	for g := range w.groups {
		w.elect(w.groups[g], w.rng.IntN(3), w.rng.IntN(3))
	}
	for range steps {
		w.step(p)
		if w.viol != "" {
			break
		}
	}
	for _, nd := range w.nodes {
		w.count.epochs = max(w.count.epochs, int(nd.state.Epoch))
	}
	return w
}

const modelSteps = 2500

// TestModel plays random schedules with all rules on: none may break the contract.
func TestModel(t *testing.T) {
	seeds := uint64(4000)
	if testing.Short() {
		seeds = 400
	}
	var acks, serves, epochs, superseded int
	for seed := range seeds {
		w := run(seed, modelSteps, rules{}, laneRules{}, false)
		if w.viol != "" {
			w = run(seed, modelSteps, rules{}, laneRules{}, true)
			t.Fatalf("seed %d: %s\n%s", seed, w.viol, w.trace)
		}
		acks, serves, epochs, superseded = acks+w.count.acks, serves+w.count.serves, epochs+w.count.epochs, superseded+w.count.superseded
	}
	t.Logf("%d schedules: %d writes, %d reads, %d epochs, %d superseded", seeds, acks, serves, epochs, superseded)
	if acks < int(seeds) || serves < int(seeds) || epochs < 2*int(seeds) || superseded == 0 {
		t.Fatalf("the schedules do too little to prove anything")
	}

}

// TestEveryRuleIsNeeded switches one rule off at a time: some schedule must break. The rules whose schedules are too rare
// to search for are in TestRareRules.
func TestEveryRuleIsNeeded(t *testing.T) {
	if testing.Short() {
		t.Skip("searches many schedules")
	}
	for _, c := range []struct {
		name string
		off  rules
		lane laneRules
	}{
		{name: "noLeaseWait", off: rules{noLeaseWait: true}},
		{name: "noLeaseCheck", off: rules{noLeaseCheck: true}},
		{name: "checkBeforeCompute", off: rules{checkBeforeCompute: true}},
		{name: "noOwnTerm", off: rules{noOwnTerm: true}},
		{name: "ignoreCeiling", off: rules{ignoreCeiling: true}},
		{name: "serveAfterRelease", off: rules{serveAfterRelease: true}},
		{name: "acceptLowerTerms", off: rules{acceptLowerTerms: true}},
		{name: "serveOldSessions", off: rules{serveOldSessions: true}},
		{name: "staleStandings", off: rules{staleStandings: true}},
		{name: "anyRequestOrder", off: rules{anyRequestOrder: true}},
		{name: "keepOldSessions", off: rules{keepOldSessions: true}},
		{name: "anyAnswerOrder", off: rules{anyAnswerOrder: true}},
		{name: "currentAfter", off: rules{currentAfter: true}},
		{name: "rideInFlight", off: rules{rideInFlight: true}},
		{name: "noRegistration", off: rules{noRegistration: true}},
		{name: "noReRegister", off: rules{noReRegister: true}},
		{name: "noProof", off: rules{noProof: true}},
		{name: "ignoreStandings", off: rules{ignoreStandings: true}},
		{name: "dropStandings", off: rules{dropStandings: true, tellOnce: true}, lane: laneRules{noStop: true}},
		{name: "clockStops", lane: laneRules{clockStops: true}},
		{name: "staleProof", lane: laneRules{staleProof: true}},
		{name: "noInFlight", lane: laneRules{noInFlight: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const limit = 60000
			for seed := range uint64(limit) {
				if w := run(seed, modelSteps, c.off, c.lane, false); w.viol != "" {
					t.Logf("seed %d: %s", seed, w.viol)
					return
				}
			}
			t.Fatalf("no violation in %d schedules", limit)
		})
	}
}
