package multiraft

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
)

// slow makes every sync of matching files take a while. (Not for files that Pebble syncs under a lock: in a bubble nobody
// may wait for a lock while its holder waits for time.)
func slow(fs vfs.FS, part string, delay time.Duration) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			if strings.Contains(op.Path, part) {
				time.Sleep(delay)
			}
		}
		return nil
	}))
}

// tap looks at every message a node sends, at the moment it leaves.
type tap struct {
	transport.Transport
	see func(m *raftpb.Message, r ids.RangeID)
}

func (t *tap) SendRaft(to ids.NodeID, msgs []*pontoonpb.RaftMessage) bool {
	for _, m := range msgs {
		if isNote(m.GetMessage()) {
			continue
		}
		if decoded, err := decodeMessage(m.GetMessage()); err == nil {
			t.see(decoded, ids.RangeID(m.GetRangeId()))
		}
	}
	return t.Transport.SendRaft(to, msgs)
}

// TestSaysOnlyWhatIsDurable pulls the plug whenever a node grants a vote or acknowledges entries, and looks whether its
// disk has what it said, though a sync takes longer than a message.
func TestSaysOnlyWhatIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu             sync.Mutex
			votes, appends int
		)
		c := newClusterWith(t, 3, 4, simnet.Options{Seed: 1, Delay: time.Millisecond}, func(n *testNode) {
			n.disk = func(fs vfs.FS) vfs.FS { return slow(fs, ".log", 7*time.Millisecond) }
			n.wrap = func(net transport.Transport) transport.Transport {
				return &tap{net, func(m *raftpb.Message, r ids.RangeID) {
					if m.GetReject() || m.GetType() != raftpb.MsgVoteResp && m.GetType() != raftpb.MsgAppResp {
						return
					}
					mu.Lock()
					defer mu.Unlock()
					if m.GetType() == raftpb.MsgVoteResp {
						votes++
					} else if appends++; appends%5 != 0 {
						return // each look costs some milliseconds
					}
					s := n.onDisk(r)
					if s.HardState.GetTerm() < m.GetTerm() {
						t.Errorf("node %v says %v, its disk is at term %d", n.id, m, s.HardState.GetTerm())
					}
					if m.GetType() == raftpb.MsgVoteResp && s.HardState.GetTerm() == m.GetTerm() && s.HardState.GetVote() != m.GetTo() {
						t.Errorf("node %v says %v, its disk has a vote for %d", n.id, m, s.HardState.GetVote())
					}
					if m.GetType() == raftpb.MsgAppResp && s.Last < m.GetIndex() {
						t.Errorf("node %v says %v, the log on its disk ends at %d", n.id, m, s.Last)
					}
				}}
			}
		})
		defer c.close()
		c.eventually(5*time.Second, "leaders", c.allLed)
		for i := range 60 {
			for _, r := range c.ranges {
				c.propose(r, fmt.Sprint(i))
			}
			time.Sleep(3 * time.Millisecond)
			if i%15 == 14 {
				for _, r := range c.ranges {
					c.leader(r).host.Group(r).TransferLeader(ids.ReplicaID(1 + i/15%3))
				}
				c.eventually(5*time.Second, "leaders", c.allLed)
			}
		}
		c.eventually(5*time.Second, "all the same", c.converged)
		c.verify()
		if votes < 10 || appends < 100 {
			t.Errorf("saw only %d votes and %d acknowledgements", votes, appends)
		}
	})
}

// onDisk reads a replica's state from what a power failure right now would leave.
func (n *testNode) onDisk(r ids.RangeID) storage.RangeState {
	n.c.t.Helper()
	clone := n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	e, err := storage.Open(storage.Config{Dir: "data", FS: clone, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		n.c.t.Fatal(err)
	}
	s, ok, err := e.Range(r)
	if err != nil || !ok {
		n.c.t.Fatal(ok, err)
	}
	if err := e.Close(); err != nil {
		n.c.t.Error(err)
	}
	return s
}

// TestSlowFollowerNeedsNoSnapshot keeps the log for a follower that lives and is further behind than a log usually is.
func TestSlowFollowerNeedsNoSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 1, simnet.Options{Seed: 1, Delay: time.Millisecond})
		defer c.close()
		r := c.ranges[0]
		c.eventually(5*time.Second, "a leader", c.allLed)
		slow := c.nodes[0]
		if slow == c.leader(r) {
			slow = c.nodes[1]
		}
		c.net.Cut(c.leader(r).id, slow.id)
		data := string(make([]byte, 64<<10))
		for i := range 160 { // 10 MiB in 800 ms
			c.propose(r, fmt.Sprint(i)+data)
			time.Sleep(5 * time.Millisecond)
		}
		c.net.HealAll()
		c.eventually(5*time.Second, "caught up", c.converged)
		c.verify()
		slow.inspect(r, func(_ *Group, m *machine) {
			if m.restored > 0 {
				t.Error("a snapshot was sent to a follower that was 800 ms behind")
			}
		})
	})
}
