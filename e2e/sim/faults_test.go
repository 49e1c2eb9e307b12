package sim

import (
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
)

// TestFaults runs clients through random faults; see Verify for what must hold.
func TestFaults(t *testing.T) {
	for name, opt := range map[string]Options{
		"gathered":   {},
		"spread":     {Policy: node.LeadersSpread},
		"five nodes": {Nodes: 5, Policy: node.LeadersSpread},
		"quorum":     {Proof: node.ProofQuorum},
		"one node":   {Nodes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				opt := opt
				opt.Seed = seed
				c := New(t, opt)
				w := c.StartClients(ClientOptions{Compact: true})
				c.Nemesis(*durationFlag, AllFaults)
				t.Log(c.Verify(w))
			})
		})
	}
}

// TestHotKeys has many clients write and read two keys at once, so that reads and writes of a key share exchanges
// (schedule 5 of the design's review) and conditions meet pending revisions, through elections.
func TestHotKeys(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		c := New(t, Options{Seed: seed, Splits: 1, Policy: node.LeadersSpread, Sync: 3 * time.Millisecond})
		w := c.StartClients(ClientOptions{Clients: 24, Keys: 2, Think: 10 * time.Millisecond})
		c.Nemesis(*durationFlag/3, Kills|Cuts|Transfers)
		t.Log(c.Verify(w))
	})
}

// TestSessions breaks the connection between the sequencer and single nodes, again and again, while these lead ranges:
// sessions end with answers under way, and new ones of the same process begin in the same epoch (schedule 4).
func TestSessions(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		c := New(t, Options{Seed: seed, Policy: node.LeadersSpread})
		for k := range 5 {
			c.Transfer(RangeID(k), k%3+1)
		}
		w := c.StartClients(ClientOptions{})
		for i := range 8 {
			s := c.Sequencer()
			other := (s+i%2)%3 + 1
			if s == 0 || s == other {
				time.Sleep(time.Second)
				continue
			}
			// One direction, in turns: requests that do not arrive, answers that do not.
			from, to := other, s
			if i%4 < 2 {
				from, to = s, other
			}
			c.Cut(from, to)
			time.Sleep(time.Duration(700+200*i) * time.Millisecond)
			c.Mend(from, to)
			time.Sleep(300 * time.Millisecond)
		}
		t.Log(c.Verify(w))
	})
}

// TestBrokenConnections: a put that was handed to a connection that then breaks is applied at most once (schedule 37).
// The answers of the leaders' node are held back until the connections to it are given up.
func TestBrokenConnections(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		c := New(t, Options{Seed: seed})
		w := c.StartClients(ClientOptions{Think: 5 * time.Millisecond})
		for range 6 {
			leader := c.Leader(RangeID(0))
			if leader == 0 {
				time.Sleep(time.Second)
				continue
			}
			for i := 1; i <= c.Size(); i++ {
				if i != leader {
					c.Cut(leader, i)
				}
			}
			time.Sleep(400 * time.Millisecond)
			if leader%2 == 0 {
				time.Sleep(900 * time.Millisecond)
			}
			c.HealNetwork()
			time.Sleep(700 * time.Millisecond)
		}
		t.Log(c.Verify(w))
	})
}

// TestLongAway keeps a node away for so long that the log it needs is gone, twice, while history is compacted.
func TestLongAway(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		c := New(t, Options{Seed: seed})
		w := c.StartClients(ClientOptions{Compact: true})
		time.Sleep(time.Second)
		for _, i := range []int{3, 2} {
			c.PowerOff(i)
			time.Sleep(12 * time.Second)
			c.Restart(i)
			c.AwaitReady(readyWithin)
			time.Sleep(2 * time.Second)
		}
		t.Log(c.Verify(w))
	})
}
