package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Options says what a cluster is like. The zero value of a field means its default.
type Options struct {
	Nodes int // default 3
	// Splits is at how many keys the user space is cut at the start, evenly over the keys of the workload; see Key. One
	// key makes two ranges. Default 4; negative: none.
	Splits int
	Seed   uint64 // default: random; it is printed

	// Delay is the least time a message is under way, up to Jitter comes on top (default 200 µs and 300 µs).
	Delay, Jitter time.Duration
	// Sync is how long a sync takes on average (default 500 µs; negative: no time). One in fifty takes thirty times that.
	Sync time.Duration
	// Drift is how far the rate of a node's clock may be off, as a share (default 0.04; negative: 0).
	Drift float64

	Policy node.LeaderPolicy   // default: gathered
	Proof  node.SequencerProof // default: lease

	// Configure may change a node's configuration before each of its starts; i counts nodes from 1.
	Configure func(i int, cfg *node.Config)
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&o.Delay, 200*time.Microsecond)
	set(&o.Jitter, 300*time.Microsecond)
	set(&o.Sync, 500*time.Microsecond)
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Splits == 0 {
		o.Splits = 4
	}
	if o.Drift == 0 {
		o.Drift = 0.04
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	return o
}

// Keys is how many keys the workload uses; they are Key(0) … Key(Keys-1), in order.
const Keys = 30

// All keys of the workload lie between these two. Others are free for tests to use beside it.
const keysStart, keysEnd = "k", "l"

// Key is the workload's i-th key.
func Key(i int) string { return fmt.Sprintf("k%02d", i) }

// readyWithin is how long a cluster without faults may take to serve, in virtual time.
const readyWithin = 10 * time.Second

// Cluster is a cluster under test. All methods may be called from any goroutine of the test's bubble, unless they say
// otherwise.
type Cluster struct {
	t     testing.TB
	opt   Options
	start time.Time
	net   *simnet.Network
	logs  *logs
	nodes []*Node
	wg    sync.WaitGroup // calls, and processes that are ending
	ended sync.Once

	mu struct {
		sync.Mutex
		rng     *rand.Rand // what power failures leave behind
		clients []*Clients
	}
}

// New starts a cluster and waits until every node serves clients. It must be called in a synctest bubble, at whose end
// the cluster is closed.
func New(t testing.TB, opt Options) *Cluster {
	t.Helper()
	opt = opt.withDefaults()
	t.Logf("sim: seed %d", opt.Seed)
	c := &Cluster{t: t, opt: opt, start: time.Now(), logs: newLogs(t.Name())}
	c.mu.rng = rand.New(rand.NewPCG(opt.Seed, 1))
	t.Cleanup(c.Close)
	c.net = simnet.New(simnet.Options{
		Seed: int64(opt.Seed), Delay: opt.Delay, Jitter: opt.Jitter, LivenessTimeout: node.Default().ElectionTimeout,
	})
	for i := range opt.Nodes {
		c.nodes = append(c.nodes, c.newNode(i+1))
	}
	for _, n := range c.nodes {
		if err := n.boot(false); err != nil {
			t.Fatalf("node %d: %v", n.index, err)
		}
	}
	c.AwaitReady(readyWithin)
	return c
}

// newNode makes a node that has not run yet.
func (c *Cluster) newNode(i int) *Node {
	rng := rand.New(rand.NewPCG(c.opt.Seed, uint64(1000+i)))
	n := &Node{
		c: c, index: i, fs: vfs.NewCrashableMem(),
		rate:  1 + max(c.opt.Drift, 0)*(2*rng.Float64()-1),
		syncs: syncs{mean: max(c.opt.Sync, 0), rng: rng},
	}
	n.clock = clock.NewVirtual(n.rate, time.Duration(rng.Int64N(int64(time.Hour))))
	boot, err := node.NewBootstrap(c.config(n))
	if err != nil {
		c.t.Fatalf("node %d: %v", i, err)
	}
	n.id = boot.Self
	return n
}

// config is the configuration of a node, as it is at its next start.
func (c *Cluster) config(n *Node) *node.Config {
	cfg := node.Default()
	for i := range c.opt.Nodes {
		u := fmt.Sprintf("http://10.0.0.%d:2380", i+1)
		cfg.InitialCluster = append(cfg.InitialCluster, node.Member{Name: fmt.Sprintf("n%d", i+1), PeerURLs: []string{u}})
	}
	cfg.Name = fmt.Sprintf("n%d", n.index)
	cfg.DataDir = "/" + cfg.Name
	cfg.AdvertisePeerURLs = parseURL(cfg.InitialCluster[n.index-1].PeerURLs[0])
	cfg.AdvertiseClientURLs = parseURL(fmt.Sprintf("http://10.0.0.%d:2379", n.index))
	for i := range max(c.opt.Splits, 0) {
		cfg.InitialSplits = append(cfg.InitialSplits, []byte(Key((i+1)*Keys/(c.opt.Splits+1))))
	}
	if c.opt.Policy != "" {
		cfg.LeaderPolicy = c.opt.Policy
	}
	if c.opt.Proof != "" {
		cfg.SequencerProof = c.opt.Proof
	}
	cfg.CacheBytes, cfg.MemTableBytes, cfg.Workers = 1<<20, 1<<20, 2
	cfg.Headless = true
	cfg.FS, cfg.Clock = n.disk(), n.clock
	cfg.SyncDelay = n.syncs.wait
	cfg.Seed = int64(c.opt.Seed>>1) + int64(n.index)
	cfg.Logger = c.logs.logger(n.index)
	cfg.Transport = func(p node.TransportParams) (node.PeerTransport, error) {
		return c.net.Join(p.Self, p.Incarnation, simnet.WithDisk(p.DiskID), simnet.WithCheckPeer(p.CheckPeer),
			simnet.WithOnRefused(p.OnRefused)), nil
	}
	if c.opt.Configure != nil {
		c.opt.Configure(n.index, &cfg)
	}
	return &cfg
}

func parseURL(s string) []url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err) // the strings above are URLs
	}
	return []url.URL{*u}
}

// Node returns a node, counted from 1.
func (c *Cluster) Node(i int) *Node { return c.nodes[i-1] }

// Size is the number of nodes.
func (c *Cluster) Size() int { return len(c.nodes) }

// Seed is what everything random comes from.
func (c *Cluster) Seed() uint64 { return c.opt.Seed }

// RangeOf returns the number of the range, counted from 0 in key order, that key i of the workload is in at the start.
func (c *Cluster) RangeOf(i int) int {
	r := 0
	for s := range max(c.opt.Splits, 0) {
		if i >= (s+1)*Keys/(c.opt.Splits+1) {
			r = s + 1
		}
	}
	return r
}

// AwaitReady waits until all nodes that are up serve clients, and fails the test if that takes longer.
func (c *Cluster) AwaitReady(within time.Duration) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for _, n := range c.nodes {
		p := n.process()
		if p == nil {
			continue
		}
		select {
		case <-p.node.Ready():
		case <-p.dead:
		case <-ctx.Done():
			c.t.Fatalf("node %d is not ready after %v", n.index, within)
		}
	}
}

// Eventually tries until f returns nil and fails the test with its last error if that takes longer than within. It
// returns how long it took.
func (c *Cluster) Eventually(within time.Duration, what string, f func() error) time.Duration {
	c.t.Helper()
	began := time.Now()
	for {
		err := f()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > within {
			c.t.Fatalf("%s: not after %v: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Logf writes a line into the cluster's log, among those of its nodes.
func (c *Cluster) Logf(format string, args ...any) { c.logs.logger(0).Sugar().Infof(format, args...) }

// Close ends everything and waits. If the test failed it prints the end of the log. It may be called twice.
func (c *Cluster) Close() { c.ended.Do(c.close) }

func (c *Cluster) close() {
	if c.t.Failed() {
		c.t.Logf("sim: the replicas of the nodes that are up, at the end:\n%s", c.describe())
	}
	c.mu.Lock()
	clients := c.mu.clients
	c.mu.Unlock()
	for _, w := range clients {
		w.halt()
	}
	c.net.HealAll()
	for _, n := range c.nodes {
		n.resume()
	}
	for _, n := range c.nodes {
		n.Kill()
	}
	for _, w := range clients {
		w.Stop()
	}
	c.wg.Wait()
	c.net.Close()
	c.logs.finish(c.t)
}

// describe says what every replica thinks of its group.
func (c *Cluster) describe() string {
	var b strings.Builder
	for _, n := range c.nodes {
		p := n.Process()
		if p == nil {
			continue
		}
		fmt.Fprintf(&b, "  node %d (%v), sequencer %v\n", n.index, n.id, p.Sequencer())
		for _, s := range p.Statuses() {
			r := s.Raft
			fmt.Fprintf(&b, "    range %d: role %d term %d leader %v commit %d applied %d last %d resolved %d asleep %v\n",
				s.Descriptor.ID, r.Role, r.Term, s.Leader, r.Commit, r.Applied, r.Last, s.Resolved, r.Asleep)
		}
	}
	return b.String()
}

// ID is the node's id.
func (n *Node) ID() ids.NodeID { return n.id }

// Index is the node's number, from 1.
func (n *Node) Index() int { return n.index }
