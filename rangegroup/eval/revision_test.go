package eval_test

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/rangegroup/eval/evaltest"
)

// pending returns a store with a at revision 2 and a pending put of b, and an Env for a request behind that.
func pending(t *testing.T) (*evaltest.Store, *eval.Env) {
	s := evaltest.New()
	mustPut(t, s, "a", "1")
	s.Pipeline = 100
	if o := s.Do(put("b", "1")); o.Err != nil {
		t.Fatal(o.Err)
	}
	return s, &eval.Env{State: s, Self: eval.Pending(1000), Current: 2, Floor: -1}
}

// Schedule 33: a pending revision is above every `current` seen and unequal to all numbers up to that; what this does
// not decide is not guessed.
func TestUndecided(t *testing.T) {
	compare := func(result pb.Compare_CompareResult, key string, rev int64) *pb.Compare {
		c := modIs(key, rev)
		c.Result = result
		return c
	}
	const undecided = -1
	for _, c := range []struct {
		cmps []*pb.Compare
		want int
	}{
		{[]*pb.Compare{compare(pb.Compare_EQUAL, "b", 2)}, 0},
		{[]*pb.Compare{compare(pb.Compare_EQUAL, "b", 0)}, 0},
		{[]*pb.Compare{compare(pb.Compare_GREATER, "b", 2)}, 1},
		{[]*pb.Compare{compare(pb.Compare_NOT_EQUAL, "b", 1)}, 1},
		{[]*pb.Compare{compare(pb.Compare_EQUAL, "b", 3)}, undecided},
		{[]*pb.Compare{compare(pb.Compare_LESS, "b", 1<<62)}, undecided},
		{[]*pb.Compare{compare(pb.Compare_EQUAL, "b", int64(eval.Pending(1)))}, undecided},
		{[]*pb.Compare{compare(pb.Compare_EQUAL, "a", 1<<62)}, 0},
		// What is decidedly false settles the list.
		{[]*pb.Compare{compare(pb.Compare_EQUAL, "b", 3), compare(pb.Compare_EQUAL, "a", 1)}, 0},
		{[]*pb.Compare{compare(pb.Compare_EQUAL, "b", 3), compare(pb.Compare_EQUAL, "a", 2)}, undecided},
	} {
		_, env := pending(t)
		res, err := eval.Txn(env, &pb.TxnRequest{Compare: c.cmps})
		got := undecided
		switch {
		case err == nil && res.Response.(*pb.TxnResponse).Succeeded:
			got = 1
		case err == nil:
			got = 0
		case !errors.Is(err, eval.ErrUndecided):
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("%v: %d, want %d", c.cmps, got, c.want)
		}
	}
}

func TestUndecidedOperations(t *testing.T) {
	named := get("a", "")
	named.Revision = 1
	filter := func(min, max int64) *pb.RangeRequest {
		r := get("a", "z")
		r.MinModRevision, r.MaxCreateRevision = min, max
		return r
	}
	for _, c := range []struct {
		req  *pb.TxnRequest
		want error
	}{
		{then(named), eval.ErrUndecided},
		{then(put("c", ""), then(named)), eval.ErrUndecided},
		{&pb.TxnRequest{Failure: ops(named)}, nil}, // not on the path
		{then(&pb.PutRequest{Key: []byte("a"), Lease: 1}, named), rpctypes.ErrGRPCLeaseNotFound},
		{then(filter(2, 0)), nil},
		{then(filter(3, 0)), eval.ErrUndecided},
		{then(filter(0, 2)), nil},
		{then(filter(0, 3)), eval.ErrUndecided},
		{then(filter(3, 2)), nil}, // created too late in any case
	} {
		_, env := pending(t)
		if _, err := eval.Txn(env, c.req); err != c.want {
			t.Errorf("%v: %v, want %v", c.req, err, c.want)
		}
	}
}

func TestPatch(t *testing.T) {
	s, env := pending(t)
	req := then(get("a", "z"), &pb.PutRequest{Key: []byte("b"), PrevKv: true}, put("c", ""), then(get("a", "z")),
		&pb.DeleteRangeRequest{Key: []byte("c"), PrevKv: true})
	// c is put and deleted: past the duplicate check, which Txn leaves to CheckTxn.
	res, err := eval.Txn(env, req)
	if err != nil {
		t.Fatal(err)
	}
	if rev := res.Writes[0].Version.Mod; rev != env.Self {
		t.Fatalf("before Patch a write is at %d", rev)
	}
	res.Patch(func(p ids.Revision) ids.Revision {
		switch p {
		case eval.Pending(1): // the put of b
			return 3
		case env.Self:
			return 9
		case env.Self - 1:
			return 8
		}
		t.Fatalf("unknown revision %d", p)
		return 0
	})
	_ = s
	m := res.Response.(*pb.TxnResponse)
	first, nested := m.Responses[0].GetResponseRange(), m.Responses[3].GetResponseTxn().Responses[0].GetResponseRange()
	prevB, prevC := m.Responses[1].GetResponsePut().PrevKv, m.Responses[4].GetResponseDeleteRange().PrevKvs[0]
	for i, c := range []struct{ got, want int64 }{
		{m.Header.Revision, 9},
		{first.Header.Revision, 8}, {first.Kvs[1].ModRevision, 3}, {first.Kvs[1].CreateRevision, 3},
		{m.Responses[1].GetResponsePut().Header.Revision, 9}, {prevB.ModRevision, 3}, {prevB.CreateRevision, 3},
		{nested.Header.Revision, 9}, {nested.Kvs[1].ModRevision, 9}, {nested.Kvs[1].CreateRevision, 3}, {nested.Kvs[2].CreateRevision, 9},
		{prevC.ModRevision, 9},
		{int64(res.Writes[0].Version.Create), 3}, {int64(res.Writes[0].Version.Mod), 9}, {int64(res.Writes[1].Version.Create), 9},
	} {
		if c.got != c.want {
			t.Errorf("%d: revision %d, want %d", i, c.got, c.want)
		}
	}
}

// Whether the txn's own writes pass a filter by a revision that is yet to come is decided when it has come.
func TestFilterOfOwnWrites(t *testing.T) {
	s := evaltest.New()
	mustPut(t, s, "a", "1")
	req := get("a", "z")
	req.MinModRevision, req.Limit, req.SortOrder, req.KeysOnly = 5, 1, pb.RangeRequest_DESCEND, true
	for self, want := range map[ids.Revision]string{3: "", 4: "", 5: "c ", 6: "c "} {
		env := &eval.Env{State: s, Self: eval.Pending(7), Current: 2, Floor: -1, Fresh: true}
		res, err := eval.Txn(env, then(put("b", "1"), put("c", "1"), req))
		if err != nil {
			t.Fatal(err)
		}
		res.Patch(func(p ids.Revision) ids.Revision { return self - (eval.Pending(7) - p) })
		got := res.Response.(*pb.TxnResponse).Responses[2].GetResponseRange()
		if keys(got) != want || got.More != (want != "") || got.Count != 3 || got.Header.Revision != int64(self) {
			t.Errorf("at revision %d: %v", self, got)
		}
	}
}

func TestSpanIsHeldTo(t *testing.T) {
	s := evaltest.New()
	env := &eval.Env{State: s, Self: 2, Current: 1, Floor: -1, Fresh: true, Span: ids.UserSpan([]byte("b"), []byte("d"))}
	within := []*pb.TxnRequest{then(put("b", "")), then(get("b", "d")), then(del("c", "cc"))}
	beyond := []*pb.TxnRequest{then(put("a", "")), then(get("b", "d\x00")), then(del("a", "c")), then(get("d", "")),
		{Compare: []*pb.Compare{modIs("a", 0)}}}
	for _, r := range within {
		if _, err := eval.Txn(env, r); err != nil {
			t.Errorf("%v: %v", r, err)
		}
	}
	for _, r := range beyond {
		var wrong *ids.WrongRangeError
		if _, err := eval.Txn(env, r); !errors.As(err, &wrong) {
			t.Errorf("%v: %v", r, err)
		}
	}
	if _, err := eval.Put(env, put("d", "")); err == nil {
		t.Error("a put beyond the span")
	}
}
