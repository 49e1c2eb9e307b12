package eval_test

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/storage"
)

// oneKey is a state that costs nothing, so that evaluation alone is measured.
type oneKey struct{ storage.Version }

func (s *oneKey) Latest([]byte, bool) (storage.Version, bool, error) { return s.Version, true, nil }

func (s *oneKey) Scan(span ids.Span, _ bool, fn func([]byte, *storage.Version) bool) error {
	fn(span.Start, &s.Version)
	return nil
}

func (s *oneKey) ScanAt(span ids.Span, _ ids.Revision, _ bool, fn func([]byte, *storage.Version) bool) error {
	fn(span.Start, &s.Version)
	return nil
}

func (s *oneKey) Get([]byte, ids.Revision, storage.ScanOptions) (storage.Version, bool, error) {
	return s.Version, true, nil
}

func newEnv() *eval.Env {
	state := &oneKey{storage.Version{Mod: 8, Create: 7, Version: 2, Value: make([]byte, 100)}}
	return &eval.Env{State: state, Self: eval.Pending(3), Current: 9, Span: ids.UserSpace}
}

func BenchmarkPut(b *testing.B) {
	env, req := newEnv(), put("/registry/pods/default/a", string(make([]byte, 256)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := eval.Put(env, req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPatchPut(b *testing.B) {
	res, err := eval.Put(newEnv(), put("/registry/pods/default/a", ""))
	if err != nil {
		b.Fatal(err)
	}
	header := res.Response.(*pb.PutResponse).Header
	b.ReportAllocs()
	for b.Loop() {
		header.Revision = int64(eval.Pending(3))
		res.Patch(func(ids.Revision) ids.Revision { return 10 })
	}
}

// BenchmarkUpdate is what kube-apiserver does to an object.
func BenchmarkUpdate(b *testing.B) {
	env := newEnv()
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{modIs("/registry/pods/default/a", 8)},
		Success: ops(put("/registry/pods/default/a", string(make([]byte, 256)))),
		Failure: ops(get("/registry/pods/default/a", "")),
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := eval.Txn(env, req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckUpdate(b *testing.B) {
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{modIs("/registry/pods/default/a", 8)},
		Success: ops(put("/registry/pods/default/a", string(make([]byte, 256)))),
		Failure: ops(get("/registry/pods/default/a", "")),
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := eval.CheckTxn(req, eval.DefaultLimits); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	view := getter{newEnv().State.(*oneKey)}
	req := get("/registry/pods/default/a", "")
	b.ReportAllocs()
	for b.Loop() {
		part, err := eval.ReadPart(view, eval.RangeSpan(req), 9, eval.PlanRange(req))
		if err != nil || len(eval.Assemble(req, []eval.Part{part}).Kvs) != 1 {
			b.Fatal(err)
		}
	}
}

// getter is a Reader of which single gets only need the first method.
type getter struct{ *oneKey }

func (getter) Scan(ids.Span, ids.Revision, storage.ScanOptions, func([]byte, *storage.Version) bool) error {
	panic("a single get scans")
}

func (getter) Count(ids.Span, ids.Revision) (int64, error) { panic("a single get counts") }
