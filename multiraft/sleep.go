package multiraft

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// A group that is idle costs nothing: no ticks, no messages. How it falls asleep and wakes:
//
//	leader                         follower
//	  │ idle for idleTicksMin        │
//	  │── sleep(term, commit, n) ───►│ has exactly that, all of it applied, nothing to do
//	  │◄─ asleep(term, commit, n) ───│ sleeps
//	  │ all others confirmed: sleeps │
//	  ┆                              ┆
//	  │◄─ any message, wake ─────────│ its node misses the leader's, or somebody asks here in vain
//	  │── heartbeat ────────────────►│
//
// A follower that sleeps alone, because the leader changed its mind, is woken by the next heartbeat. A sleeping leader
// whose node dies is missed by the nodes of its followers (one question per node and heartbeat, not per group). There
// the replica must forget its leader first: with CheckQuorum one that remembers a leader, and whose clock stood still,
// refuses its vote to everybody.
const (
	// idleTicksMin is for how many ticks a leader must have nothing to do before it proposes to sleep.
	idleTicksMin = 5
	// campaignTicks is after how many ticks without a leader the replica that should lead campaigns again, and
	// campaignsMax how often; then election timeouts decide.
	campaignTicks = 3
	campaignsMax  = 5
	// wakeSpread is what a node's death costs per group that it led: the elections of all of them are spread over that
	// time, but over no more than an election timeout.
	wakeSpread = 200 * time.Microsecond
)

// sleeper is a group's state of sleep.
type sleeper struct {
	awake     bool
	idle      int    // ticks in which nothing happened
	serial    uint64 // of the current proposal to sleep
	commit    uint64 // proposed with it
	confirmed []uint64
	// campaignIn is in how many ticks this replica campaigns because nobody leads, 0 for never.
	campaignIn int
	campaigns  int
	asked      bool // the others were asked who leads
}

// wake ends the sleep, or puts it off.
func (g *Group) wake() {
	g.sleep.idle = 0
	g.sleep.confirmed = g.sleep.confirmed[:0]
	g.sleep.serial++
	if g.sleep.awake {
		return
	}
	g.sleep.awake = true
	g.status.Asleep = false
	g.host.setAwake(g, true)
	if !g.heardLeader {
		g.wakeLeader() // or it would be missed soon
	}
}

// wakeLeader tells the leader, if there is one elsewhere and its node lives, that it is needed.
func (g *Group) wakeLeader() {
	if l := g.status.Leader; l != 0 && l != g.replica && g.host.alive(g.nodeOf(l)) {
		g.sendNote(uint64(l), note{kind: noteWake})
	}
}

// sendNote sends a note, behind all that was said before: a heartbeat's answer that overtook or followed a confirmation of
// sleep would wake the leader.
func (g *Group) sendNote(to uint64, n note) {
	g.takeReady()
	g.post()
	n.from, n.term = uint64(g.replica), g.hard.GetTerm()
	if p, ok := g.parcel(to, n.encode()); ok {
		g.out.add(p)
	}
}

// tick lets a heartbeat interval pass.
func (g *Group) tick() {
	if !g.sleep.awake {
		return // it fell asleep while the tick was under way
	}
	g.raft.Tick()
	g.releaseHeld()
	g.writePending()
	g.maybeTruncate()
	g.sleep.idle++
	if g.status.Leader != 0 {
		g.sleep.campaignIn = 0
		return
	}
	if !g.sleep.asked {
		// Just started: whoever leads, perhaps asleep, is to say so.
		g.sleep.asked = true
		for _, id := range g.log.conf.GetVoters() {
			if id != uint64(g.replica) {
				g.sendNote(id, note{kind: noteWake})
			}
		}
	}
	if g.sleep.campaignIn > 0 {
		if g.sleep.campaignIn--; g.sleep.campaignIn == 0 {
			g.campaign()
		}
	}
}

// releaseHeld ends the wait of messages that were held back. A leader's tick is a heartbeat, which says how far the log is
// committed, but only as far as the replica has acknowledged it.
func (g *Group) releaseHeld() {
	if len(g.held) == 0 {
		return
	}
	g.peers(func(id uint64, pr *tracker.Progress) {
		for _, m := range g.held {
			if m.GetTo() == id && pr.Match < g.status.Last {
				g.due = append(g.due, m)
			}
		}
	})
	g.held = nil
}

// campaign stands for election, and again in a while if that leads to nothing.
func (g *Group) campaign() {
	_ = g.raft.Campaign()
	if g.sleep.campaigns++; g.sleep.campaigns < campaignsMax {
		g.sleep.campaignIn = campaignTicks
	}
}

// leaderDied follows the death, or restart, of the node of the leader. delay spreads elections.
func (g *Group) leaderDied(node ids.NodeID, delay int) {
	if g.status.Role == Leader || g.status.Leader == 0 || g.nodeOf(g.status.Leader) != node {
		return
	}
	g.wake()
	_ = g.raft.ForgetLeader()
	if g.shouldLead() {
		g.sleep.campaigns, g.sleep.campaignIn = 0, 1+delay
	}
}

// shouldLead reports whether this replica is the voter with the lowest id whose node lives.
func (g *Group) shouldLead() bool {
	lowest := uint64(0)
	for _, id := range g.log.conf.GetVoters() {
		lives := id == uint64(g.replica) || g.host.alive(g.nodeOf(ids.ReplicaID(id)))
		if lives && (lowest == 0 || id < lowest) {
			lowest = id
		}
	}
	return lowest == uint64(g.replica)
}

// quiet reports whether nothing is in flight here: all that is in the log is committed, durable and applied.
func (g *Group) quiet() bool {
	return g.status.Last == g.status.Commit && g.applied.Index == g.status.Commit &&
		g.appends == 0 && !g.again && len(g.reads) == 0 && !g.installing && g.sm.Idle()
}

// maybeSleep lets an idle leader propose to sleep, once per tick.
func (g *Group) maybeSleep() {
	if g.status.Role != Leader || g.sleep.idle < idleTicksMin || len(g.sending) > 0 || !g.quiet() ||
		g.raft.BasicStatus().LeadTransferee != 0 {
		return
	}
	ready, others := true, 0
	g.peers(func(_ uint64, pr *tracker.Progress) {
		others++
		ready = ready && pr.Match == g.status.Last && pr.State == tracker.StateReplicate && pr.RecentActive
	})
	if !ready || len(g.log.conf.GetVotersOutgoing()) > 0 {
		return
	}
	if others == 0 {
		g.fallAsleep()
		return
	}
	g.sleep.commit = g.status.Commit
	g.peers(func(id uint64, _ *tracker.Progress) {
		g.sendNote(id, note{kind: noteSleep, commit: g.sleep.commit, serial: g.sleep.serial})
	})
}

// fallAsleep ends the ticks. Everybody has all of the log by then, so it goes, and so does what memory can do without.
func (g *Group) fallAsleep() {
	g.truncate(g.applied)
	g.writePending()
	g.sleep.awake, g.sleep.idle, g.sleep.campaignIn = false, 0, 0
	g.sleep.confirmed = nil
	g.truncator.marks = nil
	g.status.Asleep = true
	g.host.setAwake(g, false)
}

// readNote handles a note. It reports whether the group is to be awake.
func (g *Group) readNote(n note) bool {
	g.takeReady() // of messages before it
	switch n.kind {
	case noteWake:
		if g.status.Role == Leader {
			// A leader's tick sends heartbeats, from which the others learn who leads.
			g.wake()
			g.raft.Tick()
		}
		return true
	case noteSleep:
		if n.term != g.hard.GetTerm() || n.commit != g.status.Commit || g.soft.Lead != n.from ||
			n.from == uint64(g.replica) || !g.quiet() {
			return true
		}
		if g.sleep.awake {
			g.fallAsleep()
		}
		g.sendNote(n.from, note{kind: noteAsleep, commit: n.commit, serial: n.serial})
		return false
	case noteAsleep:
		g.confirmSleep(n)
		return false
	}
	return false
}

// confirmSleep counts a follower's confirmation. wake changes the serial number, so a confirmation counts only if nothing
// happened since.
func (g *Group) confirmSleep(n note) {
	if g.role() != Leader || n.serial != g.sleep.serial || n.term != g.hard.GetTerm() ||
		n.commit != g.sleep.commit || n.commit != g.status.Commit || !g.sleep.awake || !g.quiet() {
		return
	}
	for _, id := range g.sleep.confirmed {
		if id == n.from {
			return
		}
	}
	g.sleep.confirmed = append(g.sleep.confirmed, n.from)
	missing := 0
	g.peers(func(id uint64, _ *tracker.Progress) {
		missing++
		for _, c := range g.sleep.confirmed {
			if c == id {
				missing--
			}
		}
	})
	if missing == 0 {
		g.fallAsleep()
	}
}

// beforeStep prepares the group for a message that raft gets next.
func (g *Group) beforeStep(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		// Somebody misses the leader. If its node is gone here as well, our memory of it must not stand in the way;
		// if it lives, and we sleep, waking tells it to show itself.
		l := g.status.Leader
		if l == 0 || l == g.replica {
			break
		}
		if !g.host.alive(g.nodeOf(l)) && g.soft.RaftState == raft.StateFollower {
			_ = g.raft.ForgetLeader()
		}
	}
}
