package multiraft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const (
	// sendQueueMax bounds the snapshots that wait to be sent; raft asks again for one that was turned away.
	sendQueueMax = 4096
	// callTimeout bounds one call of a snapshot, endTimeout the last one, which waits for the ingest.
	callTimeout = 10 * time.Second
	endTimeout  = time.Minute
)

// snapshotSend is a snapshot under way, as the group knows it.
type snapshotSend struct {
	replica uint64
	index   uint64 // it holds this one at least
}

// snapshotJob is a snapshot to send.
type snapshotJob struct {
	group *Group
	to    ids.ReplicaID
	node  ids.NodeID
	term  uint64
}

// snapshotSender sends snapshots, a few at once.
type snapshotSender struct {
	host *Host
	mu   struct {
		sync.Mutex
		jobs    []snapshotJob
		session uint64
		next    time.Time // when the rate allows the next byte
		closed  bool
	}
	work sync.Cond
}

func newSnapshotSender(h *Host) *snapshotSender {
	s := &snapshotSender{host: h}
	s.work.L = &s.mu.Mutex
	return s
}

func (s *snapshotSender) start() {
	for range sendersMax {
		s.host.loops.Go(s.run)
	}
}

func (s *snapshotSender) close() {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.Unlock()
	s.work.Broadcast()
}

// enqueue takes a MsgSnap from raft instead of sending it. It runs in the group's turn.
func (s *snapshotSender) enqueue(g *Group, m *raftpb.Message) {
	job := snapshotJob{group: g, to: ids.ReplicaID(m.GetTo()), term: m.GetTerm(), node: g.nodeOf(ids.ReplicaID(m.GetTo()))}
	g.sending = append(g.sending, snapshotSend{m.GetTo(), m.GetSnapshot().GetMetadata().GetIndex()})
	s.mu.Lock()
	full := len(s.mu.jobs) >= sendQueueMax
	if !full && job.node != 0 {
		s.mu.jobs = append(s.mu.jobs, job)
	}
	s.mu.Unlock()
	if full || job.node == 0 {
		job.report(errors.New("cannot be sent now"))
		return
	}
	s.work.Signal()
}

func (j *snapshotJob) report(err error) {
	j.group.order(order{kind: orderReport, replica: j.to, err: err})
}

func (s *snapshotSender) run() {
	for {
		s.mu.Lock()
		for len(s.mu.jobs) == 0 && !s.mu.closed {
			s.work.Wait()
		}
		if s.mu.closed {
			s.mu.Unlock()
			return
		}
		job := s.mu.jobs[0]
		s.mu.jobs[0] = snapshotJob{}
		s.mu.jobs = s.mu.jobs[1:]
		s.mu.session++
		session := s.mu.session
		s.mu.Unlock()

		err := s.send(&job, session)
		result := "ok"
		if err != nil {
			result = "failed"
			s.host.log.Info("snapshot was not taken", zap.Uint64("range", uint64(job.group.r)),
				zap.Stringer("to", job.node), zap.Error(err))
		}
		s.host.metrics.snapshots.WithLabelValues("sent", result).Inc()
		job.report(err)
	}
}

// send streams one snapshot and waits for its outcome.
func (s *snapshotSender) send(job *snapshotJob, session uint64) error {
	g := job.group
	if st := g.Status(); st.Role != Leader || st.Term != job.term || g.removing.Load() {
		return errors.New("not the leader any more")
	}
	ctx, cancel := context.WithCancelCause(s.host.ctx)
	defer cancel(nil)
	x, err := s.host.cfg.Engine.NewExport(g.r)
	if err != nil {
		return err
	}
	defer x.Close()
	header := snapshotHeader{from: g.replica, to: job.to, term: job.term, state: x.State}
	body, err := header.encode()
	if err != nil {
		return err
	}
	t := trailer{r: g.r, session: session, kind: snapshotBegin}
	if err := s.call(ctx, job.node, t.append(body), callTimeout); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	t.kind = snapshotChunk
	if err := s.stream(ctx, cancel, job.node, t, x); err != nil {
		return err
	}
	t.kind = snapshotEnd
	return s.call(ctx, job.node, t.append(nil), endTimeout)
}

// stream sends the chunks, with a bounded number under way, and returns when all arrived.
func (s *snapshotSender) stream(
	ctx context.Context, cancel context.CancelCauseFunc, node ids.NodeID, t trailer, x *storage.Export,
) error {
	window := make(chan struct{}, windowMax)
	err := x.Send(ctx, func(chunk []byte) error {
		if err := s.pace(ctx, len(chunk)); err != nil {
			return err
		}
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.host.metrics.snapshotBytes.WithLabelValues("sent").Add(float64(len(chunk)))
		cctx, end := context.WithTimeout(ctx, callTimeout)
		s.host.cfg.Transport.Go(cctx, node, transport.MethodSnapshot, t.append(chunk), func(_ []byte, err error) {
			end()
			if err != nil {
				cancel(fmt.Errorf("chunk: %w", err))
			}
			<-window
		})
		return nil
	})
	for range windowMax { // a full window means that nothing is under way
		window <- struct{}{}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s *snapshotSender) call(ctx context.Context, node ids.NodeID, payload []byte, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := transport.Call(ctx, s.host.cfg.Transport, node, transport.MethodSnapshot, payload)
	return err
}

// pace waits until the node's rate allows n bytes more.
func (s *snapshotSender) pace(ctx context.Context, n int) error {
	cost := time.Duration(float64(n) / float64(s.host.cfg.SnapshotBytesPerSecond) * float64(time.Second))
	now := time.Now()
	s.mu.Lock()
	at := s.mu.next
	if at.Before(now) {
		at = now
	}
	s.mu.next = at.Add(cost)
	s.mu.Unlock()
	if wait := at.Sub(now); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
