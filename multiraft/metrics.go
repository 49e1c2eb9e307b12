package multiraft

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// roleNone is the role of a replica that is not there.
const roleNone Role = 255

func (r Role) String() string {
	switch r {
	case Follower:
		return "follower"
	case Candidate:
		return "candidate"
	case Leader:
		return "leader"
	case Learner:
		return "learner"
	}
	return "none"
}

// metrics are a host's own; none has a label per range.
type metrics struct {
	groups           *prometheus.GaugeVec
	awake            prometheus.Gauge
	elections        prometheus.Counter
	damaged          prometheus.Counter
	turns            prometheus.Counter
	proposals        prometheus.Counter
	truncations      prometheus.Counter
	syncSeconds      prometheus.Histogram
	syncGroups       prometheus.Histogram
	syncEntries      prometheus.Histogram
	sentMessages     prometheus.Counter
	received         prometheus.Counter
	droppedSend      prometheus.Counter
	droppedNoNode    prometheus.Counter
	droppedUnknown   prometheus.Counter
	droppedFull      prometheus.Counter
	droppedMalformed prometheus.Counter
	snapshots        *prometheus.CounterVec
	snapshotBytes    *prometheus.CounterVec

	all []prometheus.Collector
}

func newMetrics() *metrics {
	m := new(metrics)
	opts := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "pontoon", Subsystem: "raft", Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts(opts(n, help)))
		m.all = append(m.all, c)
		return c
	}
	histogram := func(n, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "pontoon", Subsystem: "raft", Name: n, Help: help, Buckets: buckets,
		})
		m.all = append(m.all, h)
		return h
	}
	m.groups = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("groups", "Replicas on this node by role.")), []string{"role"})
	m.awake = prometheus.NewGauge(prometheus.GaugeOpts(opts("groups_awake", "Replicas that get ticks.")))
	m.snapshots = prometheus.NewCounterVec(prometheus.CounterOpts(
		opts("snapshots_total", "Range snapshots by direction and result.")), []string{"direction", "result"})
	m.snapshotBytes = prometheus.NewCounterVec(prometheus.CounterOpts(
		opts("snapshot_bytes_total", "Bytes of range snapshots by direction.")), []string{"direction"})
	m.all = append(m.all, m.groups, m.awake, m.snapshots, m.snapshotBytes)
	m.elections = counter("elections_won_total", "Times that a replica here became leader.")
	m.damaged = counter("replicas_damaged_total", "Replicas that stopped for good.")
	m.turns = counter("turns_total", "Turns of groups on workers.")
	m.proposals = counter("proposals_total", "Entries appended by leaders here.")
	m.truncations = counter("log_truncations_total", "Log truncations.")
	m.syncSeconds = histogram("log_sync_duration_seconds", "Time to write and sync one batch of the log writer.",
		prometheus.ExponentialBuckets(0.00005, 2, 16))
	m.syncGroups = histogram("log_sync_groups", "Appends of groups that shared one sync.",
		prometheus.ExponentialBuckets(1, 2, 12))
	m.syncEntries = histogram("log_sync_entries", "Entries that shared one sync.", prometheus.ExponentialBuckets(1, 2, 12))
	m.sentMessages = counter("messages_sent_total", "Messages handed to the transport.")
	m.received = counter("messages_received_total", "Messages from other nodes.")
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts(
		opts("messages_dropped_total", "Messages dropped by reason.")), []string{"reason"})
	m.all = append(m.all, dropped)
	m.droppedSend = dropped.WithLabelValues("not connected or queue full")
	m.droppedNoNode = dropped.WithLabelValues("node unknown")
	m.droppedUnknown = dropped.WithLabelValues("replica unknown")
	m.droppedFull = dropped.WithLabelValues("inbox full")
	m.droppedMalformed = dropped.WithLabelValues("malformed")
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	var errs []error
	for _, c := range m.all {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

// moved counts a replica under its new role.
func (m *metrics) moved(from, to Role) {
	if from == to {
		return
	}
	if from != roleNone {
		m.groups.WithLabelValues(from.String()).Dec()
	}
	if to != roleNone {
		m.groups.WithLabelValues(to.String()).Inc()
	}
}
