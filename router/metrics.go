package router

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// routerMetrics count what the router does between client and ranges.
type routerMetrics struct {
	retries, overloaded, confirms, slow prometheus.Counter
}

func newRouterMetrics(reg prometheus.Registerer) *routerMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pontoon", Subsystem: "router", Name: name, Help: help})
	}
	m := &routerMetrics{
		retries:    counter("retries_total", "Attempts repeated after a proof that they had no effect, and repeated reads."),
		overloaded: counter("overloaded_total", "Requests refused because too many were being served."),
		confirms:   counter("confirm_calls_total", "Calls to other nodes for claims, each for all reads that waited."),
		slow:       counter("slow_requests_total", "Requests that took longer than the slow-request threshold."),
	}
	if reg != nil {
		reg.MustRegister(m.retries, m.overloaded, m.confirms, m.slow)
	}
	return m
}

// timing says where the time of a request went.
type timing struct {
	start              time.Time
	claim, apply, read time.Duration // reads: waiting for claims, for the local replica, reading
	attempts           int           // that failed
	first              *route        // the first range it touches
	asked              ids.NodeID    // mutations: who was asked last
	revision           ids.Revision  // reads: what was current
}

func (t *timing) on(r *route) { t.first = r }

// finish ends a request; a slow one is logged with its keys, its ranges and where the time went, but without values.
func (rt *Router) finish(t *timing, req proto.Message, err error) {
	took := time.Since(t.start)
	if took < rt.cfg.SlowRequest {
		return
	}
	rt.metrics.slow.Inc()
	fields := make([]zap.Field, 0, 12)
	fields = append(fields, zap.Duration("took", took), zap.Int("retries", t.attempts))
	switch r := req.(type) {
	case *pb.RangeRequest:
		fields = append(fields, zap.String("request", "Range"), zap.ByteString("key", r.Key),
			zap.ByteString("range_end", r.RangeEnd), zap.Bool("serializable", r.Serializable),
			zap.Duration("waited_for_claim", t.claim), zap.Duration("waited_for_apply", t.apply),
			zap.Duration("read", t.read))
	case *pb.PutRequest:
		fields = append(fields, zap.String("request", "Put"), zap.ByteString("key", r.Key), zap.Int("value_bytes", len(r.Value)))
	case *pb.DeleteRangeRequest:
		fields = append(fields, zap.String("request", "DeleteRange"), zap.ByteString("key", r.Key),
			zap.ByteString("range_end", r.RangeEnd))
	case *pb.TxnRequest:
		fields = append(fields, zap.String("request", "Txn"), zap.Int("compares", len(r.Compare)),
			zap.Int("success", len(r.Success)), zap.Int("failure", len(r.Failure)))
	}
	if t.first != nil {
		fields = append(fields, zap.Uint64("range", uint64(t.first.desc.ID)))
	}
	if t.asked != 0 {
		fields = append(fields, zap.Stringer("leader", t.asked))
	}
	if err != nil {
		fields = append(fields, zap.Error(err))
	}
	rt.log.Warn("slow request", fields...)
}
