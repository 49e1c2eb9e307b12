package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Engine is one Pebble engine. Its methods may be called from any goroutine; a Batch, View, WriteSet, Export or Import
// belongs to one goroutine at a time.
type Engine struct {
	dir      string
	fs       vfs.FS
	opts     *pebble.Options
	db       *pebble.DB
	lock     *pebble.Lock
	log      *zap.Logger
	onFatal  func(error)
	diskFree func() (free, total uint64, err error)
	delay    func() // Config.SyncDelay, or nil

	registerer prometheus.Registerer
	collector  *collector

	syncs   syncWindow
	imports atomic.Uint64 // names the directories of imports

	failed atomic.Pointer[error] // set once, before onFatal is called

	mu struct {
		sync.Mutex
		closed bool
	}
}

// Open opens or creates the engine in cfg.Dir. Besides errors of the file system it returns *LockedError, *FormatError
// and *CorruptError, each of which names the directory and what to do.
func Open(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	e := &Engine{dir: cfg.Dir, fs: cfg.FS, onFatal: cfg.OnFatal, diskFree: cfg.DiskFree, delay: cfg.SyncDelay}
	e.log = cfg.Logger.With(zap.String("engine", cfg.Name), zap.String("dir", cfg.Dir))
	if cfg.Dir == "" {
		return nil, errors.New("storage: no data directory given")
	}
	if err := makeDir(e.fs, cfg.Dir); err != nil {
		return nil, fmt.Errorf("create data directory %s: %w", cfg.Dir, err)
	}
	lock, err := pebble.LockDirectory(cfg.Dir, e.fs)
	if err != nil {
		return nil, &LockedError{Dir: cfg.Dir, Cause: err}
	}
	e.lock = lock
	if err := e.prepareDir(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	e.opts = e.options(cfg)
	e.opts.Lock = lock
	if e.db, err = pebble.Open(cfg.Dir, e.opts); err != nil {
		return nil, errors.Join(e.openError(err), lock.Close())
	}
	if err := e.start(); err != nil {
		return nil, errors.Join(err, e.db.Close(), lock.Close())
	}
	if cfg.Registerer != nil {
		e.collector = newCollector(e, cfg.Name)
		if err := cfg.Registerer.Register(e.collector); err != nil {
			return nil, errors.Join(err, e.db.Close(), lock.Close())
		}
		e.registerer = cfg.Registerer
	}
	return e, nil
}

// openError sorts what pebble.Open returned.
func (e *Engine) openError(err error) error {
	switch {
	case pebble.IsCorruptionError(err), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, fs.ErrNotExist):
		return &CorruptError{Dir: e.dir, Cause: err}
	}
	return fmt.Errorf("open data directory %s: %w", e.dir, e.wrap(err))
}

// start checks the format and clears away what a crash left behind.
func (e *Engine) start() error {
	v, ok, err := e.GetNodeValue(formatName)
	switch {
	case err != nil:
		return err
	case ok:
		found, n := binary.Uvarint(v)
		if n <= 0 {
			return e.corrupt("unreadable format version %x", v)
		}
		if found > formatVersion {
			return &FormatError{Dir: e.dir, Found: found}
		}
	default:
		empty, err := e.empty()
		if err != nil {
			return err
		}
		if !empty {
			return e.corrupt("it holds data but no format version")
		}
		if err := e.SetNodeValue(formatName, binary.AppendUvarint(nil, formatVersion)); err != nil {
			return err
		}
	}
	return errors.Join(e.finishDir(), e.fs.RemoveAll(e.importRoot()))
}

// empty reports whether the engine holds no key at all.
func (e *Engine) empty() (bool, error) {
	it, err := e.db.NewIter(nil)
	if err != nil {
		return false, e.wrap(err)
	}
	empty := !it.First()
	return empty, e.wrap(errors.Join(it.Error(), it.Close()))
}

// Close flushes nothing that the WAL does not hold already, stops Pebble and releases the directory. It may be called
// twice. All views, exports and imports must be closed before.
func (e *Engine) Close() error {
	e.mu.Lock()
	closed := e.mu.closed
	e.mu.closed = true
	e.mu.Unlock()
	if closed {
		return nil
	}
	if e.registerer != nil {
		e.registerer.Unregister(e.collector)
	}
	return errors.Join(e.wrap(e.db.Close()), e.lock.Close())
}

// fail makes the engine refuse all further commits and tells the owner, once.
func (e *Engine) fail(err error) {
	err = e.wrap(err)
	if !e.failed.CompareAndSwap(nil, &err) {
		return
	}
	e.log.Error("storage engine failed; the node must stop", zap.Error(err))
	if e.onFatal != nil {
		e.onFatal(err)
	}
}

// guard runs a write of Pebble's. Where it cannot write its log Pebble panics or calls Fatalf; both make the engine fail,
// and the write with it. Locks of Pebble may stay held then, so writes that are under way may wait for ever: the owner
// must end the process.
func (e *Engine) guard(write func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			cause, ok := p.(error)
			if !ok {
				cause = fmt.Errorf("%v", p)
			}
			if errors.Is(cause, pebble.ErrClosed) {
				err = ErrClosed
				return
			}
			e.fail(cause)
			err = e.Err()
		}
	}()
	if err := write(); err != nil {
		return e.wrap(err)
	}
	return e.Err()
}

// Err returns why the engine failed, nil while it works.
func (e *Engine) Err() error {
	if p := e.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// GetNodeValue returns a piece of node-local metadata.
func (e *Engine) GetNodeValue(name string) ([]byte, bool, error) {
	return e.get(appendNodeKey(nil, name))
}

// SetNodeValue stores a piece of node-local metadata, synced.
func (e *Engine) SetNodeValue(name string, v []byte) error {
	b := e.NewBatch()
	defer b.Close()
	b.key = appendNodeKey(b.key[:0], name)
	b.set(b.key, v)
	return b.Commit(true)
}

// get returns a copy of the value of one engine key.
func (e *Engine) get(key []byte) ([]byte, bool, error) {
	v, closer, err := e.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, e.wrap(err)
	}
	out := append([]byte{}, v...)
	return out, true, closer.Close()
}

// DiskFree returns how many bytes of the data directory's file system are free and how many it has.
func (e *Engine) DiskFree() (free, total uint64, err error) {
	if e.diskFree != nil {
		return e.diskFree()
	}
	u, err := e.fs.GetDiskUsage(e.dir)
	return u.AvailBytes, u.TotalBytes, err
}

// Flush writes the memtables to tables and waits.
func (e *Engine) Flush() error { return e.wrap(e.db.Flush()) }
