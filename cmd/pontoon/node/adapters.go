package node

import (
	"context"
	"errors"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/placement"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/router"
	"github.com/pontoon-kv/pontoon/storage"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// sender is what the router sends through.
type sender struct{ t transport.Transport }

var _ router.Sender = sender{}

var methods = map[router.CallKind]transport.Method{
	router.CallRange:   transport.MethodRange,
	router.CallConfirm: transport.MethodConfirm,
	router.CallNode:    transport.MethodNode,
}

func (s sender) Go(
	ctx context.Context, to ids.NodeID, kind router.CallKind, payload []byte, done func([]byte, error),
) {
	s.t.Go(ctx, to, methods[kind], payload, done)
}

func (s sender) NotSent(err error) bool { return errors.Is(err, transport.ErrNotSent) }

// directory is the router's view of the cluster's book of ranges.
type directory struct{ c *placement.Client }

func (d directory) Descriptors(ctx context.Context) ([]*ids.Descriptor, error) {
	return d.c.Directory(ctx)
}

// clusterView is the router's view of the cluster as a whole.
type clusterView struct{ n *Node }

var _ router.Cluster = clusterView{}

func (c clusterView) Members(ctx context.Context, linearizable bool) ([]router.Member, error) {
	nodes := c.n.peers.known()
	if linearizable || len(nodes) == 0 {
		var err error
		if nodes, err = c.n.client.Nodes(ctx); err != nil {
			return nil, err
		}
		c.n.peers.know(nodes)
	}
	out := make([]router.Member, len(nodes))
	for i, m := range nodes {
		out[i] = router.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs}
	}
	return out, nil
}

func (c clusterView) Raft() router.RaftStatus {
	if c.n.bookGroups == nil {
		return router.RaftStatus{Leader: c.n.client.SequencerNode()}
	}
	g := c.n.bookGroups.Group(ids.PlacementRange)
	if g == nil {
		return router.RaftStatus{}
	}
	s := g.Status()
	leader, _ := g.ReplicaNode(s.Leader)
	return router.RaftStatus{Leader: leader, Term: s.Term, Commit: s.Commit, Applied: s.Applied}
}

func (c clusterView) Current() ids.Revision { return c.n.client.Current() }

func (c clusterView) Confirm(ctx context.Context) (current, floor ids.Revision, err error) {
	return c.n.client.Confirm(ctx)
}

func (c clusterView) Compact(ctx context.Context, at ids.Revision) error {
	return c.n.client.Compact(ctx, at)
}

func (c clusterView) Alarms() []*pb.AlarmMember { return nil }

// store is the engine as an operator sees it.
type store struct{ e *storage.Engine }

var _ router.Store = store{}

func (s store) Size() (total, live int64)         { return s.e.Size() }
func (s store) Compact(ctx context.Context) error { return s.e.Compact(ctx) }
