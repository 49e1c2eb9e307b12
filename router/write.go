package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// kvServer is etcd's KV service.
type kvServer struct {
	pb.UnimplementedKVServer
	rt *Router
}

// errSeveralRanges is the answer to what needs a transaction over several ranges.
var errSeveralRanges = status.Error(codes.Unimplemented,
	"pontoon: the request writes keys that lie in several ranges, which this version cannot do atomically")

// Put implements etcdserverpb.KVServer.
func (s *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := eval.CheckPut(r, s.rt.cfg.Limits); err != nil {
		return nil, err
	}
	m := mutation{kind: pontoonpb.RangeCall_PUT, op: r, span: userSpan(r.Key, nil), size: len(r.Key) + len(r.Value)}
	resp, err := s.rt.mutate(ctx, &m)
	if err != nil {
		return nil, err
	}
	put := resp.(*pb.PutResponse)
	s.rt.fill(ensure(&put.Header))
	return put, nil
}

// DeleteRange implements etcdserverpb.KVServer.
func (s *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := eval.CheckDelete(r, s.rt.cfg.Limits); err != nil {
		return nil, err
	}
	m := mutation{
		kind: pontoonpb.RangeCall_DELETE_RANGE, op: r, span: userSpan(r.Key, r.RangeEnd),
		size: len(r.Key) + len(r.RangeEnd),
	}
	resp, err := s.rt.mutate(ctx, &m)
	if err != nil {
		return nil, err
	}
	del := resp.(*pb.DeleteRangeResponse)
	s.rt.fill(ensure(&del.Header))
	return del, nil
}

// Txn implements etcdserverpb.KVServer.
func (s *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := eval.CheckTxn(r, s.rt.cfg.Limits); err != nil {
		return nil, err
	}
	m := mutation{kind: pontoonpb.RangeCall_TXN, op: r, size: proto.Size(r), spans: eval.TxnSpans(r)}
	var any bool
	if m.span, any = m.spans.Hull(); !any {
		// It touches no key: any range may say which revision is current.
		m.span = ids.Span{Start: ids.UserSpace.Start, End: ids.Next(ids.UserSpace.Start)}
	}
	resp, err := s.rt.mutate(ctx, &m)
	if err != nil {
		return nil, err
	}
	txn := resp.(*pb.TxnResponse)
	s.rt.fill(ensure(&txn.Header))
	return txn, nil
}

// Compact implements etcdserverpb.KVServer.
func (s *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	rt := s.rt
	ctx, cancel := context.WithTimeout(ctx, rt.timeout)
	defer cancel()
	if err := rt.cluster.Compact(ctx, ids.Revision(r.Revision)); err != nil {
		return nil, rt.clusterError(ctx, err)
	}
	current, _, err := rt.cluster.Confirm(ctx)
	if err != nil {
		return nil, rt.clusterError(ctx, err)
	}
	h := &pb.ResponseHeader{Revision: int64(current)}
	rt.fill(h)
	return &pb.CompactionResponse{Header: h}, nil
}

// clusterError is what a client gets for an error of the Cluster.
func (rt *Router) clusterError(ctx context.Context, err error) error {
	var ambiguous *ids.AmbiguousError
	switch {
	case isContext(err), ids.Retryable(err), errors.As(err, &ambiguous):
		return rt.timeoutError(ctx, err)
	}
	return safe(err)
}

// ensure returns a header, making one if it is missing.
func ensure(h **pb.ResponseHeader) *pb.ResponseHeader {
	if *h == nil {
		*h = &pb.ResponseHeader{}
	}
	return *h
}

// userSpan is ids.UserSpan with one allocation less for a single key.
func userSpan(key, rangeEnd []byte) ids.Span {
	if len(rangeEnd) != 0 {
		return ids.UserSpan(key, rangeEnd)
	}
	b := make([]byte, len(key)+2)
	b[0] = ids.SpaceUser
	copy(b[1:], key)
	return ids.Span{Start: b[: len(key)+1 : len(key)+1], End: b}
}

// mutation is one request on its way to the leader of its range.
type mutation struct {
	kind  pontoonpb.RangeCall_Kind
	op    proto.Message
	span  ids.Span   // all that it may touch, as one span
	spans eval.Spans // the same in detail; txns only
	size  int        // bytes, for the limit of what is in flight
}

// response makes the empty response that a reply is unmarshalled into.
func (m *mutation) response() proto.Message {
	switch m.kind {
	case pontoonpb.RangeCall_PUT:
		return &pb.PutResponse{}
	case pontoonpb.RangeCall_DELETE_RANGE:
		return &pb.DeleteRangeResponse{}
	}
	return &pb.TxnResponse{}
}

// mutate sends a request to the leader of its range until it has an answer, its time is up, or it may have had an
// effect: every attempt but the last is proven to have had none.
func (rt *Router) mutate(ctx context.Context, m *mutation) (resp proto.Message, err error) {
	if err := rt.admit(int64(m.size)); err != nil {
		return nil, err
	}
	defer rt.leave(int64(m.size))
	t := timing{start: time.Now()}
	defer func() { rt.finish(&t, m.op, err) }()
	w := rt.waiters.get(rt.timeout)
	outstanding := false
	defer func() { rt.waiters.put(w, outstanding) }()
	for attempt := 0; ; attempt++ {
		var r *route
		var asked ids.NodeID
		if r, err = rt.route(ctx, m.span.Start); err == nil {
			t.on(r)
			if !m.span.Empty() && !r.desc.Span.Covers(m.span) {
				return rt.overSeveral(ctx, m)
			}
			asked = rt.leaderOf(r, attempt)
			t.asked = asked
			var a answer
			if a, outstanding = rt.attempt(ctx, w, m, r, asked); a.err == nil {
				return a.message, nil
			}
			err = a.err
		}
		retry, now := rt.heed(err, r, asked)
		if !retry && r == nil && !isContext(err) {
			retry = true // the directory could not be read
		}
		if !retry {
			return nil, rt.writeError(ctx, err, asked)
		}
		rt.metrics.retries.Inc()
		t.attempts++
		if !w.sleep(ctx, pause(attempt, now)) {
			return nil, rt.timeoutError(ctx, err)
		}
	}
}

// attempt sends a request once. The answer's message is set if its error is nil.
func (rt *Router) attempt(
	ctx context.Context, w *waiter, m *mutation, r *route, to ids.NodeID,
) (a answer, outstanding bool) {
	if to == rt.self {
		rt.ranges.Write(rangegroup.Request{Range: r.desc.ID, Generation: r.desc.Generation, Op: m.op}, w.message)
		return w.wait(ctx)
	}
	call, err := encodeCall(r.desc, m.kind, m.op, callPart{})
	if err != nil {
		return answer{err: status.Error(codes.Internal, err.Error())}, false
	}
	rt.sender.Go(ctx, to, CallRange, call, w.bytes)
	if a, outstanding = w.wait(ctx); a.err != nil {
		return a, outstanding
	}
	a.message = m.response()
	if err := decodeReply(a.bytes, a.message); err != nil {
		// It has been carried out, but what came of it cannot be told.
		return answer{err: &ids.AmbiguousError{Range: r.desc.ID, Reason: err.Error()}}, false
	}
	return a, false
}

// overSeveral carries out a request whose keys lie in several ranges.
func (rt *Router) overSeveral(ctx context.Context, m *mutation) (proto.Message, error) {
	if rt.txner == nil || m.kind == pontoonpb.RangeCall_PUT {
		return nil, errSeveralRanges
	}
	spans := m.spans
	if m.kind == pontoonpb.RangeCall_DELETE_RANGE {
		spans = eval.Spans{Writes: []ids.Span{m.span}, Anchor: m.span.Start}
	}
	resp, err := rt.txner.Execute(ctx, m.op, spans)
	if err != nil {
		return nil, rt.writeError(ctx, err, 0)
	}
	if resp == nil {
		return nil, safe(fmt.Errorf("pontoon: a transaction ended without a response"))
	}
	return resp, nil
}
