package router

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// The freshness rule: a reader that arrives while a confirm call is under way may not use its claim, as the leader may
// have made it before a write that was completed before the reader arrived.
func TestReaderNeverUsesAnEarlierClaim(t *testing.T) {
	for _, where := range []struct {
		name string
		node ids.NodeID
	}{{"on the leader's node", 1}, {"on a follower's node", 2}} {
		t.Run(where.name, func(t *testing.T) {
			bubble(t, 3, nil, func(c *fakeCluster) {
				n := c.nodes[where.node]
				n.put(t, "k", "old")
				hold := make(chan struct{})
				first := true
				c.nodes[1].onConfirm = func() (<-chan struct{}, error) {
					if first {
						first = false
						return hold, nil
					}
					return nil, nil
				}
				early := make(chan string, 1)
				go func() { early <- string(n.get(t, get("k")).Kvs[0].Value) }()
				synctest.Wait() // its claim is made, and on its way
				c.nodes[3].put(t, "k", "new")
				late := make(chan string, 1)
				go func() { late <- string(n.get(t, get("k")).Kvs[0].Value) }()
				synctest.Wait()
				close(hold)
				if got := <-late; got != "new" {
					t.Errorf("a read that began after the write was completed found %q", got)
				}
				<-early
			})
		})
	}
}

// One call in flight per peer carries all that waits, each range once.
func TestConfirmsAreBatched(t *testing.T) {
	bubble(t, 3, []string{"b", "c", "d"}, func(c *fakeCluster) {
		for _, d := range c.all() {
			c.lead(d.ID, 1)
		}
		n := c.nodes[2]
		for _, k := range []string{"a", "b", "c", "d"} {
			n.put(t, k, k)
		}
		var mu sync.Mutex
		var sizes []int
		n.onCall = func(_ ids.NodeID, kind CallKind, payload []byte) (error, bool) {
			if kind == CallConfirm {
				var call pontoonpb.ConfirmCall
				_ = proto.Unmarshal(payload, &call)
				mu.Lock()
				sizes = append(sizes, len(call.Items))
				mu.Unlock()
			}
			return nil, true
		}
		hold, first := make(chan struct{}), true
		c.nodes[1].onConfirm = func() (<-chan struct{}, error) {
			if first {
				first = false
				return hold, nil
			}
			return nil, nil
		}
		var wg sync.WaitGroup
		for i := range 101 {
			wg.Go(func() {
				key := string(rune('a' + i%4))
				if got := n.get(t, get(key)); string(got.Kvs[0].Value) != key {
					t.Errorf("%s is %v", key, got)
				}
			})
			if i == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		close(hold)
		wg.Wait()
		if fmt.Sprint(sizes) != "[1 4]" {
			t.Errorf("confirm calls of %v ranges, want one of the first reader's and one for all that came meanwhile", sizes)
		}
	})
}

// A batch that is stuck does not hold up those who come after it; its own readers try again.
func TestStuckConfirm(t *testing.T) {
	bubble(t, 3, []string{"m"}, func(c *fakeCluster) {
		c.lead(4, 1)
		n := c.nodes[2]
		n.put(t, "a", "1")
		n.put(t, "z", "1")
		hold, calls := make(chan struct{}), 0
		defer close(hold)
		c.nodes[1].onConfirm = func() (<-chan struct{}, error) {
			if calls++; calls == 1 {
				return hold, nil
			}
			return nil, nil
		}
		var wg sync.WaitGroup
		began := time.Now()
		wg.Go(func() {
			n.get(t, get("a"))
			if took := time.Since(began); took < 2*time.Second || took > 2200*time.Millisecond {
				t.Errorf("the stuck read took %v, want a second try after two election timeouts", took)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			n.get(t, get("z"))
			if took := time.Since(began); took > 60*time.Millisecond {
				t.Errorf("the read behind it took %v", took)
			}
		})
		wg.Wait()
	})
}

// randomRange draws a request with any mix of options.
func randomRange(rng *rand.Rand, current int64) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: fmt.Appendf(nil, "%02d", rng.IntN(40))}
	switch rng.IntN(5) {
	case 0:
	case 1:
		r.RangeEnd = []byte{0}
	case 2:
		r.Key, r.RangeEnd = []byte{0}, []byte{0}
	default:
		r.RangeEnd = fmt.Appendf(nil, "%02d", rng.IntN(45))
	}
	if rng.IntN(2) == 0 {
		r.Limit = rng.Int64N(12)
	}
	if rng.IntN(3) == 0 {
		r.Revision = rng.Int64N(current + 2)
	}
	if rng.IntN(2) == 0 {
		r.SortOrder = pb.RangeRequest_SortOrder(rng.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(rng.IntN(5))
	}
	if rng.IntN(4) == 0 {
		r.MinModRevision, r.MaxCreateRevision = rng.Int64N(current), rng.Int64N(current+1)
	}
	r.KeysOnly, r.CountOnly = rng.IntN(4) == 0, rng.IntN(5) == 0
	r.Serializable = rng.IntN(4) == 0
	return r
}

// load writes a history of 40 keys.
func (c *fakeCluster) load(t testing.TB, rng *rand.Rand, writes int) {
	for range writes {
		key := fmt.Appendf(nil, "%02d", rng.IntN(40))
		if rng.IntN(5) == 0 {
			c.do(&pb.DeleteRangeRequest{Key: key})
		} else if o := c.do(&pb.PutRequest{Key: key, Value: fmt.Appendf(nil, "%d", rng.IntN(30))}); o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	for _, n := range c.nodes {
		n.apply(c.current())
	}
}

// Reads over many ranges, some of them without a local replica, answer what one undivided keyspace answers.
func TestReadsOverRanges(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	bubble(t, 5, []string{"07", "08", "15", "22", "22x", "30"}, func(c *fakeCluster) {
		c.load(t, rng, 300)
		for i := range 2000 {
			n := c.nodes[ids.NodeID(1+rng.IntN(5))]
			req := randomRange(rng, int64(c.current()))
			want := c.do(proto.Clone(req))
			got, err := n.router.KV().Range(context.Background(), proto.CloneOf(req))
			if err != nil || want.Err != nil {
				if !errors.Is(err, want.Err) {
					t.Fatalf("seed %d, request %d %v: error %v, want %v", seed, i, req, err, want.Err)
				}
				continue
			}
			h := got.Header
			if h.MemberId != uint64(n.id) || h.ClusterId != 77 {
				t.Fatalf("seed %d, request %d: header %v", seed, i, h)
			}
			h.MemberId, h.ClusterId, h.RaftTerm = 0, 0, 0
			if len(got.Kvs) == 0 {
				got.Kvs = nil
			}
			if !proto.Equal(got, want.Response) {
				t.Fatalf("seed %d, request %d %v\n got %v\nwant %v", seed, i, req, got, want.Response)
			}
		}
	})
}

// recorder is the client of a stream.
type recorder struct {
	grpc.ServerStream
	chunks []*pb.RangeResponse
	onSend func()
}

func (r *recorder) Context() context.Context { return context.Background() }
func (r *recorder) Send(resp *pb.RangeStreamResponse) error {
	r.chunks = append(r.chunks, resp.RangeResponse)
	if r.onSend != nil {
		r.onSend()
	}
	return nil
}

// A stream is a range in chunks: together they are the same response, at one revision, whatever is written meanwhile.
func TestRangeStream(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	bubble(t, 5, []string{"07", "08", "15", "22", "22x", "30"}, func(c *fakeCluster) {
		c.load(t, rng, 300)
		for i := range 300 {
			n := c.nodes[ids.NodeID(1+rng.IntN(5))]
			req := randomRange(rng, int64(c.current()))
			req.SortOrder, req.SortTarget, req.MinModRevision, req.MaxCreateRevision = 0, 0, 0, 0
			req.Serializable = false // or it may be older
			want := c.do(proto.Clone(req))
			rec := &recorder{onSend: func() { c.load(t, rng, 3) }}
			err := n.router.KV().RangeStream(proto.CloneOf(req), rec)
			if err != nil || want.Err != nil {
				if !errors.Is(err, want.Err) {
					t.Fatalf("seed %d, stream %d %v: error %v, want %v", seed, i, req, err, want.Err)
				}
				continue
			}
			got := &pb.RangeResponse{}
			for k, chunk := range rec.chunks {
				last := k == len(rec.chunks)-1
				if (chunk.Header != nil) != last || !last && (chunk.Count != 0 || chunk.More) {
					t.Fatalf("seed %d, stream %d: chunk %d of %d is %v", seed, i, k, len(rec.chunks), chunk)
				}
				got.Kvs = append(got.Kvs, chunk.Kvs...)
				got.Header, got.Count, got.More = chunk.Header, chunk.Count, chunk.More
			}
			got.Header = &pb.ResponseHeader{Revision: got.Header.Revision}
			if !proto.Equal(got, want.Response) {
				t.Fatalf("seed %d, stream %d %v\n got %v\nwant %v", seed, i, req, got, want.Response)
			}
		}
	})
}

func TestChunksFollowTheSize(t *testing.T) {
	for _, tc := range []struct {
		keys         int64
		size, target int
		want         int64
	}{{10, 100, 1000, 20}, {10, 600, 1000, 10}, {10, 2001, 1000, 5}, {1, 5000, 1000, 1}, {chunkKeysMax, 1, 1000, chunkKeysMax}} {
		if got := nextChunk(tc.keys, tc.size, tc.target); got != tc.want {
			t.Errorf("after %d keys of %d bytes for %d: %d, want %d", tc.keys, tc.size, tc.target, got, tc.want)
		}
	}
}

func TestSerializable(t *testing.T) {
	bubble(t, 3, nil, func(c *fakeCluster) {
		n := c.nodes[2]
		serial := func() *pb.RangeResponse {
			return n.get(t, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		}
		rev := n.put(t, "k", "1")
		if got := serial(); got.Header.Revision < rev {
			t.Errorf("header %d after this node answered %d", got.Header.Revision, rev)
		}
		calls := n.callsOf(CallConfirm)
		for range 10 {
			serial()
		}
		if got := n.callsOf(CallConfirm) - calls; got != 0 {
			t.Errorf("%d confirm calls although the claim is new", got)
		}
		time.Sleep(freshFor)
		c.nodes[1].put(t, "k", "2")
		if got := serial(); string(got.Kvs[0].Value) != "2" {
			t.Errorf("an old claim was not renewed: %v", got)
		}
		// Nobody to ask: what is here is answered, within the budget.
		n.onCall = func(ids.NodeID, CallKind, []byte) (error, bool) { return errNotSent, false }
		time.Sleep(freshFor)
		c.nodes[1].put(t, "k", "3")
		began := time.Now()
		got := serial()
		if string(got.Kvs[0].Value) != "2" || got.Header.Revision != rev+1 || time.Since(began) > freshBudget {
			t.Errorf("alone, after %v: %v", time.Since(began), got)
		}
		n.onCall = nil
		hold := make(chan struct{})
		c.nodes[1].onConfirm = func() (<-chan struct{}, error) { return hold, nil }
		began = time.Now()
		if got = serial(); string(got.Kvs[0].Value) != "2" || time.Since(began) != freshBudget {
			t.Errorf("with a silent leader, after %v: %v", time.Since(began), got)
		}
		close(hold)
	})
}

// Without any claim the replica's own state is served: all it has applied, and no more.
func TestSerializableWithoutClaims(t *testing.T) {
	bubble(t, 3, nil, func(c *fakeCluster) {
		n := c.nodes[2]
		c.nodes[1].put(t, "k", "1")
		n.onCall = func(ids.NodeID, CallKind, []byte) (error, bool) { return errNotSent, false }
		c.lag = time.Hour
		c.nodes[1].put(t, "k", "2")
		got := n.get(t, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		if string(got.Kvs[0].Value) != "1" || got.Header.Revision != 2 {
			t.Errorf("%v", got)
		}
		time.Sleep(2 * time.Hour)
	})
}

// A follower that lags is waited for.
func TestReadWaitsForApply(t *testing.T) {
	bubble(t, 3, nil, func(c *fakeCluster) {
		c.lag = 30 * time.Millisecond
		c.nodes[1].put(t, "k", "1")
		began := time.Now()
		if got := c.nodes[2].get(t, get("k")); got.Count != 1 || time.Since(began) != c.lag {
			t.Errorf("%v after %v", got, time.Since(began))
		}
		time.Sleep(time.Second)
	})
}

// What random clients on all nodes see is one history: no read is older than what was completed before it began.
func TestReadsAreLinearizable(t *testing.T) {
	seed := rand.Uint64()
	bubble(t, 5, []string{"b", "c"}, func(c *fakeCluster) {
		c.lag = 3 * time.Millisecond
		for _, n := range c.nodes {
			n.onConfirm = func() (<-chan struct{}, error) {
				hold := make(chan struct{})
				time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { close(hold) })
				return hold, nil
			}
		}
		var mu sync.Mutex
		var done int64
		completed := func(r int64) {
			mu.Lock()
			done = max(done, r)
			mu.Unlock()
		}
		var wg sync.WaitGroup
		for id := ids.NodeID(1); id <= 5; id++ {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(id)))
				n := c.nodes[id]
				for range 100 {
					mu.Lock()
					before := done
					mu.Unlock()
					key := string(rune('a' + rng.IntN(3)))
					if rng.IntN(3) == 0 {
						rev := n.put(t, key, "v")
						if rev <= before {
							t.Errorf("seed %d: put at %d after %d", seed, rev, before)
						}
						completed(rev)
					} else {
						req := get(key)
						if rng.IntN(2) == 0 {
							req.RangeEnd = []byte{0}
						}
						rev := n.get(t, req).Header.Revision
						if rev < before {
							t.Errorf("seed %d: read at %d after %d", seed, rev, before)
						}
						completed(rev)
					}
					time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
	})
}

func TestRangeAdmin(t *testing.T) {
	bubble(t, 5, []string{"m"}, func(c *fakeCluster) {
		admin := c.nodes[5].router.Admin()
		list, err := admin.RangeList(context.Background(), &pontoonpb.RangeListRequest{CountKeys: true})
		if err != nil || len(list.Ranges) != 2 || len(list.Errors) != 0 {
			t.Fatalf("%v, %v", list, err)
		}
		for i, want := range []uint64{1, 2} {
			if r := list.Ranges[i]; r.Leader != want || len(r.Replicas) != 3 || r.Keys != 5 || r.SizeBytes != 100 {
				t.Errorf("range %d: %v", i, r)
			}
		}
		c.nodes[5].onCall = func(to ids.NodeID, _ CallKind, _ []byte) (error, bool) {
			if to == 1 {
				return errNotSent, false
			}
			return nil, true
		}
		show, err := admin.RangeShow(context.Background(), &pontoonpb.RangeShowRequest{Key: []byte("a")})
		if err != nil || show.Range.Leader != 0 || len(show.Range.Replicas) != 2 || len(show.Errors) != 1 {
			t.Errorf("without the leader's node: %v, %v", show, err)
		}
		if _, err = admin.RangeShow(context.Background(), &pontoonpb.RangeShowRequest{RangeId: 99}); err == nil {
			t.Error("showed a range that does not exist")
		}
	})
}
