package multiraft

import (
	"fmt"
	"slices"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// turn lets a group do what its events ask for. The order is the one that StateMachine promises; see the picture in
// doc.go. Messages leave when the worker flushes its outbox, after the turn.
func (g *Group) turn(events uint32, out *outbox) {
	if g.removing.Load() && g.finishRemoval() {
		return
	}
	if g.damaged != nil {
		g.refuseMail()
		return
	}
	g.out = out
	defer g.endTurn()
	g.host.metrics.turns.Inc()
	if s := g.fresh; s != nil {
		g.fresh = nil
		g.callback(func() error { return g.sm.Restored(g, *s) })
	}
	woken := false
	if events&evInbox != 0 {
		woken = g.readMail(g.inbox.take())
	}
	if events&evTick != 0 {
		g.tick()
	}
	g.takeReady()
	g.changed()
	if events&evSchedule != 0 || g.again {
		g.callback(func() error { g.again = g.sm.Process(g); return nil })
		woken = woken || g.again || g.raft.HasReady() || len(g.reads) > 0 || !g.sm.Idle()
	}
	g.settle()
	g.post()
	g.trimTail()
	if woken {
		g.wake()
	}
	if events&evTick != 0 {
		g.maybeSleep()
	}
	if !g.sleep.awake {
		g.outgoing, g.local, g.toApply = nil, nil, nil
	}
	if g.status != g.published.status { // nobody else writes it
		g.publish()
	}
	if g.again {
		g.raise(evSchedule)
	}
}

// settle does what raft wants done until it wants nothing more.
func (g *Group) settle() {
	for {
		g.takeReady()
		g.changed()
		if len(g.toApply) == 0 && len(g.readStates) == 0 && len(g.local) == 0 {
			return
		}
		for i, m := range g.local {
			g.step(m)
			g.local[i] = nil
		}
		g.local = g.local[:0]
		g.apply()
		g.answerReads()
	}
}

// takeReady takes over what raft has for us: entries and hard state go to the log writer, committed entries to the list
// of those to apply, messages to the turn's outgoing ones.
func (g *Group) takeReady() {
	for g.raft.HasReady() {
		rd := g.raft.Ready()
		if rd.SoftState != nil {
			g.soft = *rd.SoftState
		}
		g.readStates = append(g.readStates, rd.ReadStates...)
		for _, m := range rd.Messages {
			switch m.GetType() {
			case raftpb.MsgStorageAppend:
				g.takeAppend(m)
			case raftpb.MsgStorageApply:
				g.toApply = append(g.toApply, m)
			case raftpb.MsgSnap:
				g.host.sender.enqueue(g, m)
			default:
				g.send(m)
			}
		}
	}
	g.status.Last = g.log.last
	g.status.Commit = g.hard.GetCommit()
}

// send notes a message for the end of the turn. An append without entries, which only tells the commit index, is left
// out if one with entries follows it to the same replica.
func (g *Group) send(m *raftpb.Message) {
	if m.GetType() == raftpb.MsgApp && len(m.GetEntries()) > 0 {
		for i := len(g.outgoing) - 1; i >= 0; i-- {
			old := g.outgoing[i]
			if old.GetTo() != m.GetTo() || old.GetType() != raftpb.MsgApp {
				continue
			}
			if len(old.GetEntries()) == 0 && old.GetIndex() == m.GetIndex() && old.GetTerm() == m.GetTerm() {
				g.outgoing[i] = m
				return
			}
			break
		}
	}
	g.outgoing = append(g.outgoing, m)
}

// post encodes what the turn had to say.
func (g *Group) post() {
	if g.tell > 0 && g.status.Commit >= g.tell {
		g.due, g.held = append(g.due, g.held...), nil
	}
	for i, m := range g.due {
		g.due[i] = nil
		if p, ok := g.parcel(m.GetTo(), encodeMessage(m)); ok {
			g.out.add(p)
		}
	}
	g.due = g.due[:0]
	for i, m := range g.outgoing {
		g.outgoing[i] = nil
		if g.holdBack(m) {
			continue
		}
		if p, ok := g.parcel(m.GetTo(), encodeMessage(m)); ok {
			g.out.add(p)
		}
	}
	g.outgoing = g.outgoing[:0]
	if g.status.Commit >= g.tell {
		g.tell = 0
	}
}

// holdBack keeps a message back if all it says is how far the log is committed, and nobody waits to hear that: the next
// entries say it as well, or the next heartbeat. That halves the messages of a busy cluster. If the replica has not
// acknowledged all of the log by the next tick, the message goes out after all: then it is the question whether an append
// was lost.
func (g *Group) holdBack(m *raftpb.Message) bool {
	if m.GetType() != raftpb.MsgApp {
		return false
	}
	g.held = slices.DeleteFunc(g.held, func(h *raftpb.Message) bool { return h.GetTo() == m.GetTo() })
	if len(m.GetEntries()) > 0 || g.tell > 0 || g.status.Role != Leader || m.GetIndex() != g.status.Last {
		return false
	}
	g.held = append(g.held, m)
	return true
}

// takeAppend hands an append to the log writer, unless there is nothing in it that must be durable before its responses
// leave: a new commit index alone waits for the next append.
func (g *Group) takeAppend(m *raftpb.Message) {
	sync := false
	if m.Term != nil {
		sync = g.hard.GetTerm() != m.GetTerm() || g.hard.GetVote() != m.GetVote()
		g.hard = newHardState(m.GetTerm(), m.GetVote(), m.GetCommit())
		g.hardPending = true
	}
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		sync = true
		g.handOver(appendJob{group: g, install: g.acceptIncoming(snap)})
	}
	a := appendJob{group: g, entries: m.GetEntries(), prevLast: g.log.last}
	if len(a.entries) > 0 {
		sync = true
		g.log.append(a.entries)
	}
	if !sync && g.appends == 0 {
		// All that these responses depend on is durable.
		g.local = append(g.local, g.sortResponses(m.GetResponses(), g.out.add)...)
		return
	}
	a.sync = sync
	a.local = g.sortResponses(m.GetResponses(), func(p parcel) { a.remote = append(a.remote, p) })
	g.handOver(a)
}

// handOver gives a job to the log writer, along with what had no hurry before.
func (g *Group) handOver(a appendJob) {
	if g.hardPending {
		a.hard, g.hardPending = g.hard, false
	}
	a.truncate, g.truncatePending = g.truncatePending, storage.EntryID{}
	g.appends++
	g.host.writer.add(a)
}

// writePending hands over what found no append to ride along with.
func (g *Group) writePending() {
	if g.hardPending || g.truncatePending != (storage.EntryID{}) {
		g.handOver(appendJob{group: g})
	}
}

// sortResponses encodes what goes to other replicas and returns the rest.
func (g *Group) sortResponses(responses []*raftpb.Message, remote func(parcel)) (local []*raftpb.Message) {
	for _, m := range responses {
		if m.GetTo() == uint64(g.replica) {
			local = append(local, m)
		} else if p, ok := g.parcel(m.GetTo(), encodeMessage(m)); ok {
			remote(p)
		}
	}
	return local
}

// apply lets the state machine apply what is committed.
func (g *Group) apply() {
	for i, m := range g.toApply {
		ents := m.GetEntries()
		if first := ents[0].GetIndex(); first != g.applied.Index+1 {
			panic(fmt.Sprintf("raft wants entry %d applied after entry %d", first, g.applied.Index))
		}
		g.callback(func() error { return g.sm.Apply(g, ents) })
		last := ents[len(ents)-1]
		g.applied = storage.EntryID{Term: last.GetTerm(), Index: last.GetIndex()}
		g.status.Applied = last.GetIndex()
		g.truncator.applied(g.applied, ents)
		for _, r := range m.GetResponses() {
			g.step(r)
		}
		g.toApply[i] = nil
	}
	g.toApply = g.toApply[:0]
}

// answerReads delivers the read states that came, if they still mean something: raft gives them to a replica that may
// have lost its leadership meanwhile.
func (g *Group) answerReads() {
	states := g.readStates
	g.readStates = nil
	for _, s := range states {
		context := string(s.RequestCtx)
		for i, p := range g.reads {
			if p.context != context || p.term != g.status.Term || g.status.Role != Leader {
				continue
			}
			g.reads = append(g.reads[:i], g.reads[i+1:]...)
			g.callback(func() error { g.sm.ReadState(g, ReadState{context, s.Index}); return nil })
			break
		}
	}
}

// changed compares raft's role, term and leader with the status, and tells the state machine of a difference. It comes
// right after takeReady, so that a new leader's first entry is the last one of the log then.
func (g *Group) changed() {
	s := g.status
	s.Role, s.Term, s.Leader = g.role(), g.hard.GetTerm(), ids.ReplicaID(g.soft.Lead)
	if s == g.status {
		return
	}
	if s.Role != Leader || s.Term != g.status.Term {
		g.reads = nil // raft forgot them, too
		g.held, g.due, g.tell = nil, nil, 0
		s.TermStart = 0
	}
	if s.Role == Leader && s.TermStart == 0 {
		s.TermStart = s.Last
		g.host.metrics.elections.Inc()
	}
	g.host.metrics.moved(g.status.Role, s.Role)
	g.status = s
	g.leaderNode.Store(uint64(g.nodeOf(s.Leader)))
	if s.Leader != 0 {
		g.sleep.campaigns = 0
	}
	g.publish()
	g.callback(func() error { g.sm.Changed(g, s); return nil })
}

func (g *Group) role() Role {
	switch g.soft.RaftState {
	case raft.StateLeader:
		return Leader
	case raft.StateCandidate, raft.StatePreCandidate:
		return Candidate
	}
	if slices.Contains(g.log.conf.GetLearners(), uint64(g.replica)) {
		return Learner
	}
	return Follower
}

// step gives a message to raft. Its errors say that the message is of no use, which is no news.
func (g *Group) step(m *raftpb.Message) { _ = g.raft.Step(m) }

// callback calls the state machine. An error ends the replica.
func (g *Group) callback(fn func() error) {
	g.inCallback = true
	err := fn()
	g.inCallback = false
	if err != nil {
		panic(err) // for endTurn
	}
}

// endTurn turns a panic of the raft library, which is how it reports an unreadable or impossible log, into the end of this
// replica. A panic of the state machine is a bug and goes on.
func (g *Group) endTurn() {
	g.out = nil
	if g.inCallback {
		return
	}
	if p := recover(); p != nil {
		g.damage(fmt.Errorf("%v", p))
		g.refuseMail()
		g.stepAside()
	}
}

// stepAside publishes that a damaged replica does nothing any more.
func (g *Group) stepAside() {
	g.host.metrics.moved(g.status.Role, Follower)
	g.status.Role, g.status.Leader, g.status.TermStart = Follower, 0, 0
	g.leaderNode.Store(0)
	g.reads, g.toApply, g.outgoing, g.readStates, g.local = nil, nil, nil, nil, nil
	g.again = false
	g.publish()
	g.host.setAwake(g, false)
	g.callback(func() error { g.sm.Changed(g, g.status); return nil })
}
