package storage

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/cockroachkvs"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

const (
	defaultCacheBytes     = 256 << 20
	defaultMemTableBytes  = 64 << 20
	defaultMaxCompactions = 2
	// bloomBits per key: 10 give about 1 % of false positives and cost 1.25 bytes of cache per key.
	bloomBits = 10
	// dataBlockBytes: point reads dominate, and a miss of the cache costs the decompression of one block.
	dataBlockBytes  = 8 << 10
	indexBlockBytes = 64 << 10
	ingestFileBytes = 64 << 20
)

// withDefaults fills what the caller left out.
func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = defaultMemTableBytes
	}
	if c.MaxCompactions <= 0 {
		c.MaxCompactions = defaultMaxCompactions
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Name == "" {
		c.Name = "data"
	}
	return c
}

// options are Pebble's options with our reasons; docs/storage.md repeats them with figures.
func (e *Engine) options(cfg Config) *pebble.Options {
	o := &pebble.Options{
		FS:                 cfg.FS,
		CacheSize:          cfg.CacheBytes,
		Comparer:           &cockroachkvs.Comparer,
		KeySchema:          cockroachkvs.KeySchema.Name,
		KeySchemas:         sstable.MakeKeySchemas(&cockroachkvs.KeySchema),
		FormatMajorVersion: pebble.FormatValueSeparation,
		// The revision interval of each block: catch-up and GC read only blocks that can matter.
		BlockPropertyCollectors: cockroachkvs.BlockPropertyCollectors,

		MemTableSize: cfg.MemTableBytes,
		// Three full memtables may wait for a slow flush before writers stall.
		MemTableStopWritesThreshold: 4,
		// Reads look into every sublevel of L0: keep them few; stall writers long before reads become unusable.
		L0CompactionThreshold: 2,
		L0StopWritesThreshold: 24,
		LBaseMaxBytes:         64 << 20,
		MaxOpenFiles:          4096,
		CompactionConcurrencyRange: func() (int, int) {
			return 1, cfg.MaxCompactions
		},
		// Every group commit syncs the WAL anyway, so there is nothing for background syncs to smooth.
		WALBytesPerSync: 0,
		// Tables are written to the disk as they grow, so that their final sync does not delay the WAL's.
		BytesPerSync: 512 << 10,

		EventListener:   e.eventListener(),
		LoggerAndTracer: nil,
		Logger:          pebbleLogger{e},
	}
	o.Experimental.EnableColumnarBlocks = func() bool { return true }
	// Values of old versions leave the data blocks, so that scans of the newest ones skip them.
	o.Experimental.EnableValueBlocks = func() bool { return true }
	// Removed ranges and excised spans give their disk space back without rewriting tables.
	o.Experimental.EnableDeleteOnlyCompactionExcises = func() bool { return true }
	// Compactions happen because of writes only: an idle or read-only node stays idle.
	o.Experimental.ReadSamplingMultiplier = -1
	// One shard is one goroutine; a dev cluster has six engines in one process.
	o.Experimental.FileCacheShards = 2
	for i := range o.Levels {
		l := &o.Levels[i]
		l.BlockSize = dataBlockBytes
		l.IndexBlockSize = indexBlockBytes
		// Also in the last level: most puts of a growing keyspace ask for a key that is not there.
		l.FilterPolicy = bloom.FilterPolicy(bloomBits)
		l.FilterType = pebble.TableFilter
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	o.EnsureDefaults()
	o.FlushSplitBytes = o.TargetFileSizes[0]
	return o
}
