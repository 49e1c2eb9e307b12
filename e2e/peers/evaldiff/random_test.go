package evaldiff

import (
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// The leases of a run: those granted, one that is not, and none.
var (
	grantedLeases = []int64{7, 8, -5}
	someLeases    = []int64{0, 0, 0, 7, 7, 8, -5, 999}
)

// generator makes requests over few keys, so that they meet.
type generator struct {
	*rand.Rand
	revision int64 // about the current one
	// calm rounds delete little, so that there are many keys; wild ones have few keys that change all the time.
	calm bool
	// maxTxnOps is mostly small, so that the limit is met often.
	maxTxnOps int
	// Within one txn either ignore_* or deletes up to the end of the keyspace: etcd dies of both together.
	ignore bool
}

func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

func (g *generator) request() proto.Message {
	g.ignore = true
	switch n := g.IntN(100); {
	case n < 25:
		return g.put()
	case n < 33 && (!g.calm || g.one(10)):
		return g.deleteRange()
	case n < 60:
		return g.rangeRequest()
	default:
		g.ignore = g.one(2)
		return g.txn(0)
	}
}

const alphabet = "\x00ab\xff"

func (g *generator) key() []byte {
	if g.one(150) {
		return nil
	}
	key := []byte{alphabet[1+g.IntN(2)]}
	if g.one(6) {
		key[0] = pick(g, byte(0), 0xff)
	}
	for len(key) < 3 && (g.calm || g.one(3)) {
		key = append(key, alphabet[g.IntN(len(alphabet))])
	}
	return key
}

func (g *generator) rangeEnd(key []byte) []byte {
	switch g.IntN(10) {
	case 0, 1, 2:
		return nil
	case 3:
		if g.one(3) {
			return nil
		}
		return []byte{0}
	case 4:
		return append(append([]byte{}, key...), 0)
	case 5, 6: // the end of the prefix
		end := append([]byte{}, key...)
		for i := len(end) - 1; i >= 0; i-- {
			if end[i] < 0xff {
				end[i]++
				return end[:i+1]
			}
		}
		return []byte{0}
	}
	return g.key()
}

func (g *generator) value() []byte {
	return pick(g, nil, []byte("1"), []byte("2"), []byte("2\x00"), []byte("\xff"), []byte("three"))
}

// near is a revision that something may have.
func (g *generator) near() int64 {
	switch g.IntN(12) {
	case 0:
		return pick(g, int64(-3), -2, -1, 1, 2, 1<<62, 1<<62+2, 1<<63-1, -1<<63)
	case 1, 2:
		return g.revision + int64(g.IntN(8))
	case 3, 4:
		return max(1, g.revision-int64(g.IntN(200)))
	}
	return max(1, g.revision-int64(g.IntN(20)))
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), Lease: pick(g, someLeases...), PrevKv: g.one(3)}
	if g.ignore && g.one(5) {
		r.IgnoreValue = true
		if !g.one(10) {
			r.Value = nil
		}
	}
	if g.ignore && g.one(5) {
		r.IgnoreLease = true
		if !g.one(10) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deleteRange() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: g.key(), PrevKv: g.one(2)}
	if r.RangeEnd = g.rangeEnd(r.Key); g.one(2) || g.calm && !g.one(50) {
		r.RangeEnd = nil
	}
	return r
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Key: g.key(), Serializable: g.one(4)}
	r.RangeEnd = g.rangeEnd(r.Key)
	if g.one(2) {
		r.Limit = pick(g, int64(-1), 1, 1, 2, 3, 5, 13, 20, 40, 1<<63-1, -1<<63)
	}
	if g.one(4) {
		r.Revision = g.near()
	}
	if g.one(2) {
		r.SortOrder = pick(g, pb.RangeRequest_NONE, pb.RangeRequest_ASCEND, pb.RangeRequest_DESCEND)
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
		if g.one(40) {
			r.SortOrder = pick(g, pb.RangeRequest_SortOrder(3), -1)
		}
		if g.one(40) {
			r.SortTarget = pick(g, pb.RangeRequest_SortTarget(5), -1)
		}
	}
	r.KeysOnly, r.CountOnly = g.one(4), g.one(8)
	if g.one(4) {
		for _, bound := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
			if g.one(3) {
				*bound = g.near()
			}
		}
	}
	return r
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Key: g.key(), Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5))}
	if g.one(4) {
		c.RangeEnd = g.rangeEnd(c.Key)
	}
	union := c.Target
	switch {
	case g.one(30):
		c.Result = pick(g, pb.Compare_CompareResult(4), -1)
	case g.one(30):
		c.Target = pick(g, pb.Compare_CompareTarget(5), -1)
	case g.one(30):
		union = pb.Compare_CompareTarget(g.IntN(6))
	}
	switch union {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: pick(g, int64(0), 0, 1, 1, 2, 3, -1)}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: pick(g, 0, 0, g.near())}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: pick(g, 0, 0, g.near())}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: pick(g, someLeases...)}
	}
	return c
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	most := 3
	if g.one(40) || depth == 0 && g.maxTxnOps > 10 && g.one(4) {
		most = g.maxTxnOps + 2
	}
	for range g.IntN(most) {
		r.Compare = append(r.Compare, g.compare())
	}
	for range g.IntN(most + 1) {
		r.Success = append(r.Success, g.op(depth))
	}
	for range g.IntN(most + 1) {
		r.Failure = append(r.Failure, g.op(depth))
	}
	return r
}

func (g *generator) op(depth int) *pb.RequestOp {
	switch n := g.IntN(100); {
	case n < 30:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case n < 45:
		r := g.deleteRange()
		if g.ignore && len(r.RangeEnd) == 1 && r.RangeEnd[0] == 0 {
			r.RangeEnd = []byte{0xff}
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	case n < 75:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}}
	case n < 99 && depth < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth + 1)}}
	case n == 99 && g.one(3):
		return &pb.RequestOp{}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
}
