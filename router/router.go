package router

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Router serves etcd's API on one node. Its methods may be called at once from any goroutine.
type Router struct {
	// Set at birth.
	cfg     Config
	self    ids.NodeID
	timeout time.Duration // of one client request
	ranges  Ranges
	sender  Sender
	dir     Directory
	cluster Cluster
	store   Store
	txner   Txner
	clock   clock.Clock
	log     *zap.Logger
	metrics *routerMetrics

	cache    cache
	lookups  lookups
	waiters  waiters
	confirms confirmer
	served   group // reads for other nodes, directory look-ups

	// answered is the greatest revision in the header of any response of this node: what a client of it may have seen.
	answered      atomic.Int64
	inFlight      atomic.Int64
	inFlightBytes atomic.Int64
}

// New checks the configuration. Nothing runs until a request comes.
func New(cfg Config, deps Deps) (*Router, error) {
	if cfg.Node == 0 || deps.Ranges == nil || deps.Directory == nil || deps.Cluster == nil || deps.Clock == nil {
		return nil, fmt.Errorf("router: node id, ranges, directory, cluster and clock are all needed")
	}
	setDefault(&cfg.ElectionTimeout, time.Second)
	setDefault(&cfg.InFlightMax, 32768)
	setDefault(&cfg.InFlightBytes, 512<<20)
	setDefault(&cfg.SlowRequest, 300*time.Millisecond)
	setDefault(&cfg.Limits.MaxTxnOps, eval.DefaultLimits.MaxTxnOps)
	setDefault(&cfg.Limits.MaxRequestBytes, eval.DefaultLimits.MaxRequestBytes)
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if deps.Sender == nil {
		deps.Sender = noSender{}
	}
	rt := &Router{
		cfg: cfg, self: cfg.Node, timeout: 5*time.Second + 2*cfg.ElectionTimeout,
		ranges: deps.Ranges, sender: deps.Sender, dir: deps.Directory, cluster: deps.Cluster, store: deps.Store,
		txner: deps.Txner, clock: deps.Clock, log: cfg.Logger, metrics: newRouterMetrics(cfg.Registerer),
	}
	rt.served.init()
	rt.cache.init(cfg.Node)
	rt.confirms.init(rt)
	return rt, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Close fails what still waits, and waits for the router's goroutines. Requests that come later fail.
func (rt *Router) Close() error {
	rt.served.close()
	rt.confirms.close()
	return nil
}

// Learn tells the router of descriptors, which it keeps if they are newer than what it knows.
func (rt *Router) Learn(ds ...*ids.Descriptor) { rt.cache.learn(ds) }

// Register registers all services.
func (rt *Router) Register(s grpc.ServiceRegistrar) {
	pb.RegisterKVServer(s, rt.KV())
	pb.RegisterClusterServer(s, rt.Cluster())
	pb.RegisterMaintenanceServer(s, rt.Maintenance())
	pb.RegisterAuthServer(s, &authServer{rt: rt})
	pb.RegisterWatchServer(s, watchServer{})
	pb.RegisterLeaseServer(s, leaseServer{})
	pontoonpb.RegisterAdminServer(s, rt.Admin())
}

// KV is etcd's KV service, also for callers in the same process.
func (rt *Router) KV() pb.KVServer { return &kvServer{rt: rt} }

// Cluster is etcd's Cluster service.
func (rt *Router) Cluster() pb.ClusterServer { return &clusterServer{rt: rt} }

// Maintenance is etcd's Maintenance service.
func (rt *Router) Maintenance() pb.MaintenanceServer { return &maintenanceServer{rt: rt} }

// Admin is the operator's service.
func (rt *Router) Admin() pontoonpb.AdminServer { return &adminServer{rt: rt} }

// noteAnswered remembers what a client is about to see.
func (rt *Router) noteAnswered(r int64) {
	for {
		old := rt.answered.Load()
		if r <= old || rt.answered.CompareAndSwap(old, r) {
			return
		}
	}
}

// fill completes the header of a response whose revision is known.
func (rt *Router) fill(h *pb.ResponseHeader) {
	h.ClusterId = rt.cfg.ClusterID
	h.MemberId = uint64(rt.self)
	h.RaftTerm = rt.cluster.Raft().Term
	rt.noteAnswered(h.Revision)
}

// header makes the header of a response that has no revision of its own: the greatest one this node knows, so that
// a client never sees headers fall (design 8 #36).
func (rt *Router) header() *pb.ResponseHeader {
	h := &pb.ResponseHeader{Revision: max(rt.answered.Load(), int64(rt.cluster.Current()), 1)}
	rt.fill(h)
	return h
}

// admit counts a request of n bytes in; the caller calls leave with the same n unless there is an error.
func (rt *Router) admit(n int64) error {
	requests, bytes := rt.inFlight.Add(1), rt.inFlightBytes.Add(n)
	if requests <= rt.cfg.InFlightMax && bytes <= rt.cfg.InFlightBytes {
		return nil
	}
	rt.leave(n)
	rt.metrics.overloaded.Inc()
	return rpctypes.ErrGRPCRequestTooManyRequests
}

func (rt *Router) leave(n int64) {
	rt.inFlight.Add(-1)
	rt.inFlightBytes.Add(-n)
}

// noSender is the sender of a cluster of one node.
type noSender struct{}

func (noSender) Go(_ context.Context, to ids.NodeID, _ CallKind, _ []byte, done func([]byte, error)) {
	done(nil, fmt.Errorf("no connection to node %v: this is a cluster of one node", to))
}
func (noSender) NotSent(error) bool { return true }

// group owns goroutines: it starts them, bounds their number, and waits for them.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	mu     struct {
		sync.Mutex
		closed bool
		n      int
	}
	wg sync.WaitGroup
}

// groupMax bounds the goroutines of a group: reads that are served for other nodes wait for disks and claims, and more
// than this many mean that waiting is all they do.
const groupMax = 8192

func (g *group) init() { g.ctx, g.cancel = context.WithCancel(context.Background()) }

// run starts f with a context that ends with the group. It returns false, without calling f, if the group is closed or
// full.
func (g *group) run(f func(ctx context.Context)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.closed || g.mu.n >= groupMax {
		return false
	}
	g.mu.n++
	g.wg.Add(1)
	go func() {
		defer func() {
			g.mu.Lock()
			g.mu.n--
			g.mu.Unlock()
			g.wg.Done()
		}()
		f(g.ctx)
	}()
	return true
}

func (g *group) close() {
	g.mu.Lock()
	g.mu.closed = true
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
}
