package router

import (
	"context"
	"time"

	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Ranges are the replicas on this node; *rangegroup.Host implements it. See there for each method's contract.
type Ranges interface {
	Write(req rangegroup.Request, done func(resp proto.Message, err error))
	Confirm(r ids.RangeID, gen ids.Generation, done func(rangegroup.Claim, error))
	Note(r ids.RangeID, c rangegroup.Claim)
	LocalClaim(r ids.RangeID) (rangegroup.Claim, bool)
	WaitApplied(ctx context.Context, r ids.RangeID, index uint64) error
	Read(ctx context.Context, r ids.RangeID, span ids.Span, at ids.Revision, q eval.Query) (eval.Part, error)
	Descriptors() []*ids.Descriptor
	Status(r ids.RangeID) (rangegroup.Status, bool)
	Statuses() []rangegroup.Status
	Usage(r ids.RangeID, countKeys bool) (rangegroup.Usage, error)
}

// CallKind says which of a node's handlers a call is for.
type CallKind uint8

// The calls that the router makes to other nodes.
const (
	CallRange   CallKind = iota + 1 // pontoonpb.RangeCall → RangeReply
	CallConfirm                     // pontoonpb.ConfirmCall → ConfirmReply
	CallNode                        // pontoonpb.NodeStatusRequest → NodeStatusResponse
)

// Sender makes calls to other nodes.
type Sender interface {
	// Go sends one call, once. done is called exactly once and must not block. Calls of one kind to one node arrive in
	// the order of Go. ctx may be used after Go returned. An error of the callee arrives as one of ids' typed errors or
	// as a gRPC status; any other error says nothing about the outcome unless NotSent says that there was none.
	Go(ctx context.Context, to ids.NodeID, kind CallKind, payload []byte, done func(payload []byte, err error))
	// NotSent reports whether err, from done, proves that the call was never handed to a connection.
	NotSent(err error) bool
}

// Directory is the cluster's book of ranges. It is asked only when the cache does not know a key.
type Directory interface {
	Descriptors(ctx context.Context) ([]*ids.Descriptor, error)
}

// Cluster is what the services need to know of the cluster as a whole. The methods without a context are answered from
// memory.
type Cluster interface {
	// Members lists the nodes of the cluster, as of a moment after the call if linearizable is set.
	Members(ctx context.Context, linearizable bool) ([]Member, error)
	// Raft is the placement group as this node knows it.
	Raft() RaftStatus
	// Current is the greatest revision that this node has seen the sequencer confirm.
	Current() ids.Revision
	// Confirm makes an exchange that begins after the call: the current revision, and the compaction floor.
	Confirm(ctx context.Context) (current, floor ids.Revision, err error)
	// Compact raises the logical compaction floor. Errors: etcd's (ErrGRPCCompacted, ErrGRPCFutureRev), ids' typed ones.
	Compact(ctx context.Context, at ids.Revision) error
	// Alarms lists the alarms that are raised.
	Alarms() []*pb.AlarmMember
}

// Member is one node as etcd's Cluster service shows it.
type Member struct {
	ID         ids.NodeID
	Name       string
	PeerURLs   []string
	ClientURLs []string
}

// RaftStatus is what etcd's status reports of its one Raft group; here it is the placement group.
type RaftStatus struct {
	Leader          ids.NodeID // 0: none known
	Term            uint64
	Commit, Applied uint64
}

// Store is the node's engine as an operator sees it.
type Store interface {
	// Size returns the bytes on disk, and how many of them are live.
	Size() (total, live int64)
	// Compact gives back what can be given back, and waits for it (etcd's Defragment).
	Compact(ctx context.Context) error
}

// Txner carries out a request whose keys lie in several ranges: a *pb.TxnRequest or *pb.DeleteRangeRequest that was
// checked. Its errors are etcd's gRPC errors, or ids' typed ones, which are retried like those of a range.
type Txner interface {
	Execute(ctx context.Context, op proto.Message, spans eval.Spans) (proto.Message, error)
}

// Config shapes a Router.
type Config struct {
	ClusterID uint64
	Node      ids.NodeID
	Limits    eval.Limits // zero: etcd's
	// ElectionTimeout (default 1 s) is the scale of what is waited for: a request's time is 5 s and two of them.
	ElectionTimeout time.Duration
	// InFlightMax bounds the client requests that are being served (default 32,768), InFlightBytes the bytes of writes
	// among them (default 512 MiB). More are refused with etcd's "too many requests".
	InFlightMax   int64
	InFlightBytes int64
	// SlowRequest is the duration from which on a request is logged with where its time went (default 300 ms).
	SlowRequest time.Duration
	// QuotaBytes is only shown (Status); 0: none.
	QuotaBytes int64
	Logger     *zap.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Deps are a Router's neighbours.
type Deps struct {
	Ranges    Ranges
	Sender    Sender // nil in a cluster of one node
	Directory Directory
	Cluster   Cluster
	Store     Store
	Txner     Txner // nil: such requests are refused
	Clock     clock.Clock
}
