package rangegroup

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/storage"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Config is what a Host needs besides its neighbours.
type Config struct {
	Node ids.NodeID
	// Retention is how long history stays physically after a compaction allows it to go (default 5 min). Reads that
	// began before the compaction, and feeds that are behind, live on it.
	Retention time.Duration
	// LeaseExists tells whether a lease may be attached to a key; nil: there are no leases.
	LeaseExists func(id int64) bool
	Logger      *zap.Logger
}

// Deps are a Host's neighbours.
type Deps struct {
	Engine    *storage.Engine
	Groups    *multiraft.Host
	Sequencer Sequencer
	Clock     clock.Clock
	Metrics   *Metrics // nil: none
	// Leadership, if set, is told when a local replica becomes leader, or stops leading. It must not block.
	Leadership func(r ids.RangeID, leads bool)
}

// Host holds the replicas of one node.
type Host struct {
	cfg        Config
	engine     *storage.Engine
	groups     *multiraft.Host
	seq        Sequencer
	clock      clock.Clock
	metrics    *Metrics
	log        *zap.Logger
	leadership func(r *Replica, s multiraft.Status)
	readSerial atomic.Uint64
	gc         *collector
	rules      rules // all on, but in tests
	worthwhile worthwhile

	mu struct {
		sync.RWMutex
		replicas map[ids.RangeID]*Replica
		timers   map[*time.Timer]struct{}
		closed   bool
	}
}

// New checks the configuration and returns a host without replicas.
func New(cfg Config, deps Deps) (*Host, error) {
	if deps.Engine == nil || deps.Groups == nil || deps.Sequencer == nil || deps.Clock == nil || cfg.Node == 0 {
		return nil, fmt.Errorf("rangegroup: engine, groups, sequencer, clock and node id are all needed")
	}
	if cfg.Retention == 0 {
		cfg.Retention = 5 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if deps.Metrics == nil {
		deps.Metrics = NewMetrics(nil)
	}
	h := &Host{
		cfg: cfg, engine: deps.Engine, groups: deps.Groups, seq: deps.Sequencer, clock: deps.Clock,
		metrics: deps.Metrics, log: cfg.Logger, worthwhile: defaultWorthwhile,
	}
	h.leadership = func(r *Replica, s multiraft.Status) {
		if deps.Leadership != nil {
			deps.Leadership(r.id, s.Role == multiraft.Leader)
		}
	}
	h.mu.replicas = make(map[ids.RangeID]*Replica)
	h.mu.timers = make(map[*time.Timer]struct{})
	h.gc = newCollector(h)
	return h, nil
}

// Add opens a replica from its stored state and joins it to its group.
func (h *Host) Add(s storage.RangeState, campaign bool) error {
	r := newReplica(h, s)
	h.mu.Lock()
	if h.mu.closed || h.mu.replicas[r.id] != nil {
		h.mu.Unlock()
		return fmt.Errorf("rangegroup: range %d is open already, or the host is closed", r.id)
	}
	h.mu.replicas[r.id] = r
	h.mu.Unlock()
	g, err := h.groups.Add(multiraft.GroupConfig{State: s, StateMachine: machine{r}, Campaign: campaign})
	if err != nil {
		h.mu.Lock()
		delete(h.mu.replicas, r.id)
		h.mu.Unlock()
		return err
	}
	r.setGroup(g)
	g.Schedule() // for what was queued before
	return nil
}

// Start begins the background work.
func (h *Host) Start() error {
	h.gc.start()
	return nil
}

// Close fails everybody who waits. The groups must have been stopped before.
func (h *Host) Close() error {
	h.gc.stop()
	h.mu.Lock()
	if h.mu.closed {
		h.mu.Unlock()
		return nil
	}
	h.mu.closed = true
	for t := range h.mu.timers {
		t.Stop()
	}
	h.mu.timers = nil
	replicas := h.mu.replicas
	h.mu.replicas = nil
	h.mu.Unlock()
	for _, r := range replicas {
		r.stop()
	}
	return nil
}

// after calls f once after d, unless the host is closed before.
func (h *Host) after(d time.Duration, f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closed {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		h.mu.Lock()
		_, live := h.mu.timers[t]
		delete(h.mu.timers, t)
		h.mu.Unlock()
		if live {
			f()
		}
	})
	h.mu.timers[t] = struct{}{}
}

func (h *Host) nextReadContext() string {
	return strconv.FormatUint(h.readSerial.Add(1), 36)
}

func (h *Host) replica(id ids.RangeID) *Replica {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.mu.replicas[id]
}

func (h *Host) all() []*Replica {
	h.mu.RLock()
	defer h.mu.RUnlock()
	rs := make([]*Replica, 0, len(h.mu.replicas))
	for _, r := range h.mu.replicas {
		rs = append(rs, r)
	}
	return rs
}

// Request is one mutating request (or a Txn that may turn out not to mutate) for the leader of a range.
type Request struct {
	Range      ids.RangeID
	Generation ids.Generation
	Op         proto.Message // *pb.PutRequest, *pb.DeleteRangeRequest or *pb.TxnRequest, checked by the router
}

// Write passes a request through the lane of the range, if this node leads it. done is called exactly once, on another
// goroutine or before Write returns, and must not block. Its error is one of ids' typed errors or an etcd gRPC error;
// anything but an AmbiguousError means that the request has no effect.
func (h *Host) Write(req Request, done func(resp proto.Message, err error)) {
	r := h.replica(req.Range)
	if r == nil {
		done(nil, &ids.WrongRangeError{Range: req.Range})
		return
	}
	p := &proposal{op: req.Op, gen: req.Generation, size: size(req.Op), arrived: time.Now(), done: done}
	turn, ok := r.inbox.pushWrite(p)
	if !ok {
		h.metrics.overloaded.Inc()
		done(nil, &ids.UnavailableError{Range: req.Range, Reason: "too many requests are waiting"})
		return
	}
	if turn {
		r.schedule()
	}
}

// Confirm asks for a claim that is at least everything completed before the call, if this node leads the range. done is
// called exactly once and must not block.
func (h *Host) Confirm(id ids.RangeID, gen ids.Generation, done func(Claim, error)) {
	h.confirm(id, &confirmation{gen: gen, done: done})
}

func (h *Host) confirm(id ids.RangeID, c *confirmation) {
	r := h.replica(id)
	if r == nil {
		c.done(Claim{}, &ids.WrongRangeError{Range: id})
		return
	}
	if !r.inbox.push(event{confirm: c}) {
		c.done(Claim{}, r.closing())
		return
	}
	r.schedule()
}

// Note takes over a claim that the range's leader made, for serializable reads at this node's replica.
func (h *Host) Note(id ids.RangeID, c Claim) {
	if r := h.replica(id); r != nil {
		c.At = h.clock.Now()
		r.claims.note(c, r.waits.index.Load())
	}
}

// LocalClaim returns the newest claim that the local replica can serve at once.
func (h *Host) LocalClaim(id ids.RangeID) (Claim, bool) {
	r := h.replica(id)
	if r == nil {
		return Claim{}, false
	}
	return r.claims.newest()
}

// WaitApplied returns once the local replica has applied index, or with an error when it is gone or ctx ends.
func (h *Host) WaitApplied(ctx context.Context, id ids.RangeID, index uint64) error {
	r := h.replica(id)
	if r == nil {
		return &ids.WrongRangeError{Range: id}
	}
	return r.waits.wait(ctx, index)
}

// Read reads a span at a revision from the local replica, which must be covered by a claim that the replica has applied.
// Errors: ids.WrongRangeError if the replica does not own the span (any more), ids.UnavailableError if the history is
// physically gone, the engine's own.
func (h *Host) Read(
	_ context.Context, id ids.RangeID, span ids.Span, at ids.Revision, q eval.Query,
) (eval.Part, error) {
	r := h.replica(id)
	if r == nil {
		return eval.Part{}, &ids.WrongRangeError{Range: id}
	}
	if s := r.shared.Load(); s.gone || !s.desc.Span.Covers(span) {
		return eval.Part{}, r.wrongRangeShared()
	}
	view := h.engine.View()
	defer view.Close()
	part, err := eval.ReadPart(view, span, at, q)
	if err != nil {
		return eval.Part{}, err
	}
	// What was read is right only if the replica was still there, with this much history, when the view was pinned: both
	// only ever get worse, so looking afterwards is enough.
	s := r.shared.Load()
	if s.gone {
		return eval.Part{}, r.wrongRangeShared()
	}
	if at < s.gcFloor {
		return eval.Part{}, &ids.UnavailableError{
			Range: id, Reason: fmt.Sprintf("revision %d is below the physical floor %d", at, s.gcFloor),
		}
	}
	r.load.reads.Add(1)
	return part, nil
}

func (r *Replica) wrongRangeShared() error {
	return &ids.WrongRangeError{Range: r.id, Descriptors: []*ids.Descriptor{r.shared.Load().desc}}
}

// Transfer hands the leadership of a range to the replica on another node, once the lane is empty; requests wait
// meanwhile. It is a wish: it is given up after a second.
func (h *Host) Transfer(id ids.RangeID, to ids.NodeID) {
	r := h.replica(id)
	if r == nil {
		return
	}
	ok := r.inbox.push(event{run: func(r *Replica) {
		if l := r.serving(); l != nil && l.transfer == 0 && time.Now().After(l.noTransferBefore) {
			if rep, found := r.desc.On(to); found && !rep.Learner && rep.Replica != r.replica {
				l.transfer, l.transferBy = rep.Replica, time.Now().Add(transferMax)
			}
		}
	}})
	if ok {
		r.schedule()
	}
}

// Descriptors returns the descriptors of the local replicas.
func (h *Host) Descriptors() []*ids.Descriptor {
	var ds []*ids.Descriptor
	for _, r := range h.all() {
		ds = append(ds, r.shared.Load().desc)
	}
	return ds
}

// ownsOp reports whether a range owns everything that a request may touch.
func ownsOp(d *ids.Descriptor, op proto.Message) bool {
	switch op := op.(type) {
	case *pb.PutRequest:
		return d.Span.Covers(eval.PutSpan(op))
	case *pb.DeleteRangeRequest:
		return d.Span.Covers(eval.DeleteSpan(op))
	case *pb.TxnRequest:
		s := eval.TxnSpans(op)
		return s.Within(d.Span)
	}
	return false
}
