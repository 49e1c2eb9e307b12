package multiraft

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// receiveTimeout is how long a snapshot may be silent before it is given up.
const receiveTimeout = 30 * time.Second

var errNotNeeded = errors.New("the replica has no need of the snapshot")

// snapshotReceiver receives snapshots, a few at once.
type snapshotReceiver struct {
	host *Host
	mu   struct {
		sync.Mutex
		imports map[ids.RangeID]*snapshotImport
	}
}

func newSnapshotReceiver(h *Host) *snapshotReceiver {
	v := &snapshotReceiver{host: h}
	v.mu.imports = make(map[ids.RangeID]*snapshotImport)
	return v
}

// snapshotImport is a snapshot that is coming in. A goroutine of its own works on it.
type snapshotImport struct {
	host    *Host
	from    ids.NodeID
	session uint64
	header  snapshotHeader
	parts   chan snapshotPart // holds all that may be under way
	// stop is closed, under the receiver's lock, when a newer snapshot of the range wants to come.
	stop    chan struct{}
	stopped bool // guarded by the receiver's lock
}

type snapshotPart struct {
	body  []byte
	kind  snapshotKind
	reply func([]byte, error)
}

// HandleSnapshot serves transport.MethodSnapshot for this host's ranges.
func (h *Host) HandleSnapshot(from ids.NodeID, payload []byte, reply func([]byte, error)) {
	body, t, ok := splitTrailer(payload)
	if !ok {
		reply(nil, h.refuse(0, "malformed call"))
		return
	}
	part := snapshotPart{body, t.kind, reply}
	v := h.receiver
	if t.kind == snapshotBegin {
		if err := v.begin(from, t, part); err != nil {
			reply(nil, h.refuse(t.r, err.Error()))
		}
		return
	}
	v.mu.Lock()
	im := v.mu.imports[t.r]
	v.mu.Unlock()
	if im == nil || im.from != from || im.session != t.session {
		reply(nil, h.refuse(t.r, "no such snapshot is coming in"))
		return
	}
	select {
	case im.parts <- part:
	default:
		reply(nil, h.refuse(t.r, "more chunks than agreed"))
	}
}

func (h *Host) refuse(r ids.RangeID, reason string) error {
	return &ids.UnavailableError{Range: r, Reason: "snapshot: " + reason}
}

// begin starts the goroutine of a new snapshot.
func (v *snapshotReceiver) begin(from ids.NodeID, t trailer, part snapshotPart) error {
	header, err := decodeSnapshotHeader(part.body)
	if err != nil || header.state.Descriptor.ID != t.r {
		return errors.Join(errMalformed, err)
	}
	im := &snapshotImport{
		host: v.host, from: from, session: t.session, header: header, parts: make(chan snapshotPart, windowMax+2),
		stop: make(chan struct{}),
	}
	v.host.mu.RLock()
	defer v.host.mu.RUnlock()
	if v.host.mu.closed { // else Close will wait for the goroutine
		return errClosed
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if old := v.mu.imports[t.r]; old != nil && old.header.term <= header.term && !old.stopped {
		// Its leader sends one at a time, and none once it is deposed: the rest of the old one will not come.
		old.stopped = true
		close(old.stop)
	}
	if v.mu.imports[t.r] != nil || len(v.mu.imports) >= importsMax {
		return errors.New("others are coming in, try later")
	}
	v.mu.imports[t.r] = im
	im.parts <- part
	v.host.loops.Go(func() {
		err := im.run()
		v.mu.Lock()
		delete(v.mu.imports, t.r)
		v.mu.Unlock()
		im.refuseRest(err)
	})
	return nil
}

// run takes the snapshot from begin to end.
func (im *snapshotImport) run() error {
	begin := <-im.parts
	sm, err := im.admit()
	if err != nil {
		begin.reply(nil, im.host.refuse(im.header.state.Descriptor.ID, err.Error()))
		return err
	}
	in, err := im.host.cfg.Engine.NewImport(im.header.state.Descriptor.ID, im.header.state.Descriptor.Span)
	if err != nil {
		begin.reply(nil, im.host.refuse(im.header.state.Descriptor.ID, err.Error()))
		return err
	}
	begin.reply(nil, nil)
	last, err := im.receive(in)
	if err == nil {
		err = im.finish(in, sm)
	}
	result := "ok"
	if err != nil {
		result = "failed"
		if aerr := in.Abort(); aerr != nil {
			im.host.log.Warn("files of an abandoned snapshot stay until the next start", zap.Error(aerr))
		}
	}
	im.host.metrics.snapshots.WithLabelValues("received", result).Inc()
	if last.reply != nil {
		if err != nil {
			last.reply(nil, im.host.refuse(im.header.state.Descriptor.ID, err.Error()))
		} else {
			last.reply(nil, nil)
		}
	}
	return err
}

// admit decides whether the snapshot may come: for a replica that is here or that somebody accepts, that was never
// removed, and that shares no key with another replica on this node. sm is set for a replica to be made.
func (im *snapshotImport) admit() (sm StateMachine, err error) {
	h, d := im.host, im.header.state.Descriptor
	for _, g := range h.all() {
		if g.r != d.ID && g.desc.Load().Span.Overlaps(d.Span) {
			return nil, fmt.Errorf("it overlaps the replica of range %d", g.r)
		}
	}
	if g := h.Group(d.ID); g != nil {
		if g.replica != im.header.to {
			return nil, fmt.Errorf("the replica here is %d, not %d", g.replica, im.header.to)
		}
		return nil, nil
	}
	gone, err := h.cfg.Engine.Tombstone(d.ID)
	switch {
	case err != nil:
		return nil, err
	case gone >= im.header.to:
		return nil, fmt.Errorf("replica %d was removed from this node", im.header.to)
	case h.cfg.AcceptSnapshot == nil:
		return nil, errors.New("the range has no replica here")
	}
	return h.cfg.AcceptSnapshot(im.header.state)
}

// receive takes the chunks. It returns the last call, to be answered with the outcome.
func (im *snapshotImport) receive(in *storage.Import) (last snapshotPart, err error) {
	t := time.NewTimer(receiveTimeout)
	defer t.Stop()
	for {
		var p snapshotPart
		select {
		case p = <-im.parts:
		case <-t.C:
			return last, errors.New("silent for too long")
		case <-im.stop:
			return last, errors.New("a newer one wants to come")
		case <-im.host.ctx.Done():
			return last, errClosed
		}
		t.Reset(receiveTimeout)
		switch p.kind {
		case snapshotEnd:
			return p, nil
		case snapshotChunk:
			im.host.metrics.snapshotBytes.WithLabelValues("received").Add(float64(len(p.body)))
			if err := in.Add(p.body); err != nil {
				return p, err
			}
			p.reply(nil, nil)
		default:
			return p, errMalformed
		}
	}
}

// refuseRest answers what came for a snapshot that ended.
func (im *snapshotImport) refuseRest(err error) {
	reason := "it ended"
	if err != nil {
		reason = err.Error()
	}
	for {
		select {
		case p := <-im.parts:
			p.reply(nil, im.host.refuse(im.header.state.Descriptor.ID, reason))
		default:
			return
		}
	}
}

// incomingSnapshot is a snapshot that arrived completely and waits for raft to take it.
type incomingSnapshot struct {
	msg     *raftpb.Message
	state   storage.RangeState
	verdict chan verdict // one, from the group or the log writer
}

type verdict struct {
	hard *raftpb.HardState
	err  error
}

// install tells, from the log writer, that everything before the snapshot is written.
func (in *incomingSnapshot) install(hard *raftpb.HardState) { in.say(verdict{hard: hard}) }

// finish tells that the snapshot is not wanted.
func (in *incomingSnapshot) finish(err error) { in.say(verdict{err: err}) }

func (in *incomingSnapshot) say(v verdict) {
	select {
	case in.verdict <- v:
	default: // there was one
	}
}

// finish asks raft about a complete snapshot and puts it in place if raft takes it.
func (im *snapshotImport) finish(i *storage.Import, sm StateMachine) error {
	h, s := im.host, im.header.state
	g := h.Group(s.Descriptor.ID)
	if sm != nil {
		if g != nil {
			return errors.New("the replica came into being meanwhile")
		}
		s.HardState = newHardState(im.header.term, 0, s.Applied.Index)
		s.Truncated = storage.EntryID{Term: s.Applied.Term, Index: s.Applied.Index}
		s.Last = s.Applied.Index
		if err := i.Finish(s, nil); err != nil {
			return err
		}
		_, err := h.add(GroupConfig{State: s, StateMachine: sm}, true)
		return err
	}
	if g == nil {
		return errRemoved
	}
	in := &incomingSnapshot{msg: im.header.message(), state: s, verdict: make(chan verdict, 1)}
	g.order(order{kind: orderSnapshot, snapshot: in})
	var v verdict
	select {
	case v = <-in.verdict:
	case <-h.ctx.Done():
		return errClosed
	}
	if v.err != nil {
		return v.err
	}
	in.state.HardState = v.hard
	err := i.Finish(in.state, nil)
	g.complete(completion{installed: in, err: err})
	h.writer.unblock(g)
	return err
}

// stepSnapshot lets raft decide about a snapshot, in the group's turn.
func (g *Group) stepSnapshot(in *incomingSnapshot) {
	if g.incoming != nil || g.installing {
		in.finish(errors.New("another snapshot is being installed"))
		return
	}
	g.heardLeader = true
	g.incoming = in
	g.takeReady() // of messages before it
	g.step(in.msg)
	g.takeReady()
	if g.incoming != nil {
		g.incoming = nil
		in.finish(errNotNeeded)
	}
}

// acceptIncoming connects the snapshot that raft took with the one that arrived. The log begins anew behind it.
func (g *Group) acceptIncoming(snap *raftpb.Snapshot) *incomingSnapshot {
	in := g.incoming
	at := storage.EntryID{Term: snap.GetMetadata().GetTerm(), Index: snap.GetMetadata().GetIndex()}
	if in == nil || in.state.Applied.Index != at.Index || in.state.Applied.Term != at.Term {
		panic(fmt.Sprintf("raft took a snapshot at %+v that never came", at))
	}
	g.incoming, g.installing = nil, true
	g.log.reset(at)
	g.log.conf = in.state.ConfState
	g.truncatePending = storage.EntryID{}
	g.hardPending = true // the job always names one
	return in
}

// restored follows the ingest of a snapshot.
func (g *Group) restored(in *incomingSnapshot) {
	g.installing = false
	in.state.Truncated = storage.EntryID{Term: in.state.Applied.Term, Index: in.state.Applied.Index}
	in.state.Last = in.state.Applied.Index
	s := in.state
	g.applied = s.Truncated
	g.status.Applied = s.Applied.Index
	g.truncator = truncator{now: g.truncator.now}
	g.SetDescriptor(s.Descriptor)
	g.callback(func() error { return g.sm.Restored(g, s) })
}
