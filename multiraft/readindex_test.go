package multiraft

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// read lets a replica ask for a read index.
func (m *machine) read(g *Group, context string) {
	m.mu.Lock()
	m.reads = append(m.reads, context)
	m.mu.Unlock()
	g.Schedule()
}

func (m *machine) answered(context string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.answers, func(r ReadState) bool { return r.Context == context })
}

// TestReadIndex walks through the traps of schedule 3.
func TestReadIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		r := c.ranges[0]
		c.eventually(5*time.Second, "a leader", c.allLed)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 3 })
		leader := c.leader(r)
		group, m := leader.host.Group(r), leader.machines[r]

		m.read(group, "asleep")
		c.eventually(100*time.Millisecond, "an answer by a group that slept", func() bool { return m.answered("asleep") })

		// A follower's question would be forwarded by raft and prove somebody else's leadership.
		for _, n := range c.nodes {
			if n != leader {
				n.machines[r].read(n.host.Group(r), "follower")
			}
		}
		time.Sleep(time.Second)
		for _, n := range c.nodes {
			if n != leader && n.machines[r].answered("follower") {
				t.Error("a follower got a read index")
			}
		}

		// A lost heartbeat is repeated.
		c.net.SetDropRaft(1)
		m.read(group, "lost")
		time.Sleep(150 * time.Millisecond)
		if m.answered("lost") {
			t.Error("an answer without any message")
		}
		c.net.SetDropRaft(0)
		c.eventually(300*time.Millisecond, "an answer after the next heartbeat", func() bool { return m.answered("lost") })

		// A leader that is cut off gets none, neither before nor after it learns of its successor.
		c.net.Isolate(leader.id)
		m.read(group, "cut off")
		c.eventually(5*time.Second, "a successor", func() bool { return c.leader(r) != leader })
		c.net.HealAll()
		time.Sleep(3 * time.Second)
		if m.answered("cut off") {
			t.Error("a deposed leader got a read index")
		}
	})
}

// TestRemovedLeaderReads shrinks a group from two replicas to the one that is not the leader. The removed leader must not
// answer itself, as raft lets it without StepDownOnRemoval.
func TestRemovedLeaderReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 1, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		r := c.ranges[0]
		c.eventually(5*time.Second, "a leader", c.allLed)
		leader := c.leader(r)
		group, m := leader.host.Group(r), leader.machines[r]
		cc := raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(uint64(group.replica))}
		done := false
		sm := &proposer{machine: m, do: func(g *Group) {
			if !done {
				done = true
				if _, err := g.ProposeConfChange(cc.AsV2()); err != nil {
					t.Error(err)
				}
			}
		}}
		group.sm = sm // nothing runs: the group was quiet
		group.Schedule()
		c.eventually(5*time.Second, "it stepped down", func() bool { return group.Status().Role != Leader })
		sm.do = func(g *Group) {
			if err := g.ReadIndex("removed"); !errors.Is(err, ErrNotLeader) {
				t.Errorf("a removed leader may read: %v", err)
			}
		}
		group.Schedule()
		time.Sleep(time.Second)
		if m.answered("removed") {
			t.Error("a removed leader got a read index")
		}
	})
}

// proposer is a machine that does something else in Process.
type proposer struct {
	*machine
	do func(g *Group)
}

func (p *proposer) Process(g *Group) bool { p.do(g); return false }

// TestForgottenLeaderVotes: with CheckQuorum a follower whose clock stood still refuses to vote while it remembers a
// leader (schedule 24b). That is raft's behaviour, on which beforeStep and leaderDied rely.
func TestForgottenLeaderVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		r := c.ranges[0]
		c.eventually(5*time.Second, "a leader", c.allLed)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 3 })
		var follower *Group
		for _, n := range c.nodes {
			if n != c.leader(r) {
				follower = n.host.Group(r)
			}
		}
		ask := &raftpb.Message{
			Type: raftpb.MsgPreVote.Enum(), From: proto.Uint64(9), To: proto.Uint64(uint64(follower.replica)),
			Term: proto.Uint64(follower.hard.GetTerm() + 1), Index: proto.Uint64(100), LogTerm: proto.Uint64(100),
		}
		votes := func() bool { // directly: nothing else runs in the bubble
			_ = follower.raft.Step(ask)
			return follower.raft.HasReady()
		}
		if votes() {
			t.Error("a sleeping follower that remembers a leader answers: then ForgetLeader is not needed any more")
		}
		if err := follower.raft.ForgetLeader(); err != nil {
			t.Fatal(err)
		}
		follower.raft.Ready()
		if !votes() {
			t.Error("no answer after ForgetLeader")
		}
		follower.raft.Ready()
	})
}
