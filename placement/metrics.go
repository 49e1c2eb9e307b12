package placement

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// serviceMetrics are read from the machine when they are asked for, so that an exchange pays nothing for them.
type serviceMetrics struct{ service *Service }

var (
	descServing    = prometheus.NewDesc("pontoon_sequencer_serving", "1 if this node is the sequencer and its lease holds.", nil, nil)
	descEpoch      = prometheus.NewDesc("pontoon_sequencer_epoch", "Newest epoch in this replica's book.", nil, nil)
	descLease      = prometheus.NewDesc("pontoon_sequencer_lease_remaining_seconds", "How long the sequencer lease still holds; 0 elsewhere.", nil, nil)
	descIssued     = prometheus.NewDesc("pontoon_sequencer_revisions_total", "Revisions given out by this process.", nil, nil)
	descServed     = prometheus.NewDesc("pontoon_sequencer_exchanges_total", "Exchanges answered by this process.", nil, nil)
	descRefused    = prometheus.NewDesc("pontoon_sequencer_refused_total", "Exchanges refused: not the sequencer, or a session that is over.", nil, nil)
	descCeilings   = prometheus.NewDesc("pontoon_sequencer_ceiling_raises_total", "Ceiling raises proposed.", nil, nil)
	descSuperseded = prometheus.NewDesc("pontoon_sequencer_superseded_total", "Registrations reported as superseded or refused.", nil, nil)
	descSessions   = prometheus.NewDesc("pontoon_sequencer_sessions", "Sessions of this epoch.", nil, nil)
	descRegistered = prometheus.NewDesc("pontoon_sequencer_registrations", "Ranges with a registered leader in this epoch.", nil, nil)
	descFloor      = prometheus.NewDesc("pontoon_compaction_floor", "Logical compaction floor in this replica's book; -1 before the first.", nil, nil)
)

func newServiceMetrics(r prometheus.Registerer, s *Service) *serviceMetrics {
	m := &serviceMetrics{s}
	if r != nil {
		r.MustRegister(m)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *serviceMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *serviceMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.service
	s.mu.Lock()
	stats, sessions, registered := s.mu.machine.Stats()
	left := s.mu.machine.LeaseLeft(s.cfg.Clock.Now())
	_, _, serving := s.mu.machine.Serving()
	epoch, floor := s.mu.book.Sequencer().Epoch, s.mu.book.Floor()
	s.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	count := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	up := 0.0
	if serving && (left > 0 || s.cfg.Proof == ProofQuorum) {
		up = 1
	}
	gauge(descServing, up)
	gauge(descEpoch, float64(epoch))
	gauge(descLease, left.Seconds())
	count(descIssued, stats.Revisions)
	count(descServed, stats.Exchanges)
	count(descRefused, stats.Refused)
	count(descCeilings, stats.Ceilings)
	count(descSuperseded, stats.Standings)
	gauge(descSessions, float64(sessions))
	gauge(descRegistered, float64(registered))
	gauge(descFloor, float64(floor))
}

// clientMetrics count a node's part in exchanges.
type clientMetrics struct {
	joins, exchanges, sessions prometheus.Counter
	latency                    prometheus.Histogram
}

func newClientMetrics(r prometheus.Registerer, c *Client) *clientMetrics {
	m := &clientMetrics{
		joins: prometheus.NewCounter(prometheus.CounterOpts{Name: "pontoon_exchange_joins_total",
			Help: "Joins of this node's range leaders; per exchange: divide by pontoon_exchange_sent_total."}),
		exchanges: prometheus.NewCounter(prometheus.CounterOpts{Name: "pontoon_exchange_sent_total", Help: "Exchanges begun by this node."}),
		sessions:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pontoon_exchange_sessions_total", Help: "Sessions opened with a sequencer."}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pontoon_exchange_duration_seconds",
			Help: "From an exchange's sending to its answer.", Buckets: prometheus.ExponentialBuckets(1e-6, 4, 12)}),
	}
	if r != nil {
		silent := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pontoon_exchange_silent_seconds",
			Help: "Since the sequencer's newest answer."}, func() float64 { return c.Silent().Seconds() })
		r.MustRegister(m.joins, m.exchanges, m.sessions, m.latency, silent)
	}
	return m
}

func (m *clientMetrics) joined()                  { m.joins.Inc() }
func (m *clientMetrics) exchanged()               { m.exchanges.Inc() }
func (m *clientMetrics) answered(d time.Duration) { m.latency.Observe(d.Seconds()) }
