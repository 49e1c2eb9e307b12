package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/rangegroup/eval/evaltest"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

var (
	errNotSent = errors.New("fake: not sent")
	errLost    = errors.New("fake: connection lost")
)

// fakeCluster is one true keyspace, cut into ranges, and nodes that see it late: a node's replicas have everything up to
// its applied revision. A log index is a revision here. It fails the test when a replica is read above what it has
// applied.
type fakeCluster struct {
	t  testing.TB
	mu struct {
		sync.Mutex
		store   *evaltest.Store
		descs   []*ids.Descriptor
		leaders map[ids.RangeID]ids.NodeID
		nextID  ids.RangeID
	}
	nodes map[ids.NodeID]*fakeNode
	lag   time.Duration // until followers apply
	start time.Time
}

// fakeNode is a node's ranges, transport, and everything else that its router asks.
type fakeNode struct {
	c      *fakeCluster
	id     ids.NodeID
	router *Router
	mu     struct {
		sync.Mutex
		applied ids.Revision
		changed chan struct{}
		claims  map[ids.RangeID]rangegroup.Claim
		calls   map[CallKind]int
	}
	// onWrite and onConfirm are asked first; an error is answered instead of serving, a hold delays the answer.
	onWrite   func(req rangegroup.Request) error
	onConfirm func() (hold <-chan struct{}, err error)
	// onCall is asked about calls that leave here: an error is what the caller gets, and deliver says whether the callee
	// gets the call all the same.
	onCall func(to ids.NodeID, kind CallKind, payload []byte) (err error, deliver bool)
}

// newFakeCluster makes nodes 1…n; splits cut the user space, and range i lives on the three nodes from i on.
func newFakeCluster(t testing.TB, n int, splits ...string) *fakeCluster {
	c := &fakeCluster{t: t, nodes: map[ids.NodeID]*fakeNode{}, start: time.Now()}
	c.mu.store = evaltest.New()
	c.mu.leaders = map[ids.RangeID]ids.NodeID{}
	start := ids.UserSpace.Start
	for i := 0; i <= len(splits); i++ {
		end := ids.UserSpace.End
		if i < len(splits) {
			end = ids.UserKey([]byte(splits[i]))
		}
		d := &ids.Descriptor{ID: ids.FirstUserRange + ids.RangeID(i), Span: ids.Span{Start: start, End: end}, Generation: 1}
		for k := range min(n, 3) {
			node := ids.NodeID((i+k)%n + 1)
			d.Replicas = append(d.Replicas, ids.ReplicaDesc{Node: node, Replica: ids.ReplicaID(k + 1)})
		}
		c.mu.descs = append(c.mu.descs, d)
		c.mu.leaders[d.ID] = d.Replicas[0].Node
		start = end
	}
	c.mu.nextID = ids.FirstUserRange + ids.RangeID(len(splits)) + 1
	for i := range n {
		nd := &fakeNode{c: c, id: ids.NodeID(i + 1)}
		nd.mu.applied, nd.mu.changed = 1, make(chan struct{})
		nd.mu.claims, nd.mu.calls = map[ids.RangeID]rangegroup.Claim{}, map[CallKind]int{}
		c.nodes[nd.id] = nd
		nd.open(Config{})
	}
	return c
}

// open makes the node's router anew.
func (n *fakeNode) open(cfg Config) *Router {
	if n.router != nil {
		n.router.Close()
	}
	cfg.ClusterID, cfg.Node = 77, n.id
	rt, err := New(cfg, Deps{Ranges: n, Sender: n, Directory: n.c, Cluster: fakeBook{n}, Clock: n, Store: fakeStore{}})
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.router = rt
	return rt
}

func (c *fakeCluster) close() {
	for _, n := range c.nodes {
		n.router.Close()
	}
}

func (c *fakeCluster) desc(id ids.RangeID) *ids.Descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.mu.descs {
		if d.ID == id {
			return d
		}
	}
	return nil
}

func (c *fakeCluster) current() ids.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.store.Revision()
}

func (c *fakeCluster) lead(id ids.RangeID, n ids.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.leaders[id] = n
}

// do carries a request out on the true keyspace, behind the routers' backs.
func (c *fakeCluster) do(req proto.Message) *evaltest.Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.mu.store.Do(req)
	c.mu.store.Flush()
	return o
}

// split cuts a range; the right side keeps the replicas and gets its leader.
func (c *fakeCluster) split(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := ids.UserKey([]byte(key))
	for i, d := range c.mu.descs {
		if !d.Span.Contains(at) {
			continue
		}
		left, right := *d, *d
		left.Generation, right.Generation = d.Generation+1, d.Generation+1
		left.Span.End, right.Span.Start = at, at
		right.ID = c.mu.nextID
		c.mu.nextID++
		c.mu.leaders[right.ID] = d.Replicas[len(d.Replicas)-1].Node
		c.mu.descs = slices.Replace(c.mu.descs, i, i+1, &left, &right)
		return
	}
}

func (c *fakeCluster) all() []*ids.Descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mu.descs)
}

func (c *fakeCluster) Descriptors(context.Context) ([]*ids.Descriptor, error) { return c.all(), nil }

// apply lets a node's replicas catch up.
func (n *fakeNode) apply(to ids.Revision) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to > n.mu.applied {
		n.mu.applied = to
		close(n.mu.changed)
		n.mu.changed = make(chan struct{})
	}
}

func (c *fakeCluster) spread(rev ids.Revision, from ids.NodeID) {
	c.nodes[from].apply(rev)
	for _, n := range c.nodes {
		if n.id == from {
			continue
		}
		if c.lag == 0 {
			n.apply(rev)
		} else {
			time.AfterFunc(c.lag, func() { n.apply(rev) })
		}
	}
}

func ownsFake(d *ids.Descriptor, op proto.Message) bool {
	switch op := op.(type) {
	case *pb.PutRequest:
		return d.Span.Covers(eval.PutSpan(op))
	case *pb.DeleteRangeRequest:
		return d.Span.Covers(eval.DeleteSpan(op))
	case *pb.TxnRequest:
		s := eval.TxnSpans(op)
		return s.Within(d.Span)
	}
	return false
}

// refusal is what a node answers that does not lead a range, or not in that shape.
func (n *fakeNode) refusal(id ids.RangeID, gen ids.Generation) error {
	d := n.c.desc(id)
	if d == nil {
		return &ids.WrongRangeError{Range: id}
	}
	if _, here := d.On(n.id); !here {
		return &ids.WrongRangeError{Range: id, Descriptors: n.c.all()}
	}
	n.c.mu.Lock()
	leader := n.c.mu.leaders[id]
	n.c.mu.Unlock()
	if leader != n.id {
		return &ids.NotLeaderError{Range: id, Leader: leader}
	}
	if gen != d.Generation {
		return &ids.WrongRangeError{Range: id, Descriptors: n.c.all()}
	}
	return nil
}

func (n *fakeNode) Write(req rangegroup.Request, done func(proto.Message, error)) {
	if n.onWrite != nil {
		if err := n.onWrite(req); err != nil {
			done(nil, err)
			return
		}
	}
	if err := n.refusal(req.Range, req.Generation); err != nil {
		done(nil, err)
		return
	}
	if !ownsFake(n.c.desc(req.Range), req.Op) {
		done(nil, &ids.WrongRangeError{Range: req.Range, Descriptors: n.c.all()})
		return
	}
	o := n.c.do(proto.Clone(req.Op))
	n.c.spread(n.c.current(), n.id)
	done(o.Response, o.Err)
}

func (n *fakeNode) Confirm(id ids.RangeID, gen ids.Generation, done func(rangegroup.Claim, error)) {
	var hold <-chan struct{}
	if n.onConfirm != nil {
		var err error
		if hold, err = n.onConfirm(); err != nil {
			done(rangegroup.Claim{}, err)
			return
		}
	}
	if err := n.refusal(id, gen); err != nil {
		done(rangegroup.Claim{}, err)
		return
	}
	n.c.mu.Lock()
	rev, floor := n.c.mu.store.Revision(), n.c.mu.store.Floor()
	n.c.mu.Unlock()
	c := rangegroup.Claim{Revision: rev, Index: uint64(rev), Generation: gen, Floor: floor, At: n.Now()}
	finish := func() {
		n.Note(id, c)
		done(c, nil)
	}
	if hold == nil {
		finish()
		return
	}
	go func() {
		<-hold
		finish()
	}()
}

func (n *fakeNode) Note(id ids.RangeID, c rangegroup.Claim) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.Revision >= n.mu.claims[id].Revision {
		n.mu.claims[id] = c
	}
}

func (n *fakeNode) LocalClaim(id ids.RangeID) (rangegroup.Claim, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.mu.claims[id]
	return c, ok && c.Index <= uint64(n.mu.applied)
}

func (n *fakeNode) WaitApplied(ctx context.Context, id ids.RangeID, index uint64) error {
	for {
		n.mu.Lock()
		applied, changed := n.mu.applied, n.mu.changed
		n.mu.Unlock()
		if uint64(applied) >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *fakeNode) Read(
	_ context.Context, id ids.RangeID, span ids.Span, at ids.Revision, q eval.Query,
) (eval.Part, error) {
	d := n.c.desc(id)
	if d == nil || !d.Span.Covers(span) {
		return eval.Part{}, &ids.WrongRangeError{Range: id, Descriptors: n.c.all()}
	}
	if _, here := d.On(n.id); !here {
		n.c.t.Errorf("node %v reads range %d, of which it has no replica", n.id, id)
	}
	n.mu.Lock()
	applied := n.mu.applied
	n.mu.Unlock()
	if at > applied {
		n.c.t.Errorf("node %v reads range %d at %d and has applied %d only", n.id, id, at, applied)
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return eval.ReadPart(n.c.mu.store.View(), span, at, q)
}

func (n *fakeNode) Descriptors() []*ids.Descriptor {
	return slices.DeleteFunc(n.c.all(), func(d *ids.Descriptor) bool { _, ok := d.On(n.id); return !ok })
}

func (n *fakeNode) Status(id ids.RangeID) (rangegroup.Status, bool) {
	d := n.c.desc(id)
	if d == nil {
		return rangegroup.Status{}, false
	}
	if _, ok := d.On(n.id); !ok {
		return rangegroup.Status{}, false
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	return rangegroup.Status{Descriptor: d, Leader: n.c.mu.leaders[id], MaxRevision: n.mu.applied}, true
}

func (n *fakeNode) Statuses() (all []rangegroup.Status) {
	for _, d := range n.Descriptors() {
		s, _ := n.Status(d.ID)
		all = append(all, s)
	}
	return all
}

func (n *fakeNode) Usage(ids.RangeID, bool) (rangegroup.Usage, error) {
	return rangegroup.Usage{Bytes: 100, Keys: 5}, nil
}

// Go implements Sender.
func (n *fakeNode) Go(_ context.Context, to ids.NodeID, kind CallKind, payload []byte, done func([]byte, error)) {
	n.mu.Lock()
	n.mu.calls[kind]++
	n.mu.Unlock()
	if n.onCall != nil {
		if err, deliver := n.onCall(to, kind, payload); err != nil {
			if deliver {
				n.c.nodes[to].receive(kind, payload, func([]byte, error) {})
			}
			go done(nil, err)
			return
		}
	}
	// What travels loses its Go type but not its meaning.
	go n.c.nodes[to].receive(kind, payload, func(b []byte, err error) {
		done(b, wire.ErrorFromProto(wire.ErrorToProto(err)))
	})
}

func (n *fakeNode) NotSent(err error) bool { return errors.Is(err, errNotSent) }

// receive is what rangegroup's handlers do.
func (n *fakeNode) receive(kind CallKind, payload []byte, reply func([]byte, error)) {
	answer := func(resp proto.Message, err error) {
		if err != nil {
			reply(nil, err)
			return
		}
		body, err := proto.Marshal(resp)
		if err != nil {
			n.c.t.Error(err)
		}
		reply(proto.Marshal(&pontoonpb.RangeReply{Response: body}))
	}
	switch kind {
	case CallNode:
		n.router.HandleNode(0, payload, reply)
	case CallConfirm:
		var call pontoonpb.ConfirmCall
		if err := proto.Unmarshal(payload, &call); err != nil {
			n.c.t.Error(err)
		}
		var mu sync.Mutex
		r := &pontoonpb.ConfirmReply{Results: make([]*pontoonpb.ConfirmResult, len(call.Items))}
		left := len(call.Items)
		for i, it := range call.Items {
			n.Confirm(ids.RangeID(it.RangeId), ids.Generation(it.Generation), func(c rangegroup.Claim, err error) {
				mu.Lock()
				defer mu.Unlock()
				r.Results[i] = &pontoonpb.ConfirmResult{
					Revision: int64(c.Revision), Index: c.Index, Generation: uint64(c.Generation), Floor: int64(c.Floor),
					Error: wire.ErrorToProto(err),
				}
				if left--; left == 0 {
					reply(proto.Marshal(r))
				}
			})
		}
	case CallRange:
		var call pontoonpb.RangeCall
		if err := proto.Unmarshal(payload, &call); err != nil {
			n.c.t.Error(err)
		}
		var op proto.Message
		switch call.Kind {
		case pontoonpb.RangeCall_PUT:
			op = &pb.PutRequest{}
		case pontoonpb.RangeCall_DELETE_RANGE:
			op = &pb.DeleteRangeRequest{}
		case pontoonpb.RangeCall_TXN:
			op = &pb.TxnRequest{}
		case pontoonpb.RangeCall_RANGE:
			n.router.ServeRead(&call, func(r *pb.RangeResponse, err error) { answer(r, err) })
			return
		}
		if err := proto.Unmarshal(call.Request, op); err != nil {
			n.c.t.Error(err)
		}
		n.Write(rangegroup.Request{
			Range: ids.RangeID(call.RangeId), Generation: ids.Generation(call.Generation), Op: op,
		}, answer)
	}
}

// The rest of what a router asks of its cluster.

func (n *fakeNode) Now() time.Duration { return time.Since(n.c.start) }

// fakeBook is the node's view of the cluster.
type fakeBook struct{ *fakeNode }

func (b fakeBook) Members(context.Context, bool) ([]Member, error) {
	return []Member{{ID: 1, Name: "one", ClientURLs: []string{"http://one"}}}, nil
}
func (b fakeBook) Raft() RaftStatus          { return RaftStatus{Leader: 1, Term: 6, Commit: 11, Applied: 11} }
func (b fakeBook) Current() ids.Revision     { return 1 }
func (b fakeBook) Alarms() []*pb.AlarmMember { return nil }

func (b fakeBook) Confirm(context.Context) (ids.Revision, ids.Revision, error) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return b.c.mu.store.Revision(), b.c.mu.store.Floor(), nil
}

func (b fakeBook) Compact(_ context.Context, at ids.Revision) error {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return b.c.mu.store.Compact(int64(at))
}

type fakeStore struct{}

func (fakeStore) Size() (int64, int64)          { return 1000, 900 }
func (fakeStore) Compact(context.Context) error { return nil }

// calls returns how many calls of a kind a node has made.
func (n *fakeNode) callsOf(kind CallKind) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.calls[kind]
}
