package sequencer

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// phase is where a machine stands in its term as leader of the placement group.
//
//	idle ──wait is over──► proposed ──own lease applied──► serving ──Release──► released
//	  ▲                                                       │                    │
//	  └──────────────── the term ends (Changed) ──────────────┴────────────────────┘
type phase uint8

const (
	phaseIdle phase = iota
	phaseProposed
	phaseServing
	phaseReleased
)

// foreign remembers the last lease of another holder: until its D has passed on our clock from when we saw it, that
// holder may serve.
type foreign struct {
	waits bool
	at    time.Duration
	d     time.Duration
}

// ceilingBlock is the least step by which the ceiling is raised; a busy sequencer takes about a second's load.
const ceilingBlock = 1000

// ceilingRush is how soon after a raise the next one means that the step is too small for the load, and ceilingBlockMax
// bounds the step: a crash skips no more than this.
const (
	ceilingRush     = 200 * time.Millisecond
	ceilingBlockMax = 1 << 20
)

// ceilingAsk is what is under way to raise the ceiling, and how fast revisions go.
type ceilingAsk struct {
	asked  ids.Revision // the highest ceiling proposed in this epoch
	at     time.Duration
	issued int64 // since rateAt
	rateAt time.Duration
	rate   int64 // revisions a second, of the last window
	block  int64 // of the last proposal
}

// readProof counts read indexes, for Config.Quorum. Answers computed now need the next one to begin.
type readProof struct {
	begun, confirmed uint64
}

func (r *readProof) next() uint64 { return r.begun + 1 }

// Applied tells of an entry of the placement log that took effect: its Raft term, the lease it held (or nil), and the
// state after it.
func (m *Machine) Applied(now time.Duration, term uint64, l *Lease, s State, f Fresh) {
	m.state, m.fresh = s, f
	if m.leading && term == m.term {
		m.complete = true
	}
	if l != nil && l.Holder != m.cfg.Node {
		m.noteForeign(now, State{Epoch: l.Epoch, Holder: l.Holder, Duration: l.Duration})
	}
	if s.Released {
		m.foreign.waits = false
	}
	if l != nil && l.Holder == m.cfg.Node {
		m.ownLease(now, term, l)
	}
	m.run()
}

func (m *Machine) noteForeign(now time.Duration, s State) {
	if s.Epoch == 0 || s.Holder == m.cfg.Node || s.Released {
		return
	}
	m.foreign = foreign{waits: true, at: now, d: s.Duration}
}

// ownLease takes a lease of ours that committed. It counts only if this very leadership proposed it, and it runs from
// the moment before it was proposed.
func (m *Machine) ownLease(now time.Duration, term uint64, l *Lease) {
	if m.phase != phaseProposed && m.phase != phaseServing || l.Epoch != m.epoch || term != m.term ||
		m.state.Epoch != m.epoch || m.state.Holder != m.cfg.Node || m.state.Released {
		return
	}
	from := l.ProposedAt
	if m.cfg.rules.leaseFromCommit {
		from = now
	}
	if m.phase == phaseServing {
		m.leaseFrom = max(m.leaseFrom, from)
		return
	}
	// Everything that older sequencers replicated lies before this entry, so the ceiling is the last there was.
	m.phase, m.leaseFrom = phaseServing, from
	if !m.cfg.rules.noOwnTerm {
		m.counter = m.state.Ceiling
	}
	m.table = newTable()
	m.ceiling = ceilingAsk{rateAt: now}
	m.reads = readProof{}
}

// leaseHolds reports whether no other sequencer can have served before now. Both clocks may be off by 5 %, so the holder
// uses nine tenths of D.
func (m *Machine) leaseHolds(now time.Duration) bool {
	if m.cfg.rules.noLeaseCheck {
		return true
	}
	if m.phase != phaseServing && !m.cfg.rules.keepComputed {
		return false
	}
	return m.cfg.Quorum || now < m.leaseFrom+m.usable()
}

func (m *Machine) usable() time.Duration {
	if m.cfg.rules.noMargin {
		return m.cfg.LeaseDuration
	}
	return m.cfg.LeaseDuration * 9 / 10
}

// LeaseLeft is how long the lease still holds; 0 if this is not the sequencer.
func (m *Machine) LeaseLeft(now time.Duration) time.Duration {
	if m.phase != phaseServing {
		return 0
	}
	return max(0, m.leaseFrom+m.usable()-now)
}

// Tick returns the commands to propose now. now must be taken before they are proposed.
func (m *Machine) Tick(now time.Duration) []Command {
	if !m.leading || !m.complete && !m.cfg.rules.noOwnTerm {
		return nil
	}
	var out []Command
	switch m.phase {
	case phaseIdle:
		if m.foreign.waits && now < m.foreign.at+m.foreign.d && !m.cfg.rules.noLeaseWait {
			return nil
		}
		m.phase, m.epoch, m.counter = phaseProposed, m.state.Epoch+1, m.state.Ceiling
		out = append(out, m.proposeLease(now))
	case phaseProposed:
		// The first proposal may have been dropped. It may also be on its way: the same epoch twice does no harm.
		if now >= m.leaseAsked+m.cfg.LeaseDuration/3 {
			out = append(out, m.proposeLease(now))
		}
	case phaseServing:
		if now >= m.leaseAsked+m.cfg.LeaseDuration/3 && !m.cfg.Quorum {
			out = append(out, m.proposeLease(now))
		}
		if c, ok := m.raise(now); ok {
			out = append(out, c)
		}
	}
	return out
}

func (m *Machine) proposeLease(now time.Duration) Command {
	m.leaseAsked = now
	m.stats.Leases++
	d := m.cfg.LeaseDuration
	if m.cfg.Quorum {
		d = 0
	}
	return Command{Lease: &Lease{Epoch: m.epoch, Holder: m.cfg.Node, Duration: d, ProposedAt: now}}
}

// raise asks for a higher ceiling when less than half a block is left above what is given out or asked for.
func (m *Machine) raise(now time.Duration) (Command, bool) {
	c := &m.ceiling
	if d := now - c.rateAt; d >= time.Second {
		c.rate = c.issued * int64(time.Second) / int64(d)
		c.issued, c.rateAt = 0, now
	}
	need := m.needed()
	if m.state.Ceiling-need >= m.low() {
		return Command{}, false
	}
	if c.asked > m.state.Ceiling && c.asked >= need && now < c.at+m.cfg.LeaseDuration/3 {
		return Command{}, false // under way
	}
	block := max(ceilingBlock, c.rate)
	if c.block > 0 && now < c.at+ceilingRush {
		// A burst outruns the last rate: double the step until proposals are rare again.
		block = min(max(block, 2*c.block), ceilingBlockMax)
	}
	c.asked, c.at, c.block = need+ids.Revision(block), now, block
	m.stats.Ceilings++
	return Command{Ceiling: &Ceiling{Epoch: m.epoch, Ceiling: c.asked}}, true
}

// low is how much must be left under the ceiling: half of what the last raise gave.
func (m *Machine) low() ids.Revision { return ids.Revision(max(ceilingBlock, m.ceiling.block)) / 2 }

func (m *Machine) needed() ids.Revision {
	n := m.counter
	for i := range m.queue {
		n += ids.Revision(m.queue[i].req.Wanted)
	}
	return n
}

// Hungry reports whether Tick would raise the ceiling: the driver calls it soon.
func (m *Machine) Hungry() bool {
	return m.phase == phaseServing && m.state.Ceiling-m.counter < m.low() && (len(m.queue) > 0 || m.ceiling.asked <= m.state.Ceiling)
}

// Release stops serving for good in this term and returns the command that tells the successor where. ok is false if
// nothing is served. Answers that Flush has not let go are refused.
func (m *Machine) Release() (c Command, ok bool) {
	if m.phase != phaseServing {
		return Command{}, false
	}
	if !m.cfg.rules.serveAfterRelease {
		m.stop(phaseReleased)
	}
	return Command{Release: &Release{Epoch: m.epoch, Counter: m.counter}}, true
}

// WantsRead reports, with Config.Quorum, whether answers wait for a read index that has not begun.
func (m *Machine) WantsRead() bool {
	return m.cfg.Quorum && m.phase == phaseServing && m.reads.begun == m.reads.confirmed && len(m.computed) > 0
}

// BeginRead numbers a read index that begins after this call; ReadConfirmed tells that it succeeded, on a replica that
// still leads in the same term.
func (m *Machine) BeginRead() uint64 { m.reads.begun++; return m.reads.begun }

// ReadConfirmed lets go what was computed before read index n began.
func (m *Machine) ReadConfirmed(n uint64) {
	if n > m.reads.confirmed && n <= m.reads.begun {
		m.reads.confirmed = n
	}
}

// ReadFailed tells that the read index begun last was not even asked for: it is to begin again.
func (m *Machine) ReadFailed() { m.reads.begun = m.reads.confirmed }
