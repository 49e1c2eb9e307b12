package sim

import (
	"time"

	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Kill ends a node's process as kill -9 does. It, PowerOff and Restart are methods of Node as well.
func (c *Cluster) Kill(i int) { c.Logf("kill %d", i); c.Node(i).Kill() }

// PowerOff cuts a node's power: what was not synced may be lost.
func (c *Cluster) PowerOff(i int) { c.Logf("power off %d", i); c.Node(i).PowerOff() }

// Restart starts a node that is down. It does not wait until it serves.
func (c *Cluster) Restart(i int) { c.Logf("restart %d", i); c.Node(i).Restart() }

// Cut holds back what one node sends to another; the other direction works on.
func (c *Cluster) Cut(from, to int) {
	c.Logf("cut %d -> %d", from, to)
	c.net.Cut(c.Node(from).id, c.Node(to).id)
}

// Mend ends a Cut.
func (c *Cluster) Mend(from, to int) {
	c.Logf("mend %d -> %d", from, to)
	c.net.Heal(c.Node(from).id, c.Node(to).id)
}

// Partition cuts all connections between nodes of different groups, both ways. Nodes that are in no group form one
// together.
func (c *Cluster) Partition(groups ...[]int) {
	c.Logf("partition %v", groups)
	in := make(map[int]int)
	for g, members := range groups {
		for _, i := range members {
			in[i] = g + 1
		}
	}
	for i := 1; i <= c.Size(); i++ {
		for j := 1; j <= c.Size(); j++ {
			if i != j && in[i] != in[j] {
				c.net.Cut(c.Node(i).id, c.Node(j).id)
			}
		}
	}
}

// Isolate cuts a node off from all others, in both directions.
func (c *Cluster) Isolate(i int) { c.Logf("isolate %d", i); c.net.Isolate(c.Node(i).id) }

// Reconnect ends an Isolate.
func (c *Cluster) Reconnect(i int) { c.Logf("reconnect %d", i); c.net.Reconnect(c.Node(i).id) }

// HealNetwork ends all cuts.
func (c *Cluster) HealNetwork() { c.Logf("heal the network"); c.net.HealAll() }

// SlowLink sets the delay of one direction; 0, 0 is that of Options again.
func (c *Cluster) SlowLink(from, to int, delay, jitter time.Duration) {
	c.Logf("link %d -> %d takes %v + %v", from, to, delay, jitter)
	if delay == 0 && jitter == 0 {
		delay, jitter = c.opt.Delay, c.opt.Jitter
	}
	c.net.SetDelay(c.Node(from).id, c.Node(to).id, delay, jitter)
}

// DropRaft lets a share of the Raft messages get lost.
func (c *Cluster) DropRaft(share float64) { c.Logf("drop %v of Raft", share); c.net.SetDropRaft(share) }

// Suspend makes the machine of a node sleep, as a paused virtual machine does: nobody reaches it, its clients wait, its
// clock stands still. Its process goes on with what it had (and with timers, which a real one would not have), so what
// it does with the stopped clock is all that it could do in the moment of waking up.
func (c *Cluster) Suspend(i int) {
	if c.Node(i).suspend() {
		c.Logf("suspend %d", i)
		c.net.Isolate(c.Node(i).id)
	}
}

// Resume wakes a suspended node up: its clock, which counts sleep, jumps to the present, then it is reached again.
func (c *Cluster) Resume(i int) {
	c.Logf("resume %d", i)
	c.Node(i).resume()
	c.net.Reconnect(c.Node(i).id)
}

// JumpClock moves a node's clock forward. A clock that jumps without having stood still breaks the promise that the
// sequencer's lease rests on, if the node is one that waits for the lease of another to end: for directed tests only.
func (c *Cluster) JumpClock(i int, d time.Duration) {
	c.Logf("clock of %d jumps by %v", i, d)
	c.Node(i).clock.Jump(d)
}

// Heal ends everything that was done to the cluster: nodes that are down are started again.
func (c *Cluster) Heal() {
	for _, n := range c.nodes {
		n.resume()
	}
	c.HealNetwork()
	c.net.SetDropRaft(0)
	for _, n := range c.nodes {
		for _, m := range c.nodes {
			if n != m {
				c.net.SetDelay(n.id, m.id, c.opt.Delay, c.opt.Jitter)
			}
		}
		if !n.Up() {
			n.Restart()
		}
	}
}

// Leader returns the node whose replica leads a range in the highest term, as far as replicas on nodes that are up know
// of themselves; 0 if none does. A cut-off leader may be another one.
func (c *Cluster) Leader(r ids.RangeID) int {
	leader, term := 0, uint64(0)
	for _, n := range c.nodes {
		p := n.Process()
		if p == nil {
			continue
		}
		for _, s := range p.Statuses() {
			if s.Descriptor.ID == r && s.Raft.Role == multiraft.Leader && s.Raft.Term > term {
				leader, term = n.index, s.Raft.Term
			}
		}
	}
	return leader
}

// RangeID returns the id of the k-th user range at the start, counted from 0.
func RangeID(k int) ids.RangeID { return ids.FirstUserRange + ids.RangeID(k) }

// Sequencer returns the node that most of the nodes that are up take for the sequencer; 0 if there is none.
func (c *Cluster) Sequencer() int {
	votes, best := map[ids.NodeID]int{}, 0
	for _, n := range c.nodes {
		if p := n.Process(); p != nil {
			votes[p.Sequencer()]++
		}
	}
	for _, n := range c.nodes {
		if v := votes[n.id]; v > 0 && (best == 0 || v > votes[c.Node(best).id]) {
			best = n.index
		}
	}
	return best
}

// Transfer asks for a range's leadership to move.
func (c *Cluster) Transfer(r ids.RangeID, to int) {
	from := c.Leader(r)
	if from == 0 || from == to {
		return
	}
	c.Logf("range %d: leadership %d -> %d", r, from, to)
	if p := c.Node(from).Process(); p != nil {
		p.Transfer(r, c.Node(to).id)
	}
}
