package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Node is a machine: a disk, a clock, and one process at a time.
type Node struct {
	c     *Cluster
	index int
	id    ids.NodeID
	rate  float64 // of the clock
	clock *clock.Virtual
	syncs syncs

	mu        sync.Mutex
	fs        *vfs.MemFS    // guarded by mu: the disk; a crash replaces it by what is left
	proc      *process      // guarded by mu: nil while down
	suspended chan struct{} // guarded by mu: not nil while suspended, closed when that ends
	asleep    time.Time     // guarded by mu: since when
}

// process is one run of a node.
type process struct {
	node *node.Node
	dead chan struct{} // closed when it is killed: nothing that it still does reaches anybody
	// calls are the requests that it serves, all under ctx: as in a server, they end before the node is closed.
	calls  sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc

	failed chan struct{} // closed when the node says that it is useless
	err    error         // why; set before failed is closed
}

// Errors of calls to a node that is not there.
var (
	// ErrDown: the connection was refused. The request certainly had no effect.
	ErrDown = status.Error(codes.Unavailable, "sim: connection refused")
	// ErrReset: the process died before it answered.
	ErrReset = status.Error(codes.Unavailable, "sim: connection reset")
)

// boot starts a process on the node's disk. The node's lock is not held meanwhile: virtual time passes, and it stands
// still while anybody waits for a lock.
func (n *Node) boot(mayFail bool) error {
	if n.Up() {
		return errors.New("it is up")
	}
	made, err := node.New(*n.c.config(n))
	if err != nil {
		return err
	}
	p := &process{node: made, dead: make(chan struct{}), failed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := made.Start(context.Background()); err != nil {
		return errors.Join(err, made.Close())
	}
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	n.c.wg.Go(func() { n.watch(p, mayFail) })
	return nil
}

// watch waits for the failure of a process and reports it.
func (n *Node) watch(p *process, mayFail bool) {
	select {
	case p.err = <-p.node.Err():
		close(p.failed)
		if n.process() == p && !mayFail {
			n.c.t.Errorf("node %d failed: %v", n.index, p.err)
		}
	case <-p.dead:
	}
}

func (n *Node) disk() *vfs.MemFS {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fs
}

// process returns the running process or nil.
func (n *Node) process() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// Up reports whether the node has a process, which may be suspended.
func (n *Node) Up() bool { return n.process() != nil }

// Process returns the running node itself, or nil. What it is told directly passes the gates that KV and the others have
// for nodes that are suspended or dying.
func (n *Node) Process() *node.Node {
	if p := n.process(); p != nil {
		return p.node
	}
	return nil
}

// close ends the process's requests and then the process.
func (p *process) close() error {
	p.cancel()
	p.calls.Wait()
	return p.node.Close()
}

// take removes the process and marks it dead: from here on nobody hears from it.
func (n *Node) take() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.proc
	n.proc = nil
	if p != nil {
		close(p.dead)
	}
	return p
}

// Kill ends the process as kill -9 does: the disk keeps what was written, synced or not.
func (n *Node) Kill() { n.crash(vfs.CrashCloneCfg{UnsyncedDataPercent: 100}) }

// PowerOff ends the process by cutting the machine's power: what was not synced is there or not, block by block.
func (n *Node) PowerOff() {
	n.c.mu.Lock()
	share := []int{0, 0, 20, 50, 90}[n.c.mu.rng.IntN(5)]
	n.c.mu.Unlock()
	n.crash(vfs.CrashCloneCfg{UnsyncedDataPercent: share})
}

func (n *Node) crash(cfg vfs.CrashCloneCfg) {
	p := n.take()
	if p == nil {
		return
	}
	n.resume() // a machine that is off does not sleep
	// What left the process before it was marked dead had its promises on the old disk, of which we now take a copy. What
	// the process does from here on reaches neither network nor copy.
	n.c.net.Crash(n.id)
	n.c.mu.Lock()
	cfg.RNG = rand.New(rand.NewPCG(n.c.mu.rng.Uint64(), 0))
	n.c.mu.Unlock()
	n.mu.Lock()
	n.fs = n.fs.CrashClone(cfg)
	n.mu.Unlock()
	n.c.wg.Go(func() { _ = p.close() })
}

// Stop ends the process cleanly and waits.
func (n *Node) Stop() error {
	p := n.take()
	if p == nil {
		return nil
	}
	return p.close()
}

// Wipe replaces the disk of a node that is down by an empty one and returns how to put the old one back.
func (n *Node) Wipe() (putBack func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.fs
	n.fs = vfs.NewCrashableMem()
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.fs = old
	}
}

// Restart starts the next process on the node's disk. It does not wait until that serves.
func (n *Node) Restart() {
	if err := n.boot(false); err != nil {
		n.c.t.Errorf("restarting node %d: %v", n.index, err)
	}
}

// RestartToFail starts a process that is not to come up, and returns what it fails with; nil if it has not failed
// within the given time. It must be killed all the same.
func (n *Node) RestartToFail(within time.Duration) error {
	if err := n.boot(true); err != nil {
		return err
	}
	p := n.process()
	select {
	case <-p.failed:
		return p.err
	case <-time.After(within):
		return nil
	}
}

// suspend stops clock and clients of the node; see Cluster.Suspend.
func (n *Node) suspend() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.suspended != nil || n.proc == nil {
		return false
	}
	n.suspended, n.asleep = make(chan struct{}), time.Now()
	n.clock.SetRate(0)
	return true
}

// resume ends a suspension: the clock jumps to where it would be.
func (n *Node) resume() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.suspended == nil {
		return false
	}
	n.clock.Jump(time.Duration(float64(time.Since(n.asleep)) * n.rate))
	n.clock.SetRate(n.rate)
	close(n.suspended)
	n.suspended = nil
	return true
}

// gate waits while the node is suspended and returns the process that serves then. If enter is set, one more of its
// calls is under way.
func (n *Node) gate(ctx context.Context, enter bool) (*process, error) {
	for {
		n.mu.Lock()
		p, suspended := n.proc, n.suspended
		if enter && p != nil && suspended == nil {
			p.calls.Add(1)
		}
		n.mu.Unlock()
		switch {
		case p == nil:
			return nil, ErrDown
		case suspended == nil:
			return p, nil
		}
		select {
		case <-suspended:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// syncs says how long syncs take.
type syncs struct {
	mean time.Duration

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

func (s *syncs) wait() {
	if s.mean == 0 {
		return
	}
	s.mu.Lock()
	d := time.Duration(s.rng.ExpFloat64() * float64(s.mean))
	if s.rng.IntN(50) == 0 {
		d += 30 * s.mean
	}
	s.mu.Unlock()
	time.Sleep(d)
}
