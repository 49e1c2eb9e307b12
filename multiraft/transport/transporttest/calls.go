package transporttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func testAnswers(t *testing.T, n Network) {
	refused := &ids.NotLeaderError{Range: 4, Leader: 9}
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		d.Handle(transport.MethodRange, func(from ids.NodeID, p []byte, reply func([]byte, error)) {
			reply([]byte(fmt.Sprintf("%v:%s", from, p)), nil)
		})
		d.Handle(transport.MethodConfirm, func(_ ids.NodeID, p []byte, reply func([]byte, error)) {
			go reply(nil, refused)
		})
		d.Handle(transport.MethodSnapshot, func(_ ids.NodeID, p []byte, reply func([]byte, error)) {
			reply(nil, rpctypes.ErrGRPCCompacted)
		})
		d.Handle(transport.MethodNode, func(_ ids.NodeID, p []byte, reply func([]byte, error)) {
			reply(make([]byte, transport.MaxPayload+1), nil)
		})
	})
	connect(t, d, 2, transport.MethodRange)
	for _, p := range []string{"", "x", strings.Repeat("y", 3<<20)} {
		if got, err := call(t, d, 2, transport.MethodRange, p); err != nil || got != "1:"+p {
			t.Errorf("%d bytes: got %d bytes, %v", len(p), len(got), err)
		}
	}
	if _, err := call(t, d, 2, transport.MethodConfirm, ""); !reflect.DeepEqual(err, refused) {
		t.Errorf("typed error came as %#v", err)
	}
	if _, err := call(t, d, 2, transport.MethodSnapshot, ""); rpctypes.Error(err) != rpctypes.ErrCompacted {
		t.Errorf("etcd's error came as %#v", err)
	}
	if _, err := call(t, d, 2, transport.MethodTxn, ""); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
	if _, err := call(t, d, 2, transport.MethodNode, ""); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too large an answer: %v", err)
	}
	huge := strings.Repeat("z", transport.MaxPayload+1)
	if _, err := call(t, d, 2, transport.MethodRange, huge); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("too large a call: %v", err)
	}
}

func testCallOrder(t *testing.T, n Network) {
	const count = 3000
	var got [2]log
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	methods := [2]transport.Method{transport.MethodExchange, transport.MethodFeed}
	start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		for i, m := range methods {
			d.Handle(m, func(_ ids.NodeID, p []byte, reply func([]byte, error)) {
				got[i].add(string(p))
				reply(nil, nil)
			})
		}
		d.Handle(transport.MethodRange, echo)
	})
	connect(t, d, 2, transport.MethodRange)
	var wg sync.WaitGroup
	for i := range count {
		for _, m := range methods {
			wg.Add(1)
			d.Go(t.Context(), 2, m, []byte(strconv.Itoa(i)), func(_ []byte, err error) {
				if err != nil {
					t.Error(err)
				}
				wg.Done()
			})
		}
	}
	wg.Wait()
	for i := range methods {
		items := got[i].get()
		if len(items) != count {
			t.Fatalf("method %d: %d calls arrived", methods[i], len(items))
		}
		for j, s := range items {
			if s != strconv.Itoa(j) {
				t.Fatalf("method %d: call %d arrived as number %d", methods[i], j, j)
			}
		}
	}
}

func testRaftOrder(t *testing.T, n Network) {
	var got log
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		d.HandleRaft(func(from ids.NodeID, msgs []*pontoonpb.RaftMessage) {
			for _, m := range msgs {
				if from != 1 || m.GetRangeId() != 7 || m.GetToReplica() != 3 {
					t.Errorf("from %v: %v", from, m)
				}
				got.add(string(m.GetMessage()))
			}
		})
		d.Handle(transport.MethodRange, echo)
	})
	connect(t, d, 2, transport.MethodRange)
	within(t, 10*time.Second, "a Raft message gets through", func() bool {
		d.SendRaft(2, []*pontoonpb.RaftMessage{raftMessage("-1")})
		return len(got.get()) > 0
	})
	const count = 2000
	for i := range count {
		if !d.SendRaft(2, []*pontoonpb.RaftMessage{raftMessage(strconv.Itoa(2 * i)), raftMessage(strconv.Itoa(2*i + 1))}) {
			t.Fatalf("batch %d was dropped", i)
		}
	}
	within(t, 10*time.Second, "all messages arrive", func() bool {
		items := got.get()
		return items[len(items)-1] == strconv.Itoa(2*count-1)
	})
	next := 0
	for _, s := range got.get() {
		if s == "-1" {
			continue
		}
		if s != strconv.Itoa(next) {
			t.Fatalf("message %s arrived in place of %d", s, next)
		}
		next++
	}
}

func testContext(t *testing.T, n Network) {
	var late atomic.Pointer[func([]byte, error)]
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		d.Handle(transport.MethodRange, echo)
		d.Handle(transport.MethodTxn, func(_ ids.NodeID, _ []byte, reply func([]byte, error)) { late.Store(&reply) })
	})
	connect(t, d, 2, transport.MethodRange)
	ctx, cancel := context.WithCancel(t.Context())
	var dones atomic.Int32
	ended := make(chan error, 2)
	d.Go(ctx, 2, transport.MethodTxn, nil, func(_ []byte, err error) { dones.Add(1); ended <- err })
	within(t, 5*time.Second, "the call arrives", func() bool { return late.Load() != nil })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	(*late.Load())([]byte("too late"), nil)
	connect(t, d, 2, transport.MethodRange) // the late answer went before this one
	if dones.Load() != 1 {
		t.Errorf("done was called %d times", dones.Load())
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := transport.Call(ctx, d, 2, transport.MethodTxn, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timed out: %v", err)
	}
	if _, err := transport.Call(ctx, d, 2, transport.MethodTxn, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func testNotSent(t *testing.T, n Network) {
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	for _, to := range []ids.NodeID{1, 77} { // itself, and a node that does not exist
		if _, err := call(t, d, to, transport.MethodRange, ""); !errors.Is(err, transport.ErrNotSent) {
			t.Errorf("to node %v: %v", to, err)
		}
	}
	if d.SendRaft(1, []*pontoonpb.RaftMessage{raftMessage("")}) {
		t.Error("a Raft message to itself was accepted")
	}
	within(t, 5*time.Second, "Raft messages to nobody are dropped", func() bool {
		return !d.SendRaft(77, []*pontoonpb.RaftMessage{raftMessage("")})
	})
	if d.Alive(77) || d.Alive(1) {
		t.Error("nobody is alive")
	}
	_ = d.Close()
	if _, err := call(t, d, 2, transport.MethodRange, ""); !errors.Is(err, transport.ErrNotSent) {
		t.Errorf("after Close: %v", err)
	}
}

// testDoneOutsideGo: a caller may hold, while it calls Go, a lock that done takes.
func testDoneOutsideGo(t *testing.T, n Network) {
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) { d.Handle(transport.MethodRange, echo) })
	connect(t, d, 2, transport.MethodRange)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 200 {
		for _, ctx := range []context.Context{t.Context(), ended} {
			for _, to := range []ids.NodeID{1, 2, 77} {
				wg.Add(1)
				mu.Lock()
				d.Go(ctx, to, transport.MethodRange, nil, func([]byte, error) {
					mu.Lock()
					defer mu.Unlock()
					wg.Done()
				})
				mu.Unlock()
			}
		}
	}
	wg.Wait()
}

func testLost(t *testing.T, n Network) {
	arrived := make(chan struct{}, 1)
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	e := start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		d.Handle(transport.MethodRange, echo)
		d.Handle(transport.MethodTxn, func(ids.NodeID, []byte, func([]byte, error)) { arrived <- struct{}{} })
	})
	connect(t, d, 2, transport.MethodRange)
	ended := make(chan error, 1)
	d.Go(t.Context(), 2, transport.MethodTxn, nil, func(_ []byte, err error) { ended <- err })
	<-arrived
	_ = e.Close()
	if err := <-ended; !errors.Is(err, transport.ErrLost) {
		t.Errorf("got %v", err)
	}
	if _, err := call(t, d, 2, transport.MethodTxn, ""); !errors.Is(err, transport.ErrNotSent) {
		t.Errorf("to a closed node: %v", err)
	}
}

func testCloseEndsOwnCalls(t *testing.T, n Network) {
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		d.Handle(transport.MethodRange, echo)
		d.Handle(transport.MethodTxn, silent)
	})
	connect(t, d, 2, transport.MethodRange)
	var dones atomic.Int32
	for range 100 {
		d.Go(t.Context(), 2, transport.MethodTxn, nil, func(_ []byte, err error) {
			if !errors.Is(err, transport.ErrLost) && !errors.Is(err, transport.ErrNotSent) {
				t.Error(err)
			}
			dones.Add(1)
		})
	}
	_ = d.Close()
	if dones.Load() != 100 {
		t.Errorf("%d of 100 calls had ended when Close returned", dones.Load())
	}
	_ = d.Close()
}

// testExactlyOnce calls while the callee is closed and comes back, again and again.
func testExactlyOnce(t *testing.T, n Network) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const rounds, perRound = 4, 400
	var seen [rounds * perRound]atomic.Int32
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	callee := func(incarnation uint64) Node {
		return start(t, n, Config{ID: 2, Incarnation: incarnation}, func(d Node) {
			d.Handle(transport.MethodRange, func(_ ids.NodeID, p []byte, reply func([]byte, error)) {
				if i, err := strconv.Atoi(string(p)); err == nil {
					seen[i].Add(1)
				}
				reply(p, nil)
			})
		})
	}
	var wg sync.WaitGroup
	var dones [rounds * perRound]atomic.Int32
	var answered, lost, notSent atomic.Int32
	one := func(i int) {
		wg.Add(1)
		want := strconv.Itoa(i)
		d.Go(t.Context(), 2, transport.MethodRange, []byte(want), func(p []byte, err error) {
			defer wg.Done()
			dones[i].Add(1)
			ran := seen[i].Load()
			switch {
			case err == nil && string(p) == want && ran == 1:
				answered.Add(1)
			case errors.Is(err, transport.ErrLost) && ran <= 1:
				lost.Add(1)
			case errors.Is(err, transport.ErrNotSent) && ran == 0:
				notSent.Add(1)
			default:
				t.Errorf("call %d ran %d times, answer %q, %v", i, ran, p, err)
			}
		})
	}
	for round := range rounds {
		e := callee(uint64(round + 1))
		connect(t, d, 2, transport.MethodRange)
		closeAt := rng.IntN(perRound)
		for i := range perRound {
			if i == closeAt {
				wg.Go(func() { _ = e.Close() })
			}
			one(round*perRound + i)
			if i%16 == 0 {
				time.Sleep(time.Duration(rng.IntN(500)) * time.Microsecond)
			}
		}
		wg.Wait()
	}
	t.Logf("%d answered, %d lost, %d not sent", answered.Load(), lost.Load(), notSent.Load())
	for i := range dones {
		if dones[i].Load() != 1 || seen[i].Load() > 1 {
			t.Errorf("call %d: done %d times, ran %d times", i, dones[i].Load(), seen[i].Load())
		}
	}
}
