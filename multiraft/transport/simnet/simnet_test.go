package simnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"github.com/pontoon-kv/pontoon/multiraft/transport/transporttest"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

type network struct{ *simnet.Network }

func (n network) Join(t *testing.T, c transporttest.Config) transporttest.Node {
	opts := []simnet.JoinOption{simnet.WithDisk(c.Disk)}
	if c.CheckPeer != nil {
		opts = append(opts, simnet.WithCheckPeer(c.CheckPeer))
	}
	d := n.Network.Join(c.ID, c.Incarnation, opts...)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestConformance(t *testing.T) {
	for name, opt := range map[string]simnet.Options{
		"Instant": {},
		"Slow":    {Delay: time.Millisecond, Jitter: 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			transporttest.Run(t, synctest.Test, func(t *testing.T, l transporttest.Limits) transporttest.Network {
				opt := opt
				opt.Seed = time.Now().UnixNano()
				opt.LivenessTimeout = transporttest.LivenessTimeout
				opt.QueueMessages, opt.CallsInFlight = l.RaftQueueMessages, l.CallsInFlight
				return network{simnet.New(opt)}
			})
		})
	}
}

// pair makes nodes 1 and 2. Node 2 counts the calls of MethodTxn and answers them; MethodNode is answered too.
func pair(t *testing.T, opt simnet.Options) (n *simnet.Network, d, e *simnet.Node, ran *atomic.Int32) {
	t.Helper()
	n = simnet.New(opt)
	t.Cleanup(n.Close)
	ran = new(atomic.Int32)
	d, e = n.Join(1, 1), n.Join(2, 1)
	for _, x := range []*simnet.Node{d, e} {
		x.Handle(transport.MethodNode, func(_ ids.NodeID, p []byte, reply func([]byte, error)) { reply(p, nil) })
	}
	e.Handle(transport.MethodTxn, func(_ ids.NodeID, p []byte, reply func([]byte, error)) { ran.Add(1); reply(p, nil) })
	for _, x := range []*simnet.Node{d, e} {
		if err := x.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := transport.Call(t.Context(), d, 2, transport.MethodNode, nil); err != nil {
		t.Fatal(err)
	}
	return n, d, e, ran
}

func TestCutBreaksAfterTheLivenessTimeout(t *testing.T) {
	for _, cut := range [][2]ids.NodeID{{1, 2}, {2, 1}} {
		t.Run(fmt.Sprintf("%v to %v", cut[0], cut[1]), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, d, _, ran := pair(t, simnet.Options{Delay: time.Millisecond})
				n.Cut(cut[0], cut[1])
				began := time.Now()
				_, err := transport.Call(t.Context(), d, 2, transport.MethodTxn, nil)
				if took := time.Since(began); !errors.Is(err, transport.ErrLost) || took < 700*time.Millisecond || took > 1500*time.Millisecond {
					t.Errorf("after %v: %v", took, err)
				}
				if arrived := ran.Load() == 1; arrived != (cut[0] == 2) {
					t.Errorf("arrived: %v", arrived)
				}
				if _, err := transport.Call(t.Context(), d, 2, transport.MethodTxn, nil); !errors.Is(err, transport.ErrNotSent) {
					t.Errorf("while cut: %v", err)
				}
				time.Sleep(time.Second)
				if d.Alive(2) {
					t.Error("alive behind a cut")
				}
				n.Heal(cut[0], cut[1])
				if _, err := transport.Call(t.Context(), d, 2, transport.MethodNode, nil); err != nil {
					t.Errorf("after healing: %v", err)
				}
			})
		})
	}
}

func TestShortCutLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, d, _, ran := pair(t, simnet.Options{Delay: time.Millisecond})
		n.Isolate(2)
		time.AfterFunc(500*time.Millisecond, func() { n.Reconnect(2) })
		began := time.Now()
		_, err := transport.Call(t.Context(), d, 2, transport.MethodTxn, nil)
		if err != nil || ran.Load() != 1 || time.Since(began) < 500*time.Millisecond {
			t.Errorf("after %v: ran %d times, %v", time.Since(began), ran.Load(), err)
		}
	})
}

// TestLostCallsMayArrive: both fates of a call whose connection was given up must happen.
func TestLostCallsMayArrive(t *testing.T) {
	fates := map[int32]int{}
	for seed := range int64(32) {
		synctest.Test(t, func(t *testing.T) {
			n, d, _, ran := pair(t, simnet.Options{Seed: seed})
			n.Cut(1, 2)
			if _, err := transport.Call(t.Context(), d, 2, transport.MethodTxn, nil); !errors.Is(err, transport.ErrLost) {
				t.Fatal(err)
			}
			n.HealAll()
			time.Sleep(time.Second)
			fates[ran.Load()]++
		})
	}
	if fates[0] == 0 || fates[1] == 0 || len(fates) != 2 {
		t.Errorf("times run: %v", fates)
	}
}

func TestCrashLosesWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, d, e, ran := pair(t, simnet.Options{Delay: 100 * time.Millisecond})
		got := make(chan error, 2)
		d.Go(t.Context(), 2, transport.MethodTxn, nil, func(_ []byte, err error) { got <- err })
		e.Go(t.Context(), 1, transport.MethodNode, nil, func(_ []byte, err error) { got <- err })
		time.Sleep(50 * time.Millisecond)
		n.Crash(2)
		for range 2 {
			if err := <-got; !errors.Is(err, transport.ErrLost) {
				t.Error(err)
			}
		}
		e2 := n.Join(2, 2)
		e2.Handle(transport.MethodTxn, func(_ ids.NodeID, p []byte, reply func([]byte, error)) { ran.Add(1); reply(p, nil) })
		if err := e2.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if ran.Load() != 0 {
			t.Error("a frame survived the crash")
		}
		if _, err := transport.Call(t.Context(), d, 2, transport.MethodTxn, nil); err != nil || ran.Load() != 1 {
			t.Errorf("ran %d times, %v", ran.Load(), err)
		}
	})
}

func TestCrashBehindACutIsNoticedByRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, d, _, _ := pair(t, simnet.Options{LivenessTimeout: time.Hour})
		got := make(chan error, 1)
		n.Isolate(2)
		d.Go(t.Context(), 2, transport.MethodTxn, nil, func(_ []byte, err error) { got <- err })
		n.Crash(2)
		n.HealAll()
		e := n.Join(2, 2)
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		e.Alive(1) // connects
		if err := <-got; !errors.Is(err, transport.ErrLost) {
			t.Error(err)
		}
	})
}

func TestNoSharedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(simnet.Options{Delay: time.Millisecond})
		t.Cleanup(n.Close)
		d, e := n.Join(1, 1), n.Join(2, 1)
		var got [][]byte
		answer := []byte("answer")
		e.HandleRaft(func(_ ids.NodeID, msgs []*pontoonpb.RaftMessage) { got = append(got, msgs[0].GetMessage()) })
		e.Handle(transport.MethodNode, func(_ ids.NodeID, p []byte, reply func([]byte, error)) {
			got = append(got, p)
			reply(answer, nil)
			clear(answer)
		})
		for _, x := range []*simnet.Node{d, e} {
			if err := x.Start(); err != nil {
				t.Fatal(err)
			}
		}
		raft, call := []byte("raft"), []byte("call")
		d.SendRaft(2, []*pontoonpb.RaftMessage{{RangeId: 3, Message: raft}})
		clear(raft)
		answered := make(chan []byte, 1)
		d.Go(context.Background(), 2, transport.MethodNode, call, func(p []byte, _ error) { answered <- p })
		clear(call)
		if a := <-answered; string(a) != "answer" {
			t.Errorf("got %q", a)
		}
		if want := [][]byte{[]byte("raft"), []byte("call")}; !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("got %q", got)
		}
	})
}

func TestDropRaft(t *testing.T) {
	counts := map[int32]bool{}
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			n := simnet.New(simnet.Options{Seed: 4, DropRaft: 0.3})
			t.Cleanup(n.Close)
			d, e := n.Join(1, 1), n.Join(2, 1)
			var got atomic.Int32
			e.HandleRaft(func(ids.NodeID, []*pontoonpb.RaftMessage) { got.Add(1) })
			for _, x := range []*simnet.Node{d, e} {
				if err := x.Start(); err != nil {
					t.Fatal(err)
				}
			}
			for range 1000 {
				d.SendRaft(2, []*pontoonpb.RaftMessage{{RangeId: 3}})
			}
			synctest.Wait()
			if got.Load() < 600 || got.Load() > 800 {
				t.Errorf("%d of 1000 arrived", got.Load())
			}
			counts[got.Load()] = true
		})
	}
	if len(counts) != 1 {
		t.Errorf("the same seed gave %v", counts)
	}
}
