// Package transport carries messages between nodes: Raft messages (fire and forget) and calls (one request, one
// answer). It knows frames and queues, not what is in them.
package transport

import (
	"context"
	"errors"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// Method numbers the calls between nodes.
type Method uint32

// The calls between nodes and the room that handles each.
const (
	MethodRange     Method = iota + 1 // rangegroup: pontoonpb.RangeCall
	MethodConfirm                     // rangegroup: pontoonpb.ConfirmCall
	MethodExchange                    // placement: sequencer exchange
	MethodPlacement                   // placement: proposals and reads of the cluster's book
	MethodSnapshot                    // multiraft: a chunk of a range snapshot
	MethodNode                        // node: status for operators and etcd's Maintenance.Status
	MethodResolve                     // rangegroup: resolved revisions for feeds and serializable reads
	MethodTxn                         // txn: prepare, commit, resolve, query
	MethodFeed                        // watch: feeds
)

// Errors of Call. Errors that the callee answered come as ids' typed errors or gRPC status errors instead.
var (
	// ErrNotSent: the call was never handed to a stream (no connection, full queue, closed). It may be sent again.
	ErrNotSent = errors.New("call was not sent")
	// ErrLost: the call was handed to a stream that broke before the answer came: the outcome is unknown.
	ErrLost = errors.New("connection lost before the answer came")
	// ErrTooLarge: the payload is larger than MaxPayload. The call was not sent, and never can be.
	ErrTooLarge = errors.New("message is too large to send")
)

// MaxPayload is the greatest length of a call's or an answer's payload, and of a Raft message, in bytes. A longer
// answer reaches the caller as a gRPC status ResourceExhausted; a longer Raft message is dropped and logged.
const MaxPayload = 15 << 20

// Handler serves one method. It runs on the goroutine that reads the stream and must not block: work that may wait goes
// to a goroutine or queue of its own. It calls reply exactly once, from any goroutine. The payload belongs to the
// handler; the reply's payload belongs to the transport from then on.
type Handler func(from ids.NodeID, payload []byte, reply func(payload []byte, err error))

// RaftHandler takes the Raft messages of one frame. It must not block.
type RaftHandler func(from ids.NodeID, msgs []*pontoonpb.RaftMessage)

// Transport is a node's connections to all others. Its queues are bounded: a full Raft queue drops (Raft repeats), a
// full call queue fails the call with ErrNotSent. Handlers are set before Start.
type Transport interface {
	// SendRaft queues messages for a node, dropping them if the node is not connected or its queue is full. It never
	// blocks. It reports whether all messages were queued. They must not be changed any more.
	SendRaft(to ids.NodeID, msgs []*pontoonpb.RaftMessage) bool
	// Go sends one call, once; it is never sent a second time. done is called exactly once, from a goroutine of the
	// transport, and must not block. Calls to one node with one method are delivered in the order in which Go was
	// called. The context's end fails the call with its error without any statement about its outcome. The payload must
	// not be changed any more; the answer's belongs to done.
	Go(ctx context.Context, to ids.NodeID, m Method, payload []byte, done func(payload []byte, err error))
	// Handle and HandleRaft install the receivers, before Start. A message to the node itself is not possible.
	Handle(m Method, h Handler)
	HandleRaft(h RaftHandler)
	// OnIncarnation registers a function that is told when a peer connects with an incarnation not seen before
	// (it started or restarted), before Start. It comes before anything that was sent by that process, and must not
	// block.
	OnIncarnation(f func(n ids.NodeID, incarnation uint64))
	// Alive reports whether something was heard from the node within the liveness timeout (an election timeout). Asking
	// about a node makes the transport keep a connection to it.
	Alive(n ids.NodeID) bool
}

// Call is Go for callers that wait.
func Call(ctx context.Context, t Transport, to ids.NodeID, m Method, payload []byte) ([]byte, error) {
	type answer struct {
		payload []byte
		err     error
	}
	ch := make(chan answer, 1)
	t.Go(ctx, to, m, payload, func(p []byte, err error) { ch <- answer{p, err} })
	a := <-ch
	return a.payload, a.err
}
