package placement

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/placement/book"
	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/storage"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// defaultLease is D if none is configured: an election timeout.
const defaultLease = time.Second

// proposalsMax bounds the calls that wait to be proposed.
const proposalsMax = 1024

// Service is one replica of the placement group: the book, and the sequencer while it leads. New, then
// multiraft.Host.Add with StateMachine, then Start; Close before the group's host is closed.
//
// Locking: mu guards the machine and the book. It is a leaf: nothing is called under it but the machine, the book and
// the clock, so an exchange may come from anywhere.
type Service struct {
	cfg     Config
	log     *zap.Logger
	metrics *serviceMetrics

	mu struct {
		sync.Mutex
		machine   *sequencer.Machine
		book      *book.Book
		leading   bool
		leader    ids.NodeID // of the group, as far as this replica knows; 0 if unknown
		voters    []ids.ReplicaDesc
		proposals []proposal
		releasing bool // set by Release: no lease is taken any more
		group     *multiraft.Group
		logged    uint64 // the newest epoch whose beginning was logged
		closed    bool
	}

	// Owned by the group's worker.
	state   storage.RangeState
	term    uint64
	waiters map[uint64]waiter // by log index

	stop chan struct{}
	done sync.WaitGroup
}

// proposal is a command from outside on its way into the log.
type proposal struct {
	command *pontoonpb.PlacementCommand
	done    func(book.Result)
}

// waiter waits for a log entry to be applied.
type waiter struct {
	term uint64
	done func(book.Result)
}

// errUnknown is the outcome of a proposal whose leader's term ended first.
var errUnknown = &ids.AmbiguousError{Range: ids.PlacementRange, Reason: "the placement leader changed before the command was applied"}

// InitEngine writes a replica's first state and the bootstrap book to its engine, durably. It does nothing if the
// engine holds a replica already.
func InitEngine(e *storage.Engine, s storage.RangeState, b Bootstrap) error {
	have, err := e.Ranges()
	if err != nil || len(have) > 0 {
		return err
	}
	// On this engine the book is all there is in the key space: with a span it can be snapshotted like any range.
	d := *s.Descriptor
	d.Span = ids.SystemSpan
	s.Descriptor = &d
	w := storage.NewWriteSet()
	for _, r := range book.New(b).Records() {
		w.PutSystem(r.Key, r.Value)
	}
	batch := e.NewBatch()
	defer batch.Close()
	batch.CreateRange(s)
	if err := batch.ApplyWrites(w.Bytes()); err != nil {
		return err
	}
	return batch.Commit(true)
}

// New loads the book and returns the service, not started. It installs the handlers of the placement's methods.
func New(cfg Config) (*Service, error) {
	if cfg.Node == 0 || cfg.Engine == nil || cfg.Clock == nil {
		return nil, errors.New("placement: Config needs Node, Engine and Clock")
	}
	if cfg.LeaseDuration == 0 {
		cfg.LeaseDuration = defaultLease
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Service{cfg: cfg, log: cfg.Logger, waiters: map[uint64]waiter{}, stop: make(chan struct{})}
	if err := s.load(); err != nil {
		return nil, err
	}
	now := cfg.Clock.Now()
	s.mu.machine = sequencer.NewMachine(sequencer.Config{
		Node: cfg.Node, LeaseDuration: cfg.LeaseDuration, Quorum: cfg.Proof == ProofQuorum,
	}, now, s.mu.book.Sequencer(), s.freshLocked())
	s.metrics = newServiceMetrics(cfg.Registerer, s)
	if cfg.Transport != nil {
		cfg.Transport.Handle(transport.MethodExchange, s.handleExchange)
		cfg.Transport.Handle(transport.MethodPlacement, s.handleCall)
	}
	return s, nil
}

// load reads the replica's state and the book from the engine.
func (s *Service) load() error {
	ranges, err := s.cfg.Engine.Ranges()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if r.Descriptor.ID == ids.PlacementRange {
			s.state = r
		}
	}
	if s.state.Descriptor == nil {
		return errors.New("placement: the engine holds no replica of the placement group")
	}
	b, err := loadBook(s.cfg.Engine)
	if err != nil {
		return err
	}
	s.mu.book = b
	s.mu.voters = s.state.Descriptor.Replicas
	return nil
}

func loadBook(e *storage.Engine) (*book.Book, error) {
	v := e.View()
	defer v.Close()
	l := book.NewLoader()
	var bad error
	err := v.ScanSystem(ids.SystemSpan, func(key, value []byte) bool {
		bad = l.Add(key, value)
		return bad == nil
	})
	return l.Book(), errors.Join(err, bad)
}

// State is the replica's state for multiraft.GroupConfig, until the group is started.
func (s *Service) State() storage.RangeState { return s.state }

// Start begins to keep time for the group that was made with StateMachine.
func (s *Service) Start(g *multiraft.Group) {
	s.mu.Lock()
	s.mu.group = g
	s.mu.Unlock()
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		s.keepTime(g)
	}()
}

// keepTime has the worker look at the lease ten times per D, which is enough to renew it each D/3.
func (s *Service) keepTime(g *multiraft.Group) {
	t := time.NewTicker(s.cfg.LeaseDuration / 10)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			if s.isLeading() {
				g.Schedule()
			}
		}
	}
}

func (s *Service) isLeading() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.leading
}

// Close stops the service; it does not release the sequencer (Release does).
func (s *Service) Close() error {
	s.mu.Lock()
	closed := s.mu.closed
	s.mu.closed = true
	s.mu.machine.Changed(false, 0)
	pending := s.mu.proposals
	s.mu.proposals = nil
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.flush()
	for _, p := range pending {
		p.done(book.Result{Err: s.notLeader()})
	}
	close(s.stop)
	s.done.Wait()
	return nil
}

// Release stops the sequencer of a node that shuts down, if this is it, and tells the successor where: no revision is
// skipped. It returns when that is committed, and hands the group's leadership to another live node. After it this node
// takes no sequencer lease any more.
func (s *Service) Release(ctx context.Context) error {
	s.mu.Lock()
	s.mu.releasing = true
	c, ok := s.mu.machine.Release()
	s.mu.Unlock()
	s.flush()
	if !ok {
		return nil
	}
	res, err := s.propose(ctx, book.EncodeSequencer(c))
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return fmt.Errorf("release the sequencer: %w", err)
	}
	s.handOver()
	return nil
}

// handOver gives the group's leadership to a live replica, if there is one.
func (s *Service) handOver() {
	s.mu.Lock()
	g, voters := s.mu.group, s.mu.voters
	s.mu.Unlock()
	for _, r := range voters {
		if r.Node != s.cfg.Node && !r.Learner && s.cfg.Transport != nil && s.cfg.Transport.Alive(r.Node) {
			g.TransferLeader(r.Replica)
			return
		}
	}
}

// propose puts a command into the log and waits until it is applied here.
func (s *Service) propose(ctx context.Context, c *pontoonpb.PlacementCommand) (book.Result, error) {
	ch := make(chan book.Result, 1)
	s.proposeAsync(c, func(r book.Result) { ch <- r })
	select {
	case r := <-ch:
		return r, nil
	case <-ctx.Done():
		return book.Result{}, ctx.Err()
	}
}

// proposeAsync calls done exactly once, from any goroutine; done must not block.
func (s *Service) proposeAsync(c *pontoonpb.PlacementCommand, done func(book.Result)) {
	s.mu.Lock()
	g := s.mu.group
	ok := s.mu.leading && !s.mu.closed && g != nil && len(s.mu.proposals) < proposalsMax
	if ok {
		s.mu.proposals = append(s.mu.proposals, proposal{c, done})
	}
	s.mu.Unlock()
	if !ok {
		done(book.Result{Err: s.notLeader()})
		return
	}
	g.Schedule()
}

func (s *Service) notLeader() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &ids.NotLeaderError{Range: ids.PlacementRange, Leader: s.mu.leader}
	if s.mu.leading {
		e.Leader = 0 // leads, but can't take it now
	}
	return e
}

func (s *Service) freshLocked() sequencer.Fresh {
	return sequencer.Fresh{Floor: s.mu.book.Floor(), SettingsVersion: s.mu.book.SettingsVersion()}
}

func marshalCommand(c *pontoonpb.PlacementCommand) []byte {
	b, err := proto.Marshal(c)
	if err != nil {
		return nil // invalid UTF-8 in a name: an empty entry has no effect and its waiter is told
	}
	return b
}
