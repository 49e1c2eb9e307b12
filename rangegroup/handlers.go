package rangegroup

import (
	"context"
	"sync"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// HandleRange serves transport.MethodRange for mutating requests. Reads of a node without a replica of its own come to
// the router's handler, which this one is given for everything else.
func (h *Host) HandleRange(
	read func(*pontoonpb.RangeCall, func(*pb.RangeResponse, error)),
) func(from ids.NodeID, payload []byte, reply func([]byte, error)) {
	return func(_ ids.NodeID, payload []byte, reply func([]byte, error)) {
		var call pontoonpb.RangeCall
		if err := proto.Unmarshal(payload, &call); err != nil {
			reply(nil, malformed("range call", err))
			return
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
			read(&call, func(r *pb.RangeResponse, err error) { replyMessage(r, err, reply) })
			return
		default:
			reply(nil, status.Errorf(codes.Unimplemented, "range call of unknown kind %d", call.Kind))
			return
		}
		if err := proto.Unmarshal(call.Request, op); err != nil {
			reply(nil, malformed("request in range call", err))
			return
		}
		h.Write(Request{
			Range: ids.RangeID(call.RangeId), Generation: ids.Generation(call.Generation), Op: op,
		}, func(resp proto.Message, err error) { replyMessage(resp, err, reply) })
	}
}

func malformed(what string, err error) error {
	return status.Errorf(codes.InvalidArgument, "malformed %s: %v", what, err)
}

func replyMessage(resp proto.Message, err error, reply func([]byte, error)) {
	if err != nil {
		reply(nil, err)
		return
	}
	body, err := proto.Marshal(resp)
	if err != nil {
		reply(nil, status.Errorf(codes.Internal, "marshalling a response: %v", err))
		return
	}
	out, err := proto.Marshal(&pontoonpb.RangeReply{Response: body})
	reply(out, err)
}

// HandleConfirm serves transport.MethodConfirm: fresh claims for many ranges at once.
func (h *Host) HandleConfirm(_ ids.NodeID, payload []byte, reply func([]byte, error)) {
	var call pontoonpb.ConfirmCall
	if err := proto.Unmarshal(payload, &call); err != nil {
		reply(nil, malformed("confirm call", err))
		return
	}
	if len(call.Items) == 0 {
		reply(nil, nil)
		return
	}
	g := &confirmGather{results: make([]*pontoonpb.ConfirmResult, len(call.Items)), left: len(call.Items), reply: reply}
	for i, it := range call.Items {
		h.confirm(ids.RangeID(it.RangeId), &confirmation{
			gen: ids.Generation(it.Generation), remote: true, done: func(c Claim, err error) { g.done(i, c, err) },
		})
	}
}

// confirmGather collects the claims of one call.
type confirmGather struct {
	mu      sync.Mutex
	results []*pontoonpb.ConfirmResult // guarded by mu, each written once
	left    int                        // guarded by mu
	reply   func([]byte, error)
}

func (g *confirmGather) done(i int, c Claim, err error) {
	r := &pontoonpb.ConfirmResult{
		Revision: int64(c.Revision), Index: c.Index, Generation: uint64(c.Generation), Floor: int64(c.Floor),
	}
	if err != nil {
		r = &pontoonpb.ConfirmResult{Error: wire.ErrorToProto(err)}
	}
	g.mu.Lock()
	g.results[i] = r
	g.left--
	last := g.left == 0
	g.mu.Unlock()
	if last {
		out, err := proto.Marshal(&pontoonpb.ConfirmReply{Results: g.results})
		g.reply(out, err)
	}
}

// ConfirmWait is Confirm for callers that wait.
func (h *Host) ConfirmWait(ctx context.Context, id ids.RangeID, gen ids.Generation) (Claim, error) {
	type result struct {
		c   Claim
		err error
	}
	ch := make(chan result, 1)
	h.Confirm(id, gen, func(c Claim, err error) { ch <- result{c, err} })
	select {
	case r := <-ch:
		return r.c, r.err
	case <-ctx.Done():
		return Claim{}, ctx.Err()
	}
}
