package router

import (
	"context"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Range implements etcdserverpb.KVServer.
func (s *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := eval.CheckRange(r); err != nil {
		return nil, err
	}
	return s.rt.read(ctx, r)
}

// reader is one read on its way: the ranges it covers, what they contributed.
type reader struct {
	rt   *Router
	req  *pb.RangeRequest
	span ids.Span
	q    eval.Query
	t    timing
	ctx  deadlineContext

	routes  []*route
	tickets []ticket
	claims  []rangegroup.Claim
	parts   []eval.Part
	// Room for a read of one range, which most are.
	one struct {
		routes  [1]*route
		tickets [1]ticket
		claims  [1]rangegroup.Claim
		parts   [1]eval.Part
	}
}

// read serves a range request whose check has passed.
func (rt *Router) read(ctx context.Context, req *pb.RangeRequest) (resp *pb.RangeResponse, err error) {
	if err := rt.admit(0); err != nil {
		return nil, err
	}
	defer rt.leave(0)
	rd := &reader{rt: rt, req: req, span: userSpan(req.Key, req.RangeEnd), q: eval.PlanRange(req)}
	rd.t.start = time.Now()
	rd.ctx = deadlineContext{Context: ctx, at: rd.t.start.Add(rt.timeout)}
	defer rd.ctx.release()
	rd.routes, rd.tickets = rd.one.routes[:0], rd.one.tickets[:0]
	rd.claims, rd.parts = rd.one.claims[:0], rd.one.parts[:0]

	serializable := req.Serializable
	err = rd.untilDone(func(attempt int) (*route, ids.NodeID, error) {
		if serializable && attempt < 2 {
			return rd.serializable(attempt)
		}
		return rd.linearizable(attempt)
	})
	rt.finish(&rd.t, req, err)
	if err != nil {
		return nil, err
	}
	resp = eval.Assemble(req, rd.parts)
	resp.Header.Revision = int64(rd.t.revision)
	rt.fill(resp.Header)
	return resp, nil
}

// untilDone repeats an attempt until it succeeds, fails for good, or the time is up. try names the range and the node
// that its error comes from.
func (rd *reader) untilDone(try func(attempt int) (*route, ids.NodeID, error)) error {
	for attempt := 0; ; attempt++ {
		r, asked, err := try(attempt)
		if err == nil {
			return nil
		}
		retry, now := false, false
		switch {
		case r != nil:
			retry, now = rd.rt.heedRead(err, r, asked)
		case !isContext(err) && !isStatus(err):
			retry = true // no route yet
		}
		if rd.ctx.Err() != nil {
			return rd.rt.timeoutError(rd.ctx.Context, err)
		}
		if !retry {
			return rd.rt.readError(rd.ctx.Context, err)
		}
		rd.rt.metrics.retries.Inc()
		rd.t.attempts++
		if d := pause(attempt, now); d > 0 && !sleep(&rd.ctx, d) {
			return rd.rt.timeoutError(rd.ctx.Context, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// linearizable tries once: claims of all ranges, begun now; then every part at the least of their revisions.
func (rd *reader) linearizable(attempt int) (*route, ids.NodeID, error) {
	rt := rd.rt
	var err error
	if rd.routes, err = rt.tile(&rd.ctx, rd.routes[:0], rd.span); err != nil {
		return nil, 0, err
	}
	rd.t.on(rd.routes[0])
	if len(rd.routes) == 1 && !rd.routes[0].local {
		return rd.forward(attempt)
	}
	rd.tickets = rd.tickets[:0]
	for _, r := range rd.routes {
		rd.tickets = append(rd.tickets, rt.confirms.join(r.desc.ID, r.desc.Generation, rt.leaderOf(r, attempt)))
	}
	begun := time.Now()
	rd.claims = rd.claims[:0]
	for i, t := range rd.tickets {
		c, err := t.wait(&rd.ctx)
		if err != nil {
			return rd.routes[i], t.asked, err
		}
		rd.claims = append(rd.claims, c)
	}
	rd.t.claim += time.Since(begun)
	return rd.readAtClaims()
}

// readAtClaims reads every part at the least revision of the claims.
func (rd *reader) readAtClaims() (*route, ids.NodeID, error) {
	current, floor := rd.claims[0].Revision, rd.claims[0].Floor
	for _, c := range rd.claims[1:] {
		current, floor = min(current, c.Revision), max(floor, c.Floor)
	}
	at, err := eval.ReadAt(rd.req.Revision, current, floor)
	if err != nil {
		return nil, 0, err
	}
	rd.t.revision = current
	return rd.readParts(at)
}

// readParts reads all parts at a revision: those without a local replica are asked for at once, the others are read one
// after the other, in the order in which a limit takes keys, so that the later ones need only be counted.
func (rd *reader) readParts(at ids.Revision) (*route, ids.NodeID, error) {
	n := len(rd.routes)
	rd.parts = append(rd.parts[:0], make([]eval.Part, n)...)
	remote, failed, asked, err := rd.askRemote(at)
	if err != nil {
		return failed, asked, err
	}
	q := rd.q
	for k := range n {
		i := k
		if q.Reverse {
			i = n - 1 - k
		}
		if rd.routes[i].local {
			if err := rd.readLocal(i, at, q); err != nil {
				return rd.routes[i], rd.rt.self, err
			}
		} else if asked, err := remote.take(rd, i); err != nil {
			return rd.routes[i], asked, err
		}
		if q.Limit > 0 {
			if q.Limit -= int64(len(rd.parts[i].KVs)); q.Limit <= 0 {
				q.Limit, q.CountOnly, q.WithValue = 0, true, false
			}
		}
	}
	return nil, 0, nil
}

// readLocal reads one part from the local replica, once that has applied what the claim says.
func (rd *reader) readLocal(i int, at ids.Revision, q eval.Query) (err error) {
	rt, d := rd.rt, rd.routes[i].desc
	begun := time.Now()
	if err = rt.ranges.WaitApplied(&rd.ctx, d.ID, rd.claims[i].Index); err != nil {
		return err
	}
	applied := time.Now()
	rd.parts[i], err = rt.ranges.Read(&rd.ctx, d.ID, rd.sub(i), at, q)
	rd.t.apply += applied.Sub(begun)
	rd.t.read += time.Since(applied)
	return err
}

// sub is the part of the request's span that lies in range i.
func (rd *reader) sub(i int) ids.Span {
	if len(rd.routes) == 1 {
		return rd.span
	}
	return rd.span.Intersect(rd.routes[i].desc.Span)
}

// remoteParts are the parts that other nodes read.
type remoteParts struct {
	answers map[int]chan answer
	asked   map[int]ids.NodeID
}

// askRemote asks for all parts without a local replica.
func (rd *reader) askRemote(at ids.Revision) (p remoteParts, failed *route, asked ids.NodeID, err error) {
	for i, r := range rd.routes {
		if r.local {
			continue
		}
		if p.answers == nil {
			p = remoteParts{make(map[int]chan answer), make(map[int]ids.NodeID)}
		}
		node := rd.rt.leaderOf(r, rd.t.attempts)
		call, err := encodeCall(r.desc, pontoonpb.RangeCall_RANGE, rd.req,
			callPart{at: at, span: rd.sub(i), skipCount: rd.q.SkipCount})
		if err != nil {
			return p, r, node, err
		}
		ch := make(chan answer, 1)
		p.answers[i], p.asked[i] = ch, node
		rd.rt.sender.Go(rd.ctx.real(), node, CallRange, call, func(b []byte, err error) { ch <- answer{bytes: b, err: err} })
	}
	return p, nil, 0, nil
}

// take waits for a part and stores it.
func (p *remoteParts) take(rd *reader, i int) (asked ids.NodeID, err error) {
	select {
	case a := <-p.answers[i]:
		if a.err != nil {
			return p.asked[i], a.err
		}
		var resp pb.RangeResponse
		if err := decodeReply(a.bytes, &resp); err != nil {
			return p.asked[i], err
		}
		rd.parts[i] = eval.Part{KVs: resp.Kvs, Count: resp.Count}
		return p.asked[i], nil
	case <-rd.ctx.Done():
		return p.asked[i], rd.ctx.Err()
	}
}

// forward has a read of one range done by the range's leader, or by any replica if it may be stale.
func (rd *reader) forward(attempt int) (*route, ids.NodeID, error) {
	rt, r := rd.rt, rd.routes[0]
	node := rt.leaderOf(r, attempt)
	if node == rt.self {
		// The local replica is gone, or never was: ask the others in turn.
		return r, node, errNoLeader
	}
	call, err := encodeCall(r.desc, pontoonpb.RangeCall_RANGE, rd.req, callPart{})
	if err != nil {
		return r, node, err
	}
	ch := make(chan answer, 1)
	rt.sender.Go(rd.ctx.real(), node, CallRange, call, func(b []byte, err error) { ch <- answer{bytes: b, err: err} })
	var a answer
	select {
	case a = <-ch:
	case <-rd.ctx.Done():
		a.err = rd.ctx.Err()
	}
	if a.err != nil {
		return r, node, a.err
	}
	var resp pb.RangeResponse
	if err := decodeReply(a.bytes, &resp); err != nil {
		return r, node, err
	}
	rd.parts = append(rd.parts[:0], eval.Part{KVs: resp.Kvs, Count: resp.Count})
	rd.t.revision = ids.Revision(resp.Header.GetRevision())
	return nil, 0, nil
}
