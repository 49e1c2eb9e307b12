package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage/storagetest"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
)

func TestOpenLocked(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
		cfg := testConfig(fs)
		if name == "disk" {
			cfg.Dir = fs.PathJoin(t.TempDir(), "a", "b")
		}
		e, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(cfg)
		var locked *LockedError
		if !errors.As(err, &locked) || !strings.Contains(err.Error(), cfg.Dir) {
			t.Errorf("%s: second open: %v", name, err)
		}
		b := e.NewBatch()
		b.SetApplied(3, Applied{})
		if err := errors.Join(e.Close(), e.Close()); err != nil {
			t.Error(err)
		}
		if err := b.Commit(true); !errors.Is(err, ErrClosed) || e.Err() != nil {
			t.Errorf("commit to a closed engine: %v, %v", err, e.Err())
		}
		b.Close()
		e, err = Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenNewerFormat(t *testing.T) {
	fs := vfs.NewMem()
	e := openTest(t, fs)
	if err := e.SetNodeValue(formatName, binary.AppendUvarint(nil, formatVersion+1)); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(testConfig(fs))
	var format *FormatError
	if !errors.As(err, &format) || format.Found != formatVersion+1 {
		t.Fatal(err)
	}
	// Pebble's own format: its version is the name of a marker file.
	names := must(fs.List("data"))
	for _, name := range names {
		if strings.HasPrefix(name, "marker.format-version.") {
			if err := fs.Rename("data/"+name, "data/marker.format-version.999999.999"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := Open(testConfig(fs)); !errors.As(err, &format) {
		t.Errorf("newer Pebble format: %v", err)
	}
}

// TestOpenDamaged takes single files away or spoils them.
func TestOpenDamaged(t *testing.T) {
	for _, prefix := range []string{"marker.manifest", "MANIFEST", "0000"} {
		fs := vfs.NewMem()
		e := openTest(t, fs)
		for i := range 100 {
			put(t, e, fmt.Sprint(i), 2, make([]byte, 1000))
		}
		if err := errors.Join(e.Flush(), e.Close()); err != nil {
			t.Fatal(err)
		}
		for _, name := range must(fs.List("data")) {
			if strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, ".log") {
				if err := fs.Remove("data/" + name); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, err := Open(testConfig(fs))
		var damaged *CorruptError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "data") {
			t.Errorf("without %s*: %v", prefix, err)
		}
	}
}

// TestCorruptBlock spoils a table under a running engine: the read fails as corruption, nothing panics, and the owner
// hears of it.
func TestCorruptBlock(t *testing.T) {
	fs := vfs.NewMem()
	e := openTest(t, fs)
	for i := range 1000 {
		put(t, e, fmt.Sprintf("%04d", i), 2, make([]byte, 100))
	}
	if err := errors.Join(e.Flush(), e.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range must(fs.List("data")) {
		if strings.HasSuffix(name, ".sst") {
			f := must(fs.OpenReadWrite("data/"+name, vfs.WriteCategoryUnspecified))
			if _, err := f.WriteAt([]byte("spoiled"), 100); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var fatal atomic.Int32
	cfg := testConfig(fs)
	cfg.OnFatal = func(error) { fatal.Add(1) }
	e, err := Open(cfg)
	var damaged *CorruptError
	if err != nil {
		if !errors.As(err, &damaged) {
			t.Fatal(err)
		}
		return
	}
	defer e.Close()
	v := e.View()
	defer v.Close()
	if _, err := v.Count(ids.UserSpace, 9); !errors.As(err, &damaged) {
		t.Errorf("count over a spoiled block: %v", err)
	}
	if fatal.Load() != 1 || e.Err() == nil {
		t.Errorf("told %d times, err %v", fatal.Load(), e.Err())
	}
}

// TestFailingDisk lets each kind of write fail from some moment on. No commit may report success that a crash then takes
// back, nothing may panic, and the owner is told exactly once.
func TestFailingDisk(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData} {
		mem := storagetest.NewCrashFS(nil)
		var failing atomic.Bool
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if failing.Load() && (op.Kind == kind || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSync) &&
				strings.HasSuffix(op.Path, ".log") {
				return syscall.ENOSPC
			}
			return nil
		}))
		var fatal atomic.Int32
		cfg := testConfig(fs)
		cfg.OnFatal = func(err error) {
			if !errors.Is(err, ErrNoSpace) {
				t.Errorf("told of %v", err)
			}
			fatal.Add(1)
		}
		e, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		acked := 0
		for i := range 100 {
			failing.Store(i >= 50)
			b := e.NewBatch()
			b.set(appendNodeKey(nil, fmt.Sprint(i)), []byte("v"))
			err := b.Commit(true)
			b.Close()
			if err == nil {
				acked++
			} else if !errors.Is(err, ErrNoSpace) {
				t.Errorf("commit %d: %v", i, err)
			}
		}
		if acked != 50 || fatal.Load() != 1 {
			t.Errorf("%v: %d acknowledged, told %d times", kind, acked, fatal.Load())
		}
		after := openTest(t, mem.Crash(0, nil))
		for i := range acked {
			if _, ok, err := after.GetNodeValue(fmt.Sprint(i)); !ok || err != nil {
				t.Errorf("acknowledged write %d is gone: %v", i, err)
			}
		}
		if err := after.Close(); err != nil {
			t.Error(err)
		}
		failing.Store(false)
		_ = e.Close() // it may complain; it must return
	}
}

// TestForeignFiles: data files without a manifest are not rubbish to be removed.
func TestForeignFiles(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("data", 0o700); err != nil {
		t.Fatal(err)
	}
	f := must(fs.Create("data/000007.sst", vfs.WriteCategoryUnspecified))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(testConfig(fs))
	var damaged *CorruptError
	if !errors.As(err, &damaged) {
		t.Error(err)
	}
	if _, err := fs.Stat("data/000007.sst"); err != nil {
		t.Error("the file was removed")
	}
}

// TestInBubble runs an engine under virtual time, twice and then outside, since Pebble keeps pools between engines.
func TestInBubble(t *testing.T) {
	work := func(t *testing.T, pause time.Duration) {
		reg := prometheus.NewRegistry()
		cfg := testConfig(storagetest.NewCrashFS(nil))
		cfg.Registerer = reg
		e, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, e, true, func(b *Batch) { b.CreateRange(testState(3, ids.UserSpace)) })
		for i := range 2000 {
			rev := ids.Revision(i + 2)
			put(t, e, fmt.Sprint(i%100), rev, make([]byte, 1000))
			if i%100 == 0 {
				commit(t, e, true, func(b *Batch) {
					b.Append(3, []*raftpb.Entry{entry(6, 11+uint64(i), "x")}, 0)
				})
				time.Sleep(pause)
			}
		}
		if _, err := e.GC(context.Background(), ids.UserSpace, 0, 1500); err != nil {
			t.Fatal(err)
		}
		if _, chunks := exportAll(t, e, 3); len(chunks) < 2 {
			t.Errorf("%d chunks", len(chunks))
		}
		if _, err := reg.Gather(); err != nil {
			t.Fatal(err)
		}
		if err := e.Compact(context.Background()); err != nil {
			t.Fatal(err)
		}
		v := e.View()
		if n, err := v.Count(ids.UserSpace, 1<<40); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		v.Close()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			work(t, time.Second)
			if d := time.Since(start); d < 20*time.Second || d > time.Hour {
				t.Errorf("virtual time moved by %v", d)
			}
		})
	}
	work(t, 0)
}

// TestMetrics gathers everything once and checks that the latency window forgets.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openTest(t, vfs.NewMem())
		defer e.Close()
		var w syncWindow
		for i := range 100 {
			w.observe(time.Duration(i+1) * time.Millisecond)
		}
		p50, p99 := w.quantiles()
		if p50 < 45*time.Millisecond || p50 > 57*time.Millisecond || p99 < 95*time.Millisecond || p99 > 115*time.Millisecond {
			t.Errorf("p50 %v p99 %v", p50, p99)
		}
		time.Sleep(2 * syncWindowLength)
		if p50, p99 = w.quantiles(); p50 != 0 || p99 != 0 {
			t.Errorf("old latencies stay: %v %v", p50, p99)
		}
		rnd := newRand(t)
		for i := range 100 {
			value := make([]byte, 1000)
			for n := range value {
				value[n] = byte(rnd.Uint32())
			}
			put(t, e, fmt.Sprintf("k%02d", i), 2, value)
		}
		if err := e.Flush(); err != nil {
			t.Fatal(err)
		}
		m := e.Metrics()
		if m.Flushes == 0 || m.DiskBytes == 0 {
			t.Errorf("%+v", m)
		}
		if total, live := e.Size(); total == 0 || live == 0 || live > total {
			t.Errorf("size %d, live %d", total, live)
		}
		full, err := e.SpanBytes(userSpan("k", "l"))
		if err != nil {
			t.Fatal(err)
		}
		if empty, err := e.SpanBytes(userSpan("m", "n")); empty >= full || err != nil {
			t.Error(empty, full, err)
		}
	})
}
