package eval_test

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pontoon-kv/pontoon/rangegroup/eval/evaltest"
)

func TestPutAndDelete(t *testing.T) {
	s := evaltest.New()
	r := must[*pb.PutResponse](t, s, put("a", "1"))
	if r.Header.Revision != 2 || r.PrevKv != nil {
		t.Fatalf("first put: %v", r)
	}
	again := put("a", "2")
	again.PrevKv = true
	if r = must[*pb.PutResponse](t, s, again); r.Header.Revision != 3 || string(r.PrevKv.Value) != "1" {
		t.Fatalf("second put: %v", r)
	}
	kv := must[*pb.RangeResponse](t, s, get("a", "")).Kvs[0]
	if kv.CreateRevision != 2 || kv.ModRevision != 3 || kv.Version != 2 {
		t.Fatalf("after two puts: %v", kv)
	}
	if d := must[*pb.DeleteRangeResponse](t, s, del("b", "")); d.Deleted != 0 || d.Header.Revision != 3 {
		t.Fatalf("a delete of nothing takes no revision: %v", d)
	}
	if d := must[*pb.DeleteRangeResponse](t, s, del("a", "")); d.Deleted != 1 || d.Header.Revision != 4 || d.PrevKvs != nil {
		t.Fatalf("delete: %v", d)
	}
	mustPut(t, s, "a", "3")
	if kv = must[*pb.RangeResponse](t, s, get("a", "")).Kvs[0]; kv.CreateRevision != 5 || kv.Version != 1 {
		t.Fatalf("a key put after its deletion begins anew: %v", kv)
	}
}

func TestIgnoreFlags(t *testing.T) {
	s := evaltest.New()
	s.Grant(7)
	ignoreValue := &pb.PutRequest{Key: []byte("a"), IgnoreValue: true}
	ignoreLease := &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), IgnoreLease: true}
	refused(t, s, rpctypes.ErrGRPCKeyNotFound, ignoreValue)
	refused(t, s, rpctypes.ErrGRPCKeyNotFound, ignoreLease)
	refused(t, s, rpctypes.ErrGRPCLeaseNotFound, &pb.PutRequest{Key: []byte("a"), Lease: 9})
	refused(t, s, rpctypes.ErrGRPCLeaseNotFound, &pb.PutRequest{Key: []byte("a"), Lease: 9, IgnoreValue: true})
	must[*pb.PutResponse](t, s, &pb.PutRequest{Key: []byte("a"), Value: []byte("1"), Lease: 7})
	must[*pb.PutResponse](t, s, ignoreLease)
	if kv := must[*pb.RangeResponse](t, s, get("a", "")).Kvs[0]; kv.Lease != 7 || string(kv.Value) != "2" {
		t.Errorf("ignore_lease: %v", kv)
	}
	must[*pb.PutResponse](t, s, ignoreValue)
	if kv := must[*pb.RangeResponse](t, s, get("a", "")).Kvs[0]; kv.Lease != 0 || string(kv.Value) != "2" || kv.Version != 3 {
		t.Errorf("ignore_value detaches from the lease: %v", kv)
	}
}

func TestCompareMissingKey(t *testing.T) {
	value := func(rangeEnd string, result pb.Compare_CompareResult) *pb.Compare {
		return &pb.Compare{Key: []byte("x"), RangeEnd: []byte(rangeEnd), Result: result, Target: pb.Compare_VALUE,
			TargetUnion: &pb.Compare_Value{}}
	}
	version := func(rangeEnd string, result pb.Compare_CompareResult, v int64) *pb.Compare {
		return &pb.Compare{Key: []byte("x"), RangeEnd: []byte(rangeEnd), Result: result, Target: pb.Compare_VERSION,
			TargetUnion: &pb.Compare_Version{Version: v}}
	}
	for _, c := range []struct {
		cmp  *pb.Compare
		want bool
	}{
		{value("", pb.Compare_EQUAL), false},
		{value("", pb.Compare_NOT_EQUAL), false},
		{value("z", pb.Compare_NOT_EQUAL), false},
		{version("", pb.Compare_EQUAL, 0), true},
		{version("", pb.Compare_LESS, 1), true},
		{version("z", pb.Compare_EQUAL, 0), true},
		{version("z", pb.Compare_EQUAL, 1), false}, // over no key: that of one missing key, not true
		{version("a", pb.Compare_GREATER, 0), false},
		{modIs("x", 0), true},
	} {
		s := evaltest.New()
		mustPut(t, s, "a", "1")
		if got := mustTxn(t, s, &pb.TxnRequest{Compare: []*pb.Compare{c.cmp}}).Succeeded; got != c.want {
			t.Errorf("%v: %v", c.cmp, got)
		}
	}
}

func TestRangeCompareHoldsForAll(t *testing.T) {
	s := evaltest.New()
	mustPut(t, s, "a", "1")
	mustPut(t, s, "b", "1")
	c := &pb.Compare{Key: []byte("a"), RangeEnd: []byte{0}, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}
	if !mustTxn(t, s, &pb.TxnRequest{Compare: []*pb.Compare{c}}).Succeeded {
		t.Error("both keys have version 1")
	}
	mustPut(t, s, "b", "2")
	if mustTxn(t, s, &pb.TxnRequest{Compare: []*pb.Compare{c}}).Succeeded {
		t.Error("one of the keys has version 2")
	}
}

func TestComparesFirst(t *testing.T) {
	s := evaltest.New()
	// The nested txn's condition is decided before its parent puts x; its range sees that put.
	r := mustTxn(t, s, then(
		get("x", ""),
		put("x", "1"),
		&pb.TxnRequest{Compare: []*pb.Compare{modIs("x", 0)}, Success: ops(get("x", ""), del("y", "")), Failure: ops(put("y", "no"))},
		get("x", ""),
	))
	nested := r.Responses[2].GetResponseTxn()
	if !nested.Succeeded {
		t.Fatal("the nested comparison has seen the put")
	}
	if nested.Header == nil || nested.Header.Revision != 0 {
		t.Errorf("a nested header is there and empty: %v", nested.Header)
	}
	for i, want := range []struct{ got, rev int64 }{
		{r.Responses[0].GetResponseRange().Header.Revision, 1},
		{r.Responses[1].GetResponsePut().Header.Revision, 2},
		{nested.Responses[0].GetResponseRange().Header.Revision, 2},
		{nested.Responses[0].GetResponseRange().Kvs[0].ModRevision, 2},
		{nested.Responses[1].GetResponseDeleteRange().Header.Revision, 2},
		{r.Header.Revision, 2},
	} {
		if want.got != want.rev {
			t.Errorf("%d: revision %d, want %d", i, want.got, want.rev)
		}
	}
}

func TestTxnThatChangesNothing(t *testing.T) {
	s := evaltest.New()
	mustPut(t, s, "a", "1")
	r := mustTxn(t, s, then(del("x", "y"), get("a", ""), then(del("z", ""))))
	if r.Header.Revision != 2 || r.Responses[0].GetResponseDeleteRange().Header.Revision != 2 || s.Revision() != 2 {
		t.Errorf("a txn that deletes nothing took a revision: %v", r)
	}
	if r = mustTxn(t, s, then(put("a", "1"))); r.Header.Revision != 3 {
		t.Errorf("a put of the same value takes a revision: %v", r)
	}
}

func TestBranchErrors(t *testing.T) {
	s := evaltest.New()
	mustPut(t, s, "a", "1") // 2
	mustPut(t, s, "a", "2") // 3
	mustPut(t, s, "a", "3") // 4
	at := func(rev int64) *pb.RangeRequest { r := get("a", ""); r.Revision = rev; return r }
	badLease := &pb.PutRequest{Key: []byte("c"), Lease: 5}
	missing := &pb.PutRequest{Key: []byte("nope"), IgnoreValue: true}

	refused(t, s, rpctypes.ErrGRPCLeaseNotFound, then(put("b", "1"), badLease))
	refused(t, s, rpctypes.ErrGRPCKeyNotFound, then(put("b", "1"), missing))
	refused(t, s, rpctypes.ErrGRPCFutureRev, then(put("b", "1"), at(5)))
	refused(t, s, rpctypes.ErrGRPCFutureRev, then(put("b", "1"), then(at(5))))
	refused(t, s, rpctypes.ErrGRPCFutureRev, then(at(5), badLease)) // in the order of the operations
	refused(t, s, rpctypes.ErrGRPCCompacted, then(at(-2)))
	if r := mustTxn(t, s, then(at(-1))); len(r.Responses[0].GetResponseRange().Kvs) != 1 {
		t.Error("before the first compaction -1 is now")
	}
	if err := s.Compact(3); err != nil {
		t.Fatal(err)
	}
	refused(t, s, rpctypes.ErrGRPCCompacted, then(at(2)))
	refused(t, s, rpctypes.ErrGRPCCompacted, then(at(-1)))
	refused(t, s, rpctypes.ErrGRPCCompacted, at(2))
	if r := must[*pb.RangeResponse](t, s, at(-1)); string(r.Kvs[0].Value) != "3" {
		t.Error("a range on its own takes -1 as now")
	}
	r := mustTxn(t, s, then(put("a", "4"), at(3), at(4)))
	for i, want := range []string{"2", "3"} {
		if got := r.Responses[i+1].GetResponseRange(); string(got.Kvs[0].Value) != want || got.Header.Revision != 5 {
			t.Errorf("a named revision does not see the txn's writes, and reports the present: %v", got)
		}
	}
	// The other branch is not looked at.
	mustTxn(t, s, &pb.TxnRequest{Success: ops(put("b", "1")), Failure: ops(badLease, missing, at(1000))})
}

// Two versions of a key at one revision: etcd's duplicate check lets both of these pass.
func TestKeyTwiceInOneTxn(t *testing.T) {
	s := evaltest.New()
	mustPut(t, s, "q", "old")
	r := mustTxn(t, s, then(del("p", "\x00"), put("q", "new"), get("q", "")))
	kv := r.Responses[2].GetResponseRange().Kvs[0]
	if r.Responses[0].GetResponseDeleteRange().Deleted != 1 || kv.Version != 1 || kv.CreateRevision != 3 {
		t.Errorf("deleted, then put: %v", r)
	}
	r = mustTxn(t, s, then(then(put("k", "1")), then(del("k", "")), get("k", "")))
	if got := r.Responses[2].GetResponseRange(); got.Count != 0 || r.Header.Revision != 4 {
		t.Errorf("put, then deleted: %v", r)
	}
	// etcd dies of this one: q is there when the path is checked, and gone when it is put.
	keep := &pb.PutRequest{Key: []byte("q"), IgnoreValue: true}
	refused(t, s, rpctypes.ErrGRPCKeyNotFound, then(del("p", "\x00"), keep))
}

// Many own writes take another way through the overlay than few.
func TestManyWritesInOneTxn(t *testing.T) {
	for _, n := range []int{1, 15, 16, 17, 18, 60} {
		s := evaltest.New()
		mustPut(t, s, "a", "before")
		mustPut(t, s, "k05x", "between")
		puts := then()
		for i := range n {
			puts.Success = append(puts.Success, op(put(fmt.Sprintf("k%02d", i), "v")))
		}
		r := mustTxn(t, s, then(puts, then(del("k00", "")), put("a", "after"), put("z", "new"), get("k", "l"), get("a", ""), get("b", "")))
		got := r.Responses[4].GetResponseRange()
		if got.Count != int64(n) {
			t.Errorf("%d puts and one deletion: %s", n, keys(got))
		}
		if a := r.Responses[5].GetResponseRange().Kvs[0]; a.Version != 2 || a.CreateRevision != 2 {
			t.Errorf("after %d puts: %v", n, a)
		}
	}
}
