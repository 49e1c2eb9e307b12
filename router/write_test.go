package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// bubble runs f on a cluster under virtual time. It ends only when every goroutine has ended.
func bubble(t *testing.T, nodes int, splits []string, f func(c *fakeCluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, nodes, splits...)
		defer c.close()
		f(c)
	})
}

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func get(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }

func (n *fakeNode) put(t testing.TB, key, value string) int64 {
	t.Helper()
	resp, err := n.router.KV().Put(context.Background(), put(key, value))
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return resp.Header.Revision
}

func (n *fakeNode) get(t testing.TB, req *pb.RangeRequest) *pb.RangeResponse {
	t.Helper()
	resp, err := n.router.KV().Range(context.Background(), req)
	if err != nil {
		t.Fatalf("range %v: %v", req, err)
	}
	return resp
}

func TestPutFromEveryNode(t *testing.T) {
	bubble(t, 5, []string{"g", "p"}, func(c *fakeCluster) {
		rev := int64(1)
		for _, key := range []string{"a", "h", "q"} {
			for id := ids.NodeID(1); id <= 5; id++ {
				resp, err := c.nodes[id].router.KV().Put(context.Background(), put(key, fmt.Sprint(id)))
				if err != nil {
					t.Fatal(err)
				}
				rev++
				h := resp.Header
				if h.Revision != rev || h.ClusterId != 77 || h.MemberId != uint64(id) || h.RaftTerm != 6 {
					t.Fatalf("header %v, want revision %d of member %v", h, rev, id)
				}
				got := c.nodes[id].get(t, get(key))
				if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != fmt.Sprint(id) || got.Header.Revision != rev {
					t.Fatalf("node %v reads %v", id, got)
				}
			}
		}
	})
}

func TestLeaderMoves(t *testing.T) {
	bubble(t, 3, nil, func(c *fakeCluster) {
		n := c.nodes[2]
		n.put(t, "k", "1")
		c.lead(ids.FirstUserRange, 3)
		calls := n.callsOf(CallRange)
		began := time.Now()
		n.put(t, "k", "2") // 1 says that it is 3
		if got := n.callsOf(CallRange) - calls; got != 2 || time.Since(began) > 0 {
			t.Errorf("%d calls in %v, want the old leader and, at once, the new one", got, time.Since(began))
		}
		c.lead(ids.FirstUserRange, 0)
		time.AfterFunc(900*time.Millisecond, func() { c.lead(ids.FirstUserRange, 2) })
		n.put(t, "k", "3") // nobody leads for a while
		if took := time.Since(began); took > 1100*time.Millisecond {
			t.Errorf("found the new leader after %v", took)
		}
		if v := c.current(); v != 4 {
			t.Errorf("revision %d after three puts", v)
		}
	})
}

// Which errors a mutation survives, and what its client sees of the others. `sends` is how often it left the router.
func TestMutationErrors(t *testing.T) {
	const r = ids.FirstUserRange
	for _, tc := range []struct {
		name    string
		err     error // from the leader's node, once or always
		always  bool
		remote  bool // the error is the connection's
		deliver bool // … although the request arrived
		want    error
		sends   int // 0: many
		effects ids.Revision
	}{
		{name: "not appended", err: &ids.NotAppendedError{Range: r}, sends: 2, effects: 1},
		{name: "unavailable", err: &ids.UnavailableError{Range: r}, sends: 2, effects: 1},
		{name: "not leader, no hint", err: &ids.NotLeaderError{Range: r}, sends: 2, effects: 1},
		{name: "not sent", err: fmt.Errorf("queue is full: %w", errNotSent), remote: true, sends: 2, effects: 1},
		{name: "never available", err: &ids.UnavailableError{Range: r}, always: true, want: rpctypes.ErrGRPCTimeout},
		{name: "never sent", err: errNotSent, always: true, remote: true, want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
		{name: "no leader ever", err: &ids.NotLeaderError{Range: r}, always: true, want: rpctypes.ErrGRPCTimeoutDueToLeaderFail},
		{name: "ambiguous", err: &ids.AmbiguousError{Range: r}, sends: 1, want: rpctypes.ErrGRPCTimeoutDueToLeaderFail},
		{name: "lost before", err: errLost, remote: true, sends: 1, want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
		{name: "lost after", err: errLost, remote: true, deliver: true, sends: 1, effects: 1,
			want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
		{name: "etcd's own", err: rpctypes.ErrGRPCLeaseNotFound, sends: 1, want: rpctypes.ErrGRPCLeaseNotFound},
		{name: "a text that makes clients repeat", err: status.Error(codes.Unavailable, "there is no connection available"),
			sends: 1, want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
		{name: "the other one", err: status.Error(codes.Unavailable, "x: there is no address available"),
			sends: 1, want: rpctypes.ErrGRPCTimeoutDueToConnectionLost},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, 3, nil, func(c *fakeCluster) {
				n, sends := c.nodes[2], 0
				if tc.remote {
					n.onCall = func(ids.NodeID, CallKind, []byte) (error, bool) {
						if sends++; tc.always || sends == 1 {
							return tc.err, tc.deliver
						}
						return nil, true
					}
				} else {
					for _, o := range c.nodes {
						o.onWrite = func(rangegroup.Request) error {
							if sends++; tc.always || sends == 1 {
								return tc.err
							}
							return nil
						}
					}
				}
				began := time.Now()
				_, err := n.router.KV().Put(context.Background(), put("k", "v"))
				if !errors.Is(err, tc.want) {
					t.Errorf("error %v, want %v", err, tc.want)
				}
				if tc.sends > 0 && sends != tc.sends || tc.sends == 0 && sends < 10 {
					t.Errorf("sent %d times, want %d", sends, tc.sends)
				}
				if got := c.current() - 1; got != tc.effects {
					t.Errorf("it had effect %d times, want %d", got, tc.effects)
				}
				if took := time.Since(began); tc.always && (took < 7*time.Second || took > 7200*time.Millisecond) {
					t.Errorf("gave up after %v, want 5 s and two election timeouts", took)
				}
			})
		})
	}
}

// A mutation whose answer does not come is not sent again, and its late answer reaches nobody else.
func TestMutationWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		defer c.close()
		slow := &slowRanges{fakeNode: c.nodes[1]}
		rt, err := New(Config{ClusterID: 77, Node: 1}, Deps{
			Ranges: slow, Directory: c, Cluster: fakeBook{c.nodes[1]}, Clock: c.nodes[1],
		})
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		if _, err := rt.KV().Put(ctx, put("k", "1")); !errors.Is(err, rpctypes.ErrGRPCCanceled) {
			t.Errorf("cancelled: %v", err)
		}
		if _, err := rt.KV().Put(context.Background(), put("k", "2")); !errors.Is(err, rpctypes.ErrGRPCTimeout) {
			t.Errorf("not answered: %v", err)
		}
		held := slow.take()
		if len(held) != 2 {
			t.Fatalf("sent %d times, want twice", len(held))
		}
		time.AfterFunc(time.Second, func() {
			for _, done := range held { // late answers, while another request waits
				done(&pb.PutResponse{Header: &pb.ResponseHeader{Revision: 1000}}, nil)
			}
			slow.take()[0](&pb.PutResponse{Header: &pb.ResponseHeader{Revision: 5}}, nil)
		})
		resp, err := rt.KV().Put(context.Background(), put("k", "3"))
		if err != nil || resp.Header.Revision != 5 {
			t.Errorf("got %v, %v; want the answer to this request", resp, err)
		}
	})
}

// slowRanges keeps the answers of writes.
type slowRanges struct {
	*fakeNode
	guard sync.Mutex
	held  []func(proto.Message, error)
}

func (s *slowRanges) Write(_ rangegroup.Request, done func(proto.Message, error)) {
	s.guard.Lock()
	defer s.guard.Unlock()
	s.held = append(s.held, done)
}

// take returns the answers that are owed.
func (s *slowRanges) take() []func(proto.Message, error) {
	s.guard.Lock()
	defer s.guard.Unlock()
	held := s.held
	s.held = nil
	return held
}

func TestSplitIsLearnt(t *testing.T) {
	bubble(t, 3, nil, func(c *fakeCluster) {
		n := c.nodes[2]
		n.put(t, "a", "1")
		n.put(t, "z", "1")
		c.split("m")
		n.put(t, "z", "2")
		n.put(t, "a", "2")
		resp := n.get(t, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}})
		if resp.Count != 2 || string(resp.Kvs[0].Value)+string(resp.Kvs[1].Value) != "22" {
			t.Errorf("read over the split: %v", resp)
		}
		if r := n.router.cache.lookup(ids.UserKey([]byte("z"))); r == nil || r.desc.Generation != 2 {
			t.Errorf("route of z: %v", r)
		}
	})
}

func TestSeveralRanges(t *testing.T) {
	bubble(t, 3, []string{"m"}, func(c *fakeCluster) {
		n := c.nodes[1]
		kv := n.router.KV()
		within := &pb.TxnRequest{Success: []*pb.RequestOp{opPut("a"), opPut("b")}}
		if _, err := kv.Txn(context.Background(), within); err != nil {
			t.Errorf("txn within a range: %v", err)
		}
		over := &pb.TxnRequest{Success: []*pb.RequestOp{opPut("a"), opPut("z")}}
		if _, err := kv.Txn(context.Background(), over); !errors.Is(err, errSeveralRanges) {
			t.Errorf("txn over ranges: %v", err)
		}
		del := &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}
		if _, err := kv.DeleteRange(context.Background(), del); !errors.Is(err, errSeveralRanges) {
			t.Errorf("delete over ranges: %v", err)
		}
		if resp, err := kv.Txn(context.Background(), &pb.TxnRequest{}); err != nil || !resp.Succeeded {
			t.Errorf("empty txn: %v, %v", resp, err)
		}
		if c.current() != 2 {
			t.Errorf("revision %d, want that of the one txn", c.current())
		}
		tx := &fakeTxner{}
		n.router.txner = tx
		if resp, err := kv.Txn(context.Background(), over); err != nil || resp.Header.Revision != 9 || resp.Header.MemberId != 1 {
			t.Errorf("through the Txner: %v, %v", resp, err)
		}
		if string(tx.anchor) != string(ids.UserKey([]byte("a"))) {
			t.Errorf("anchor %q", tx.anchor)
		}
	})
}

type fakeTxner struct{ anchor []byte }

func (f *fakeTxner) Execute(_ context.Context, _ proto.Message, s eval.Spans) (proto.Message, error) {
	f.anchor = s.Anchor
	return &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 9}}, nil
}

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(key, "v")}}
}

func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		defer c.close()
		slow := &slowRanges{fakeNode: c.nodes[1]}
		rt, err := New(Config{ClusterID: 77, Node: 1, InFlightMax: 2, InFlightBytes: 100}, Deps{
			Ranges: slow, Directory: c, Cluster: fakeBook{c.nodes[1]}, Clock: c.nodes[1],
		})
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		first := make(chan error, 1)
		go func() {
			_, err := rt.KV().Put(context.Background(), put("k", "v"))
			first <- err
		}()
		synctest.Wait()
		if _, err := rt.KV().Put(context.Background(), put("k", string(make([]byte, 100)))); !errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests) {
			t.Errorf("too many bytes: %v", err)
		}
		go func() {
			_, err := rt.KV().Put(context.Background(), put("k", "v"))
			first <- err
		}()
		synctest.Wait()
		if _, err := rt.KV().Range(context.Background(), get("k")); !errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests) {
			t.Errorf("too many requests: %v", err)
		}
		for _, done := range slow.take() {
			done(&pb.PutResponse{}, nil)
		}
		for range 2 {
			if err := <-first; err != nil {
				t.Error(err)
			}
		}
		if n, b := rt.inFlight.Load(), rt.inFlightBytes.Load(); n != 0 || b != 0 {
			t.Errorf("%d requests with %d bytes count as in flight at the end", n, b)
		}
	})
}

func TestHeadersNeverFall(t *testing.T) {
	bubble(t, 3, nil, func(c *fakeCluster) {
		n := c.nodes[2]
		rev := n.put(t, "k", "v")
		list, err := n.router.Cluster().MemberList(context.Background(), &pb.MemberListRequest{})
		if err != nil || list.Header.Revision < rev || len(list.Members) != 1 {
			t.Errorf("member list after revision %d: %v, %v", rev, list, err)
		}
		st, err := n.router.Maintenance().Status(context.Background(), &pb.StatusRequest{})
		if err != nil || st.Header.Revision < rev || st.Leader != 1 || st.DbSize != 1000 || st.DbSizeInUse != 900 || st.RaftTerm != 6 {
			t.Errorf("status after revision %d: %v, %v", rev, st, err)
		}
		// A historical read reports the current revision (#35).
		n.put(t, "k", "w")
		old := n.get(t, &pb.RangeRequest{Key: []byte("k"), Revision: rev})
		if old.Header.Revision != rev+1 || string(old.Kvs[0].Value) != "v" {
			t.Errorf("read at %d: %v", rev, old)
		}
		cr, err := n.router.KV().Compact(context.Background(), &pb.CompactionRequest{Revision: rev + 1})
		if err != nil || cr.Header.Revision != rev+1 {
			t.Errorf("compact: %v, %v", cr, err)
		}
		_, err = n.router.KV().Range(context.Background(), &pb.RangeRequest{Key: []byte("k"), Revision: rev})
		if !errors.Is(err, rpctypes.ErrGRPCCompacted) {
			t.Errorf("read below the floor: %v", err)
		}
		_, err = n.router.KV().Range(context.Background(), &pb.RangeRequest{Key: []byte("k"), Revision: rev + 2})
		if !errors.Is(err, rpctypes.ErrGRPCFutureRev) {
			t.Errorf("read of the future: %v", err)
		}
	})
}
