package multiraft

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
)

// logSize is the number of entries in a replica's log, and the bytes of it in memory.
func (n *testNode) logSize(r ids.RangeID) (entries uint64, tail int64) {
	n.inspect(r, func(g *Group, _ *machine) { entries, tail = g.log.last-g.log.truncated.Index, g.log.tailBytes })
	return entries, tail
}

// TestLogIsTruncated checks the bounds of the log: under load, after it, and with a follower that is away.
func TestLogIsTruncated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		r := c.ranges[0]
		c.eventually(5*time.Second, "a leader", c.allLed)
		data := string(make([]byte, 16<<10))
		write := func(n int) {
			for i := range n {
				c.propose(r, fmt.Sprint(i)+data)
				if i%10 == 0 {
					time.Sleep(5 * time.Millisecond)
				}
			}
		}
		const entry = 16<<10 + 64
		write(1000) // 16 MiB
		synctest.Wait()
		for _, n := range c.nodes {
			got, tail := n.logSize(r)
			if got*entry > logKeepBytes+4<<20 {
				t.Errorf("node %v: %d bytes of log under load", n.id, got*entry)
			}
			if tail > 2*tailBytesMax {
				t.Errorf("node %v: %d bytes of log in memory", n.id, tail)
			}
		}
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 3 })
		for _, n := range c.nodes {
			if got, tail := n.logSize(r); got != 0 || tail != 0 {
				t.Errorf("node %v: %d entries of log asleep", n.id, got)
			}
			states, err := n.engine.Ranges()
			if err != nil || states[0].Last != states[0].Truncated.Index {
				t.Errorf("node %v: the engine holds entries from %d to %d: %v", n.id, states[0].Truncated.Index, states[0].Last, err)
			}
		}
		c.nodes[2].crash()
		c.eventually(3*time.Second, "a leader", c.allLed)
		write(1000)
		time.Sleep(2 * time.Second)
		for _, n := range c.nodes[:2] {
			if got, _ := n.logSize(r); got*entry > 1<<20 {
				t.Errorf("node %v: holds %d bytes of log for a dead follower", n.id, got*entry)
			}
		}
		c.nodes[2].restart()
		c.eventually(10*time.Second, "caught up", c.converged)
		c.verify()
	})
}

// slowImports makes the tables of snapshots slow to write, so that appends come while one is being installed.
func slowImports(n *testNode) {
	n.disk = func(fs vfs.FS) vfs.FS { return slow(fs, "import", 30*time.Millisecond) }
}

// TestSnapshotCatchesUp takes a node away until the log that it misses is gone, with large ranges, and lets it return
// while writes go on.
func TestSnapshotCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusterWith(t, 3, 8, simnet.Options{Seed: 1, Delay: time.Millisecond}, slowImports)
		defer c.close()
		ballast := make([]byte, 2<<20)
		c.ballast.Store(&ballast)
		c.eventually(5*time.Second, "leaders", c.allLed)
		away := c.nodes[1]
		away.crash()
		c.eventually(5*time.Second, "leaders", c.allLed)
		for i := range 70 {
			for _, r := range c.ranges {
				c.propose(r, fmt.Sprintf("%d-%d", r, i))
			}
			time.Sleep(40 * time.Millisecond)
		}
		away.restart()
		for i := range 40 {
			for _, r := range c.ranges {
				c.propose(r, fmt.Sprintf("%d-b%d", r, i))
			}
			time.Sleep(15 * time.Millisecond)
		}
		c.eventually(20*time.Second, "caught up", c.converged)
		c.verify()
		for _, r := range c.ranges {
			if away.machines[r].restored == 0 {
				t.Errorf("range %d needed no snapshot", r)
			}
		}
		// And what it has is on its disk.
		away.crash()
		away.restart()
		c.eventually(20*time.Second, "back", c.converged)
		c.verify()
	})
}

// TestSnapshotSurvivesFaults crashes sender and receiver at random moments of snapshots.
func TestSnapshotSurvivesFaults(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		c := newClusterWith(t, 3, 6,
			simnet.Options{Seed: seed, Delay: 3 * time.Millisecond, Jitter: 5 * time.Millisecond}, slowImports)
		defer c.close()
		ballast := make([]byte, 1<<20)
		c.ballast.Store(&ballast)
		serial := 0
		write := func(n int) {
			for range n {
				for _, r := range c.ranges {
					serial++
					c.propose(r, fmt.Sprint(serial))
				}
				time.Sleep(40 * time.Millisecond)
			}
		}
		c.eventually(5*time.Second, "leaders", c.allLed)
		for range 4 {
			away := c.nodes[c.random.IntN(3)]
			away.crash()
			c.eventually(5*time.Second, "leaders", c.allLed)
			write(45)
			away.restart()
			time.Sleep(time.Duration(c.random.IntN(150)) * time.Millisecond)
			victim := c.nodes[c.random.IntN(3)]
			victim.crash()
			write(c.random.IntN(8))
			victim.restart()
			write(c.random.IntN(20))
		}
		c.eventually(30*time.Second, "leaders", c.allLed)
		c.eventually(30*time.Second, "all the same", c.converged)
		c.verify()
	})
}

// TestSnapshotIsRefused sends snapshots that must not come: for a range that is not here, for one that overlaps another
// replica, for another replica id, for one that was removed.
func TestSnapshotIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 2, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		c.eventually(5*time.Second, "leaders", c.allLed)
		h := c.nodes[0].host
		try := func(state storage.RangeState, to ids.ReplicaID) error {
			header := snapshotHeader{from: 2, to: to, term: 9, state: state}
			body, err := header.encode()
			if err != nil {
				t.Fatal(err)
			}
			answer := make(chan error, 1)
			h.HandleSnapshot(2, trailer{state.Descriptor.ID, 1, snapshotBegin}.append(body),
				func(_ []byte, err error) { answer <- err })
			return <-answer
		}
		state := c.initial(c.ranges[0], 1)
		if err := try(state, 7); err == nil {
			t.Error("a snapshot for another replica was let in")
		}
		other := c.initial(77, 1)
		if err := try(other, 1); err == nil {
			t.Error("a snapshot for an unknown range was let in")
		}
		overlap := *other.Descriptor
		overlap.Span = c.span(c.ranges[0])
		other.Descriptor = &overlap
		h.cfg.AcceptSnapshot = func(storage.RangeState) (StateMachine, error) { return new(machine), nil }
		if err := try(other, 1); err == nil {
			t.Error("a snapshot that overlaps another replica was let in")
		}
		b := c.nodes[0].engine.NewBatch()
		defer b.Close()
		gone := c.initial(88, 1)
		b.CreateRange(gone)
		b.RemoveRange(88, 1, gone.Descriptor.Span)
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
		if err := try(gone, 1); err == nil {
			t.Error("a snapshot for a removed replica was let in")
		}
		if err := try(gone, 2); err != nil {
			t.Errorf("a snapshot for its successor: %v", err)
		}
		// Its sender lost the connection and begins again: it is turned away once, while the first one makes room.
		if err := try(gone, 2); err == nil {
			t.Error("two snapshots of a range at once")
		}
		synctest.Wait()
		if err := try(gone, 2); err != nil {
			t.Errorf("a snapshot whose predecessor broke off: %v", err)
		}
		time.Sleep(receiveTimeout + time.Second) // the last one is given up
		synctest.Wait()
		h.receiver.mu.Lock()
		defer h.receiver.mu.Unlock()
		if len(h.receiver.mu.imports) != 0 {
			t.Error("an abandoned snapshot still holds its place")
		}
	})
}

// TestSnapshotMakesReplica gives a group a replica on a node that had none, through AcceptSnapshot.
func TestSnapshotMakesReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4, 1, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		r, last := c.ranges[0], c.nodes[3]
		c.eventually(5*time.Second, "a leader", c.allLed)
		c.eventually(10*time.Second, "asleep", func() bool { return c.asleep() == 4 })
		// The fourth node loses its replica. It could not come back under its id; but here it never said a word that
		// counts, and the others do not know.
		if err := last.host.Remove(r); err != nil {
			t.Fatal(err)
		}
		b := last.engine.NewBatch()
		b.RemoveRange(r, 1, c.span(r)) // the tombstone of some older replica
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
		b.Close()
		last.host.cfg.AcceptSnapshot = func(s storage.RangeState) (StateMachine, error) {
			m := &machine{c: c, node: last, r: r, state: s, mine: make(map[uint64]string)}
			last.machines[r] = m
			return m, nil
		}
		leader := c.nodes[0]
		for _, n := range c.nodes[:3] {
			if n.host.Group(r).Status().Role == Leader {
				leader = n
			}
		}
		leader.machines[r].submit(leader.host.Group(r), "x")
		// The leader believes that replica 4 has its log; the next one starts without beliefs.
		time.Sleep(time.Second)
		next := c.nodes[int(leader.id)%3]
		leader.host.Group(r).TransferLeader(ids.ReplicaID(next.id))
		c.eventually(10*time.Second, "a new replica", func() bool {
			g := last.host.Group(r)
			return g != nil && g.Status().Applied > 10
		})
		c.eventually(10*time.Second, "caught up", c.converged)
		c.verify()
	})
}

func TestSnapshotHeader(t *testing.T) {
	d := &ids.Descriptor{ID: 9, Span: ids.UserSpace, Generation: 3, Replicas: []ids.ReplicaDesc{{Node: 1, Replica: 1}}}
	h := snapshotHeader{from: 1, to: 2, term: 8, state: storage.RangeState{
		Descriptor: d, ConfState: raftpb.EnsureConfState(&raftpb.ConfState{Voters: []uint64{1}}),
		Applied: storage.Applied{Index: 5, Term: 7, GCFloor: 3, MaxRevision: 99},
	}}
	b, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeSnapshotHeader(b)
	if err != nil || got.state.Applied != h.state.Applied || got.from != 1 || got.to != 2 || got.term != 8 ||
		got.state.Descriptor.String() != d.String() || len(got.state.ConfState.GetVoters()) != 1 {
		t.Fatalf("%+v became %+v, %v", h, got, err)
	}
	for n := range len(b) {
		_, _ = decodeSnapshotHeader(b[:n]) // must not panic
	}
}
