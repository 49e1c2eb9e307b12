package eval_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/rangegroup/eval/evaltest"
	"github.com/pontoon-kv/pontoon/storage"
)

// The storage engine must be the Reader that the keyspace in memory is: each request goes to both.
func TestEngineReadsTheSame(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	engine, err := storage.Open(storage.Config{Dir: "data", FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	}()
	model := evaltest.New()
	key := func() []byte {
		k := make([]byte, 1+rnd.IntN(3))
		for i := range k {
			k[i] = "\x00\x01ab\xff"[rnd.IntN(5)]
		}
		return k
	}
	for range 300 {
		env := &eval.Env{State: model, Self: model.Revision() + 1, Current: model.Revision(), Floor: -1, Fresh: true}
		req := then(&pb.PutRequest{Key: key(), Value: fmt.Appendf(nil, "%d", rnd.IntN(5))}, &pb.DeleteRangeRequest{Key: key()})
		if rnd.IntN(20) == 0 {
			req = then(&pb.DeleteRangeRequest{Key: key(), RangeEnd: key()})
		}
		if eval.CheckTxn(req, eval.DefaultLimits) != nil {
			continue
		}
		// Reads within a txn are on the state at a revision, too.
		view := engine.View()
		env.State = eval.AtRevision(view, model.Revision())
		res, err := eval.Txn(env, req)
		view.Close()
		if err != nil {
			t.Fatal(err)
		}
		if want := mustTxn(t, model, req); !proto.Equal(res.Response, want) {
			t.Fatalf("%v\nengine: %v\nmemory: %v", req, res.Response, want)
		}
		write(t, engine, res.Writes)
	}
	for range 2000 {
		r := &pb.RangeRequest{Key: key(), RangeEnd: key(), Limit: rnd.Int64N(20) * rnd.Int64N(2),
			SortOrder: pb.RangeRequest_SortOrder(rnd.IntN(3)), SortTarget: pb.RangeRequest_SortTarget(rnd.IntN(5)),
			KeysOnly: rnd.IntN(3) == 0, CountOnly: rnd.IntN(6) == 0}
		if rnd.IntN(4) == 0 {
			r.RangeEnd = nil
		}
		q, at := eval.PlanRange(r), 1+ids.Revision(rnd.Int64N(int64(model.Revision())))
		view := engine.View()
		theirs, err := eval.ReadPart(view, eval.RangeSpan(r), at, q)
		view.Close()
		if err != nil {
			t.Fatal(err)
		}
		ours, err := eval.ReadPart(model.View(), eval.RangeSpan(r), at, q)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := eval.Assemble(r, []eval.Part{theirs}), eval.Assemble(r, []eval.Part{ours}); !proto.Equal(a, b) {
			t.Fatalf("%v at %d\nengine: %v\nmemory: %v", r, at, a, b)
		}
	}
}

func write(t *testing.T, engine *storage.Engine, writes []eval.Write) {
	t.Helper()
	set := storage.NewWriteSet()
	defer set.Release()
	for i := range writes {
		set.PutVersion(writes[i].Key, &writes[i].Version)
	}
	b := engine.NewBatch()
	defer b.Close()
	if err := b.ApplyWrites(set.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(false); err != nil {
		t.Fatal(err)
	}
}
