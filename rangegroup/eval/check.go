package eval

import (
	"bytes"
	"maps"
	"math/bits"

	"github.com/google/btree"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Limits bound what a request may be.
type Limits struct {
	MaxTxnOps       int // operations in a branch (--max-txn-ops)
	MaxRequestBytes int // encoded size of a request that writes (--max-request-bytes)
}

// DefaultLimits are etcd's.
var DefaultLimits = Limits{MaxTxnOps: 128, MaxRequestBytes: 1.5 * 1024 * 1024}

// CheckRange checks what needs no state. All checks return etcd's gRPC errors, in etcd's order.
func CheckRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

// CheckRangeStream checks a streamed range, which has neither orders nor filters.
func CheckRangeStream(r *pb.RangeRequest) error {
	if err := CheckRange(r); err != nil {
		return err
	}
	inKeyOrder := r.SortOrder == pb.RangeRequest_NONE ||
		r.SortOrder == pb.RangeRequest_ASCEND && r.SortTarget == pb.RangeRequest_KEY
	if !inKeyOrder {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if q := PlanRange(r); q.Filtered() {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

// CheckPut checks what needs no state.
func CheckPut(r *pb.PutRequest, limits Limits) error {
	if err := checkPut(r); err != nil {
		return err
	}
	// Computing the size walks the message; small puts are seen to be small without that.
	if len(r.Key)+len(r.Value)+64 < limits.MaxRequestBytes {
		return nil
	}
	return checkSize(r, limits)
}

// CheckDelete checks what needs no state.
func CheckDelete(r *pb.DeleteRangeRequest, limits Limits) error {
	if err := checkDelete(r); err != nil {
		return err
	}
	if len(r.Key)+len(r.RangeEnd)+64 < limits.MaxRequestBytes {
		return nil
	}
	return checkSize(r, limits)
}

// CheckTxn checks what needs no state, in both branches: number of operations, keys of comparisons, operations,
// duplicate keys, size.
func CheckTxn(r *pb.TxnRequest, limits Limits) error {
	if err := checkTxn(r, limits.MaxTxnOps); err != nil {
		return err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if err := checkDuplicates(ops); err != nil {
			return err
		}
	}
	if ReadOnly(r) {
		return nil
	}
	return checkSize(r, limits)
}

// ReadOnly reports whether a txn consists of ranges only, by etcd's own measure: with a nested txn it does not.
func ReadOnly(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if op.GetRequestRange() == nil {
				return false
			}
		}
	}
	return true
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn allows limit operations, and to nested txns only what the longest of the three lists leaves of it, which
// bounds the depth as well.
func checkTxn(r *pb.TxnRequest, limit int) error {
	longest := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if longest > limit {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if err := checkOp(op, limit-longest); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, limit int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return CheckRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(o.RequestTxn, limit)
	}
	return rpctypes.ErrGRPCKeyNotFound // etcd's word for an operation without a request
}

// entryOverhead is what etcd adds to a request before it measures it: a header with the request's id, and a tag.
const entryOverhead = 15

func checkSize(r proto.Message, limits Limits) error {
	n := proto.Size(r)
	lengthPrefix := (bits.Len(uint(n)|1) + 6) / 7
	if n+lengthPrefix+entryOverhead > limits.MaxRequestBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// checkDuplicates refuses two puts of one key, and a put of a key that is also deleted, in a branch and all that is
// nested in it, but not between the two branches of one nested txn. It is etcd's check with its gaps: the deletes of a
// nested txn concern only puts that come after it, or beside it in the parent; and a delete up to the end of the
// keyspace (range_end one zero byte) is taken literally, as a span that holds nothing.
func checkDuplicates(ops []*pb.RequestOp) error {
	if len(ops) <= 1 && (len(ops) == 0 || ops[0].GetRequestTxn() == nil) {
		return nil
	}
	_, _, err := written(ops)
	return err
}

// written returns the keys that a branch puts and the spans that it deletes.
func written(ops []*pb.RequestOp) (puts map[string]struct{}, dels *intervals, err error) {
	puts, dels = make(map[string]struct{}), &intervals{}
	for _, op := range ops {
		if o, ok := op.Request.(*pb.RequestOp_RequestDeleteRange); ok {
			dels.add(o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd)
		}
	}
	for _, op := range ops {
		o, ok := op.Request.(*pb.RequestOp_RequestTxn)
		if !ok {
			continue
		}
		thenPuts, thenDels, err := written(o.RequestTxn.GetSuccess())
		if err != nil {
			return nil, nil, err
		}
		elsePuts, elseDels, err := written(o.RequestTxn.GetFailure())
		if err != nil {
			return nil, nil, err
		}
		// Both are checked before either is added: at most one of the two branches is executed.
		for _, branchPuts := range []map[string]struct{}{thenPuts, elsePuts} {
			for key := range branchPuts {
				if _, dup := puts[key]; dup || dels.contain(key) {
					return nil, nil, rpctypes.ErrGRPCDuplicateKey
				}
			}
		}
		maps.Copy(puts, thenPuts)
		maps.Copy(puts, elsePuts)
		dels.addAll(thenDels)
		dels.addAll(elseDels)
	}
	for _, op := range ops {
		if o, ok := op.Request.(*pb.RequestOp_RequestPut); ok {
			key := string(o.RequestPut.Key)
			if _, dup := puts[key]; dup || dels.contain(key) {
				return nil, nil, rpctypes.ErrGRPCDuplicateKey
			}
			puts[key] = struct{}{}
		}
	}
	return puts, dels, nil
}

// intervals is a set of keys, as disjoint spans in order. The zero value is empty.
type intervals struct {
	tree *btree.BTreeG[ids.Span]
}

// add adds the keys from start up to end, or just start if end is empty.
func (s *intervals) add(start, end []byte) {
	if len(end) == 0 {
		end = ids.Next(start)
	}
	if bytes.Compare(start, end) < 0 {
		s.insert(ids.Span{Start: start, End: end})
	}
}

func (s *intervals) insert(n ids.Span) {
	if s.tree == nil {
		s.tree = btree.NewG(8, func(a, b ids.Span) bool { return bytes.Compare(a.Start, b.Start) < 0 })
	}
	// Swallow what n touches: the span that begins at or before it, and those that begin within it.
	var touched []ids.Span
	s.tree.DescendLessOrEqual(ids.Span{Start: n.End}, func(o ids.Span) bool {
		if bytes.Compare(o.End, n.Start) < 0 {
			return false
		}
		touched = append(touched, o)
		return true
	})
	for _, o := range touched {
		s.tree.Delete(o)
		if bytes.Compare(o.Start, n.Start) < 0 {
			n.Start = o.Start
		}
		if bytes.Compare(o.End, n.End) > 0 {
			n.End = o.End
		}
	}
	s.tree.ReplaceOrInsert(n)
}

func (s *intervals) addAll(o *intervals) {
	if o.tree == nil {
		return
	}
	o.tree.Ascend(func(n ids.Span) bool {
		s.insert(n)
		return true
	})
}

func (s *intervals) contain(key string) (found bool) {
	if s.tree == nil {
		return false
	}
	s.tree.DescendLessOrEqual(ids.Span{Start: []byte(key)}, func(o ids.Span) bool {
		found = key < string(o.End)
		return false
	})
	return found
}
