package grpcnet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// acceptor is the gRPC service: other nodes' streams come in here.
type acceptor struct {
	pontoonpb.UnimplementedPeerServer
	t *Transport
}

// inbound is an accepted stream: its reader runs the handlers, its sender takes the answers back.
type inbound struct {
	t      *Transport
	stream grpc.ServerStream
	ctx    context.Context // ends when the stream is to end
	cancel context.CancelCauseFunc

	// Set by the reader before ready is closed.
	p     *peer
	class calls.Class

	ready      chan struct{} // closed after the handshake
	readerDone chan struct{}
	wake       chan struct{} // capacity 1
	pong       atomic.Bool   // a ping came

	mu struct {
		sync.Mutex
		replies    calls.FIFO[outReply]
		replyBytes int
		ended      bool
	}
}

// Connect implements pontoonpb.PeerServer. Its return ends the stream, and with it what the reader and the sender wait
// for.
func (a acceptor) Connect(gs grpc.BidiStreamingServer[pontoonpb.Frame, pontoonpb.Frame]) error {
	in := &inbound{
		t: a.t, stream: gs,
		ready:      make(chan struct{}),
		readerDone: make(chan struct{}),
		wake:       make(chan struct{}, 1),
	}
	in.ctx, in.cancel = context.WithCancelCause(gs.Context())
	stopWithTransport := context.AfterFunc(a.t.ctx, func() { in.kill("this node is stopping") })
	defer stopWithTransport()
	if !a.t.spawn(in.runReader) {
		return status.Error(codes.Unavailable, "this node is stopping")
	}
	a.t.spawn(in.runSender) // if it does not start, the transport is closing, and so is this stream
	<-in.ctx.Done()
	in.end()
	return status.Error(codes.Unavailable, context.Cause(in.ctx).Error())
}

// kill makes the stream end.
func (in *inbound) kill(reason string) { in.cancel(errors.New(reason)) }

func (in *inbound) runReader() {
	defer close(in.readerDone)
	in.cancel(in.read())
}

func (in *inbound) runSender() { in.cancel(in.send()) }

// read shakes hands and then delivers frames until the stream breaks.
func (in *inbound) read() error {
	var f inFrame
	if err := in.shakeHands(&f); err != nil {
		return err
	}
	close(in.ready)
	for {
		if err := in.stream.RecvMsg(&f); err != nil {
			return err
		}
		if in.ctx.Err() != nil {
			return context.Cause(in.ctx)
		}
		if f.hello.GetRefused() != "" {
			in.p.refusedUs(f.hello.GetRefused())
			return errors.New("refused")
		}
		in.p.noteHeard()
		in.deliver(&f)
	}
}

func (in *inbound) shakeHands(f *inFrame) error {
	t := in.t
	if err := in.stream.RecvMsg(f); err != nil {
		return err
	}
	h := f.hello
	if h == nil || h.GetClass() >= uint32(calls.NumClasses) {
		return errors.New("the stream does not begin with a hello of this version")
	}
	from := ids.NodeID(h.GetNodeId())
	in.class = calls.Class(h.GetClass())
	if reason := t.judge(h, 0); reason != "" {
		if p := t.peer(from); p != nil && h.GetClusterId() == t.cfg.ClusterID {
			p.logRefusal("this node refuses another one", reason)
		} else {
			t.log.Error("this node refuses another one", zap.Stringer("node", from), zap.String("reason", reason))
		}
		_ = sendHello(in.stream, t.hello(from, in.class, reason)) // the log of the other side is all that is lost
		return &refusal{reason}
	}
	if in.p = t.peer(from); in.p == nil {
		return errors.New("this node is stopping")
	}
	in.p.replaceInbound(in)
	in.p.noteHeard()
	in.p.noteIncarnation(h.GetIncarnation())
	return sendHello(in.stream, t.hello(from, in.class, ""))
}

// deliver hands the contents of a frame to the handlers.
func (in *inbound) deliver(f *inFrame) {
	if f.empty() {
		in.pong.Store(true)
		in.signal()
		return
	}
	in.p.stats[in.class].received(f.size, len(f.raft)+len(f.calls))
	if len(f.raft) > 0 {
		in.t.raftHandler(in.p.id, f.raft)
	}
	for _, c := range f.calls {
		r := &replier{in: in, id: c.id}
		if h := in.t.handlers[c.method]; h != nil {
			h(in.p.id, c.payload, r.reply)
		} else {
			r.reply(nil, status.Errorf(codes.Unimplemented, "this node has no method %d", c.method))
		}
	}
}

// replier answers one call, once.
type replier struct {
	in   *inbound
	id   uint64
	used atomic.Bool
}

func (r *replier) reply(payload []byte, err error) {
	if r.used.Swap(true) {
		r.in.t.log.DPanic("a call was answered twice", zap.Stringer("node", r.in.p.id))
		return
	}
	out := outReply{id: r.id, payload: payload}
	if err == nil && len(payload) > transport.MaxPayload {
		err = status.Errorf(codes.ResourceExhausted, "the answer is too large to send: %d bytes, at most %d",
			len(payload), transport.MaxPayload)
	}
	if err != nil {
		out.payload = nil
		out.err = marshalError(err)
	}
	r.in.queue(out)
}

func marshalError(err error) []byte {
	b, merr := proto.Marshal(wire.ErrorToProto(err))
	if merr != nil || len(b) > transport.MaxPayload { // text that is not UTF-8, or a flood of descriptors
		b, _ = proto.Marshal(wire.ErrorToProto(errors.New("an error that cannot be sent")))
	}
	return b
}

// queue adds an answer to what is to be sent. If the other side does not take its answers, the stream is broken.
func (in *inbound) queue(r outReply) {
	n := len(r.payload) + len(r.err) + messageOverhead
	in.mu.Lock()
	if in.mu.ended {
		in.mu.Unlock()
		return
	}
	in.mu.replies.Push(r)
	in.mu.replyBytes += n
	full := in.mu.replyBytes > in.t.cfg.ReplyQueueBytes && in.mu.replies.Len() > 1
	in.mu.Unlock()
	if full {
		in.kill(fmt.Sprintf("more than %d bytes of answers wait for the node", in.t.cfg.ReplyQueueBytes))
	}
	in.signal()
}

func (in *inbound) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// send sends answers until the stream is to end.
func (in *inbound) send() error {
	timer := time.NewTimer(in.t.cfg.DialTimeout)
	defer timer.Stop()
	select {
	case <-in.ready:
	case <-in.ctx.Done():
		return context.Cause(in.ctx)
	case <-timer.C:
		return errors.New("no hello came")
	}
	stats := &in.p.stats[in.class]
	var rs []outReply
	for {
		clear(rs)
		rs = in.takeReplies(rs[:0])
		f := outFrame{new([]byte)}
		if len(rs) > 0 {
			f = replyFrame(rs)
		}
		if ponged := in.pong.Swap(false); len(rs) == 0 && !ponged {
			select {
			case <-in.wake:
			case <-in.ctx.Done():
				return context.Cause(in.ctx)
			}
			continue
		}
		size := len(*f.buf)
		if err := in.stream.SendMsg(f); err != nil {
			return err
		}
		stats.sent(size, len(rs))
	}
}

// takeReplies appends the answers of the next frame to dst.
func (in *inbound) takeReplies(dst []outReply) []outReply {
	in.mu.Lock()
	defer in.mu.Unlock()
	for bytes := 0; in.mu.replies.Len() > 0; {
		r := in.mu.replies.Front()
		n := len(r.payload) + len(r.err) + messageOverhead
		if bytes > 0 && bytes+n > frameBytesMax {
			break
		}
		dst = append(dst, in.mu.replies.Pop())
		bytes += n
		in.mu.replyBytes -= n
	}
	return dst
}

// end drops what is queued: the calls fail with ErrLost at their senders.
func (in *inbound) end() {
	in.mu.Lock()
	in.mu.ended = true
	in.mu.replies, in.mu.replyBytes = calls.FIFO[outReply]{}, 0
	in.mu.Unlock()
	select {
	case <-in.ready:
		in.p.dropInbound(in)
	default:
	}
}
