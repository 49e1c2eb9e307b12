package router

import (
	"math"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

const (
	// chunkKeysFirst is the number of keys in a stream's first chunk; later ones are sized by their bytes.
	chunkKeysFirst = 10
	// chunkKeysMax bounds the keys of a chunk, for keys without values.
	chunkKeysMax = 1 << 16
)

// RangeStream implements etcdserverpb.KVServer: a range in chunks of about the size of the greatest request, all at one
// revision; header, count and more come with the last. At any time one chunk is in memory.
func (s *kvServer) RangeStream(req *pb.RangeRequest, out pb.KV_RangeStreamServer) error {
	if err := eval.CheckRangeStream(req); err != nil {
		return err
	}
	rt, ctx := s.rt, out.Context()
	if req.CountOnly {
		resp, err := rt.read(ctx, req)
		if err != nil {
			return err
		}
		resp.Kvs = nil
		return out.Send(&pb.RangeStreamResponse{RangeResponse: resp})
	}
	if err := rt.admit(0); err != nil {
		return err
	}
	defer rt.leave(0)
	st := stream{rt: rt, out: out, req: proto.CloneOf(req), next: userSpan(req.Key, req.RangeEnd), limit: req.Limit}
	if st.limit <= 0 {
		st.limit = math.MaxInt64
	}
	return st.run()
}

// stream is one RangeStream.
type stream struct {
	rt    *Router
	out   pb.KV_RangeStreamServer
	req   *pb.RangeRequest
	next  ids.Span // what was not sent yet
	limit int64    // keys that may still be sent

	at, current ids.Revision // 0 until the first chunk
	sent        int64
}

func (st *stream) run() error {
	chunk := int64(chunkKeysFirst)
	for {
		want := min(chunk, st.limit)
		kvs, end, err := st.read(want)
		if err != nil {
			return err
		}
		// One more key than wanted says that there is more.
		more := int64(len(kvs)) > want
		if more {
			kvs, end = kvs[:want], false
			st.next.Start = ids.Next(ids.UserKey(kvs[want-1].Key))
		}
		st.sent += int64(len(kvs))
		st.limit -= int64(len(kvs))
		if st.limit > 0 && !end {
			if len(kvs) == 0 {
				continue // an empty range; the next chunk begins behind it
			}
			resp := &pb.RangeResponse{Kvs: kvs}
			if err := st.out.Send(&pb.RangeStreamResponse{RangeResponse: resp}); err != nil {
				return err
			}
			chunk = nextChunk(chunk, proto.Size(resp), st.rt.cfg.Limits.MaxRequestBytes)
			continue
		}
		return st.last(kvs, end)
	}
}

// nextChunk keeps chunks between half and twice the target size.
func nextChunk(keys int64, size, target int) int64 {
	switch {
	case size < target/2:
		keys *= 2
	case size > 2*target:
		keys /= 2
	}
	return max(1, min(keys, chunkKeysMax))
}

// last sends the chunk that has the header, the count of all keys, and whether the limit left any out. end says that
// nothing lies behind what was sent.
func (st *stream) last(kvs []*mvccpb.KeyValue, end bool) error {
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: int64(st.current)}, Kvs: kvs, Count: st.sent}
	if !end {
		rest, err := st.count()
		if err != nil {
			return err
		}
		resp.Count, resp.More = st.sent+rest, rest > 0
	}
	st.rt.fill(resp.Header)
	return st.out.Send(&pb.RangeStreamResponse{RangeResponse: resp})
}

// reader prepares a read of what was not sent yet.
func (st *stream) reader(q eval.Query) *reader {
	rd := &reader{rt: st.rt, req: st.req, span: st.next, q: q}
	rd.t.start = time.Now()
	rd.ctx = deadlineContext{Context: st.out.Context(), at: rd.t.start.Add(st.rt.timeout)}
	return rd
}

// count counts what was not sent.
func (st *stream) count() (int64, error) {
	req := proto.CloneOf(st.req)
	req.CountOnly, req.Limit = true, 0
	rd := st.reader(eval.Query{CountOnly: true})
	rd.req = req
	defer rd.ctx.release()
	err := rd.untilDone(func(attempt int) (*route, ids.NodeID, error) { return rd.atRevision(st.at, attempt) })
	if err != nil {
		return 0, err
	}
	var n int64
	for _, p := range rd.parts {
		n += p.Count
	}
	return n, nil
}

// read returns up to want+1 of the next keys, all of the next range that has any. end says that nothing lies behind
// that range; otherwise what it returns less of than want+1 is all that the range has, and st.next begins behind it.
func (st *stream) read(want int64) (kvs []*mvccpb.KeyValue, end bool, err error) {
	q := eval.Query{WithValue: !st.req.KeysOnly, KeysOnly: st.req.KeysOnly, Limit: want + 1, SkipCount: true}
	st.req.Limit = want
	rd := st.reader(q)
	defer rd.ctx.release()
	if st.at == 0 {
		err = rd.untilDone(func(attempt int) (*route, ids.NodeID, error) { return st.begin(rd, attempt) })
		if err != nil {
			return nil, false, err
		}
	}
	span := rd.span
	err = rd.untilDone(func(attempt int) (*route, ids.NodeID, error) {
		// One range at a time, so that a chunk never gathers many.
		r, err := st.rt.route(&rd.ctx, span.Start)
		if err != nil {
			return nil, 0, err
		}
		rd.span, end = span, true
		if !span.Empty() && !r.desc.Span.Covers(span) {
			rd.span.End, end = r.desc.Span.End, false
		}
		return rd.atRevision(st.at, attempt)
	})
	if err != nil {
		return nil, false, err
	}
	kvs = rd.parts[0].KVs
	if !end && int64(len(kvs)) <= want {
		st.next.Start = rd.span.End
	}
	return kvs, end, nil
}

// begin decides the revision of the stream: a claim of the first range is as new as everything that was completed,
// anywhere, before it was made.
func (st *stream) begin(rd *reader, attempt int) (*route, ids.NodeID, error) {
	rt := st.rt
	r, err := rt.route(&rd.ctx, rd.span.Start)
	if err != nil {
		return nil, 0, err
	}
	c, ok := rt.ranges.LocalClaim(r.desc.ID)
	fresh := ok && rt.clock.Now()-c.At < freshFor && int64(c.Revision) >= rt.answered.Load()
	if !st.req.Serializable || !fresh {
		leader := rt.leaderOf(r, attempt)
		claim, err := rt.confirms.join(r.desc.ID, r.desc.Generation, leader).wait(&rd.ctx)
		switch {
		case err == nil:
			c = claim
		case !st.req.Serializable || !ok:
			return r, leader, err
		}
	}
	if st.at, err = eval.ReadAt(st.req.Revision, c.Revision, c.Floor); err != nil {
		return nil, 0, err
	}
	st.current = c.Revision
	return nil, 0, nil
}

// atRevision tries once to read all parts at a revision that is known to be current or past.
func (rd *reader) atRevision(at ids.Revision, attempt int) (*route, ids.NodeID, error) {
	rt := rd.rt
	var err error
	if rd.routes, err = rt.tile(&rd.ctx, rd.routes[:0], rd.span); err != nil {
		return nil, 0, err
	}
	rd.t.on(rd.routes[0])
	rd.tickets, rd.claims = rd.tickets[:0], rd.claims[:0]
	for _, r := range rd.routes {
		if c, ok := rt.ranges.LocalClaim(r.desc.ID); !r.local || ok && c.Revision >= at {
			rd.tickets = append(rd.tickets, ticket{})
		} else {
			rd.tickets = append(rd.tickets, rt.confirms.join(r.desc.ID, r.desc.Generation, rt.leaderOf(r, attempt)))
		}
	}
	for i, t := range rd.tickets {
		var c rangegroup.Claim // applied already, or another node's business
		if t.batch != nil {
			r := rd.routes[i]
			if c, err = t.wait(&rd.ctx); err != nil {
				return r, t.asked, err
			}
			if c.Revision < at {
				return r, t.asked, &ids.UnavailableError{Range: r.desc.ID, Reason: "claim is older than the read"}
			}
		}
		rd.claims = append(rd.claims, c)
	}
	rd.t.revision = at
	return rd.readParts(at)
}
