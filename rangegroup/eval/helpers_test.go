package eval_test

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/rangegroup/eval/evaltest"
)

// Short ways to write requests. An empty rangeEnd is a single key.

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func del(key, rangeEnd string) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(rangeEnd)}
}

func get(key, rangeEnd string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(rangeEnd)}
}

func op(req proto.Message) *pb.RequestOp {
	switch r := req.(type) {
	case *pb.PutRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	case *pb.DeleteRangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	case *pb.RangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
	case *pb.TxnRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
	}
	return &pb.RequestOp{}
}

func ops(reqs ...proto.Message) (list []*pb.RequestOp) {
	for _, r := range reqs {
		list = append(list, op(r))
	}
	return list
}

// then is a txn without comparisons.
func then(reqs ...proto.Message) *pb.TxnRequest { return &pb.TxnRequest{Success: ops(reqs...)} }

func modIs(key string, rev int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: rev}}
}

// must does a request that succeeds and returns its response.
func must[M proto.Message](t *testing.T, s *evaltest.Store, req proto.Message) M {
	t.Helper()
	o := s.Do(req)
	s.Flush()
	if o.Err != nil {
		t.Fatalf("%v: %v", req, o.Err)
	}
	return o.Response.(M)
}

func mustTxn(t *testing.T, s *evaltest.Store, req *pb.TxnRequest) *pb.TxnResponse {
	t.Helper()
	return must[*pb.TxnResponse](t, s, req)
}

func mustPut(t *testing.T, s *evaltest.Store, key, value string) {
	t.Helper()
	must[*pb.PutResponse](t, s, put(key, value))
}

// refused does a request that must fail with an error.
func refused(t *testing.T, s *evaltest.Store, want error, req proto.Message) {
	t.Helper()
	before := s.Revision()
	if o := s.Do(req); o.Err != want {
		t.Errorf("%v: error %v, want %v", req, o.Err, want)
	}
	s.Flush()
	if s.Revision() != before {
		t.Errorf("%v: refused, but has taken a revision", req)
	}
}

func keys(r *pb.RangeResponse) (s string) {
	for _, kv := range r.Kvs {
		s += string(kv.Key) + " "
	}
	return s
}
