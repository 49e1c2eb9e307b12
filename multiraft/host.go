package multiraft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

const (
	// msgBytesMax bounds the entries of one append, and of what is applied at once.
	msgBytesMax = 1 << 20
	// inflightBytesMax and inflightCountMax bound what a leader has under way to one follower.
	inflightBytesMax = 4 << 20
	inflightCountMax = 256
)

var (
	errClosed  = errors.New("multiraft: host is closed")
	errRemoved = errors.New("replica was removed from this node")
	errDamaged = errors.New("replica is damaged or gone")
)

// Host runs groups over one engine and one transport.
type Host struct {
	cfg           Config
	electionTicks int
	log           *zap.Logger
	metrics       *metrics
	writer        *logWriter
	sender        *snapshotSender
	receiver      *snapshotReceiver
	queue         runQueue

	mu struct {
		sync.RWMutex
		groups  map[ids.RangeID]*Group
		peers   map[ids.NodeID]int // other nodes and how many of our groups have a replica there
		started bool
		closed  bool
		random  *rand.Rand
	}
	awake struct {
		sync.Mutex
		groups map[*Group]struct{}
	}

	stop    context.CancelFunc // ends the ticker and snapshots
	ctx     context.Context
	loops   sync.WaitGroup // ticker and snapshots
	workers sync.WaitGroup
	writing sync.WaitGroup
	lived   map[ids.NodeID]bool // belongs to the ticker
}

// New checks the configuration and prepares a host, which does nothing before Start.
func New(cfg Config) (*Host, error) {
	if cfg.Node == 0 || cfg.Engine == nil || cfg.Transport == nil {
		return nil, errors.New("multiraft: Config needs Node, Engine and Transport")
	}
	cfg.Workers = cmp.Or(cfg.Workers, max(2, runtime.GOMAXPROCS(0)))
	cfg.HeartbeatInterval = cmp.Or(cfg.HeartbeatInterval, 100*time.Millisecond)
	cfg.ElectionTimeout = cmp.Or(cfg.ElectionTimeout, time.Second)
	cfg.SnapshotBytesPerSecond = cmp.Or(cfg.SnapshotBytesPerSecond, 128<<20)
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	h := &Host{cfg: cfg, log: cfg.Logger, metrics: newMetrics(), lived: make(map[ids.NodeID]bool)}
	h.electionTicks = int(cfg.ElectionTimeout / cfg.HeartbeatInterval)
	if cfg.HeartbeatInterval < 0 || h.electionTicks < 2 {
		return nil, fmt.Errorf("multiraft: election timeout %v is less than two heartbeat intervals of %v",
			cfg.ElectionTimeout, cfg.HeartbeatInterval)
	}
	if err := h.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("multiraft: metrics: %w", err)
	}
	seed := cmp.Or(uint64(cfg.Seed), rand.Uint64())
	h.mu.random = rand.New(rand.NewPCG(seed, uint64(cfg.Node)))
	h.mu.groups = make(map[ids.RangeID]*Group)
	h.mu.peers = make(map[ids.NodeID]int)
	h.awake.groups = make(map[*Group]struct{})
	h.queue.init()
	h.writer = newLogWriter(h)
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.sender, h.receiver = newSnapshotSender(h), newSnapshotReceiver(h)
	return h, nil
}

// Start begins the loops.
func (h *Host) Start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closed || h.mu.started {
		return errors.New("multiraft: host was started or closed before")
	}
	h.mu.started = true
	h.writing.Go(h.writer.run)
	for range h.cfg.Workers {
		h.workers.Go(h.work)
	}
	h.loops.Go(h.tickAll)
	h.sender.start()
	return nil
}

// Close ends everything and waits. Groups stop where they are; nobody is told. It may be called twice.
func (h *Host) Close() error {
	h.mu.Lock()
	h.mu.closed = true
	h.mu.Unlock()
	h.stop()
	h.sender.close()
	h.loops.Wait()
	h.queue.close()
	h.workers.Wait()
	h.writer.close()
	h.writing.Wait()
	return nil
}

// Add lets a replica take part in its group. Any goroutine may call it, before or after Start.
func (h *Host) Add(cfg GroupConfig) (*Group, error) { return h.add(cfg, false) }

// add is Add; fresh says that the replica was made from a snapshot just now, which its state machine is to be told first.
func (h *Host) add(cfg GroupConfig, fresh bool) (*Group, error) {
	g, err := h.newGroup(cfg)
	if err != nil {
		return nil, err
	}
	if fresh {
		g.fresh = &cfg.State
		g.Schedule()
	}
	h.mu.Lock()
	switch {
	case h.mu.closed:
		err = errClosed
	case h.mu.groups[g.r] != nil:
		err = fmt.Errorf("multiraft: range %d has a replica on this node already", g.r)
	default:
		h.mu.groups[g.r] = g
	}
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	h.trackPeers(nil, g.desc.Load())
	h.metrics.moved(roleNone, g.status.Role)
	h.setAwake(g, true)
	if cfg.Campaign {
		g.Campaign()
	}
	return g, nil
}

func (h *Host) newGroup(cfg GroupConfig) (g *Group, err error) {
	s := cfg.State
	if s.Descriptor == nil || s.HardState == nil || s.ConfState == nil || s.Replica == 0 || cfg.StateMachine == nil {
		return nil, errors.New("multiraft: GroupConfig is incomplete")
	}
	g = &Group{host: h, r: s.Descriptor.ID, replica: s.Replica, sm: cfg.StateMachine, done: make(chan struct{})}
	g.desc.Store(s.Descriptor)
	g.hard = newHardState(s.HardState.GetTerm(), s.HardState.GetVote(), max(s.HardState.GetCommit(), s.Applied.Index))
	g.applied = storage.EntryID{Term: s.Applied.Term, Index: s.Applied.Index}
	g.log = newGroupLog(h.cfg.Engine, &s, g.hard)
	g.log.at = func() storage.EntryID { return g.applied }
	defer func() { // raft panics over a log that cannot be
		if p := recover(); p != nil {
			g, err = nil, fmt.Errorf("multiraft: range %d: %v", s.Descriptor.ID, p)
		}
	}()
	g.raft, err = raft.NewRawNode(&raft.Config{
		ID:                        uint64(s.Replica),
		ElectionTick:              h.electionTicks,
		HeartbeatTick:             1,
		Storage:                   g.log,
		Applied:                   s.Applied.Index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             msgBytesMax,
		MaxUncommittedEntriesSize: 0, // unlimited: whoever proposes has a bound of its own, and relies on the order
		MaxInflightMsgs:           inflightCountMax,
		MaxInflightBytes:          inflightBytesMax,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{h.log.Sugar().With("range", uint64(g.r))},
	})
	if err != nil {
		return nil, fmt.Errorf("multiraft: range %d: %w", g.r, err)
	}
	g.soft.RaftState = raft.StateFollower
	g.sleep.awake = true
	g.status = Status{
		Range: g.r, Replica: g.replica, Role: g.role(), Term: g.hard.GetTerm(),
		Commit: g.hard.GetCommit(), Applied: g.applied.Index, Last: g.log.last,
	}
	g.publish()
	return g, nil
}

// Remove stops a replica and waits until no worker is in it and nothing of it is on its way to the log. It must not be
// called from a StateMachine method.
func (h *Host) Remove(r ids.RangeID) error {
	h.mu.Lock()
	g := h.mu.groups[r]
	delete(h.mu.groups, r)
	running := h.mu.started && !h.mu.closed
	h.mu.Unlock()
	if g == nil {
		return fmt.Errorf("multiraft: range %d has no replica on this node", r)
	}
	h.trackPeers(g.desc.Load(), nil)
	g.removing.Store(true)
	if !running {
		h.setAwake(g, false)
		return nil
	}
	g.raise(evRemove)
	select {
	case <-g.done:
	case <-h.ctx.Done():
		h.workers.Wait()
	}
	return nil
}

// Group returns the replica of a range on this node, or nil.
func (h *Host) Group(r ids.RangeID) *Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.mu.groups[r]
}

func (h *Host) all() []*Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	groups := make([]*Group, 0, len(h.mu.groups))
	for _, g := range h.mu.groups {
		groups = append(groups, g)
	}
	return groups
}

// HandleRaft takes the messages of one frame. It never blocks. A message creates no replica: one for a replica that is
// not here is dropped, as is one that finds no room.
func (h *Host) HandleRaft(from ids.NodeID, msgs []*pontoonpb.RaftMessage) {
	h.metrics.received.Add(float64(len(msgs)))
	full := h.writer.backlog.Load() > backlogBytesMax
	for _, m := range msgs {
		g := h.Group(ids.RangeID(m.GetRangeId()))
		switch {
		case g == nil || g.replica != ids.ReplicaID(m.GetToReplica()):
			h.metrics.droppedUnknown.Inc()
			if g == nil && h.cfg.AcceptSnapshot != nil {
				h.askForSnapshot(from, m)
			}
		case full && len(m.GetMessage()) > 1024, !g.inbox.addLetter(letter{from, m.GetMessage()}):
			h.metrics.droppedFull.Inc()
		default:
			g.raise(evInbox)
		}
	}
}

// askForSnapshot answers an append for a replica that is not here, but might come: it refuses, as a replica with an empty
// log would, upon which the leader sends a snapshot. A refusal promises nothing, so nothing needs to be remembered.
func (h *Host) askForSnapshot(from ids.NodeID, m *pontoonpb.RaftMessage) {
	app, err := decodeMessage(m.GetMessage())
	if err != nil || app.GetType() != raftpb.MsgApp {
		return
	}
	no := &raftpb.Message{
		Type: raftpb.MsgAppResp.Enum(), To: app.From, From: proto.Uint64(m.GetToReplica()), Term: app.Term, Index: app.Index,
		Reject: proto.Bool(true), RejectHint: proto.Uint64(0),
	}
	h.cfg.Transport.SendRaft(from, []*pontoonpb.RaftMessage{{
		RangeId: m.GetRangeId(), ToReplica: app.GetFrom(), Message: encodeMessage(no),
	}})
}

// WakeNode tells that a node died or restarted: what it led needs a new leader. Any goroutine may call it; it costs time
// in proportion to the groups on this node.
func (h *Host) WakeNode(n ids.NodeID) {
	var led []*Group
	for _, g := range h.all() {
		if ids.NodeID(g.leaderNode.Load()) == n {
			led = append(led, g)
		}
	}
	spread := min(time.Duration(len(led))*wakeSpread, h.cfg.ElectionTimeout)
	ticks := int(spread / h.cfg.HeartbeatInterval)
	for _, g := range led {
		delay := 0
		if ticks > 0 {
			h.mu.Lock()
			delay = h.mu.random.IntN(ticks)
			h.mu.Unlock()
		}
		g.order(order{kind: orderLeaderDead, node: n, delay: delay})
	}
}

// tickAll gives awake groups their ticks and watches which nodes live.
func (h *Host) tickAll() {
	t := time.NewTicker(h.cfg.HeartbeatInterval)
	defer t.Stop()
	var groups []*Group
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-t.C:
		}
		h.watchNodes()
		groups = groups[:0]
		h.awake.Lock()
		for g := range h.awake.groups {
			groups = append(groups, g)
		}
		h.awake.Unlock()
		for _, g := range groups {
			g.raise(evTick)
		}
		clear(groups)
	}
}

// watchNodes notices nodes that died. It costs one question per node, however many groups there are.
func (h *Host) watchNodes() {
	h.mu.RLock()
	peers := make([]ids.NodeID, 0, len(h.mu.peers))
	for n := range h.mu.peers {
		peers = append(peers, n)
	}
	h.mu.RUnlock()
	for _, n := range peers {
		lives := h.cfg.Transport.Alive(n)
		if h.lived[n] && !lives {
			h.log.Info("a node is silent: what it led needs new leaders", zap.Stringer("node", n))
			h.WakeNode(n)
		}
		h.lived[n] = lives
	}
}

func (h *Host) alive(n ids.NodeID) bool {
	return n == h.cfg.Node || n != 0 && h.cfg.Transport.Alive(n)
}

// trackPeers counts the nodes of a descriptor instead of those of another; nil has none.
func (h *Host) trackPeers(old, now *ids.Descriptor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	count := func(d *ids.Descriptor, by int) {
		if d == nil {
			return
		}
		for _, r := range d.Replicas {
			if r.Node == h.cfg.Node {
				continue
			}
			if h.mu.peers[r.Node] += by; h.mu.peers[r.Node] <= 0 {
				delete(h.mu.peers, r.Node)
			}
		}
	}
	count(now, 1)
	count(old, -1)
}

func (h *Host) setAwake(g *Group, awake bool) {
	h.awake.Lock()
	defer h.awake.Unlock()
	if awake {
		h.awake.groups[g] = struct{}{}
	} else {
		delete(h.awake.groups, g)
	}
	h.metrics.awake.Set(float64(len(h.awake.groups)))
}
