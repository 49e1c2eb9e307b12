package sequencer

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// wantedMax bounds the revisions of one request: far more than a node's lanes can hold.
const wantedMax = 1 << 20

// queueMax bounds the requests that wait for a higher ceiling: two per session of 4,096 nodes.
const queueMax = 8192

// Config is what a Machine needs.
type Config struct {
	Node ids.NodeID
	// LeaseDuration is D.
	LeaseDuration time.Duration
	// Quorum replaces the clock: answers wait for a read index of the placement group begun after they were computed.
	Quorum bool

	rules rules
}

// Machine is the server half of the protocol, one with every replica of the placement group. Its driver
//
//  1. calls Changed when the replica's role or term changes, before anything of the new term,
//  2. calls Applied after each entry of the placement log took effect,
//  3. calls Tick at least every D/10 on the leader, and whenever Hungry says so, and proposes the commands it returns,
//  4. calls Submit for each request, then Flush, with a time taken after Submit returned, and sends the replies.
//
// All times are one clock's that runs on while the machine is suspended. Not safe for concurrent use.
type Machine struct {
	cfg Config

	// What Raft said last.
	leading  bool
	term     uint64
	complete bool // leading, and an entry of this term is applied: state holds all that came before

	state   State
	fresh   Fresh
	foreign foreign

	// The epoch that this machine serves or wants to serve; void unless phase says so.
	phase      phase
	epoch      uint64
	counter    ids.Revision // the greatest revision given out; never above state.Ceiling
	leaseFrom  time.Duration
	leaseAsked time.Duration // when a lease was last proposed
	ceiling    ceilingAsk
	table      table

	queue    []queued   // requests in the order they came, waiting for the ceiling
	computed []computed // answers that Flush has not let go yet
	reads    readProof

	stats Stats
}

// Stats count what a machine has done since it was made.
type Stats struct {
	Exchanges, Revisions, Refused, Ceilings, Leases, Standings uint64
}

type queued struct {
	req Request
	tag any
}

type computed struct {
	Reply
	epoch uint64
	proof uint64 // the read index that lets it go, with Config.Quorum
}

// Reply is a finished answer; Tag is what Submit was given with the request.
type Reply struct {
	Tag    any
	Answer Answer
}

// NewMachine returns the machine of a replica that starts with what its disk says. Another holder's lease counts as
// seen at this moment.
func NewMachine(cfg Config, now time.Duration, s State, f Fresh) *Machine {
	m := &Machine{cfg: cfg, state: s, fresh: f}
	m.noteForeign(now, s)
	if cfg.rules.noRestartWait {
		m.foreign = foreign{}
	}
	return m
}

// Restored replaces the state by that of a snapshot.
func (m *Machine) Restored(now time.Duration, s State, f Fresh) {
	m.state, m.fresh = s, f
	m.noteForeign(now, s)
}

// Changed tells the machine whether its replica leads, and in which term. Whatever it served before is over unless both
// are as they were.
func (m *Machine) Changed(leading bool, term uint64) {
	if leading == m.leading && term == m.term {
		return
	}
	if m.leading {
		m.stop(phaseIdle)
	}
	m.leading, m.term, m.complete = leading, term, false
}

// stop ends serving at once: nothing that has not left will leave.
func (m *Machine) stop(next phase) {
	m.phase = next
	m.ceiling = ceilingAsk{}
	if !m.cfg.rules.keepComputed {
		for i := range m.computed {
			m.computed[i].Answer = Answer{Refusal: NotSequencer}
		}
	}
	for _, q := range m.queue {
		m.refuse(q.tag, NotSequencer)
	}
	m.queue = m.queue[:0]
	m.table = table{}
}

// Submit takes a request. Flush brings the reply: at once, after the ceiling was raised, or after a read index.
func (m *Machine) Submit(now time.Duration, req Request, tag any) {
	switch {
	case m.phase != phaseServing || m.cfg.rules.checkBeforeCompute && !m.leaseHolds(now):
		m.refuse(tag, NotSequencer)
		return
	case req.Wanted < 0 || req.Wanted > wantedMax || len(m.queue) >= queueMax:
		m.refuse(tag, BadSession)
		return
	}
	m.queue = append(m.queue, queued{req, tag})
	m.run()
}

// run computes what the ceiling allows, in the order of arrival.
func (m *Machine) run() {
	n := 0
	for n < len(m.queue) && m.phase == phaseServing {
		q := &m.queue[n]
		if m.counter+ids.Revision(q.req.Wanted) > m.state.Ceiling && !m.cfg.rules.ignoreCeiling {
			break
		}
		m.compute(q)
		n++
	}
	if n == len(m.queue) {
		clear(m.queue)
		m.queue = m.queue[:0]
	} else if n > 0 {
		m.queue = append(m.queue[:0], m.queue[n:]...)
	}
}

// compute works out one answer in one step: registrations, then what is superseded together with Current, then the
// revisions.
func (m *Machine) compute(q *queued) {
	s, ok := m.table.admit(&q.req, m.epoch, m.cfg.rules)
	if !ok {
		m.refuse(q.tag, BadSession)
		return
	}
	for _, r := range q.req.Registrations {
		m.table.register(s, r, m.cfg.rules)
	}
	a := Answer{
		Epoch:     m.epoch,
		Current:   m.counter,
		Standings: s.standings(&q.req, m.cfg.rules),
		Fresh:     m.fresh,
		Pacing:    time.Duration(len(m.table.sessions)) * pacingPerSession,
	}
	m.counter += ids.Revision(q.req.Wanted)
	if m.cfg.rules.currentAfter {
		a.Current = m.counter
	}
	m.ceiling.issued += q.req.Wanted
	m.stats.Exchanges++
	m.stats.Revisions += uint64(q.req.Wanted)
	m.stats.Standings += uint64(len(a.Standings))
	m.computed = append(m.computed, computed{Reply{q.tag, a}, m.epoch, m.reads.next()})
}

// pacingPerSession spreads a thousand nodes' exchanges: an answer costs the sequencer's node about this much.
const pacingPerSession = 2 * time.Microsecond

func (m *Machine) refuse(tag any, why Refusal) {
	m.stats.Refused++
	m.computed = append(m.computed, computed{Reply: Reply{tag, Answer{Refusal: why}}})
}

// Flush appends to out the replies that may go, given a time taken after they were computed: if the lease still holds
// then, nobody else can have served when they were computed. If not, refusals go instead.
func (m *Machine) Flush(now time.Duration, out []Reply) []Reply {
	holds := m.leaseHolds(now) || m.cfg.rules.checkBeforeCompute
	n := 0
	for i := range m.computed {
		c := &m.computed[i]
		if c.Answer.Refusal == Served && m.cfg.Quorum && m.reads.confirmed < c.proof {
			m.computed[n] = *c
			n++
			continue
		}
		if c.Answer.Refusal == Served && !holds {
			c.Answer = Answer{Refusal: NotSequencer}
		}
		out = append(out, c.Reply)
	}
	clear(m.computed[n:])
	m.computed = m.computed[:n]
	return out
}

// Serving returns the epoch that is served and the counter, if one is served as far as this machine knows. Only an
// answer that passed Flush proves it.
func (m *Machine) Serving() (epoch uint64, counter ids.Revision, ok bool) {
	return m.epoch, m.counter, m.phase == phaseServing
}

// Stats returns the counts so far, with the number of sessions and of registered ranges.
func (m *Machine) Stats() (s Stats, sessions, registered int) {
	return m.stats, len(m.table.sessions), len(m.table.ranges)
}
