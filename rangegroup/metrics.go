package rangegroup

import "github.com/prometheus/client_golang/prometheus"

// Metrics are a host's series. None has a label per range: their number must not grow with the keyspace.
type Metrics struct {
	terms        prometheus.Counter
	overloaded   prometheus.Counter
	entryItems   prometheus.Histogram
	writeSeconds prometheus.Histogram
	gcVersions   prometheus.Counter
}

// NewMetrics registers the series; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		terms: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pontoon_range_terms_total", Help: "Terms in which a replica of this node became leader of its range.",
		}),
		overloaded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pontoon_lane_refused_total", Help: "Requests refused because too many were waiting at their range.",
		}),
		entryItems: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pontoon_lane_entry_requests", Help: "Requests that went into one Raft entry.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 13),
		}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pontoon_lane_request_seconds", Help: "Time from a mutating request's arrival at its leader to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		gcVersions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pontoon_gc_versions_total", Help: "Versions removed below the physical compaction floor.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.terms, m.overloaded, m.entryItems, m.writeSeconds, m.gcVersions)
	}
	return m
}
