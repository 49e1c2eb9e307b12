package grpcnet

import (
	"sync/atomic"

	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/prometheus/client_golang/prometheus"
)

// linkStats counts what goes to and comes from one node in one class, over both streams.
type linkStats struct {
	framesOut, messagesOut, bytesOut atomic.Uint64
	framesIn, messagesIn, bytesIn    atomic.Uint64
	dropped                          atomic.Uint64 // Raft messages
	dials, breaks                    atomic.Uint64
}

func (s *linkStats) sent(bytes, messages int) {
	s.framesOut.Add(1)
	s.messagesOut.Add(uint64(messages))
	s.bytesOut.Add(uint64(bytes))
}

func (s *linkStats) received(bytes, messages int) {
	s.framesIn.Add(1)
	s.messagesIn.Add(uint64(messages))
	s.bytesIn.Add(uint64(bytes))
}

// metrics reads the counters when it is asked, so that counting costs an atomic addition and no lookup.
type metrics struct {
	t                                          *Transport
	frames, messages, bytes                    *prometheus.Desc
	dropped, dials, breaks                     *prometheus.Desc
	queueMessages, queueBytes, inFlight, alive *prometheus.Desc
}

func newMetrics(t *Transport) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("pontoon_transport_"+name, help, append([]string{"node"}, labels...), nil)
	}
	return &metrics{
		t:             t,
		frames:        desc("frames_total", "Frames exchanged with a node, pings among them.", "class", "direction"),
		messages:      desc("messages_total", "Messages in these frames.", "class", "direction"),
		bytes:         desc("bytes_total", "Bytes of these frames.", "class", "direction"),
		dropped:       desc("raft_dropped_total", "Raft messages dropped for want of a connection or room."),
		dials:         desc("connects_total", "Attempts to connect to a node.", "class"),
		breaks:        desc("breaks_total", "Outgoing streams to a node that broke.", "class"),
		queueMessages: desc("queue_messages", "Messages that wait to be sent to a node.", "class"),
		queueBytes:    desc("queue_bytes", "Bytes that wait to be sent to a node.", "class"),
		inFlight:      desc("calls_in_flight", "Calls that wait for a node's answer.", "class"),
		alive:         desc("alive", "1 if the node was heard within the liveness timeout."),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.frames, m.messages, m.bytes, m.dropped, m.dials, m.breaks,
		m.queueMessages, m.queueBytes, m.inFlight, m.alive} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v *atomic.Uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v.Load()), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, p := range m.t.peers() {
		node := p.id.String()
		up := 0.0
		if heard := p.heard.Load(); heard != 0 && m.t.clock()-heard <= m.t.cfg.LivenessTimeout.Nanoseconds() {
			up = 1
		}
		gauge(m.alive, up, node)
		counter(m.dropped, &p.stats[calls.Raft].dropped, node)
		for c := range calls.NumClasses {
			s, class := &p.stats[c], c.String()
			counter(m.frames, &s.framesOut, node, class, "out")
			counter(m.frames, &s.framesIn, node, class, "in")
			counter(m.messages, &s.messagesOut, node, class, "out")
			counter(m.messages, &s.messagesIn, node, class, "in")
			counter(m.bytes, &s.bytesOut, node, class, "out")
			counter(m.bytes, &s.bytesIn, node, class, "in")
			counter(m.dials, &s.dials, node, class)
			counter(m.breaks, &s.breaks, node, class)
			if l := p.links[c].Load(); l != nil {
				messages, bytes, inFlight := l.size()
				gauge(m.queueMessages, float64(messages), node, class)
				gauge(m.queueBytes, float64(bytes), node, class)
				gauge(m.inFlight, float64(inFlight), node, class)
			}
		}
	}
}
