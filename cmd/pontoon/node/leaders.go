package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/placement"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	leadersPeriod = 300 * time.Millisecond
	// transfersMax bounds the leaderships that one round hands over: elections are cheap, but not ten thousand at once.
	transfersMax = 64
	// returnAfter is how long a leadership stays where it came from the node that it belongs to: that one may have given
	// it up for a reason that only it sees.
	returnAfter = 10 * time.Second
)

// runLeaders follows the leader policy. Gathered: leaders belong on the sequencer's node, where an exchange is a
// function call; whoever leads elsewhere and could hand over to that node does. Spread: each range has a node where it
// belongs, by its id, among those that live. A node that alone is without the sequencer leads nothing: its Raft groups
// see no fault, but its ranges would stand still.
func (n *Node) runLeaders(ctx context.Context) {
	settled, since := ids.NodeID(0), time.Now()
	seen := tenures{}
	for sleep(ctx, leadersPeriod) {
		seen.note(n.ranges.Statuses())
		if better, ok := n.client.CutOff(); ok {
			n.handOver(func(d *ids.Descriptor) ids.NodeID { return n.refuge(d, better) }, transfersMax)
			continue
		}
		if n.cfg.LeaderPolicy == LeadersSpread {
			n.handOver(func(d *ids.Descriptor) ids.NodeID { return seen.returns(d, n.spreadTo(d)) }, transfersMax)
			continue
		}
		s := n.client.SequencerNode()
		if s != settled {
			settled, since = s, time.Now()
		}
		if s == 0 || s == n.id.Node || time.Since(since) < n.cfg.ElectionTimeout || !n.net.Alive(s) {
			continue
		}
		n.handOver(func(d *ids.Descriptor) ids.NodeID { return seen.returns(d, s) }, transfersMax)
	}
}

// refuge is where a range's leadership goes from a node without sequencer: to the node that has one, or else to any.
func (n *Node) refuge(d *ids.Descriptor, better ids.NodeID) ids.NodeID {
	if r, ok := d.On(better); ok && !r.Learner {
		return better
	}
	for _, r := range d.Replicas {
		if !r.Learner && r.Node != n.id.Node && n.net.Alive(r.Node) {
			return r.Node
		}
	}
	return 0
}

// tenures remembers who led the ranges with a replica here, and who before that.
type tenures map[ids.RangeID]tenure

type tenure struct {
	leader, before ids.NodeID
	since          time.Time
}

func (ts tenures) note(statuses []rangegroup.Status) {
	for _, s := range statuses {
		if t := ts[s.Descriptor.ID]; s.Leader != 0 && s.Leader != t.leader {
			ts[s.Descriptor.ID] = tenure{leader: s.Leader, before: t.leader, since: time.Now()}
		}
	}
}

// returns is the node itself unless it led the range until lately: then none.
func (ts tenures) returns(d *ids.Descriptor, to ids.NodeID) ids.NodeID {
	if t := ts[d.ID]; t.before == to && time.Since(t.since) < returnAfter {
		return 0
	}
	return to
}

// spreadTo is the node where a range's leader belongs when leaders are spread.
func (n *Node) spreadTo(d *ids.Descriptor) ids.NodeID {
	var live []ids.NodeID
	for _, r := range d.Replicas {
		if !r.Learner && (r.Node == n.id.Node || n.net.Alive(r.Node)) {
			live = append(live, r.Node)
		}
	}
	slices.Sort(live)
	return live[int(uint64(d.ID)%uint64(len(live)))]
}

// handOver asks up to limit ranges led here to move to the node that to names, if that is another one with a replica.
func (n *Node) handOver(to func(*ids.Descriptor) ids.NodeID, limit int) {
	for _, s := range n.ranges.Statuses() {
		if limit <= 0 {
			return
		}
		if s.Raft.Role != multiraft.Leader {
			continue
		}
		target := to(s.Descriptor)
		if r, ok := s.Descriptor.On(target); ok && !r.Learner && target != n.id.Node {
			n.ranges.Transfer(s.Descriptor.ID, target)
			limit--
		}
	}
}

// leaveLeaders hands every leadership to some live node before this one stops, for at most an election timeout.
func (n *Node) leaveLeaders() {
	deadline := time.Now().Add(n.cfg.ElectionTimeout)
	for time.Now().Before(deadline) {
		left := 0
		for _, s := range n.ranges.Statuses() {
			if s.Raft.Role != multiraft.Leader {
				continue
			}
			for _, r := range s.Descriptor.Replicas {
				if r.Node != n.id.Node && !r.Learner && n.net.Alive(r.Node) {
					n.ranges.Transfer(s.Descriptor.ID, r.Node)
					left++
					break
				}
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// refusedForGood tells a refusal that only a person can remedy from a cluster that is not there yet.
func refusedForGood(err error) bool {
	return status.Code(err) == codes.FailedPrecondition
}

// sequencerOf makes the placement client what a range leader needs.
type sequencerOf struct{ c *placement.Client }

var _ rangegroup.Sequencer = sequencerOf{}

func (s sequencerOf) Known() uint64         { return s.c.Known() }
func (s sequencerOf) Current() ids.Revision { return s.c.Current() }
func (s sequencerOf) Floor() ids.Revision   { return s.c.Floor() }

func (s sequencerOf) Join(j rangegroup.Join) {
	s.c.Join(placement.Join{
		Range: j.Range, Term: j.Term, Want: j.Want, Proven: j.Proven,
		Parent: j.Parent, ParentGeneration: j.ParentGeneration, Generation: j.Generation,
		Done: func(a placement.Answer) {
			out := rangegroup.Answer{
				Err: a.Err, Session: a.Session, Current: a.Current, First: a.First, Floor: a.Floor,
			}
			switch {
			case errors.Is(a.Err, placement.ErrNeedProof):
				out.Err = rangegroup.ErrNeedProof
			case errors.Is(a.Err, placement.ErrSuperseded):
				out.Err = rangegroup.ErrSuperseded
			}
			j.Done(out)
		},
	})
}
