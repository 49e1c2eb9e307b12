package router

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// quickRanges answers at once, so that what is measured is the router.
type quickRanges struct{ *fakeNode }

func (q quickRanges) Write(_ rangegroup.Request, done func(proto.Message, error)) {
	done(&pb.PutResponse{Header: &pb.ResponseHeader{Revision: 5}}, nil)
}
func (q quickRanges) Confirm(_ ids.RangeID, _ ids.Generation, done func(rangegroup.Claim, error)) {
	done(rangegroup.Claim{Revision: 5, Index: 5}, nil)
}
func (q quickRanges) LocalClaim(ids.RangeID) (rangegroup.Claim, bool) {
	return rangegroup.Claim{Revision: 1 << 40, Index: 5, At: time.Hour}, true
}
func (q quickRanges) WaitApplied(context.Context, ids.RangeID, uint64) error { return nil }
func (q quickRanges) Read(context.Context, ids.RangeID, ids.Span, ids.Revision, eval.Query) (eval.Part, error) {
	return eval.Part{KVs: []*mvccpb.KeyValue{{}}, Count: 1}, nil
}

func benchRouter(b *testing.B) *Router {
	splits := make([]string, 200)
	for i := range splits {
		splits[i] = fmt.Sprintf("key%04d", i)
	}
	c := newFakeCluster(b, 1, splits...)
	b.Cleanup(c.close)
	rt, err := New(Config{ClusterID: 77, Node: 1}, Deps{
		Ranges: quickRanges{fakeNode: c.nodes[1]}, Directory: c, Cluster: fakeBook{c.nodes[1]}, Clock: c.nodes[1],
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { rt.Close() })
	return rt
}

func BenchmarkPut(b *testing.B) {
	kv, req := benchRouter(b).KV(), put("key0100abc", string(make([]byte, 256)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := kv.Put(context.Background(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	for _, serializable := range []bool{false, true} {
		b.Run(fmt.Sprintf("serializable=%v", serializable), func(b *testing.B) {
			kv := benchRouter(b).KV()
			req := &pb.RangeRequest{Key: []byte("key0100abc"), Serializable: serializable}
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := kv.Range(context.Background(), req); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func BenchmarkEncodeCall(b *testing.B) {
	d := &ids.Descriptor{ID: 7, Generation: 3}
	req := put("key0100abc", string(make([]byte, 256)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encodeCall(d, 1, req, callPart{}); err != nil {
			b.Fatal(err)
		}
	}
}
