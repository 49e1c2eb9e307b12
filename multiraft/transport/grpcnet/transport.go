package grpcnet

import (
	"context"
	"errors"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// Transport implements transport.Transport over gRPC.
type Transport struct{ cfg Config }

// New returns a transport that listens and connects once Start is called.
func New(cfg Config) (*Transport, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Transport{cfg: cfg}, nil
}

// Start serves the listener. Handlers are installed before it.
func (t *Transport) Start() error { return errors.New("not built yet") }

// Close ends all streams, fails all calls, and waits for every goroutine of the transport.
func (t *Transport) Close() error { return nil }

// SendRaft implements transport.Transport.
func (t *Transport) SendRaft(to ids.NodeID, msgs []*pontoonpb.RaftMessage) bool { return false }

// Go implements transport.Transport.
func (t *Transport) Go(ctx context.Context, to ids.NodeID, m transport.Method, payload []byte, done func([]byte, error)) {
	go done(nil, transport.ErrNotSent)
}

// Handle implements transport.Transport.
func (t *Transport) Handle(m transport.Method, h transport.Handler) {}

// HandleRaft implements transport.Transport.
func (t *Transport) HandleRaft(h transport.RaftHandler) {}

// OnIncarnation implements transport.Transport.
func (t *Transport) OnIncarnation(f func(n ids.NodeID, incarnation uint64)) {}

// OnDown registers a function that is told when a node was silent for the liveness timeout, before Start.
func (t *Transport) OnDown(f func(n ids.NodeID)) {}

// Alive implements transport.Transport.
func (t *Transport) Alive(n ids.NodeID) bool { return false }
