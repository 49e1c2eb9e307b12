package sequencer

import (
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// pair is two placement replicas and the log between them, for schedules told step by step. Times are true times; the
// clocks run at rates of their own.
type pair struct {
	m     [2]*Machine
	state State
	rate  [2]float64
}

func newPair(off rules, slow, fast float64) *pair {
	p := &pair{rate: [2]float64{slow, fast}, state: State{Ceiling: 1}}
	for i := range p.m {
		p.m[i] = NewMachine(Config{Node: ids.NodeID(i + 1), LeaseDuration: modelD, rules: off}, 0, p.state, Fresh{Floor: -1})
	}
	return p
}

func (p *pair) local(i int, t float64) time.Duration {
	return time.Duration(t * p.rate[i] * float64(modelD))
}

// lead makes machine i leader of a term; the other stops unless it does not hear of it.
func (p *pair) lead(i int, term uint64, heard bool) {
	if heard {
		p.m[1-i].Changed(false, term)
	}
	p.m[i].Changed(true, term)
	p.m[i].Applied(0, term, nil, p.state, Fresh{Floor: -1})
}

// commit applies a command on the replicas named, at their times.
func (p *pair) commit(term uint64, c Command, at map[int]float64) {
	p.state.Apply(c)
	for i, t := range at {
		p.m[i].Applied(p.local(i, t), term, c.Lease, p.state, Fresh{Floor: -1})
	}
}

// take has machine i propose its first lease at time t; ok is false if it still waits.
func (p *pair) take(i int, t float64) (Command, bool) {
	for _, c := range p.m[i].Tick(p.local(i, t)) {
		if c.Lease != nil {
			return c, true
		}
	}
	return Command{}, false
}

// answers reports whether machine i answers a new session at time t.
func (p *pair) answers(i int, node ids.NodeID, n uint64, t float64) bool {
	p.m[i].Submit(p.local(i, t), Request{Session: SessionID{node, 1, n}}, nil)
	out := p.m[i].Flush(p.local(i, t), nil)
	return len(out) == 1 && out[0].Answer.Refusal == Served
}

// TestRareRules tells the schedules that a random search seldom finds, each with its rule on and off.
func TestRareRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		off   rules
		broke func(off rules) bool
	}{
		{"noMargin", rules{noMargin: true}, func(off rules) bool {
			p := newPair(off, 0.96, 1.04)
			p.lead(0, 1, true)
			l, _ := p.take(0, 0)
			p.commit(1, l, map[int]float64{0: 0, 1: 0})
			p.lead(1, 2, false)
			_, ok := p.take(1, 0.97)
			return ok && p.answers(0, 1, 1, 0.98)
		}},
		{"leaseFromCommit", rules{leaseFromCommit: true}, func(off rules) bool {
			p := newPair(off, 1, 1)
			p.lead(0, 1, true)
			l, _ := p.take(0, 0)
			p.commit(1, l, map[int]float64{1: 0, 0: 0.5})
			p.lead(1, 2, false)
			_, ok := p.take(1, 1.01)
			return ok && p.answers(0, 1, 1, 1.2)
		}},
		{"noRestartWait", rules{noRestartWait: true}, func(off rules) bool {
			p := newPair(off, 1, 1)
			p.lead(0, 1, true)
			l, _ := p.take(0, 0)
			p.commit(1, l, map[int]float64{0: 0, 1: 0})
			p.m[1] = NewMachine(Config{Node: 2, LeaseDuration: modelD, rules: off}, p.local(1, 0.1), p.state, Fresh{})
			p.lead(1, 2, false)
			_, ok := p.take(1, 0.3)
			return ok && p.answers(0, 1, 1, 0.4)
		}},
		{"keepComputed", rules{keepComputed: true}, func(off rules) bool {
			p := newPair(off, 1, 1)
			p.lead(0, 1, true)
			l, _ := p.take(0, 0)
			p.commit(1, l, map[int]float64{0: 0, 1: 0})
			// The lease is over and another serves when this is computed; it has not left when the first serves again.
			p.lead(1, 2, false)
			l, _ = p.take(1, 1.1)
			p.commit(2, l, map[int]float64{1: 1.1})
			p.m[0].Submit(0, Request{Session: SessionID{1, 1, 1}}, "late")
			p.lead(0, 3, true)
			p.m[0].Applied(p.local(0, 1.2), 3, l.Lease, p.state, Fresh{})
			l, ok := p.take(0, 2.3)
			p.commit(3, l, map[int]float64{0: 2.3})
			for _, r := range p.m[0].Flush(p.local(0, 2.3), nil) {
				if r.Tag == "late" && r.Answer.Refusal == Served {
					return ok
				}
			}
			return false
		}},
		{"forgetTerms", rules{forgetTerms: true}, func(off rules) bool {
			p := newPair(off, 1, 1)
			p.lead(0, 1, true)
			l, _ := p.take(0, 0)
			p.commit(1, l, map[int]float64{0: 0})
			p.state.Ceiling = 100
			p.m[0].Applied(0, 1, nil, p.state, Fresh{})
			register := func(node ids.NodeID, term uint64) Answer {
				p.m[0].Submit(0, Request{Session: SessionID{node, 1, 1}, Seq: 1, Epoch: 1, Registrations: []Registration{{Range: 7, Term: term}}}, nil)
				return p.m[0].Flush(0, nil)[0].Answer
			}
			p.answers(0, 2, 1, 0)
			p.answers(0, 3, 1, 0)
			register(3, 6)
			p.answers(0, 3, 2, 0) // its next session
			return len(register(2, 5).Standings) == 0
		}},
		{"ignoreParent", rules{ignoreParent: true}, func(off rules) bool {
			p := newPair(off, 1, 1)
			p.lead(0, 1, true)
			l, _ := p.take(0, 0)
			p.commit(1, l, map[int]float64{0: 0})
			ask := func(node ids.NodeID, seq uint64, g ...Registration) Answer {
				p.m[0].Submit(0, Request{Session: SessionID{node, 1, 1}, Seq: seq, Epoch: 1, Registrations: g}, nil)
				return p.m[0].Flush(0, nil)[0].Answer
			}
			p.answers(0, 2, 1, 0)
			p.answers(0, 3, 1, 0)
			ask(2, 1, Registration{Range: 7, Term: 5, Generation: 3})
			ask(3, 1, Registration{Range: 8, Term: 6, Generation: 1, Parent: 7, ParentGeneration: 3})
			behind := ask(2, 2)
			again := ask(2, 3, Registration{Range: 7, Term: 5, Generation: 4})
			if len(again.Standings) != 0 {
				return true
			}
			return len(behind.Standings) == 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.broke(rules{}) {
				t.Error("broken although all rules are on")
			}
			if !c.broke(c.off) {
				t.Error("not broken without the rule: the schedule shows nothing")
			}
		})
	}
}
