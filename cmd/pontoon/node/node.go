package node

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/placement"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/storage"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Node is one running node. Its parts stand in the order in which they start; they stop in reverse.
type Node struct {
	cfg  Config
	log  *zap.Logger
	id   identity
	boot *Bootstrap // nil if the data directory existed

	incarnation uint64
	data, book  *storage.Engine // book: the placement group's own, nil if this node has no replica of it
	net         PeerTransport
	bookGroups  *multiraft.Host // runs range 1 on the book engine
	placement   *placement.Service
	client      *placement.Client
	groups      *multiraft.Host
	ranges      *rangegroup.Host
	front       *front

	peers    peers
	refusals struct { // of other nodes, while this one starts
		mu sync.Mutex
		by map[ids.NodeID]bool // guarded by mu
	}

	run struct { // background loops
		ctx    context.Context
		cancel context.CancelFunc
		wg     sync.WaitGroup
	}
	ready   chan struct{}
	failed  chan error
	closing sync.Once
	closed  error
}

// New opens the data directory (making it at the first boot) and puts the rooms together. Nothing runs yet.
func New(cfg Config) (_ *Node, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Machine{}
	}
	if cfg.Registerer == nil {
		reg := prometheus.NewRegistry()
		cfg.Registerer, cfg.Gatherer = reg, reg
	}
	n := &Node{cfg: cfg, log: cfg.Logger, ready: make(chan struct{}), failed: make(chan error, 1)}
	n.run.ctx, n.run.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			_ = n.Close()
		}
	}()
	if err := n.openEngines(); err != nil {
		return nil, err
	}
	if err := n.openTransport(); err != nil {
		return nil, err
	}
	if err := n.openPlacement(); err != nil {
		return nil, err
	}
	if err := n.openRanges(); err != nil {
		return nil, err
	}
	return n, n.openFront()
}

func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// label tells the data groups' metrics and the placement group's apart.
func (n *Node) label(group string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"group": group}, n.cfg.Registerer)
}

// openEngines opens the data directory, checks whose it is, and writes the first state of a new one.
func (n *Node) openEngines() (err error) {
	c := &n.cfg
	n.data, err = storage.Open(storage.Config{
		Dir: c.EngineDir(), FS: c.FS, CacheBytes: c.CacheBytes, MemTableBytes: c.MemTableBytes,
		SyncDelay: c.SyncDelay,
		Logger:    n.log, Registerer: n.cfg.Registerer, Name: "data", OnFatal: n.fail,
	})
	if err != nil {
		return err
	}
	id, known, err := loadIdentity(n.data)
	if err != nil {
		return err
	}
	var b *Bootstrap
	if len(c.InitialCluster) > 0 {
		if b, err = NewBootstrap(c); err != nil {
			return err
		}
	}
	switch {
	case known:
		if err := id.check(c, b); err != nil {
			return err
		}
	case b == nil:
		return invalid("initial-cluster", "is needed at the first start").fix("list all nodes as name=peer-URL")
	case c.InitialClusterState == ClusterExisting:
		return invalid("initial-cluster-state", "joining an existing cluster is not possible in this version").
			fix("start all nodes of a new cluster with --initial-cluster-state=new")
	default:
		id, n.boot = newIdentity(c, b), b
	}
	n.id = id
	if slices.Contains(id.Placement, id.Node) {
		n.book, err = storage.Open(storage.Config{
			Dir: c.PlacementDir(), FS: c.FS, CacheBytes: max(c.CacheBytes/16, 1<<20),
			MemTableBytes: max(c.MemTableBytes/16, 1<<20), SyncDelay: c.SyncDelay,
			Logger: n.log, Registerer: n.cfg.Registerer, Name: "placement", OnFatal: n.fail,
		})
		if err != nil {
			return err
		}
	}
	if n.boot != nil {
		if err := n.bootstrap(); err != nil {
			return err
		}
	}
	n.incarnation, err = nextIncarnation(n.data)
	return err
}

// bootstrap writes the first state of this node's replicas. The identity is written last: a crash before it leaves a
// directory that boots for the first time again.
func (n *Node) bootstrap() error {
	book, ranges := n.boot.Local()
	if book != nil {
		pb := placement.Bootstrap{Ranges: n.boot.Ranges}
		for _, m := range n.boot.Nodes {
			pb.Nodes = append(pb.Nodes, placement.NodeInfo{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs})
		}
		if err := placement.InitEngine(n.book, *book, pb); err != nil {
			return err
		}
	}
	have, err := n.data.Ranges()
	if err != nil {
		return err
	}
	if len(have) == 0 {
		b := n.data.NewBatch()
		defer b.Close()
		for _, s := range ranges {
			b.CreateRange(s)
		}
		if err := b.Commit(true); err != nil {
			return err
		}
	}
	return n.id.save(n.data)
}

func (n *Node) openTransport() (err error) {
	for _, m := range n.id.Members {
		n.peers.set(m.ID, m.PeerURLs)
	}
	p := TransportParams{
		ClusterID: n.id.ClusterID, Self: n.id.Node, DiskID: n.id.DiskID, Incarnation: n.incarnation,
		Resolve: n.peers.resolve, LivenessTimeout: n.cfg.ElectionTimeout, OnRefused: n.refused,
		CheckPeer: func(peer ids.NodeID, disk uint64) error {
			if n.client == nil {
				return nil
			}
			return n.client.CheckPeer(peer, disk)
		},
	}
	if n.cfg.Transport != nil {
		n.net, err = n.cfg.Transport(p)
	} else {
		n.net, err = n.newGRPCTransport(p)
	}
	if err != nil {
		return err
	}
	n.net.HandleRaft(n.handleRaft)
	n.net.Handle(transport.MethodSnapshot, n.handleSnapshot)
	n.net.OnIncarnation(func(peer ids.NodeID, _ uint64) {
		if n.groups != nil {
			n.groups.WakeNode(peer)
		}
	})
	return nil
}

// handleRaft splits a frame's messages between the placement group and the others.
func (n *Node) handleRaft(from ids.NodeID, msgs []*pontoonpb.RaftMessage) {
	rest := msgs[:0]
	var book []*pontoonpb.RaftMessage
	for _, m := range msgs {
		if ids.RangeID(m.RangeId) == ids.PlacementRange {
			book = append(book, m)
		} else {
			rest = append(rest, m)
		}
	}
	if len(book) > 0 && n.bookGroups != nil {
		n.bookGroups.HandleRaft(from, book)
	}
	if len(rest) > 0 {
		n.groups.HandleRaft(from, rest)
	}
}

// handleSnapshot gives a call about a snapshot to the host that has the range.
func (n *Node) handleSnapshot(from ids.NodeID, payload []byte, reply func([]byte, error)) {
	h := n.groups
	if multiraft.SnapshotRange(payload) == ids.PlacementRange {
		if h = n.bookGroups; h == nil {
			reply(nil, &ids.WrongRangeError{Range: ids.PlacementRange})
			return
		}
	}
	h.HandleSnapshot(from, payload, reply)
}

func (n *Node) openPlacement() (err error) {
	c := &n.cfg
	proof := placement.ProofLease
	if c.SequencerProof == ProofQuorum {
		proof = placement.ProofQuorum
	}
	if n.book != nil {
		n.bookGroups, err = multiraft.New(multiraft.Config{
			Node: n.id.Node, Engine: n.book, Transport: n.net, Workers: 1,
			HeartbeatInterval: c.HeartbeatInterval, ElectionTimeout: c.ElectionTimeout, Seed: c.Seed,
			Logger: n.log, Registerer: n.label("placement"),
		})
		if err != nil {
			return err
		}
		n.placement, err = placement.New(placement.Config{
			Node: n.id.Node, Engine: n.book, Clock: c.Clock, LeaseDuration: c.ElectionTimeout, Proof: proof,
			Transport: n.net, Logger: n.log, Registerer: c.Registerer,
		})
		if err != nil {
			return err
		}
	}
	n.client, err = placement.NewClient(placement.ClientConfig{
		Node: n.id.Node, Incarnation: n.incarnation, Nodes: n.id.Placement, Local: n.placement,
		LeaseDuration: c.ElectionTimeout, Transport: n.net, Logger: n.log, Registerer: c.Registerer,
	})
	return err
}

func (n *Node) openRanges() (err error) {
	c := &n.cfg
	n.groups, err = multiraft.New(multiraft.Config{
		Node: n.id.Node, Engine: n.data, Transport: n.net, Workers: c.Workers,
		HeartbeatInterval: c.HeartbeatInterval, ElectionTimeout: c.ElectionTimeout, Seed: c.Seed,
		Logger: n.log, Registerer: n.label("data"),
	})
	if err != nil {
		return err
	}
	n.ranges, err = rangegroup.New(rangegroup.Config{Node: n.id.Node, Logger: n.log}, rangegroup.Deps{
		Engine: n.data, Groups: n.groups, Sequencer: sequencerOf{n.client}, Clock: c.Clock,
		Metrics: rangegroup.NewMetrics(c.Registerer),
	})
	return err
}

// Start begins serving peers at once and clients when the cluster works. It returns when everything is started; Ready
// says when clients are served.
func (n *Node) Start(ctx context.Context) error {
	if err := n.startPeers(); err != nil {
		return err
	}
	n.spawn(n.runRegistration)
	n.spawn(n.runLeaders)
	return ctx.Err()
}

// startPeers starts everything that needs no client.
func (n *Node) startPeers() error {
	if n.bookGroups != nil {
		g, err := n.bookGroups.Add(multiraft.GroupConfig{
			State: n.placement.State(), StateMachine: n.placement.StateMachine(),
			Campaign: n.firstChoice(n.placement.State().Descriptor),
		})
		if err != nil {
			return err
		}
		n.placement.Start(g)
	}
	states, err := n.data.Ranges()
	if err != nil {
		return err
	}
	for _, s := range states {
		if err := n.ranges.Add(s, n.firstChoice(s.Descriptor)); err != nil {
			return err
		}
	}
	if err := n.net.Start(); err != nil {
		return err
	}
	if n.bookGroups != nil {
		if err := n.bookGroups.Start(); err != nil {
			return err
		}
	}
	if err := n.groups.Start(); err != nil {
		return err
	}
	n.client.Start()
	return n.ranges.Start()
}

// firstChoice reports whether this node should campaign for a range at once: at the first boot the first replica does,
// and a lone replica always.
func (n *Node) firstChoice(d *ids.Descriptor) bool {
	if len(d.Replicas) == 1 {
		return true
	}
	if n.boot == nil {
		return false
	}
	first := d.Replicas[0].Node
	if n.cfg.LeaderPolicy == LeadersGathered {
		if _, ok := d.On(n.id.Placement[0]); ok {
			first = n.id.Placement[0]
		}
	}
	return first == n.id.Node
}

func (n *Node) spawn(f func(context.Context)) {
	n.run.wg.Add(1)
	go func() {
		defer n.run.wg.Done()
		f(n.run.ctx)
	}()
}

// runRegistration enters this process in the cluster's book and opens the front door when that is done.
func (n *Node) runRegistration(ctx context.Context) {
	info := placement.NodeInfo{
		ID: n.id.Node, Name: n.id.Name, PeerURLs: urlStrings(n.cfg.AdvertisePeerURLs),
		ClientURLs: urlStrings(n.cfg.AdvertiseClientURLs), DiskID: n.id.DiskID, Incarnation: n.incarnation,
	}
	said := time.Now()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := n.client.RegisterNode(attempt, info)
		if err == nil {
			_, _, err = n.client.Confirm(attempt)
		}
		cancel()
		switch {
		case err == nil:
			if err := n.front.start(); err != nil {
				n.fail(err)
				return
			}
			close(n.ready)
			n.runNodes(ctx)
			return
		case ctx.Err() != nil:
			return
		case refusedForGood(err):
			n.fail(err)
			return
		case time.Since(said) > 10*time.Second:
			said = time.Now()
			n.log.Warn("waiting for the cluster: is a majority of the placement nodes running?", zap.Error(err))
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return
		}
	}
}

// runNodes keeps the addresses of the other nodes fresh.
func (n *Node) runNodes(ctx context.Context) {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		nodes, err := n.client.Nodes(attempt)
		cancel()
		if err == nil {
			for _, m := range nodes {
				n.peers.set(m.ID, m.PeerURLs)
			}
			n.peers.know(nodes)
		}
		wait := 30 * time.Second
		if err != nil || len(n.peers.known()) < len(n.id.Members) || n.peers.incomplete() {
			wait = 500 * time.Millisecond // others are still registering
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// Ready is closed once clients are served.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Err delivers the error that makes the node useless; it must then be closed.
func (n *Node) Err() <-chan error { return n.failed }

// ID is the node's id: etcd's member id.
func (n *Node) ID() ids.NodeID { return n.id.Node }

// Transfer asks for the leadership of a range led here to move to another node; see rangegroup.Host.Transfer.
func (n *Node) Transfer(r ids.RangeID, to ids.NodeID) { n.ranges.Transfer(r, to) }

// Sequencer is the node that this one takes for the sequencer; 0 before it found one.
func (n *Node) Sequencer() ids.NodeID { return n.client.SequencerNode() }

// Statuses are the local replicas'.
func (n *Node) Statuses() []rangegroup.Status { return n.ranges.Statuses() }

// Close stops the node and waits: front door first, engines last. A sequencer here is released, so that no revision is
// skipped; leaders are handed over where another node can take them.
func (n *Node) Close() error {
	n.closing.Do(func() { n.closed = n.close() })
	return n.closed
}

func (n *Node) close() error {
	n.run.cancel()
	n.run.wg.Wait()
	var errs []error
	if n.front != nil {
		errs = append(errs, n.front.close())
	}
	if n.client != nil && n.isReady() {
		n.leaveLeaders()
		release, cancel := context.WithTimeout(context.Background(), 2*n.cfg.ElectionTimeout)
		if err := n.client.Release(release); err != nil {
			n.log.Warn("the sequencer could not be released; its successor skips some revisions", zap.Error(err))
		}
		cancel()
	}
	stop := func(c interface{ Close() error }, there bool) {
		if there {
			errs = append(errs, c.Close())
		}
	}
	stop(n.client, n.client != nil)
	stop(n.groups, n.groups != nil)
	stop(n.ranges, n.ranges != nil)
	stop(n.placement, n.placement != nil)
	stop(n.bookGroups, n.bookGroups != nil)
	stop(n.net, n.net != nil)
	stop(n.data, n.data != nil)
	stop(n.book, n.book != nil)
	return errors.Join(errs...)
}

func (n *Node) isReady() bool {
	select {
	case <-n.ready:
		return true
	default:
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// peers is what the node knows of where the others are.
type peers struct {
	mu    sync.Mutex
	addr  map[ids.NodeID]string // guarded by mu: host:port
	nodes []placement.NodeInfo  // guarded by mu: the book's, last seen
}

func (p *peers) set(id ids.NodeID, urls []string) {
	if len(urls) == 0 {
		return
	}
	u, err := url.Parse(urls[0])
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addr == nil {
		p.addr = make(map[ids.NodeID]string)
	}
	p.addr[id] = u.Host
}

func (p *peers) resolve(id ids.NodeID) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.addr[id]
	return a, ok
}

func (p *peers) know(nodes []placement.NodeInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes = nodes
}

func (p *peers) known() []placement.NodeInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes
}

// incomplete reports whether some node of the book has not registered yet.
func (p *peers) incomplete() bool {
	return slices.ContainsFunc(p.known(), func(m placement.NodeInfo) bool { return len(m.ClientURLs) == 0 })
}

var _ transport.Transport = PeerTransport(nil)
