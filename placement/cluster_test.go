package placement

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
)

// cluster is a few nodes that run nothing but placement, in one bubble of virtual time.
type cluster struct {
	t     testing.TB
	net   *simnet.Network
	boot  Bootstrap
	desc  *ids.Descriptor
	nodes []*testNode
	proof Proof
}

type testNode struct {
	id          ids.NodeID
	incarnation uint64
	fs          vfs.FS
	engine      *storage.Engine
	net         *simnet.Node
	host        *multiraft.Host
	service     *Service
	client      *Client
}

func newCluster(t testing.TB, n int, proof Proof) *cluster {
	c := &cluster{t: t, net: simnet.New(simnet.Options{Seed: 1, Delay: time.Millisecond}), proof: proof}
	c.desc = &ids.Descriptor{ID: ids.PlacementRange, Generation: 1}
	for i := range n {
		id := ids.NodeID(i + 1)
		c.desc.Replicas = append(c.desc.Replicas, ids.ReplicaDesc{Node: id, Replica: ids.ReplicaID(i + 1)})
		c.boot.Nodes = append(c.boot.Nodes, NodeInfo{ID: id, Name: string(rune('a' + i))})
	}
	c.boot.Ranges = []*ids.Descriptor{c.desc}
	for i := range n {
		c.nodes = append(c.nodes, &testNode{id: ids.NodeID(i + 1), fs: vfs.NewMem()})
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
		c.net.Close()
	})
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) start(i int) {
	c.t.Helper()
	n := c.nodes[i]
	n.incarnation++
	var err error
	n.engine, err = storage.Open(storage.Config{Dir: "placement", FS: n.fs, CacheBytes: 1 << 20, MemTableBytes: 1 << 20, Name: "placement"})
	c.must(err)
	c.must(InitEngine(n.engine, c.initial(n.id), c.boot))
	n.net = c.net.Join(n.id, n.incarnation, simnet.WithDisk(uint64(n.id)))
	n.service, err = New(Config{Node: n.id, Engine: n.engine, Clock: clock.NewVirtual(1, 0), LeaseDuration: time.Second, Proof: c.proof, Transport: n.net})
	c.must(err)
	n.host, err = multiraft.New(multiraft.Config{Node: n.id, Engine: n.engine, Transport: n.net, Seed: int64(i + 1)})
	c.must(err)
	n.net.HandleRaft(n.host.HandleRaft)
	n.net.Handle(transport.MethodSnapshot, n.host.HandleSnapshot)
	g, err := n.host.Add(multiraft.GroupConfig{State: n.service.State(), StateMachine: n.service.StateMachine(), Campaign: i == 0 && n.incarnation == 1})
	c.must(err)
	c.must(n.net.Start())
	c.must(n.host.Start())
	n.service.Start(g)
	nodes := []ids.NodeID{}
	for _, r := range c.desc.Replicas {
		nodes = append(nodes, r.Node)
	}
	n.client, err = NewClient(ClientConfig{Node: n.id, Incarnation: n.incarnation, Nodes: nodes, Local: n.service, LeaseDuration: time.Second, Transport: n.net})
	c.must(err)
	n.client.Start()
}

func (c *cluster) initial(node ids.NodeID) storage.RangeState {
	cs := &raftpb.ConfState{}
	for _, r := range c.desc.Replicas {
		cs.Voters = append(cs.Voters, uint64(r.Replica))
	}
	term, commit := uint64(5), uint64(10)
	r, _ := c.desc.On(node)
	return storage.RangeState{Descriptor: c.desc, Replica: r.Replica, ConfState: cs, HardState: &raftpb.HardState{Term: &term, Commit: &commit},
		Applied: storage.Applied{Index: 10, Term: 5, MaxRevision: 1}, Truncated: storage.EntryID{Term: 5, Index: 10}, Last: 10}
}

// stop ends a node without any farewell.
func (c *cluster) stop(i int) {
	n := c.nodes[i]
	if n.engine == nil {
		return
	}
	c.net.Crash(n.id)
	n.client.Close()
	n.service.Close()
	n.host.Close()
	n.net.Close()
	n.engine.Close()
	n.engine = nil
}

// take gets revisions for a range of its own per node, trying again until it succeeds.
func (n *testNode) take(t testing.TB, want int) Answer {
	t.Helper()
	for range 1000 {
		ch := make(chan Answer, 1)
		n.client.Join(Join{Range: ids.RangeID(100 + n.id), Term: 1, Want: want, Proven: n.client.Known(), Done: func(a Answer) { ch <- a }})
		switch a := <-ch; {
		case a.Err == nil:
			return a
		case errors.Is(a.Err, ErrNeedProof), errors.Is(a.Err, ErrSessionLost), errors.Is(a.Err, ErrNoSequencer):
			time.Sleep(5 * time.Millisecond)
		default:
			t.Fatal(a.Err)
		}
	}
	t.Fatal("no revision in 1000 attempts")
	return Answer{}
}

// sequencer returns the index of the node that serves.
func (c *cluster) sequencer() int {
	for i, n := range c.nodes {
		if n.engine == nil {
			continue
		}
		if _, _, ok := n.service.serving(); ok {
			return i
		}
	}
	return -1
}

// awaitLeader returns after how long another node than the victim leads the group.
func (c *cluster) awaitLeader(victim int) time.Duration {
	start := time.Now()
	for time.Since(start) < time.Minute {
		for i, n := range c.nodes {
			if i != victim && n.service.isLeading() {
				return time.Since(start)
			}
		}
		time.Sleep(time.Millisecond)
	}
	c.t.Fatal("no leader in a minute")
	return 0
}

func (s *Service) serving() (uint64, ids.Revision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.machine.Serving()
}

func TestFreshStoreIsDense(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, nodes, ProofLease)
			start := time.Now()
			for want := ids.Revision(2); want < 60; want++ {
				if a := c.nodes[int(want)%nodes].take(t, 1); a.First != want || a.Current != want-1 {
					t.Fatalf("got %+v, want revision %d", a, want)
				}
			}
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}

// A clean shutdown writes down the exact counter: nothing is skipped. After a crash numbers may be, but none repeats.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, ProofLease)
		n := c.nodes[0]
		last := n.take(t, 5).First + 4
		c.must(n.client.Release(context.Background()))
		c.stop(0)
		c.start(0)
		if a := n.take(t, 1); a.First != last+1 {
			t.Fatalf("after a clean restart: %d, want %d", a.First, last+1)
		}
		time.Sleep(time.Second)
		c.stop(0)
		c.start(0)
		if a := n.take(t, 1); a.First <= last+1 {
			t.Fatalf("after a crash: %d was given out before", a.First)
		}
	})
}

// All nodes take revisions while the sequencer's node is stopped again and again: none twice, in real-time order, and
// back at once when the group has a leader and the old lease is over.
func TestFailover(t *testing.T) {
	for _, proof := range []Proof{ProofLease, ProofQuorum} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, proof)
			c.nodes[0].take(t, 1)
			var mu sync.Mutex
			var all []ids.Revision
			var newest atomic.Int64
			for round := range 5 {
				victim := c.sequencer()
				var wg sync.WaitGroup
				if round%2 == 0 {
					c.stop(victim)
				} else {
					c.net.Isolate(c.nodes[victim].id)
				}
				start := time.Now()
				elected := c.awaitLeader(victim)
				for i, n := range c.nodes {
					if i == victim {
						continue
					}
					wg.Add(1)
					go func() {
						defer wg.Done()
						for range 50 {
							before := ids.Revision(newest.Load())
							a := n.take(t, 1)
							if a.First <= before {
								t.Errorf("revision %d after %d was taken", a.First, before)
							}
							for {
								o := newest.Load()
								if int64(a.First) <= o || newest.CompareAndSwap(o, int64(a.First)) {
									break
								}
							}
							mu.Lock()
							all = append(all, a.First)
							mu.Unlock()
						}
					}()
				}
				wg.Wait()
				// How long raft takes to elect, with split votes now and then, is not this package's.
				d := time.Since(start) - elected
				t.Logf("round %d: node %d gone, elected after %v, 100 revisions %v later", round, victim+1, elected, d)
				if d > 1500*time.Millisecond {
					t.Errorf("round %d: the failover took %v after the election", round, d)
				}
				if round%2 == 0 {
					c.start(victim)
				} else {
					c.net.Reconnect(c.nodes[victim].id)
				}
				time.Sleep(3 * time.Second)
			}
			slices.Sort(all)
			if len(slices.Compact(slices.Clone(all))) != len(all) {
				t.Fatalf("a revision was given out twice: %v", all)
			}
		})
	}
}

// A node that takes over from one that shut down goes on at the very next revision, at once.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, ProofLease)
		last := c.nodes[0].take(t, 3).First + 2
		s := c.sequencer()
		start := time.Now()
		c.must(c.nodes[s].client.Release(context.Background()))
		n := c.nodes[(s+1)%3]
		if a := n.take(t, 1); a.First != last+1 {
			t.Fatalf("after the handover: %d, want %d", a.First, last+1)
		}
		if d := time.Since(start); d > 500*time.Millisecond {
			t.Errorf("the handover took %v", d)
		}
		if now := c.sequencer(); now == s {
			t.Errorf("node %d is the sequencer again", s+1)
		}
	})
}

func TestCompactAsEtcd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, ProofLease)
		ctx := context.Background()
		n := c.nodes[2]
		var told atomic.Int64
		c.nodes[1].client.OnFloor(func(f ids.Revision) { told.Store(int64(f)) })
		n.take(t, 9) // 2 … 10
		for _, x := range []struct {
			rev ids.Revision
			err error
		}{{-1, rpctypes.ErrGRPCCompacted}, {0, nil}, {0, rpctypes.ErrGRPCCompacted}, {11, rpctypes.ErrGRPCFutureRev}, {10, nil},
			{10, rpctypes.ErrGRPCCompacted}, {9, rpctypes.ErrGRPCCompacted}} {
			err := n.client.Compact(ctx, x.rev)
			if (err == nil) != (x.err == nil) || err != nil && err.Error() != x.err.Error() {
				t.Fatalf("Compact(%d): %v, want %v", x.rev, err, x.err)
			}
		}
		for _, n := range c.nodes {
			if current, floor, err := n.client.Confirm(ctx); err != nil || current != 10 || floor != 10 {
				t.Fatalf("node %v confirms %d, floor %d, %v", n.id, current, floor, err)
			}
		}
		if told.Load() != 10 {
			t.Errorf("OnFloor was told %d", told.Load())
		}
	})
}

func TestRegistryRefusesAnotherDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, ProofLease)
		ctx := context.Background()
		for _, n := range c.nodes {
			c.must(n.client.RegisterNode(ctx, NodeInfo{ID: n.id, Name: "n", DiskID: 77, Incarnation: 1, ClientURLs: []string{"http://x"}}))
		}
		if err := c.nodes[1].client.RegisterNode(ctx, NodeInfo{ID: 1, DiskID: 78, Incarnation: 2}); err == nil {
			t.Fatal("a wiped node was let back in")
		}
		time.Sleep(time.Second)
		if err := c.nodes[2].client.CheckPeer(1, 78); err == nil {
			t.Fatal("a wiped node may connect")
		}
		c.must(c.nodes[2].client.CheckPeer(1, 77))
		nodes, err := c.nodes[0].client.Nodes(ctx)
		c.must(err)
		if len(nodes) != 3 || nodes[0].DiskID != 77 || len(nodes[0].ClientURLs) != 1 {
			t.Fatalf("nodes %+v", nodes)
		}
		first, err := c.nodes[0].client.AllocateRanges(ctx, 5)
		c.must(err)
		second, err := c.nodes[1].client.AllocateRanges(ctx, 1)
		c.must(err)
		if second != first+5 {
			t.Fatalf("ranges %d and %d", first, second)
		}
	})
}
