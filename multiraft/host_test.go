package multiraft

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func count(c prometheus.Metric) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	if m.Counter != nil {
		return m.Counter.GetValue()
	}
	return m.Gauge.GetValue()
}

func TestElectsAndReplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 20, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		c.eventually(time.Second, "leaders at once, by Campaign", c.allLed)
		for i := range 100 {
			for _, r := range c.ranges {
				c.propose(r, fmt.Sprintf("%d-%d", r, i))
			}
		}
		c.eventually(time.Second, "everybody applied everything", c.converged)
		c.verify()
		for _, r := range c.ranges {
			if got := len(c.oracle.acked[r]); got < 100 {
				t.Errorf("range %d: %d acknowledged of 100", r, got)
			}
		}
	})
}

func TestSingleReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 3, simnet.Options{Seed: 1})
		defer c.close()
		c.eventually(time.Second, "leaders", c.allLed)
		c.propose(c.ranges[0], "x")
		c.eventually(time.Second, "applied", c.converged)
		c.eventually(2*time.Second, "asleep", func() bool { return c.asleep() == 3 })
		c.propose(c.ranges[0], "y")
		c.eventually(time.Second, "applied", func() bool { return c.converged() && c.acked(c.ranges[0], "y") })
		c.verify()
	})
}

// asleep counts the sleeping replicas.
func (c *cluster) asleep() (n int) {
	for _, node := range c.nodes {
		if node.dead.Load() {
			continue
		}
		for _, r := range c.ranges {
			if node.host.Group(r).Status().Asleep {
				n++
			}
		}
	}
	return n
}

// TestCrashes kills nodes at random moments under load. What was acknowledged must be there in the end, and the same
// everywhere.
func TestCrashes(t *testing.T) {
	seeds := []int64{1, 2, 3, time.Now().UnixNano()}
	if testing.Short() {
		seeds = seeds[:1]
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashes(t, seed) })
		})
	}
}

func crashes(t *testing.T, seed int64) {
	c := newCluster(t, 3, 12, simnet.Options{Seed: seed, Delay: 200 * time.Microsecond, Jitter: 2 * time.Millisecond, DropRaft: 0.01})
	defer c.close()
	serial := 0
	load := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); {
			for range 5 {
				serial++
				c.propose(c.ranges[c.random.IntN(len(c.ranges))], fmt.Sprintf("%d", serial))
			}
			time.Sleep(time.Duration(c.random.IntN(12000)) * time.Microsecond)
		}
	}
	load(500 * time.Millisecond)
	rounds := 12
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		victim := c.nodes[c.random.IntN(3)]
		victim.crash()
		load(time.Duration(c.random.IntN(2500)) * time.Millisecond)
		victim.restart()
		load(time.Duration(c.random.IntN(1500)) * time.Millisecond)
		if c.random.IntN(3) == 0 { // one that nobody hears for a while
			id := c.nodes[c.random.IntN(3)].id
			c.net.Isolate(id)
			load(time.Duration(c.random.IntN(2500)) * time.Millisecond)
			c.net.Reconnect(id)
		}
	}
	c.net.HealAll()
	c.net.SetDropRaft(0)
	c.eventually(15*time.Second, "leaders", c.allLed)
	c.eventually(15*time.Second, "everybody applied everything", c.converged)
	c.verify()
	if n := c.applied.Load(); n < 1000 {
		t.Errorf("only %d entries were applied", n)
	}
	t.Logf("%d entries applied, %d proposed", c.applied.Load(), serial)
}

// TestSleeps lets many groups fall asleep, checks that they cost nothing, and takes a node away from them.
func TestSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ranges := 2000
		if testing.Short() {
			ranges = 200
		}
		c := newCluster(t, 3, ranges, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		c.eventually(5*time.Second, "leaders", c.allLed)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 3*ranges })
		turns := func(h *Host) float64 { return count(h.metrics.turns) }
		sent := func(h *Host) float64 { return count(h.metrics.sentMessages) }
		t0, s0 := c.sum(turns), c.sum(sent)
		time.Sleep(time.Minute)
		synctest.Wait()
		if t1, s1 := c.sum(turns), c.sum(sent); t1 != t0 || s1 != s0 {
			t.Errorf("asleep for a minute: %v turns, %v messages", t1-t0, s1-s0)
		}
		// A put wakes its group only.
		r := c.ranges[7]
		c.propose(r, "x")
		c.eventually(time.Second, "applied everywhere", func() bool { return c.acked(r, "x") && c.converged() })
		if got := c.asleep(); got < 3*(ranges-1) {
			t.Errorf("a put woke %d replicas", 3*ranges-got)
		}
		c.eventually(5*time.Second, "asleep again", func() bool { return c.asleep() == 3*ranges })

		victim := c.nodes[1]
		victim.crash()
		start := time.Now()
		c.eventually(3*time.Second, "new leaders for all that the dead node led", c.allLed)
		t.Logf("all led again after %v", time.Since(start))
		victim.restart()
		c.eventually(10*time.Second, "asleep with the node back", func() bool { return c.asleep() == 3*ranges })
		c.verify()
	})
}

// TestQuickRestart restarts the node of sleeping leaders faster than anybody suspects it (schedule 24a).
func TestQuickRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 30, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		c.eventually(5*time.Second, "leaders", c.allLed)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 90 })
		c.nodes[2].crash()
		time.Sleep(50 * time.Millisecond)
		c.nodes[2].restart()
		c.eventually(1500*time.Millisecond, "leaders, though nobody was missed", c.allLed)
	})
}

// TestDeafLeader cuts the way from a sleeping leader's node to the others, which hear nothing and replace it; the leader
// itself still hears them (schedule 24d).
func TestDeafLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		r := c.ranges[0]
		c.eventually(5*time.Second, "a leader", c.allLed)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 3 })
		old := c.leader(r)
		for _, n := range c.nodes {
			if n != old {
				c.net.Cut(old.id, n.id)
			}
		}
		c.eventually(6*time.Second, "a new leader", func() bool { return c.leader(r) != old })
		c.net.HealAll()
		c.propose(r, "x")
		c.eventually(5*time.Second, "all agree", c.converged)
		c.verify()
	})
}

// TestFalseSuspicion: one follower believes that the leader's node is dead. It must not depose a leader that lives
// (schedule 24c).
func TestFalseSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 30, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		c.eventually(5*time.Second, "leaders", c.allLed)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 90 })
		before := make(map[ids.RangeID]Status)
		for _, r := range c.ranges {
			before[r] = c.leader(r).host.Group(r).Status()
		}
		c.nodes[0].host.WakeNode(2)
		c.nodes[0].host.WakeNode(3)
		time.Sleep(3 * time.Second)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 90 })
		for _, r := range c.ranges {
			if s := c.leader(r).host.Group(r).Status(); s.Term != before[r].Term {
				t.Errorf("range %d: term %d became %d", r, before[r].Term, s.Term)
			}
		}
	})
}

func TestTransferLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 5, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		c.eventually(5*time.Second, "leaders", c.allLed)
		for _, r := range c.ranges {
			c.leader(r).host.Group(r).TransferLeader(2)
		}
		c.eventually(500*time.Millisecond, "node 2 leads all", func() bool {
			for _, r := range c.ranges {
				if c.leader(r) != c.nodes[1] {
					return false
				}
			}
			return true
		})
	})
}

func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 2, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		c.eventually(5*time.Second, "leaders", c.allLed)
		r := c.ranges[0]
		h := c.nodes[0].host
		for i := range 50 {
			c.propose(r, fmt.Sprint(i))
		}
		if err := h.Remove(r); err != nil {
			t.Fatal(err)
		}
		if err := h.Remove(r); err == nil || h.Group(r) != nil {
			t.Error("it is still there")
		}
		time.Sleep(3 * time.Second) // messages for it create nothing
		if h.Group(r) != nil || count(h.metrics.droppedUnknown) == 0 {
			t.Error("messages for a replica that is not there must be dropped and counted")
		}
		c.nodes[0].machines[r].node.dead.Store(false)
	})
}
