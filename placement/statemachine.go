package placement

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/placement/book"
	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// stateMachine is the Service as its group's worker sees it.
type stateMachine struct{ *Service }

// StateMachine returns what multiraft drives.
func (s *Service) StateMachine() multiraft.StateMachine { return stateMachine{s} }

var errNoEffect = status.Error(codes.InvalidArgument, "pontoon: the placement command could not be encoded")

// Process proposes what the sequencer and the callers want in the log, and begins the read index that answers wait for.
func (s stateMachine) Process(g *multiraft.Group) bool {
	s.mu.Lock()
	now := s.cfg.Clock.Now() // before anything is proposed: a lease runs from here
	var commands []sequencer.Command
	if !s.mu.releasing && !s.mu.closed {
		commands = s.mu.machine.Tick(now)
	}
	proposals := s.mu.proposals
	s.mu.proposals = nil
	epoch, _, _ := s.mu.machine.Serving()
	var read uint64
	if s.mu.machine.WantsRead() {
		read = s.mu.machine.BeginRead()
	}
	s.mu.Unlock()
	for _, c := range commands {
		if _, err := g.Propose(marshalCommand(book.EncodeSequencer(c))); err != nil {
			s.log.Debug("sequencer command was not proposed", zap.Error(err))
		}
	}
	for _, p := range proposals {
		s.proposeOne(g, p)
	}
	if read != 0 {
		if err := g.ReadIndex(readContext(epoch, read)); err != nil {
			s.log.Debug("read index was not begun", zap.Error(err))
			s.mu.Lock()
			s.mu.machine.ReadFailed()
			s.mu.Unlock()
		}
	}
	s.flush()
	return false
}

func (s stateMachine) proposeOne(g *multiraft.Group, p proposal) {
	data := marshalCommand(p.command)
	if data == nil {
		p.done(book.Result{Err: errNoEffect})
		return
	}
	index, err := g.Propose(data)
	if err != nil {
		p.done(book.Result{Err: s.notLeader()})
		return
	}
	s.waiters[index] = waiter{s.term, p.done}
}

func readContext(epoch, n uint64) string {
	return strconv.FormatUint(epoch, 10) + "/" + strconv.FormatUint(n, 10)
}

// ReadState lets go the answers that were computed before the read index began.
func (s stateMachine) ReadState(g *multiraft.Group, r multiraft.ReadState) {
	e, n, _ := strings.Cut(r.Context, "/")
	num, err := strconv.ParseUint(n, 10, 64)
	if err != nil {
		return
	}
	s.mu.Lock()
	if epoch, _, ok := s.mu.machine.Serving(); ok && strconv.FormatUint(epoch, 10) == e {
		s.mu.machine.ReadConfirmed(num)
	}
	more := s.mu.machine.WantsRead()
	s.mu.Unlock()
	s.flush()
	if more {
		g.Schedule()
	}
}

// Changed stops the sequencer at once when the replica does not lead any more, and fails who waits for entries of a
// term that is over: their fate is unknown here.
func (s stateMachine) Changed(g *multiraft.Group, st multiraft.Status) {
	leading := st.Role == multiraft.Leader
	s.mu.Lock()
	s.mu.leading = leading
	leader, _ := s.state.Descriptor.NodeOf(st.Leader)
	s.mu.leader = leader
	if !s.mu.closed {
		s.mu.machine.Changed(leading, st.Term)
	}
	s.mu.Unlock()
	s.log.Info("placement group changed", zap.Bool("leading", leading), zap.Uint64("term", st.Term), zap.Stringer("leader", leader))
	if !leading || st.Term != s.term {
		for index, w := range s.waiters {
			delete(s.waiters, index)
			w.done(book.Result{Err: errUnknown})
		}
	}
	s.term = st.Term
	s.flush()
	if leading {
		g.Schedule()
	}
}

// Apply does the entries' commands on the book, writes what changed, and tells the sequencer.
func (s stateMachine) Apply(g *multiraft.Group, entries []*raftpb.Entry) error {
	w := storage.NewWriteSet()
	batch := s.cfg.Engine.NewBatch()
	defer batch.Close()
	results := make([]book.Result, len(entries))
	s.mu.Lock()
	for i, e := range entries {
		r, err := s.applyLocked(g, e, w, batch)
		if err != nil {
			s.mu.Unlock()
			return fmt.Errorf("placement: entry %d: %w", e.GetIndex(), err)
		}
		results[i] = r
	}
	// A new leader need not wait for the next tick to take the lease.
	_, _, serving := s.mu.machine.Serving()
	again := s.mu.machine.Hungry() || s.mu.leading && !serving
	s.noteServingLocked()
	s.mu.Unlock()
	last := entries[len(entries)-1]
	s.state.Applied.Index, s.state.Applied.Term = last.GetIndex(), last.GetTerm()
	if !w.Empty() {
		if err := batch.ApplyWrites(w.Bytes()); err != nil {
			return err
		}
	}
	batch.SetApplied(ids.PlacementRange, s.state.Applied)
	if err := batch.Commit(false); err != nil {
		return err
	}
	for i, e := range entries {
		if wt, ok := s.waiters[e.GetIndex()]; ok {
			delete(s.waiters, e.GetIndex())
			if wt.term != e.GetTerm() {
				results[i] = book.Result{Err: errUnknown}
			}
			wt.done(results[i])
		}
	}
	s.flush()
	if again {
		g.Schedule()
	}
	return nil
}

// noteServingLocked logs the beginning of an epoch.
func (s stateMachine) noteServingLocked() {
	epoch, counter, ok := s.mu.machine.Serving()
	if ok && epoch != s.mu.logged {
		s.mu.logged = epoch
		s.log.Info("serving as the sequencer", zap.Uint64("epoch", epoch), zap.Int64("counter", int64(counter)))
	}
}

func (s stateMachine) applyLocked(g *multiraft.Group, e *raftpb.Entry, w *storage.WriteSet, batch *storage.Batch) (book.Result, error) {
	var res book.Result
	var lease *sequencer.Lease
	switch {
	case e.GetType() == raftpb.EntryConfChange:
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			return res, err
		}
		s.state.ConfState = g.ApplyConfChange(&cc)
		batch.SetDescriptor(ids.PlacementRange, s.state.Descriptor, s.state.ConfState)
	case e.GetType() == raftpb.EntryConfChangeV2:
		var cc raftpb.ConfChangeV2
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			return res, err
		}
		s.state.ConfState = g.ApplyConfChange(&cc)
		batch.SetDescriptor(ids.PlacementRange, s.state.Descriptor, s.state.ConfState)
	case len(e.GetData()) > 0:
		var c pontoonpb.PlacementCommand
		if err := proto.Unmarshal(e.GetData(), &c); err != nil {
			return res, err
		}
		var records []book.Record
		res, records = s.mu.book.Apply(&c)
		for _, r := range records {
			w.PutSystem(r.Key, r.Value)
		}
		if sc, ok := book.SequencerCommand(&c); ok {
			lease = sc.Lease
		}
	}
	s.mu.machine.Applied(s.cfg.Clock.Now(), e.GetTerm(), lease, s.mu.book.Sequencer(), s.freshLocked())
	return res, nil
}

// SnapshotState says what a snapshot of the book holds: the engine's whole key space as of the applied index.
func (s stateMachine) SnapshotState(*multiraft.Group) storage.RangeState { return s.state }

// Restored takes a snapshot that was ingested: the book is read again, and another's lease counts as seen now.
func (s stateMachine) Restored(_ *multiraft.Group, st storage.RangeState) error {
	b, err := loadBook(s.cfg.Engine)
	if err != nil {
		return err
	}
	s.state = st
	s.mu.Lock()
	s.mu.book = b
	s.mu.voters = st.Descriptor.Replicas
	s.mu.machine.Restored(s.cfg.Clock.Now(), b.Sequencer(), s.freshLocked())
	s.mu.Unlock()
	return nil
}

// Idle is false: the sequencer's lease is renewed all the time, and a failover of this group must not begin asleep.
func (s stateMachine) Idle() bool { return false }
