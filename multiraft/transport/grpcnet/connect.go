package grpcnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

var (
	errRestarted   = errors.New("the node was restarted")
	errDialTimeout = errors.New("connecting took too long")
)

// refusal is a reason not to talk to a node that only a person can remove.
type refusal struct{ reason string }

func (r *refusal) Error() string { return "refused: " + r.reason }

func isRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

// connect dials the node and shakes hands.
func (l *link) connect() (*stream, error) {
	t := l.p.t
	addr, ok := t.cfg.Resolve(l.p.id)
	if !ok {
		return nil, fmt.Errorf("no address is known for node %v", l.p.id)
	}
	l.stats.dials.Add(1)
	// A connection per attempt: gRPC's own reconnecting has pauses of its own, and would keep a broken address.
	conn, err := grpc.NewClient("passthrough:///"+addr, l.dialOptions()...)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	ctx, cancel := context.WithCancelCause(t.ctx)
	timer := time.AfterFunc(t.cfg.DialTimeout, func() { cancel(errDialTimeout) })
	s := &stream{conn: conn, cancel: cancel}
	err = l.shakeHands(ctx, s)
	if !timer.Stop() && err == nil {
		err = errDialTimeout
	}
	if err == nil {
		l.heard.Store(t.clock())
		l.pinged.Store(0)
		return s, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	l.closeStream(s)
	return nil, fmt.Errorf("connecting to %s: %w", addr, err)
}

func (l *link) dialOptions() []grpc.DialOption {
	creds := insecure.NewCredentials()
	if l.p.t.cfg.ClientTLS != nil {
		creds = credentials.NewTLS(l.p.t.cfg.ClientTLS)
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(), // nodes of one cluster are never behind the environment's web proxy
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(frameRecvMax)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer), grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithIdleTimeout(0),
	}
}

// shakeHands opens the stream and exchanges hellos. NB: no call may be sent before the answer came; until then gRPC may
// by itself repeat what was sent on another connection.
func (l *link) shakeHands(ctx context.Context, s *stream) error {
	t := l.p.t
	var err error
	s.ClientStream, err = s.conn.NewStream(ctx, &pontoonpb.Peer_ServiceDesc.Streams[0],
		pontoonpb.Peer_Connect_FullMethodName)
	if err != nil {
		return err
	}
	if err := sendHello(s.ClientStream, t.hello(l.p.id, l.class, "")); err != nil {
		return err
	}
	var f inFrame
	if err := s.RecvMsg(&f); err != nil {
		return err
	}
	h := f.hello
	if h == nil {
		return errors.New("the answer does not begin with a hello")
	}
	if h.GetRefused() != "" {
		l.p.refusedUs(h.GetRefused())
		return &refusal{fmt.Sprintf("node %v: %s", l.p.id, h.GetRefused())}
	}
	if reason := t.judge(h, l.p.id); reason != "" {
		l.p.logRefusal("this node refuses another one", reason)
		_ = sendHello(s.ClientStream, t.hello(l.p.id, l.class, reason)) // best effort, for the other side's log
		_ = s.CloseSend()
		_ = s.RecvMsg(&f) // until the other side has read it and closed, or the time is up
		return &refusal{reason}
	}
	s.incarnation = h.GetIncarnation()
	l.p.noteHeard()
	l.p.noteIncarnation(s.incarnation)
	return nil
}

func (l *link) closeStream(s *stream) {
	s.cancel(errors.New("closed"))
	_ = s.conn.Close() // tells only of being closed already
}

// messageSender is either side of a gRPC stream.
type messageSender interface{ SendMsg(m any) error }

func sendHello(s messageSender, h *pontoonpb.Hello) error {
	f, err := helloFrame(h)
	if err != nil {
		return err
	}
	return s.SendMsg(f)
}

// hello says who this node is.
func (t *Transport) hello(to ids.NodeID, c calls.Class, refused string) *pontoonpb.Hello {
	return &pontoonpb.Hello{
		ClusterId:   t.cfg.ClusterID,
		NodeId:      uint64(t.cfg.Self),
		ToNodeId:    uint64(to),
		DiskId:      t.cfg.DiskID,
		Incarnation: t.cfg.Incarnation,
		Class:       uint32(c),
		Version:     t.cfg.Version,
		Refused:     refused,
	}
}

// judge returns why the speaker of a hello is refused and what to do about it; empty: it is not. want is the node that
// was dialled, or 0 for one that dialled.
func (t *Transport) judge(h *pontoonpb.Hello, want ids.NodeID) string {
	from, to := ids.NodeID(h.GetNodeId()), ids.NodeID(h.GetToNodeId())
	switch {
	case h.GetClusterId() != t.cfg.ClusterID:
		return fmt.Sprintf("node %v is of cluster %x and node %v of cluster %x; if they belong together, give both the "+
			"same --initial-cluster and --initial-cluster-token, else correct the peer address that leads from one "+
			"to the other", from, h.GetClusterId(), t.cfg.Self, t.cfg.ClusterID)
	case from == 0 || from == t.cfg.Self || (want != 0 && from != want):
		return fmt.Sprintf("the address of node %v is answered by node %v; correct its --initial-advertise-peer-urls",
			want, from)
	case to != t.cfg.Self:
		return fmt.Sprintf("node %v looked for node %v and met node %v; correct --initial-advertise-peer-urls of node %v",
			from, to, t.cfg.Self, to)
	}
	if err := t.cfg.CheckPeer(from, h.GetDiskId()); err != nil {
		return err.Error()
	}
	return ""
}
