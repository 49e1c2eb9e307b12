package chaos

import (
	"context"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/e2e/history"
	"github.com/pontoon-kv/pontoon/e2e/proc"
)

var (
	duration = flag.Duration("chaos.duration", 15*time.Second, "how long nodes are killed")
	workers  = flag.Int("chaos.clients", 16, "clients")
	recovery = flag.Duration("chaos.recovery", 3*time.Second, "how long the throughput may stay away after a kill")
	keep     = flag.String("chaos.history", "", "keep the history in this file")
	seedFlag = flag.Uint64("chaos.seed", 0, "seed (default: from the clock)")
)

// steady is how long the cluster is left alone before each kill.
const steady = 2 * time.Second

func TestKillNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("real processes for a while; not with -short")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-chaos.seed=%d (it repeats the choices, not the timing)", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := startCluster(t)

	var sink io.Writer
	if *keep != "" {
		f, err := os.Create(*keep)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		sink = f
	}
	rec := history.NewRecorder(sink)
	cl := newClients(rec)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if err := cl.run(ctx, c.Endpoints(), *workers, seed); err != nil {
		t.Fatal(err)
	}
	kills, end := killLoop(t, rng, c, cl), time.Since(cl.start)
	stop()
	cl.wg.Wait()
	finalReads(t, c, rec)

	ops, err := rec.Finish()
	if err != nil {
		t.Errorf("the history could not be written: %v", err)
	}
	for _, v := range history.Check(ops) {
		t.Error(v)
	}
	cl.pad(end)
	report(t, cl, ops, kills)
}

func startCluster(t *testing.T) *proc.Cluster {
	t.Helper()
	dir := t.TempDir()
	bin, err := proc.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := proc.NewCluster(bin, dir, 3, "--initial-splits", splits, "--log-level", "warn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("%s:\n%s", n.Name, n.LogTail(15))
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// killLoop kills one node after the other and returns when, by the clients' clock.
func killLoop(t *testing.T, rng *rand.Rand, c *proc.Cluster, cl *clients) (kills []time.Duration) {
	for begin := time.Now(); time.Since(begin) < *duration; {
		time.Sleep(steady)
		n := c.Nodes[rng.IntN(len(c.Nodes))]
		kills = append(kills, time.Since(cl.start))
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(steady))))
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := n.WaitReady(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(steady)
	return kills
}

// finalReads reads everything from every node, when all is calm.
func finalReads(t *testing.T, c *proc.Cluster, rec *history.Recorder) {
	t.Helper()
	for i, n := range c.Nodes {
		cl := newClients(rec)
		w, err := cl.worker(-1-i, n.Client)
		if err != nil {
			t.Fatal(err)
		}
		op := history.Op{Client: w.id, Kind: history.Read, Key: "a", End: "z"}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		op = rec.Begin(op)
		err = w.do(ctx, &op)
		op.Outcome = outcome(&op, err)
		rec.End(op)
		cancel()
		_ = w.cli.Close()
		if err != nil {
			t.Errorf("final read from %s: %v", n.Name, err)
		}
	}
}

// report prints how much was done, and fails if the throughput stayed away for too long after a kill.
func report(t *testing.T, cl *clients, ops []history.Op, kills []time.Duration) {
	t.Helper()
	outcomes := map[history.Outcome]int{}
	for i := range ops {
		outcomes[ops[i].Outcome]++
	}
	t.Logf("%d operations: %d acknowledged, %d failed, %d of unknown outcome; %d kills",
		len(ops), outcomes[history.OK], outcomes[history.Failed], outcomes[history.Unknown], len(kills))
	for text, n := range cl.mu.errors {
		t.Logf("%6d × %s", n, text)
	}
	if outcomes[history.OK] == 0 {
		t.Fatal("nothing was acknowledged")
	}
	usual := typical(cl.mu.slots[:min(int(kills[0]/slot), len(cl.mu.slots))])
	for i, at := range kills {
		away := outage(cl.mu.slots, usual, at)
		t.Logf("kill %d at %v: half the usual %d/s again after %v", i+1, at.Round(slot), usual*int(time.Second/slot), away)
		if away > *recovery {
			t.Errorf("kill %d: the throughput stayed away for %v, which is more than %v", i+1, away, *recovery)
		}
	}
}

// typical is the median of the slots before the first kill. Later ones are no measure: if the cluster does not recover,
// nothing is what is usual.
func typical(slots []int) int {
	if len(slots) == 0 {
		return 0
	}
	s := slices.Clone(slots)
	slices.Sort(s)
	return s[len(s)/2]
}

// outage returns how long after a kill the throughput, over three slots, was back at half of the usual. What is left of
// the run counts if it never was.
func outage(slots []int, usual int, kill time.Duration) time.Duration {
	at := min(int(kill/slot), len(slots))
	i := at + 1
	for i+3 <= len(slots) && slots[i]+slots[i+1]+slots[i+2] < 3*usual/2 {
		i++
	}
	if i+3 > len(slots) {
		i = len(slots)
	}
	return time.Duration(i-at) * slot
}

func TestOutage(t *testing.T) {
	var slots []int
	for i := range 100 {
		n := 10
		if i >= 50 && i < 62 {
			n = 1
		}
		slots = append(slots, n)
	}
	usual := typical(slots[:50])
	away := outage(slots, usual, 50*slot+slot/2)
	if usual != 10 || away < 11*slot || away > 13*slot {
		t.Errorf("away for %v, usually %d; want about 1.2s and 10", away, usual)
	}
	if away := outage(slots[:60], usual, 50*slot); away != 10*slot {
		t.Errorf("a throughput that never comes back was away for %v", away)
	}
}
