package eval_test

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
)

func TestCheckTxn(t *testing.T) {
	many := func(n int) (list []*pb.RequestOp) {
		for range n {
			list = append(list, op(get("a", "")))
		}
		return list
	}
	noKey := &pb.Compare{}
	badSort := &pb.RangeRequest{Key: []byte("a"), SortOrder: 7}
	for _, c := range []struct {
		name string
		req  *pb.TxnRequest
		want error
	}{
		{"empty", &pb.TxnRequest{}, nil},
		{"as many as allowed", &pb.TxnRequest{Success: many(128), Failure: many(128)}, nil},
		{"too many come before all else", &pb.TxnRequest{Success: many(129), Compare: []*pb.Compare{noKey}}, rpctypes.ErrGRPCTooManyOps},
		{"comparisons come before operations", &pb.TxnRequest{Success: ops(badSort), Compare: []*pb.Compare{noKey}}, rpctypes.ErrGRPCEmptyKey},
		{"the branch that is not taken", &pb.TxnRequest{Failure: ops(put("", ""))}, rpctypes.ErrGRPCEmptyKey},
		{"sort option", then(badSort), rpctypes.ErrGRPCInvalidSortOption},
		{"no request", then(nil), rpctypes.ErrGRPCKeyNotFound},
		{"value provided", then(&pb.PutRequest{Key: []byte("a"), Value: []byte("1"), IgnoreValue: true}), rpctypes.ErrGRPCValueProvided},
		{"lease provided", then(&pb.PutRequest{Key: []byte("a"), Lease: 1, IgnoreLease: true}), rpctypes.ErrGRPCLeaseProvided},
		{"nested ones get what is left", then(&pb.TxnRequest{Success: many(127)}), nil},
		{"and not more", then(&pb.TxnRequest{Success: many(128)}), rpctypes.ErrGRPCTooManyOps},
		{"comparisons count", &pb.TxnRequest{Compare: []*pb.Compare{modIs("a", 0), modIs("b", 0)},
			Failure: ops(&pb.TxnRequest{Success: many(127)})}, rpctypes.ErrGRPCTooManyOps},
		{"too large", then(put("a", string(make([]byte, 1600<<10)))), rpctypes.ErrGRPCRequestTooLarge},
		{"duplicates come before size", then(put("a", string(make([]byte, 1600<<10))), put("a", "")), rpctypes.ErrGRPCDuplicateKey},
	} {
		if err := eval.CheckTxn(c.req, eval.DefaultLimits); err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// What no decoder makes of bytes, but a caller might: operations that are not there.
func TestCheckTxnTakesNil(t *testing.T) {
	for _, c := range []struct {
		op   *pb.RequestOp
		want error
	}{
		{nil, rpctypes.ErrGRPCKeyNotFound},
		{&pb.RequestOp{Request: &pb.RequestOp_RequestPut{}}, rpctypes.ErrGRPCEmptyKey},
		{&pb.RequestOp{Request: &pb.RequestOp_RequestRange{}}, rpctypes.ErrGRPCEmptyKey},
		{&pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{}}, rpctypes.ErrGRPCEmptyKey},
		{&pb.RequestOp{Request: &pb.RequestOp_RequestTxn{}}, nil},
	} {
		req := &pb.TxnRequest{Success: []*pb.RequestOp{c.op}}
		if err := eval.CheckTxn(req, eval.DefaultLimits); err != c.want {
			t.Errorf("%v: %v", c.op, err)
		}
	}
	empty := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{}}}}
	if _, err := eval.Txn(newEnv(), empty); err != nil || len(eval.TxnSpans(empty).Reads) != 0 {
		t.Error(err)
	}
}

func TestDuplicateKeys(t *testing.T) {
	either := func(a, b proto.Message) *pb.TxnRequest { return &pb.TxnRequest{Success: ops(a), Failure: ops(b)} }
	for _, c := range []struct {
		name string
		req  *pb.TxnRequest
		dup  bool
	}{
		{"two keys", then(put("a", ""), put("b", "")), false},
		{"two puts", then(put("a", ""), put("a", "")), true},
		{"the two branches", either(put("a", ""), put("a", "")), false},
		{"put within a delete", then(put("b", ""), del("a", "c")), true},
		{"put at the end of a delete", then(put("c", ""), del("a", "c")), false},
		{"put of the deleted key", then(del("a", ""), put("a", "")), true},
		{"two deletes", then(del("a", "c"), del("b", "")), false},
		{"delete up to the end is taken literally", then(del("p", "\x00"), put("q", "")), false},
		{"delete of an inverted span", then(del("q", "p"), put("p", ""), put("q", "")), false},
		{"parent and nested", then(put("a", ""), then(put("a", ""))), true},
		{"parent's delete and nested put", then(then(put("b", "")), del("a", "c")), true},
		{"nested delete and parent's put", then(put("b", ""), then(del("a", "c"))), true},
		{"siblings", then(then(put("a", "")), then(put("a", ""))), true},
		{"branches of a nested one", then(either(put("a", ""), put("a", ""))), false},
		{"branches of a nested one, and a sibling", then(either(put("a", ""), put("a", "")), then(put("a", ""))), true},
		{"put and delete in the branches of a nested one", then(either(put("a", ""), del("a", ""))), false},
		{"sibling deletes first", then(then(del("a", "c")), then(put("b", ""))), true},
		{"sibling deletes later: etcd's gap", then(then(put("b", "")), then(del("a", "c"))), false},
		{"deletes that overlap", then(del("a", "c"), del("b", "e"), then(del("d", "f")), put("eee", "")), true},
		{"deletes that swallow others", then(del("b", "c"), del("d", "e"), del("a", "f"), put("c", "")), true},
		{"between deletes", then(del("a", "b"), del("c", "d"), then(put("b", "")), put("bb", ""), put("d", "")), false},
	} {
		err := eval.CheckTxn(c.req, eval.DefaultLimits)
		if (err == rpctypes.ErrGRPCDuplicateKey) != c.dup || err != nil && !c.dup {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestCheckRangeStream(t *testing.T) {
	for _, c := range []struct {
		req  *pb.RangeRequest
		code codes.Code
	}{
		{&pb.RangeRequest{}, codes.InvalidArgument},
		{&pb.RangeRequest{Key: []byte("a"), SortTarget: 9}, codes.InvalidArgument},
		{&pb.RangeRequest{Key: []byte("a"), SortOrder: pb.RangeRequest_ASCEND}, codes.OK},
		{&pb.RangeRequest{Key: []byte("a"), SortTarget: pb.RangeRequest_VALUE}, codes.OK}, // without an order
		{&pb.RangeRequest{Key: []byte("a"), SortOrder: pb.RangeRequest_DESCEND}, codes.Unimplemented},
		{&pb.RangeRequest{Key: []byte("a"), MinModRevision: 3}, codes.Unimplemented},
	} {
		if err := eval.CheckRangeStream(c.req); status.Code(err) != c.code {
			t.Errorf("%v: %v", c.req, err)
		}
	}
}

func TestTxnSpans(t *testing.T) {
	s := eval.TxnSpans(&pb.TxnRequest{
		Compare: []*pb.Compare{modIs("m", 0)},
		Success: ops(get("k", "l"), get("z", "a"), &pb.TxnRequest{Failure: ops(put("n", ""))}, put("b", "")),
		Failure: ops(del("c", "d")),
	})
	if len(s.Reads) != 2 || len(s.Writes) != 3 || string(ids.EtcdKey(s.Anchor)) != "n" {
		t.Errorf("spans: %v", s)
	}
	hull, ok := s.Hull()
	if want := ids.UserSpan([]byte("b"), []byte("n\x00")); !ok || hull.String() != want.String() {
		t.Errorf("hull: %v", hull)
	}
	if !s.Within(ids.UserSpace) || s.Within(ids.UserSpan([]byte("c"), []byte("z"))) {
		t.Error("within")
	}
	empty := eval.TxnSpans(then(del("b", "a")))
	if _, ok := empty.Hull(); ok || empty.Anchor != nil || !empty.Within(ids.UserSpan([]byte("x"), nil)) {
		t.Errorf("a txn that can touch nothing: %v", empty)
	}
}
