package evaldiff

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sort"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/rangegroup/eval/evaltest"
)

var (
	opsFlag  = flag.Int("ops", 10000, "number of requests")
	seedFlag = flag.Uint64("seed", 0, "seed of the first round; 0 takes one from the clock")
)

// opsPerRound is how many requests a keyspace gets until both sides begin afresh with the next seed.
const opsPerRound = 25000

func TestSameAsEtcd(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for left := *opsFlag; left > 0; left -= opsPerRound {
		n := min(left, opsPerRound)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { round(t, seed, n) })
		seed++
	}
}

func round(t *testing.T, seed uint64, ops int) {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1)), calm: seed%2 == 0, maxTxnOps: 7}
	if seed%3 == 0 {
		g.maxTxnOps = 40
	}
	etcd := startEtcd(t, g.maxTxnOps)
	store := evaltest.New()
	store.Limits.MaxTxnOps = g.maxTxnOps
	store.Rand = g.Rand
	store.Splits = [][]byte{[]byte("a\x00"), []byte("aa"), []byte("b"), []byte("b\xff")}[g.IntN(5):]
	if g.one(2) && len(store.Splits) > 1 {
		store.Splits = store.Splits[:1]
	}
	for _, id := range grantedLeases {
		if _, err := etcd.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		store.Grant(id)
	}
	refused := map[string]int{}
	failed := 0
	for done := 0; done < ops; {
		// A batch is evaluated before any of it has a revision.
		batch := 1 + g.IntN(6)*g.IntN(2)
		store.Pipeline = batch + 1
		var calls []*call
		for range batch {
			g.revision = int64(store.Revision())
			c := &call{req: g.request()}
			c.etcd.resp, c.etcd.err = etcd.do(t.Context(), proto.Clone(c.req))
			c.ours = store.Do(proto.Clone(c.req))
			calls = append(calls, c)
		}
		store.Flush()
		for i, c := range calls {
			if diff := c.diff(); diff != "" {
				t.Fatalf("seed %d, request %d (%d of a batch of %d):\n%s", seed, done+i, i+1, batch, diff)
			}
			if c.etcd.err != nil {
				failed++
				refused[c.etcd.err.Error()]++
			}
		}
		done += batch
		if seed%4 != 0 && g.one(300) { // without compactions the whole history is compared in the end
			compact(t, etcd, store, g.near())
		}
	}
	compareHistory(t, etcd, store)
	t.Logf("%d requests, revision %d, %d keys, %d refused: %v", ops, store.Revision(), store.Keys(), failed, refused)
	if failed > ops/2 || int(store.Revision()) < ops/5 {
		t.Errorf("the requests have become too tame or too wild to prove anything")
	}
}

// compareHistory watches etcd from the last compaction on: a txn's writes are its events, in the order of their ordinals,
// also where a key is written twice.
func compareHistory(t *testing.T, etcd *server, store *evaltest.Store) {
	ws := etcd.Server.Watchable().NewWatchStream()
	defer ws.Close()
	first := max(store.Floor()+1, 1) // 0 would be: from now on
	want := slices.DeleteFunc(slices.Clone(store.History), func(w eval.Write) bool { return w.Version.Mod < first })
	if _, err := ws.Watch(t.Context(), 0, []byte{0}, []byte{}, int64(first)); err != nil {
		t.Fatal(err)
	}
	for len(want) > 0 {
		var events []*mvccpb.Event
		select {
		case r := <-ws.Chan():
			events = r.Events
		case <-time.After(20 * time.Second):
			t.Fatalf("%d events are missing, the first is %+v", len(want), want[0])
		}
		for _, ev := range events {
			if len(want) == 0 {
				t.Fatalf("etcd has one event more: %v", ev)
			}
			v := &want[0].Version
			mine := &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: ids.EtcdKey(want[0].Key), ModRevision: int64(v.Mod)}}
			if !v.Tombstone {
				mine.Type = mvccpb.Event_PUT
				mine.Kv.CreateRevision, mine.Kv.Version = int64(v.Create), v.Version
				mine.Kv.Value, mine.Kv.Lease = v.Value, v.Lease
			}
			if ev.PrevKv = nil; !proto.Equal(ev, mine) {
				t.Fatalf("event %d of revision %d: etcd: %v, here: %v", v.Op, v.Mod, ev, mine)
			}
			want = want[1:]
		}
	}
}

func compact(t *testing.T, etcd *server, store *evaltest.Store, rev int64) {
	_, err := etcd.KVServer.Compact(t.Context(), &pb.CompactionRequest{Revision: rev})
	if mine := store.Compact(rev); !sameError(err, mine) {
		t.Fatalf("compact %d: etcd: %v, here: %v", rev, err, mine)
	}
}

// TestRequestSize finds etcd's limit to the byte; the id in its entries takes one byte more on some members.
func TestRequestSize(t *testing.T) {
	etcd := startEtcd(t, 128)
	store := evaltest.New()
	request := func(kind string, size int) proto.Message {
		put := &pb.PutRequest{Key: []byte("k"), Value: make([]byte, size)}
		switch kind {
		case "put":
			return put
		case "delete":
			return &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: make([]byte, size)}
		case "txn":
			return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}
		default: // only ranges: not measured
			return &pb.TxnRequest{Compare: []*pb.Compare{{Key: make([]byte, size)}}}
		}
	}
	for _, kind := range []string{"put", "delete", "txn", "ranges"} {
		limit := store.Limits.MaxRequestBytes
		for _, size := range []int{limit - 60, limit - 20, limit - 10, limit, limit + 30} {
			_, err := etcd.do(t.Context(), request(kind, size))
			mine := store.Do(request(kind, size))
			if !sameError(err, mine.Err) {
				t.Errorf("%s of %d bytes: etcd: %v, here: %v", kind, size, err, mine.Err)
			}
		}
		if kind == "ranges" {
			break
		}
		least := func(do func(size int) error) int {
			return sort.Search(200, func(i int) bool { return do(limit-100+i) != nil })
		}
		theirs := least(func(size int) error { _, err := etcd.do(t.Context(), request(kind, size)); return err })
		mine := least(func(size int) error { return store.Do(request(kind, size)).Err })
		if d := theirs - mine; d < 0 || d > 1 {
			t.Errorf("%s: etcd's limit is %d bytes above ours", kind, d)
		}
	}
}

// call is a request with both answers.
type call struct {
	req  proto.Message
	etcd struct {
		resp proto.Message
		err  error
	}
	ours *evaltest.Outcome
}

// diff says how the answers differ, "" if they don't.
func (c *call) diff() string {
	if sameError(c.etcd.err, c.ours.Err) && (c.ours.Err != nil || proto.Equal(c.etcd.resp, c.ours.Response)) {
		return ""
	}
	show := func(m proto.Message, err error) string {
		if err != nil {
			return err.Error()
		}
		return prototext.Format(m)
	}
	return fmt.Sprintf("%T\n%s\n== etcd:\n%s\n== here:\n%s", c.req, prototext.Format(c.req),
		show(c.etcd.resp, c.etcd.err), show(c.ours.Response, c.ours.Err))
}

func sameError(a, b error) bool {
	return (a == nil) == (b == nil) && status.Code(a) == status.Code(b) && status.Convert(a).Message() == status.Convert(b).Message()
}

// server is an embedded etcd, called below its sockets but above its request checks.
type server struct {
	pb.KVServer
	*embed.Etcd
}

func (s *server) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return s.Server.LeaseGrant(ctx, r)
}

// do answers a request as it would be on the wire; of the headers only the revision is kept.
func (s *server) do(ctx context.Context, req proto.Message) (proto.Message, error) {
	switch r := req.(type) {
	case *pb.PutRequest:
		return answer(s.Put(ctx, r))
	case *pb.DeleteRangeRequest:
		return answer(s.DeleteRange(ctx, r))
	case *pb.RangeRequest:
		return answer(s.Range(ctx, r))
	case *pb.TxnRequest:
		return answer(s.Txn(ctx, r))
	}
	return nil, fmt.Errorf("unknown request %T", req)
}

func answer[M interface {
	proto.Message
	GetHeader() *pb.ResponseHeader
}](resp M, err error) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	m := proto.Clone(resp).(M)
	h := m.GetHeader()
	h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
	return m, nil
}

func startEtcd(t *testing.T, maxTxnOps int) *server {
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = []url.URL{local}, []url.URL{local}
	cfg.LogLevel = "fatal"
	cfg.UnsafeNoFsync = true
	cfg.MaxTxnOps = uint(maxTxnOps)
	cfg.SnapshotCount = 1 << 20
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd does not get ready")
	}
	return &server{KVServer: v3rpc.NewKVServer(e.Server), Etcd: e}
}
