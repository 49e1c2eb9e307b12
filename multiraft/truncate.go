package multiraft

import (
	"math"

	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Every replica truncates its own log. What it applied it keeps for whoever is a little behind (on a follower: in case it
// leads next), while it is young and there is not too much of it: logKeepTicks and logKeepBytes. The leader keeps more
// for a follower that lives and is further behind, up to logHoldBytes; beyond that the follower gets a snapshot, as one
// does that was dead for longer. When a group falls asleep everybody has everything, and the whole log goes.
const (
	logKeepBytes = 4 << 20
	logHoldBytes = 64 << 20
	// tailBytesMax bounds what was applied and is kept in memory, for followers that are behind.
	tailBytesMax = 1 << 20
	// markBytes is how much is applied between two marks, and marksMax how many marks there are; every second one goes
	// when there are more.
	markBytes = 256 << 10
	marksMax  = 128
)

// truncator decides up to where a log goes.
type truncator struct {
	bytes int64  // of everything applied since the start
	now   int    // ticks since the start
	marks []mark // rising
}

// mark remembers how far the replica had applied at some moment.
type mark struct {
	at    storage.EntryID
	bytes int64
	tick  int
}

func (t *truncator) applied(at storage.EntryID, ents []*raftpb.Entry) {
	for _, e := range ents {
		t.bytes += entryBytes(e)
	}
	if n := len(t.marks); n == 0 && t.bytes >= markBytes || n > 0 && t.bytes-t.marks[n-1].bytes >= markBytes {
		t.mark(at)
	}
}

// tick notes the passing of time.
func (t *truncator) tick(at, truncated storage.EntryID) {
	t.now++
	if n := len(t.marks); n == 0 && at.Index > truncated.Index || n > 0 && at.Index > t.marks[n-1].at.Index {
		t.mark(at)
	}
}

func (t *truncator) mark(at storage.EntryID) {
	if len(t.marks) >= marksMax {
		keep := t.marks[:0]
		for i := 1; i < len(t.marks); i += 2 {
			keep = append(keep, t.marks[i])
		}
		t.marks = keep
	}
	t.marks = append(t.marks, mark{at, t.bytes, t.now})
}

// choose returns the last entry to go, false if none goes. hold is the least index that a live follower has, or the
// greatest number.
func (t *truncator) choose(hold uint64, keepTicks int) (storage.EntryID, bool) {
	for i := len(t.marks) - 1; i >= 0; i-- {
		m := t.marks[i]
		kept := t.bytes - m.bytes
		if (t.now-m.tick >= keepTicks || kept >= logKeepBytes) && (m.at.Index <= hold || kept >= logHoldBytes) {
			t.marks = append(t.marks[:0], t.marks[i+1:]...)
			return m.at, true
		}
	}
	return storage.EntryID{}, false
}

// hold returns the least index that some live replica has, as far as a leader knows, or the greatest number.
func (g *Group) hold() uint64 {
	hold := uint64(math.MaxUint64)
	if g.status.Role != Leader {
		return hold
	}
	g.peers(func(id uint64, pr *tracker.Progress) {
		at := pr.Match
		for _, s := range g.sending {
			if s.replica == id {
				at = max(at, s.index)
			}
		}
		if pr.State == tracker.StateSnapshot || pr.RecentActive {
			hold = min(hold, at)
		}
	})
	return hold
}

// maybeTruncate lets go of log that nobody needs, once per tick.
func (g *Group) maybeTruncate() {
	g.truncator.tick(g.applied, g.log.truncated)
	if len(g.truncator.marks) == 0 || g.installing {
		return
	}
	if to, ok := g.truncator.choose(g.hold(), g.host.electionTicks); ok {
		g.truncate(to)
	}
}

// truncate lets the log up to an applied entry go, which is written with the next append. The batch that applied it was committed before, so that a
// crash never leaves a replica that misses both.
func (g *Group) truncate(to storage.EntryID) {
	if to.Index <= g.log.truncated.Index {
		return
	}
	g.log.truncate(to)
	g.truncatePending = to
	g.host.metrics.truncations.Inc()
}

// trimTail lets go of entries in memory that are applied here and there.
func (g *Group) trimTail() {
	if len(g.log.tail) == 0 || g.log.tail[0].GetIndex() > g.applied.Index {
		return
	}
	upTo := g.applied.Index
	if g.status.Role == Leader && g.log.tailBytes < tailBytesMax {
		upTo = min(upTo, g.hold())
	}
	g.log.dropTail(upTo)
}
