package sim

import (
	"context"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// call does what a connection to a node does: it is refused while the node is down, waits while it is suspended, and
// breaks if the process dies. An answer counts if it left before that.
func call[T any](ctx context.Context, n *Node, f func(context.Context, *node.Node) (T, error)) (T, error) {
	type answer struct {
		resp T
		err  error
	}
	var none T
	p, err := n.gate(ctx, true)
	if err != nil {
		return none, err
	}
	ch := make(chan answer, 1)
	serving, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(p.ctx, cancel)()
	defer cancel()
	n.c.wg.Go(func() {
		defer p.calls.Done()
		resp, err := f(serving, p.node)
		ch <- answer{resp, err}
	})
	select {
	case <-p.dead:
		return none, ErrReset
	case <-ctx.Done():
		return none, status.FromContextError(ctx.Err()).Err()
	case a := <-ch:
		switch q, err := n.gate(ctx, false); {
		case err != nil && status.Code(err) != codes.Unavailable:
			return none, err
		case q != p:
			return none, ErrReset
		}
		return a.resp, a.err
	}
}

// KV is the node's KV service, as a client that is connected to it has it. Requests must not be changed afterwards.
func (n *Node) KV() pb.KVServer { return kv{n: n} }

type kv struct {
	pb.UnimplementedKVServer
	n *Node
}

func (k kv) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return call(ctx, k.n, func(ctx context.Context, n *node.Node) (*pb.PutResponse, error) { return n.KV().Put(ctx, r) })
}

func (k kv) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return call(ctx, k.n, func(ctx context.Context, n *node.Node) (*pb.RangeResponse, error) { return n.KV().Range(ctx, r) })
}

func (k kv) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return call(ctx, k.n, func(ctx context.Context, n *node.Node) (*pb.DeleteRangeResponse, error) {
		return n.KV().DeleteRange(ctx, r)
	})
}

func (k kv) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return call(ctx, k.n, func(ctx context.Context, n *node.Node) (*pb.TxnResponse, error) { return n.KV().Txn(ctx, r) })
}

func (k kv) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return call(ctx, k.n, func(ctx context.Context, n *node.Node) (*pb.CompactionResponse, error) {
		return n.KV().Compact(ctx, r)
	})
}
