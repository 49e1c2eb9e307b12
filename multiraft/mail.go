package multiraft

import (
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// readMail handles what came into the inbox, in the order: completed appends, messages, orders. It reports whether the
// group has reason to be awake.
func (g *Group) readMail(m mail) (woken bool) {
	g.heardLeader = false
	g.mail = m
	g.appends -= len(m.done)
	for i := range m.done {
		g.completed(&m.done[i])
	}
	for _, l := range m.letters {
		woken = g.readLetter(l) || woken
	}
	for i := range m.orders {
		woken = g.obey(&m.orders[i]) || woken
	}
	g.mail = mail{}
	return woken
}

// completed takes note of an append.
func (g *Group) completed(c *completion) {
	if c.err != nil {
		panic(c.err) // for endTurn
	}
	if c.installed != nil {
		g.restored(c.installed)
	}
	for _, r := range c.responses {
		g.step(r)
	}
}

// readLetter handles a message from another replica.
func (g *Group) readLetter(l letter) (woken bool) {
	if isNote(l.payload) {
		n, err := decodeNote(l.payload)
		if err != nil {
			g.malformed(l, err)
			return false
		}
		g.sawNode(n.from, l.from)
		return g.readNote(n)
	}
	m, err := decodeMessage(l.payload)
	if err != nil {
		g.malformed(l, err)
		return false
	}
	g.sawNode(m.GetFrom(), l.from)
	g.beforeStep(m)
	g.step(m)
	switch m.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		g.heardLeader = g.heardLeader || m.GetType() == raftpb.MsgHeartbeat
		return !g.sleep.awake // heartbeats wake, but keep nobody awake
	case raftpb.MsgApp:
		g.heardLeader = true
	}
	return true
}

// sawNode remembers where a replica is that the descriptor does not name (yet).
func (g *Group) sawNode(replica uint64, node ids.NodeID) {
	if _, ok := g.desc.Load().NodeOf(ids.ReplicaID(replica)); ok || g.seen[replica] == node {
		return
	}
	if g.seen == nil || len(g.seen) > 64 {
		g.seen = make(map[uint64]ids.NodeID)
	}
	g.seen[replica] = node
}

func (g *Group) malformed(l letter, err error) {
	g.host.metrics.droppedMalformed.Inc()
	g.host.log.Warn("dropped a malformed Raft message", zap.Uint64("range", uint64(g.r)),
		zap.Stringer("from", l.from), zap.Error(err))
}

// obey does what another goroutine wants.
func (g *Group) obey(o *order) (woken bool) {
	switch o.kind {
	case orderCampaign:
		g.sleep.campaigns = 0
		g.campaign()
	case orderTransfer:
		if g.status.Role == Leader || g.status.Leader != 0 {
			g.raft.TransferLeader(uint64(o.replica))
		}
	case orderWake:
		g.wakeUp()
	case orderLeaderDead:
		g.leaderDied(o.node, o.delay)
		return false // leaderDied decides
	case orderSnapshot:
		g.stepSnapshot(o.snapshot)
	case orderReport:
		g.reportSnapshot(uint64(o.replica), o.err)
	}
	return true
}

// wakeUp makes the group work again as a whole: a leader shows itself, a follower asks its leader to, or has it replaced
// if its node is gone.
func (g *Group) wakeUp() {
	l := g.status.Leader
	switch {
	case g.status.Role == Leader:
		g.raft.Tick()
	case l != 0 && g.host.alive(g.nodeOf(l)):
		g.wakeLeader()
	case l != 0:
		g.leaderDied(g.nodeOf(l), 0)
	}
}

// refuseMail answers for a damaged replica, which does nothing.
func (g *Group) refuseMail() {
	m := g.inbox.take()
	g.appends -= len(m.done)
	g.mail.orders = append(g.mail.orders, m.orders...)
	for _, o := range g.mail.orders {
		if o.snapshot != nil {
			o.snapshot.finish(errDamaged)
		}
	}
	g.mail = mail{}
}

// reportSnapshot tells raft what became of a snapshot.
func (g *Group) reportSnapshot(to uint64, err error) {
	for i, s := range g.sending {
		if s.replica == to {
			g.sending = append(g.sending[:i], g.sending[i+1:]...)
			break
		}
	}
	status := raft.SnapshotFinish
	if err != nil {
		status = raft.SnapshotFailure
	}
	g.raft.ReportSnapshot(to, status)
}

// finishRemoval ends the group once nothing of it is with the log writer any more. It reports whether there is nothing
// left to do.
func (g *Group) finishRemoval() bool {
	if g.inbox.closed() {
		return true
	}
	g.damaged = errRemoved
	g.refuseMail()
	if g.appends > 0 {
		return true // its completion brings us back
	}
	g.inbox.close()
	g.host.metrics.moved(g.status.Role, roleNone)
	g.status.Role, g.status.Leader = Follower, 0
	g.publish()
	g.host.setAwake(g, false)
	close(g.done)
	return true
}
