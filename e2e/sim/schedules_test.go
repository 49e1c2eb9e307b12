package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/pontoon-kv/pontoon/proto/ids"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// put writes a key on a node and returns the revision.
func put(c *Cluster, i int, key, value string) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	resp, err := c.Node(i).KV().Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// get reads a key on a node.
func get(c *Cluster, i int, key string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	resp, err := c.Node(i).KV().Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		return "", err
	}
	if len(resp.Kvs) == 0 {
		return "", nil
	}
	return string(resp.Kvs[0].Value), nil
}

func mustPut(t *testing.T, c *Cluster, i int, key, value string) (rev int64) {
	t.Helper()
	c.Eventually(ProgressWithin, "put "+key, func() (err error) {
		rev, err = put(c, i, key, value)
		return err
	})
	return rev
}

// hasReplica reports whether node i has a replica of a range that node asked knows.
func hasReplica(c *Cluster, asked int, r ids.RangeID, i int) bool {
	for _, s := range c.Node(asked).Process().Statuses() {
		if s.Descriptor.ID == r {
			_, ok := s.Descriptor.On(c.Node(i).ID())
			return ok
		}
	}
	return false
}

// otherSequencer waits until all nodes that are up agree on a sequencer other than the one named.
func otherSequencer(c *Cluster, than int) (s int) {
	c.Eventually(ProgressWithin, "another sequencer", func() error {
		for i := 1; i <= c.Size(); i++ {
			if i == than || !c.Node(i).Up() {
				continue
			}
			if p := c.Node(i).Process(); p.Sequencer() == c.Node(than).ID() {
				return fmt.Errorf("node %d still asks %d", i, than)
			}
		}
		s = c.Sequencer()
		if s == 0 || s == than {
			return errors.New("none")
		}
		return nil
	})
	return s
}

// TestDeposedLeaderAfterSequencerFailover is schedule 3: a leader that never registered is cut off from its peers, a
// newer one is elected and registers, then the sequencer fails over to one that knows nothing. The old leader, which
// reaches the new sequencer, must not read.
func TestDeposedLeaderAfterSequencerFailover(t *testing.T) {
	telling := 0
	for k := range 6 {
		seed := *seedFlag + uint64(k) + 1
		synctest.Test(t, func(t *testing.T) {
			c := New(t, Options{Seed: seed, Nodes: 5, Splits: 9, Policy: node.LeadersSpread})
			s := c.Sequencer()
			for r := range 10 { // a range that the sequencer's node has no replica of
				old := c.Leader(RangeID(r))
				if old == 0 || hasReplica(c, old, RangeID(r), s) {
					continue
				}
				telling += deposed(t, c, r, old, s)
				return
			}
		})
	}
	t.Logf("%d of 6 runs had an old leader that reached the new sequencer", telling)
}

// deposed runs the schedule for a range and its leader. It returns 1 if it told something.
func deposed(t *testing.T, c *Cluster, r, old, s int) int {
	key := Key(r * Keys / 10)
	// The leader never registered: nobody asked for anything in this range.
	for i := 1; i <= c.Size(); i++ {
		if i != old && hasReplica(c, old, RangeID(r), i) {
			c.Cut(old, i)
			c.Cut(i, old)
		}
	}
	mustPut(t, c, s, key, "new")
	c.Kill(s)
	next := otherSequencer(c, s)
	told := 0
	for range 40 {
		v, err := get(c, old, key)
		if err == nil && v != "new" {
			t.Fatalf("seed %d: node %d reads %q after a put of %q was acknowledged", c.Seed(), old, v, "new")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if next != old && !hasReplica(c, old, RangeID(r), next) {
		told = 1
	}
	return told
}

// TestSuspendedSequencer is schedule 21: the sequencer's machine sleeps, another takes over, the first wakes up with the
// lease and the sessions it had.
func TestSuspendedSequencer(t *testing.T) {
	for _, policy := range []node.LeaderPolicy{node.LeadersGathered, node.LeadersSpread} {
		t.Run(string(policy), func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				c := New(t, Options{Seed: seed, Policy: policy})
				w := c.StartClients(ClientOptions{})
				for round := range 3 {
					time.Sleep(500 * time.Millisecond)
					s := c.Sequencer()
					c.Suspend(s)
					next := otherSequencer(c, s)
					want := fmt.Sprintf("round %d", round)
					mustPut(t, c, next, "x", want)
					got := make(chan string)
					go func() { // asked while the machine sleeps, answered when it wakes up
						v, err := get(c, s, "x")
						if err != nil {
							v = want
						}
						got <- v
					}()
					time.Sleep(time.Duration(round) * time.Second)
					c.Resume(s)
					if v := <-got; v != want {
						t.Fatalf("seed %d: node %d woke up and reads %q, not %q", seed, s, v, want)
					}
					if v, err := get(c, s, "x"); err == nil && v != want {
						t.Fatalf("seed %d: node %d reads %q, not %q", seed, s, v, want)
					}
				}
				t.Log(c.Verify(w))
			})
		})
	}
}

// TestClockJumpOfSequencer: a sequencer whose clock jumps ahead stops by itself and comes back.
func TestClockJumpOfSequencer(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		c := New(t, Options{Seed: seed})
		w := c.StartClients(ClientOptions{})
		for range 3 {
			c.JumpClock(c.Sequencer(), time.Minute)
			time.Sleep(2 * time.Second)
		}
		t.Log(c.Verify(w))
	})
}

// TestFastRestart is schedule 24a: the node that leads all ranges is killed and back before anybody takes it for dead,
// while the groups sleep and no request comes. All ranges must have a leader again soon, by themselves.
func TestFastRestart(t *testing.T) {
	for _, down := range []time.Duration{10 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second} {
		t.Run(down.String(), func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				c := New(t, Options{Seed: seed})
				for r := range 5 {
					mustPut(t, c, 1, Key(r*Keys/5), "before")
				}
				time.Sleep(30 * time.Second) // the groups fall asleep
				victim := c.Leader(RangeID(0))
				c.Kill(victim)
				time.Sleep(down)
				c.Restart(victim)
				took := c.Eventually(5*time.Second, "leaders of all ranges", func() error {
					for r := range 5 {
						if c.Leader(RangeID(r)) == 0 {
							return fmt.Errorf("range %d has none", r)
						}
					}
					return nil
				})
				c.AwaitReady(readyWithin)
				for i := 1; i <= 3; i++ {
					for r := range 5 {
						key := Key(r * Keys / 5)
						c.Eventually(time.Second, fmt.Sprintf("node %d serves %s", i, key), func() error {
							v, err := get(c, i, key)
							if err == nil && v != "before" {
								t.Fatalf("seed %d: %q", seed, v)
							}
							return err
						})
					}
				}
				t.Logf("leaders after %v", took)
			})
		})
	}
}

// TestLeadersNodeDies: sleeping groups notice that their leader's node is gone for good.
func TestLeadersNodeDies(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		c := New(t, Options{Seed: seed})
		time.Sleep(30 * time.Second)
		victim := c.Leader(RangeID(0))
		c.PowerOff(victim)
		began := time.Now()
		for r := range 5 {
			mustPut(t, c, victim%3+1, Key(r*Keys/5), "after")
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("seed %d: writes after %v", seed, took)
		} else {
			t.Logf("writes after %v", took)
		}
	})
}

// TestCutOffFromSequencer is schedule 25: a leader's node has its quorums but not the sequencer. It must hand its
// ranges to nodes that do, which keep them for a while.
func TestCutOffFromSequencer(t *testing.T) {
	for _, policy := range []node.LeaderPolicy{node.LeadersGathered, node.LeadersSpread} {
		t.Run(string(policy), func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				c := New(t, Options{Seed: seed, Policy: policy})
				time.Sleep(2 * time.Second) // the policy does its work
				s := c.Sequencer()
				leader, third := s%3+1, (s+1)%3+1
				for k := range 5 {
					c.Transfer(RangeID(k), leader)
				}
				time.Sleep(300 * time.Millisecond)
				c.Cut(s, leader)
				c.Cut(leader, s)
				w := c.StartClients(ClientOptions{})
				cl := w.client(5000)
				serve := func(k int) time.Duration {
					return c.Eventually(ProgressWithin, "range", func() error { return cl.roundTrip(third, Key(k*Keys/5)) })
				}
				began := time.Now()
				for k := range 5 {
					serve(k)
				}
				took := time.Since(began)
				if took > 6*time.Second {
					t.Errorf("seed %d: all ranges serve after %v", seed, took)
				}
				for range 20 { // and they stay
					for k := range 5 {
						if took := serve(k); took > 4*time.Second {
							t.Errorf("seed %d: range %d is away for %v", seed, k, took)
						}
					}
					time.Sleep(200 * time.Millisecond)
				}
				c.HealNetwork()
				t.Logf("all ranges serve after %v; %v", took, c.Verify(w))
			})
		})
	}
}

// TestDenseAcrossCleanRestart is schedule 27: one node that is stopped and started, and three that are restarted one
// after the other, go on counting where they were.
func TestDenseAcrossCleanRestart(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				c := New(t, Options{Seed: seed, Nodes: nodes})
				want := int64(2)
				for round := range 2 * nodes {
					for k := range 7 {
						if rev := mustPut(t, c, k%nodes+1, Key(k*4), fmt.Sprint(round, k)); rev != want {
							t.Fatalf("seed %d: round %d: revision %d, not %d", seed, round, rev, want)
						}
						want++
					}
					i := round%nodes + 1
					if err := c.Node(i).Stop(); err != nil {
						t.Fatalf("stopping node %d: %v", i, err)
					}
					c.Node(i).Restart()
					c.AwaitReady(readyWithin)
				}
			})
		})
	}
}

// TestWipedDisk: a node that comes back with an empty disk and its old name is refused, says so, and does no harm.
func TestWipedDisk(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		c := New(t, Options{Seed: seed})
		w := c.StartClients(ClientOptions{Clients: 3})
		time.Sleep(time.Second)
		victim := c.Sequencer()%3 + 1
		c.Kill(victim)
		putBack := c.Node(victim).Wipe()
		err := c.Node(victim).RestartToFail(10 * time.Second)
		switch {
		case err == nil:
			t.Errorf("seed %d: a wiped node was let in, or does not say that it was not", seed)
		case !strings.Contains(err.Error(), "disk"):
			t.Errorf("seed %d: does not say what is wrong: %v", seed, err)
		default:
			t.Log(err)
		}
		c.Kill(victim)
		putBack() // the old disk is found again
		c.Restart(victim)
		t.Log(c.Verify(w))
	})
}
