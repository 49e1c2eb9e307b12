package sim

import (
	"math/rand/v2"
	"time"
)

// Faults is a set of kinds of harm.
type Faults uint

// The kinds of harm.
const (
	Kills     Faults = 1 << iota // processes killed and started again
	PowerLoss                    // machines that lose power, also all at once
	Restarts                     // clean ones
	Cuts                         // nodes or directions cut off
	Suspends                     // machines that sleep
	SlowLinks                    // slow directions and lost Raft messages
	Transfers                    // leaderships moved

	AllFaults = Kills | PowerLoss | Restarts | Cuts | Suspends | SlowLinks | Transfers
)

// harm is something done to the cluster and how to end it.
type harm struct {
	until time.Time
	node  int // that is out of order meanwhile; 0: none
	undo  func()
}

// nemesis does harm at random. No more than a minority of the nodes is out of order at the same time (or one of one or
// two), except when the lights go out.
type nemesis struct {
	c      *Cluster
	rng    *rand.Rand
	faults Faults
	active []harm
}

// Nemesis does harm of the given kinds for a while, then undoes it all.
func (c *Cluster) Nemesis(d time.Duration, faults Faults) {
	n := &nemesis{c: c, rng: rand.New(rand.NewPCG(c.opt.Seed, 2)), faults: faults}
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		n.act()
		pause := time.Now().Add(n.between(50*time.Millisecond, 1500*time.Millisecond))
		for time.Now().Before(pause) {
			n.undoDue()
			time.Sleep(20 * time.Millisecond)
		}
	}
	n.undoAll()
	c.Heal()
}

func (n *nemesis) between(low, high time.Duration) time.Duration {
	return low + time.Duration(n.rng.Int64N(int64(high-low)))
}

func (n *nemesis) undoDue() {
	keep := n.active[:0]
	for _, h := range n.active {
		if time.Now().Before(h.until) {
			keep = append(keep, h)
		} else {
			h.undo()
		}
	}
	clear(n.active[len(keep):])
	n.active = keep
}

// victim picks a node that is in order, the sequencer's every other time; 0 if too many are out of order.
func (n *nemesis) victim() int {
	hurt := map[int]bool{}
	for _, h := range n.active {
		if h.node != 0 {
			hurt[h.node] = true
		}
	}
	if len(hurt) >= max(1, (n.c.Size()-1)/2) {
		return 0
	}
	if s := n.c.Sequencer(); s != 0 && !hurt[s] && n.rng.IntN(2) == 0 {
		return s
	}
	for {
		if i := 1 + n.rng.IntN(n.c.Size()); !hurt[i] {
			return i
		}
	}
}

// act begins one harm.
func (n *nemesis) act() {
	kinds := []struct {
		kind Faults
		do   func(i int) func()
	}{
		{Kills, n.kill}, {Kills, n.kill}, {PowerLoss, n.powerOff}, {Restarts, n.restart},
		{Cuts, n.isolate}, {Cuts, n.isolate}, {Cuts, n.cutOneWay}, {Cuts, n.cutPair}, {Suspends, n.suspend},
	}
	strangers := []struct {
		kind Faults
		do   func()
	}{{SlowLinks, n.slowLink}, {SlowLinks, n.drop}, {Transfers, n.transfer}, {Transfers, n.transfer}, {PowerLoss, n.blackout}}
	for {
		k := n.rng.IntN(len(kinds) + len(strangers))
		if k >= len(kinds) {
			if s := strangers[k-len(kinds)]; n.faults&s.kind != 0 {
				s.do()
				return
			}
			continue
		}
		if n.faults&kinds[k].kind == 0 {
			continue
		}
		if i := n.victim(); i != 0 {
			undo := kinds[k].do(i)
			n.active = append(n.active, harm{time.Now().Add(n.duration()), i, undo})
		}
		return
	}
}

// duration is short about as often as it is longer than an election.
func (n *nemesis) duration() time.Duration {
	if n.rng.IntN(2) == 0 {
		return n.between(20*time.Millisecond, 900*time.Millisecond)
	}
	return n.between(900*time.Millisecond, 5*time.Second)
}

func (n *nemesis) kill(i int) func() {
	n.c.Kill(i)
	return func() { n.c.Restart(i) }
}

func (n *nemesis) powerOff(i int) func() {
	n.c.PowerOff(i)
	return func() { n.c.Restart(i) }
}

func (n *nemesis) restart(i int) func() {
	n.c.Logf("stop %d", i)
	if err := n.c.Node(i).Stop(); err != nil {
		n.c.t.Errorf("stopping node %d: %v", i, err)
	}
	return func() { n.c.Restart(i) }
}

func (n *nemesis) isolate(i int) func() {
	n.c.Isolate(i)
	return func() { n.c.Reconnect(i) }
}

// cutOneWay lets a node hear everybody and be heard by nobody, or the other way round.
func (n *nemesis) cutOneWay(i int) func() {
	mute := n.rng.IntN(2) == 0
	each := func(f func(from, to int)) {
		for j := 1; j <= n.c.Size(); j++ {
			switch {
			case j == i:
			case mute:
				f(i, j)
			default:
				f(j, i)
			}
		}
	}
	each(n.c.Cut)
	return func() { each(n.c.Mend) }
}

// cutPair separates two nodes that both still reach the others.
func (n *nemesis) cutPair(i int) func() {
	j := i%n.c.Size() + 1
	if j == i {
		return func() {}
	}
	n.c.Cut(i, j)
	n.c.Cut(j, i)
	return func() { n.c.Mend(i, j); n.c.Mend(j, i) }
}

func (n *nemesis) suspend(i int) func() {
	n.c.Suspend(i)
	return func() { n.c.Resume(i) }
}

func (n *nemesis) slowLink() {
	i, j := 1+n.rng.IntN(n.c.Size()), 1+n.rng.IntN(n.c.Size())
	if i == j {
		return
	}
	d := n.between(time.Millisecond, 150*time.Millisecond)
	n.c.SlowLink(i, j, d, d)
	n.active = append(n.active, harm{time.Now().Add(n.duration()), 0, func() { n.c.SlowLink(i, j, 0, 0) }})
}

func (n *nemesis) drop() {
	n.c.DropRaft(0.05 + 0.25*n.rng.Float64())
	n.active = append(n.active, harm{time.Now().Add(n.duration()), 0, func() { n.c.DropRaft(0) }})
}

func (n *nemesis) transfer() {
	n.c.Transfer(RangeID(n.rng.IntN(max(n.c.opt.Splits, 0)+1)), 1+n.rng.IntN(n.c.Size()))
}

// blackout cuts everybody's power at once, rarely.
func (n *nemesis) blackout() {
	if n.rng.IntN(4) != 0 {
		return
	}
	n.c.Logf("blackout")
	n.undoAll()
	for i := 1; i <= n.c.Size(); i++ {
		n.c.PowerOff(i)
	}
	time.Sleep(n.between(10*time.Millisecond, 500*time.Millisecond))
	for i := 1; i <= n.c.Size(); i++ {
		n.c.Restart(i)
	}
	time.Sleep(n.between(time.Second, 3*time.Second))
}

func (n *nemesis) undoAll() {
	for _, h := range n.active {
		h.undo()
	}
	n.active = nil
}
