package grpcnet

import (
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Config is what a Transport needs. The zero value of a field that has a default means the default.
type Config struct {
	// ClusterID and Self say who this node is; DiskID which data directory it has, Incarnation which of its processes
	// this is (random, drawn at start). All four go to every node it meets.
	ClusterID   uint64
	Self        ids.NodeID
	DiskID      uint64
	Incarnation uint64
	// Version is what this node tells others about its program, for people.
	Version string

	// Listener receives the other nodes. The transport serves it from Start on and closes it in Close.
	Listener net.Listener
	// Services, if set, adds further gRPC services to the server on Listener, in Start, before it serves.
	Services func(grpc.ServiceRegistrar)
	// Resolve returns the host:port at which a node listens now. It is asked before every attempt to connect; it must
	// not block.
	Resolve func(ids.NodeID) (addr string, ok bool)
	// CheckPeer says whether a node with this disk id may talk to us; the error names the reason and the remedy, for
	// the logs of both sides. It must not block. Nil accepts all.
	CheckPeer func(node ids.NodeID, disk uint64) error
	// OnRefused, if set, is told when another node refuses this one, and why; at most once a minute for the same reason.
	// It must not block.
	OnRefused func(by ids.NodeID, reason string)
	// ServerTLS and ClientTLS switch to TLS; both or none.
	ServerTLS, ClientTLS *tls.Config

	// LivenessTimeout is the silence after which a node counts as dead and streams to it are given up: an election
	// timeout (default 1 s). Pings go out every fifth of it.
	LivenessTimeout time.Duration
	// DialTimeout bounds one attempt to connect, handshake included (default 2 s).
	DialTimeout time.Duration
	// BackoffMin and BackoffMax bound the jittered, doubling pause between attempts (default 100 ms and 1 s).
	// RefusedBackoff is the pause after a refusal, which only a person can remedy (default 5 s).
	BackoffMin, BackoffMax, RefusedBackoff time.Duration

	// RaftQueueMessages and RaftQueueBytes bound the Raft messages that wait for one node (default 8192 and 64 MiB);
	// CallQueueMessages and CallQueueBytes the calls that wait, and CallsInFlight those that wait for their answers,
	// per node and class (default 16384, 64 MiB and 32768). ReplyQueueBytes bounds the answers that wait for one node
	// to take them (default 256 MiB); beyond it the stream is broken.
	RaftQueueMessages, RaftQueueBytes int
	CallQueueMessages, CallQueueBytes int
	CallsInFlight                     int
	ReplyQueueBytes                   int

	Logger     *zap.Logger           // default: none
	Registerer prometheus.Registerer // default: no metrics
}

// check fills in the defaults and says what is missing.
func (c *Config) check() error {
	switch {
	case c.Self == 0:
		return errors.New("grpcnet: Config.Self is not set")
	case c.Listener == nil:
		return errors.New("grpcnet: Config.Listener is not set")
	case c.Resolve == nil:
		return errors.New("grpcnet: Config.Resolve is not set")
	case (c.ServerTLS == nil) != (c.ClientTLS == nil):
		return errors.New("grpcnet: TLS needs both Config.ServerTLS and Config.ClientTLS")
	}
	if c.CheckPeer == nil {
		c.CheckPeer = func(ids.NodeID, uint64) error { return nil }
	}
	setDefault(&c.LivenessTimeout, time.Second)
	setDefault(&c.DialTimeout, 2*time.Second)
	setDefault(&c.BackoffMin, 100*time.Millisecond)
	setDefault(&c.BackoffMax, time.Second)
	setDefault(&c.RefusedBackoff, 5*time.Second)
	setDefault(&c.RaftQueueMessages, 8192)
	setDefault(&c.RaftQueueBytes, 64<<20)
	setDefault(&c.CallQueueMessages, 16384)
	setDefault(&c.CallQueueBytes, 64<<20)
	setDefault(&c.CallsInFlight, 32768)
	setDefault(&c.ReplyQueueBytes, 256<<20)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return nil
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}
