package storage

import (
	"math/bits"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the numbers about an engine that other rooms and operators use.
type Metrics struct {
	DiskBytes, LiveBytes      int64 // used on the disk; of tables that hold replicated data
	MemTableBytes, WALBytes   uint64
	CacheBytes                int64
	CacheHits, CacheMisses    int64
	Flushes, Compactions      int64
	CompactionsRunning        int64
	CompactionDebtBytes       uint64
	CompactedBytes            uint64 // written by compactions
	FlushedBytes              uint64
	L0Files, L0Sublevels      int64
	ReadAmplification         int
	SyncP50, SyncP99          time.Duration
	IngestedBytes, WALWritten uint64
}

// Metrics returns the present numbers. It takes Pebble's lock for some microseconds.
func (e *Engine) Metrics() Metrics { return e.metrics(e.db.Metrics()) }

func (e *Engine) metrics(m *pebble.Metrics) Metrics {
	p50, p99 := e.SyncLatency()
	total := m.Total()
	return Metrics{
		DiskBytes:           int64(m.DiskSpaceUsage()),
		MemTableBytes:       m.MemTable.Size,
		WALBytes:            m.WAL.Size,
		CacheBytes:          m.BlockCache.Size,
		CacheHits:           m.BlockCache.Hits,
		CacheMisses:         m.BlockCache.Misses,
		Flushes:             m.Flush.Count,
		Compactions:         m.Compact.Count,
		CompactionsRunning:  m.Compact.NumInProgress,
		CompactionDebtBytes: m.Compact.EstimatedDebt,
		CompactedBytes:      total.TableBytesCompacted,
		FlushedBytes:        m.Levels[0].TableBytesFlushed, // the total would count the WAL too
		IngestedBytes:       total.TableBytesIngested,
		WALWritten:          m.WAL.BytesWritten,
		L0Files:             m.Levels[0].TablesCount,
		L0Sublevels:         int64(m.Levels[0].Sublevels),
		ReadAmplification:   m.ReadAmp(),
		SyncP50:             p50,
		SyncP99:             p99,
	}
}

// Size returns the bytes that the engine uses on the disk, and how many of them are in tables that hold replicated data.
func (e *Engine) Size() (total, live int64) {
	total = int64(e.db.Metrics().DiskSpaceUsage())
	for _, s := range [][2][]byte{{{classSystem, 0}, {classUser + 1, 0}}, {{classKeyed, 0}, {classKeyed + 1, 0}}} {
		n, err := e.db.EstimateDiskUsage(s[0], s[1])
		if err != nil {
			return total, 0
		}
		live += int64(n)
	}
	return total, live
}

// SpanBytes estimates the bytes on the disk of a span's versions and system keys. What is still in memtables does not
// count.
func (e *Engine) SpanBytes(span ids.Span) (uint64, error) {
	if span.Empty() {
		return 0, nil
	}
	n, err := e.db.EstimateDiskUsage(appendPrefix(nil, span.Start), appendPrefix(nil, span.End))
	return n, e.wrap(err)
}

func (e *Engine) observeSync(d time.Duration) {
	e.syncs.observe(d)
	if e.collector != nil {
		e.collector.syncs.Observe(d.Seconds())
	}
}

// SyncLatency returns the median and the 99th percentile of synced commits in the last half to whole minute.
func (e *Engine) SyncLatency() (p50, p99 time.Duration) {
	return e.syncs.quantiles()
}

// syncWindow counts durations in buckets that grow by an eighth, in two windows of half a minute.
type syncWindow struct {
	mu struct {
		sync.Mutex
		began     time.Time
		now, past [8 * 40]uint32
	}
}

const syncWindowLength = 30 * time.Second

func (w *syncWindow) observe(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rotateLocked()
	w.mu.now[bucketOf(d)]++
}

func (w *syncWindow) rotateLocked() {
	switch age := time.Since(w.mu.began); {
	case age < syncWindowLength:
		return
	case age < 2*syncWindowLength:
		w.mu.past = w.mu.now
	default:
		clear(w.mu.past[:])
	}
	clear(w.mu.now[:])
	w.mu.began = time.Now()
}

func (w *syncWindow) quantiles() (p50, p99 time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rotateLocked()
	var total uint64
	for i := range w.mu.now {
		total += uint64(w.mu.now[i]) + uint64(w.mu.past[i])
	}
	var seen uint64
	for i := range w.mu.now {
		n := uint64(w.mu.now[i]) + uint64(w.mu.past[i])
		if n == 0 {
			continue
		}
		seen += n
		if p50 == 0 && 2*seen >= total {
			p50 = bucketTop(i)
		}
		if 100*seen >= 99*total {
			return p50, bucketTop(i)
		}
	}
	return 0, 0
}

// bucketOf gives each power of two of nanoseconds eight buckets.
func bucketOf(d time.Duration) int {
	n := uint64(max(d, 8))
	exp := bits.Len64(n) - 4 // n >> exp is 8 … 15
	return min(exp*8+int(n>>exp)-8, 8*40-1)
}

func bucketTop(i int) time.Duration { return time.Duration(i%8+9) << (i / 8) }

// collector gives the metrics to Prometheus.
type collector struct {
	e      *Engine
	series []series
	syncs  prometheus.Histogram
}

type series struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func(m *Metrics) float64
}

func newCollector(e *Engine, name string) *collector {
	c := &collector{e: e}
	labels := prometheus.Labels{"engine": name}
	c.syncs = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "pontoon_storage_sync_duration_seconds", Help: "Duration of synced commits.", ConstLabels: labels,
		Buckets: prometheus.ExponentialBuckets(50e-6, 2, 17), // 50 µs … 3.3 s
	})
	add := func(kind prometheus.ValueType, name, help string, get func(m *Metrics) float64) {
		c.series = append(c.series, series{
			desc: prometheus.NewDesc("pontoon_storage_"+name, help, nil, labels), kind: kind, get: get,
		})
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	add(gauge, "disk_bytes", "Bytes used on the disk.", func(m *Metrics) float64 { return float64(m.DiskBytes) })
	add(gauge, "memtable_bytes", "Bytes in memtables.", func(m *Metrics) float64 { return float64(m.MemTableBytes) })
	add(gauge, "wal_bytes", "Live bytes in the WAL.", func(m *Metrics) float64 { return float64(m.WALBytes) })
	add(counter, "wal_written_bytes_total", "Bytes written to the WAL.", func(m *Metrics) float64 { return float64(m.WALWritten) })
	add(gauge, "cache_bytes", "Bytes in the block cache.", func(m *Metrics) float64 { return float64(m.CacheBytes) })
	add(counter, "cache_hits_total", "Block cache hits.", func(m *Metrics) float64 { return float64(m.CacheHits) })
	add(counter, "cache_misses_total", "Block cache misses.", func(m *Metrics) float64 { return float64(m.CacheMisses) })
	add(counter, "flushes_total", "Flushes of memtables.", func(m *Metrics) float64 { return float64(m.Flushes) })
	add(counter, "flushed_bytes_total", "Bytes written by flushes.", func(m *Metrics) float64 { return float64(m.FlushedBytes) })
	add(counter, "compactions_total", "Engine compactions.", func(m *Metrics) float64 { return float64(m.Compactions) })
	add(gauge, "compactions_running", "Engine compactions in progress.", func(m *Metrics) float64 { return float64(m.CompactionsRunning) })
	add(gauge, "compaction_debt_bytes", "Bytes that engine compactions are behind.", func(m *Metrics) float64 { return float64(m.CompactionDebtBytes) })
	add(counter, "compacted_bytes_total", "Bytes written by engine compactions.", func(m *Metrics) float64 { return float64(m.CompactedBytes) })
	add(counter, "ingested_bytes_total", "Bytes ingested from snapshots.", func(m *Metrics) float64 { return float64(m.IngestedBytes) })
	add(gauge, "l0_files", "Tables in level 0.", func(m *Metrics) float64 { return float64(m.L0Files) })
	add(gauge, "l0_sublevels", "Sublevels of level 0.", func(m *Metrics) float64 { return float64(m.L0Sublevels) })
	add(gauge, "read_amplification", "Tables that a read may have to look into.", func(m *Metrics) float64 { return float64(m.ReadAmplification) })
	add(gauge, "sync_p50_seconds", "Median duration of synced commits, last minute.", func(m *Metrics) float64 { return m.SyncP50.Seconds() })
	add(gauge, "sync_p99_seconds", "99th percentile of synced commits, last minute.", func(m *Metrics) float64 { return m.SyncP99.Seconds() })
	return c
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range c.series {
		ch <- s.desc
	}
	c.syncs.Describe(ch)
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	m := c.e.Metrics()
	for _, s := range c.series {
		ch <- prometheus.MustNewConstMetric(s.desc, s.kind, s.get(&m))
	}
	c.syncs.Collect(ch)
}
