package grpcnet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Transport implements transport.Transport over gRPC.
type Transport struct {
	// Set once, by New.
	cfg      Config
	log      *zap.Logger
	epoch    time.Time // what clock counts from
	finisher *calls.Finisher
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	// Set before Start.
	handlers      map[transport.Method]transport.Handler
	raftHandler   transport.RaftHandler
	onIncarnation []func(ids.NodeID, uint64)
	onDown        []func(ids.NodeID)

	server  *grpc.Server   // set by Start
	metrics *metrics       // set by Start
	wg      sync.WaitGroup // every goroutine of the transport but the finisher's and gRPC's own

	mu struct {
		sync.RWMutex
		peers           map[ids.NodeID]*peer
		started, closed bool
	}
}

var _ transport.Transport = (*Transport)(nil)

// New returns a transport that listens and connects once Start is called. Close must be called in any case.
func New(cfg Config) (*Transport, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	t := &Transport{
		cfg:         cfg,
		log:         cfg.Logger.Named("transport"),
		epoch:       time.Now(),
		finisher:    calls.NewFinisher(),
		handlers:    map[transport.Method]transport.Handler{},
		raftHandler: func(ids.NodeID, []*pontoonpb.RaftMessage) {},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.mu.peers = map[ids.NodeID]*peer{}
	return t, nil
}

// Start serves the listener and lets messages out. Handlers are installed before it.
func (t *Transport) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.started || t.mu.closed {
		return fmt.Errorf("grpcnet: Start called twice or after Close")
	}
	t.mu.started = true
	t.metrics = newMetrics(t)
	if t.cfg.Registerer != nil {
		if err := t.cfg.Registerer.Register(t.metrics); err != nil {
			return fmt.Errorf("grpcnet: %w", err)
		}
	}
	t.server = grpc.NewServer(t.serverOptions()...)
	pontoonpb.RegisterPeerServer(t.server, acceptor{t: t})
	if t.cfg.Services != nil {
		t.cfg.Services(t.server)
	}
	t.wg.Go(func() {
		if err := t.server.Serve(t.cfg.Listener); err != nil && t.ctx.Err() == nil {
			t.log.Error("the listener for other nodes failed; restart this node", zap.Error(err))
		}
	})
	t.wg.Go(t.watchLiveness)
	return nil
}

const (
	// Windows well above a frame, so that one frame never waits for the receiver's reader: 8 MiB a stream. A fixed
	// size also switches off gRPC's own measuring.
	streamWindow = 8 << 20
	connWindow   = 16 << 20
	// ioBuffer is gRPC's buffer for reads from and writes to a connection.
	ioBuffer = 128 << 10
)

func (t *Transport) serverOptions() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(frameRecvMax),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer), grpc.WriteBufferSize(ioBuffer),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WaitForHandlers(true),
	}
	if t.cfg.ServerTLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(t.cfg.ServerTLS)))
	}
	return opts
}

// Close ends all streams, fails all calls, closes the listener, and waits for every goroutine of the transport. It may
// be called twice, but not from a handler or a done function.
func (t *Transport) Close() error {
	t.mu.Lock()
	first := !t.mu.closed
	t.mu.closed = true
	server := t.server
	t.mu.Unlock()
	if first {
		t.cancel()
		if server != nil {
			server.Stop()
		}
		_ = t.cfg.Listener.Close() // the server closed it, if there was one
	}
	t.wg.Wait()
	t.finisher.Close()
	if first && t.cfg.Registerer != nil && t.metrics != nil {
		t.cfg.Registerer.Unregister(t.metrics)
	}
	return nil
}

// Handle implements transport.Transport.
func (t *Transport) Handle(m transport.Method, h transport.Handler) { t.handlers[m] = h }

// HandleRaft implements transport.Transport.
func (t *Transport) HandleRaft(h transport.RaftHandler) { t.raftHandler = h }

// OnIncarnation implements transport.Transport. f is called on a goroutine that reads a stream.
func (t *Transport) OnIncarnation(f func(n ids.NodeID, incarnation uint64)) {
	t.onIncarnation = append(t.onIncarnation, f)
}

// OnDown registers a function that is told when a node that was heard was silent for the liveness timeout, before
// Start. It must not block.
func (t *Transport) OnDown(f func(n ids.NodeID)) { t.onDown = append(t.onDown, f) }

// SendRaft implements transport.Transport.
func (t *Transport) SendRaft(to ids.NodeID, msgs []*pontoonpb.RaftMessage) bool {
	p := t.peer(to)
	if p == nil {
		return false
	}
	l := p.link(calls.Raft)
	return l != nil && l.sendRaft(msgs)
}

// Go implements transport.Transport.
func (t *Transport) Go(ctx context.Context, to ids.NodeID, m transport.Method, payload []byte, done func([]byte, error)) {
	if p := t.peer(to); p != nil {
		if l := p.link(calls.ClassOf(m)); l != nil {
			if l.table.Add(ctx, m, payload, done) {
				l.signal()
			}
			return
		}
	}
	err := fmt.Errorf("%w: this transport is closed, not started, or is node %v itself", transport.ErrNotSent, to)
	t.finisher.Do(func() { done(nil, err) })
}

// Alive implements transport.Transport.
func (t *Transport) Alive(n ids.NodeID) bool {
	p := t.peer(n)
	if p == nil {
		return false
	}
	p.link(calls.Raft)
	heard := p.heard.Load()
	return heard != 0 && t.clock()-heard <= t.cfg.LivenessTimeout.Nanoseconds()
}

// peer returns the record of another node, made at first use; nil if the transport does not run.
func (t *Transport) peer(n ids.NodeID) *peer {
	t.mu.RLock()
	p, running := t.mu.peers[n], t.mu.started && !t.mu.closed
	t.mu.RUnlock()
	if p != nil && running {
		return p
	}
	if !running || n == t.cfg.Self || n == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return nil
	}
	if p = t.mu.peers[n]; p == nil {
		p = &peer{t: t, id: n}
		t.mu.peers[n] = p
	}
	return p
}

func (t *Transport) peers() []*peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ps := make([]*peer, 0, len(t.mu.peers))
	for _, p := range t.mu.peers {
		ps = append(ps, p)
	}
	return ps
}

// spawn runs f on a goroutine that Close waits for, and reports whether it does: after Close it does not.
func (t *Transport) spawn(f func()) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.mu.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// clock returns the nanoseconds since New, never 0.
func (t *Transport) clock() int64 { return max(1, time.Since(t.epoch).Nanoseconds()) }

// watchLiveness sends pings where nothing is heard, gives up streams that stay silent, and tells of nodes that went
// silent.
func (t *Transport) watchLiveness() {
	ticker := time.NewTicker(max(t.cfg.LivenessTimeout/5, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-ticker.C:
		}
		now := t.clock()
		for _, p := range t.peers() {
			p.checkLiveness(now)
		}
	}
}
