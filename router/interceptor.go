package router

import (
	"context"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// interceptor is what every call passes: the checks of its metadata, counting, and the catching of panics.
type interceptor struct {
	rt      *Router
	log     *zap.Logger
	started *prometheus.CounterVec
	handled *prometheus.CounterVec
	latency *prometheus.HistogramVec
	methods sync.Map // full method → *methodMetrics
}

// methodMetrics are one method's series, looked up once.
type methodMetrics struct {
	labels  []string // type, service, method
	started prometheus.Counter
	ok      prometheus.Counter
	latency prometheus.Observer
}

// The names of counters are those under which etcd's users know them.
func newInterceptor(rt *Router, log *zap.Logger, reg prometheus.Registerer) *interceptor {
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	in := &interceptor{
		rt: rt, log: log,
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_started_total", Help: "RPCs started on the server.",
		}, labels),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total", Help: "RPCs completed on the server, by code.",
		}, append(labels[:3:3], "grpc_code")),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "Time until an RPC was answered.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 17),
		}, labels),
	}
	if reg != nil {
		reg.MustRegister(in.started, in.handled, in.latency)
	}
	return in
}

func (in *interceptor) metrics(kind, full string) *methodMetrics {
	if m, ok := in.methods.Load(full); ok {
		return m.(*methodMetrics)
	}
	service, method, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	labels := []string{kind, service, method}
	m := &methodMetrics{
		labels:  labels,
		started: in.started.WithLabelValues(labels...),
		ok:      in.handled.WithLabelValues(kind, service, method, codes.OK.String()),
		latency: in.latency.WithLabelValues(labels...),
	}
	got, _ := in.methods.LoadOrStore(full, m)
	return got.(*methodMetrics)
}

func (in *interceptor) unary(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (resp any, err error) {
	m := in.metrics("unary", info.FullMethod)
	m.started.Inc()
	begun := time.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, in.panicked(info.FullMethod, p)
		}
		m.latency.Observe(time.Since(begun).Seconds())
		in.count(m, err)
	}()
	if err = in.check(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (in *interceptor) stream(
	srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
) (err error) {
	kind := "bidi_stream"
	if !info.IsClientStream {
		kind = "server_stream"
	}
	m := in.metrics(kind, info.FullMethod)
	m.started.Inc()
	defer func() {
		if p := recover(); p != nil {
			err = in.panicked(info.FullMethod, p)
		}
		in.count(m, err)
	}()
	if err = in.check(ss.Context()); err != nil {
		return err
	}
	return handler(srv, ss)
}

func (in *interceptor) count(m *methodMetrics, err error) {
	if err == nil {
		m.ok.Inc()
		return
	}
	in.handled.WithLabelValues(m.labels[0], m.labels[1], m.labels[2], status.Code(err).String()).Inc()
}

// panicked makes an error of a bug: one request fails, the node lives, and the log says where it happened.
func (in *interceptor) panicked(method string, p any) error {
	in.log.Error("panic while serving a request", zap.String("method", method), zap.Any("panic", p),
		zap.ByteString("stack", debug.Stack()))
	return status.Error(codes.Internal, "pontoon: internal error; the server's log has the details")
}

// check looks at what etcd's clients put into metadata.
func (in *interceptor) check(ctx context.Context) error {
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(v) > 0 &&
		!utf8.ValidString(v[0]) {
		return rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey); len(v) > 0 &&
		v[0] == rpctypes.MetadataHasLeader && in.rt.cluster.Raft().Leader == 0 {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}
