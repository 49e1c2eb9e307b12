package router

import (
	"context"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// ServeRead reads for a node that has no replica of a range. It is what rangegroup.Host.HandleRange is given. The
// response is one part, for the other node to assemble; its header's revision is what was current. It never asks
// further nodes: an error goes back as it is.
func (rt *Router) ServeRead(call *pontoonpb.RangeCall, done func(*pb.RangeResponse, error)) {
	ok := rt.served.run(func(ctx context.Context) { done(rt.serveRead(ctx, call)) })
	if !ok {
		done(nil, &ids.UnavailableError{Range: ids.RangeID(call.RangeId), Reason: "closing, or too many reads"})
	}
}

func (rt *Router) serveRead(ctx context.Context, call *pontoonpb.RangeCall) (*pb.RangeResponse, error) {
	var req pb.RangeRequest
	if err := proto.Unmarshal(call.Request, &req); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "malformed request in range call: %v", err)
	}
	if err := eval.CheckRange(&req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, rt.timeout)
	defer cancel()
	id, at := ids.RangeID(call.RangeId), ids.Revision(call.ReadRevision)
	span := userSpan(req.Key, req.RangeEnd)
	if len(call.Start) > 0 {
		span = ids.Span{Start: call.Start, End: call.End}
	}
	claim, err := rt.claimFor(ctx, id, ids.Generation(call.Generation), at, req.Serializable)
	if err != nil {
		return nil, err
	}
	if at == 0 {
		if at, err = eval.ReadAt(req.Revision, claim.Revision, claim.Floor); err != nil {
			return nil, err
		}
	}
	q := eval.PlanRange(&req)
	q.SkipCount = call.SkipCount
	part, err := rt.ranges.Read(ctx, id, span, at, q)
	if err != nil {
		return nil, err
	}
	return &pb.RangeResponse{
		Header: &pb.ResponseHeader{Revision: int64(claim.Revision)}, Kvs: part.KVs, Count: part.Count,
	}, nil
}

// claimFor returns a claim that the local replica has applied: one of at least revision at, or a new one if at is 0, or
// any that is good enough for a serializable read.
func (rt *Router) claimFor(
	ctx context.Context, id ids.RangeID, gen ids.Generation, at ids.Revision, serializable bool,
) (rangegroup.Claim, error) {
	local, ok := rt.ranges.LocalClaim(id)
	switch {
	case ok && at > 0 && local.Revision >= at:
		return local, nil
	case ok && at == 0 && serializable && rt.clock.Now()-local.At < freshFor && int64(local.Revision) >= rt.answered.Load():
		return local, nil
	}
	leader := rt.self
	if st, found := rt.ranges.Status(id); found && st.Leader != 0 && (serializable || at > 0) {
		leader = st.Leader
	}
	wait := ctx
	if serializable && at == 0 && ok {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, freshBudget)
		defer cancel()
	}
	claim, err := rt.confirms.join(id, gen, leader).wait(wait)
	if err == nil {
		err = rt.ranges.WaitApplied(wait, id, claim.Index)
	}
	switch {
	case err == nil && claim.Revision >= at:
		return claim, nil
	case err == nil:
		err = &ids.UnavailableError{Range: id, Reason: "the claim is older than the revision to read at"}
	case serializable && at == 0 && ok:
		return local, nil
	}
	return rangegroup.Claim{}, err
}
