package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/pontoon-kv/pontoon/e2e/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ProgressWithin is how long a cluster may take to serve every key on every node after its last fault, in virtual time:
// a few elections, one after the other.
const ProgressWithin = 15 * time.Second

// Verdict is what Verify found out.
type Verdict struct {
	Ops, Acked int           // operations in the history, acknowledged mutations among those of the clients
	Recovery   time.Duration // from the last fault until every node served every range
	Longest    time.Duration // the longest time without an acknowledged write
	Errors     map[string]int
	Revision   int64 // the last one
	Violations []history.Violation
}

// Verify waits until the cluster, in which nothing is broken any more, serves; stops the clients; reads the state of
// every revision that was answered and is not compacted, from nodes in turn, and the newest ones from each node; and judges the whole
// history. What is wrong fails the test.
func (c *Cluster) Verify(w *Clients) Verdict {
	c.t.Helper()
	v := Verdict{}
	cl := w.client(len(c.nodes) * 1000)
	v.Recovery = c.awaitProgress(cl)
	time.Sleep(time.Second)
	w.Stop()
	v.Revision = c.replay(cl)
	ops, _ := w.rec.Finish()
	v.Violations = history.Check(ops)
	w.mu.Lock()
	v.Ops, v.Acked, v.Longest, v.Errors = len(ops), w.acked, w.longest, w.errors
	wrong := w.wrong
	w.mu.Unlock()
	for _, text := range wrong {
		c.t.Errorf("seed %d: %s", c.opt.Seed, text)
	}
	if len(v.Violations) > 0 {
		c.t.Errorf("seed %d: %d violations in the history (%s); the first: %v", c.opt.Seed, len(v.Violations),
			dump(ops), v.Violations[0])
	}
	return v
}

// VerifyDense is Verify for a cluster without faults: revisions rise by one and nothing fails.
func (c *Cluster) VerifyDense(w *Clients) Verdict {
	c.t.Helper()
	v := c.Verify(w)
	ops, _ := w.rec.Finish()
	if found := history.CheckDense(ops, 2); len(found) > 0 {
		c.t.Errorf("seed %d: %v", c.opt.Seed, found[0])
	}
	return v
}

// dump writes a history to a file and says where.
func dump(ops []history.Op) string {
	f, err := os.CreateTemp("", "sim-*.jsonl")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	enc := json.NewEncoder(f)
	for _, op := range ops {
		if err := enc.Encode(op); err != nil {
			return err.Error()
		}
	}
	return f.Name()
}

// awaitProgress has every node write and read a key of each range.
func (c *Cluster) awaitProgress(cl *client) time.Duration {
	c.t.Helper()
	began := time.Now()
	for _, n := range c.nodes {
		for i, last := 0, -1; i < Keys; i++ {
			if r := c.RangeOf(i); r != last {
				last = r
				c.Eventually(ProgressWithin-time.Since(began), fmt.Sprintf("seed %d: node %d serves %s", c.opt.Seed, n.index, Key(i)),
					func() error { return cl.roundTrip(n.index, Key(i)) })
			}
		}
	}
	return time.Since(began)
}

// roundTrip puts a key on a node and reads it.
func (cl *client) roundTrip(node int, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	cl.node = node
	if err := cl.record(ctx, history.Op{Client: cl.id, Kind: history.Put, Key: key, Value: cl.value()}, cl.put); err != nil {
		return err
	}
	cl.node = node
	return cl.record(ctx, history.Op{Client: cl.id, Kind: history.Read, Key: key}, cl.read)
}

// replayedEverywhere is how many of the newest revisions are read from every node. Of the older ones it is every
// sixteenth; the others are read from one node each.
const replayedEverywhere = 64

// replay reads all of history and returns the last revision.
func (c *Cluster) replay(cl *client) int64 {
	c.t.Helper()
	for i := 1; i <= c.Size(); i++ {
		cl.replayAt(i, 0, false)
	}
	last := cl.known
	revs := cl.revisions()
	for k, rev := range revs {
		for i := 1; i <= c.Size(); i++ {
			if k >= len(revs)-replayedEverywhere || k%16 == 0 || k%c.Size()+1 == i {
				cl.replayAt(i, rev, true)
			}
		}
	}
	return last
}

// revisions returns all revisions that answers had, in order, as far as they are not compacted.
func (cl *client) revisions() (revs []int64) {
	ops, _ := cl.rec.Finish()
	for _, op := range ops {
		if op.Outcome == history.OK && op.Revision >= max(2, cl.compactAsked.Load()) {
			revs = append(revs, op.Revision)
		}
	}
	slices.Sort(revs)
	return slices.Compact(revs)
}

// replayAt reads everything from one node at one revision (0: now).
func (cl *client) replayAt(node int, rev int64, serializable bool) {
	cl.c.t.Helper()
	cl.c.Eventually(ProgressWithin, fmt.Sprintf("node %d reads revision %d", node, rev), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		op := cl.rec.Begin(history.Op{Client: cl.id, Kind: history.Read, Key: keysStart, End: keysEnd, At: rev, Serializable: serializable})
		resp, err := cl.c.Node(node).KV().Range(ctx, &pb.RangeRequest{
			Key: []byte(op.Key), RangeEnd: []byte(op.End), Revision: rev, Serializable: serializable,
		})
		if err != nil {
			return err
		}
		op.Outcome, op.Revision, op.KVs = history.OK, resp.Header.Revision, kvs(resp.Kvs...)
		cl.rec.End(op)
		cl.known = max(cl.known, op.Revision)
		return nil
	})
}

// String is a summary of a few lines.
func (v Verdict) String() string {
	var errs []string
	for e := range v.Errors {
		errs = append(errs, e)
	}
	slices.Sort(errs)
	sort.SliceStable(errs, func(i, j int) bool { return v.Errors[errs[i]] > v.Errors[errs[j]] })
	s := fmt.Sprintf("%d operations, %d acknowledged mutations, last revision %d, recovered after %v, longest gap %v",
		v.Ops, v.Acked, v.Revision, v.Recovery, v.Longest)
	for i, e := range errs {
		if i == 8 {
			s += fmt.Sprintf("\n    and %d kinds of error more", len(errs)-i)
			break
		}
		s += fmt.Sprintf("\n    %5d × %s", v.Errors[e], strings.ReplaceAll(e, "\n", " "))
	}
	return s
}
