// Package storagetest gives tests of any room a file system that can lose power.
package storagetest

import (
	"math/rand/v2"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// CrashFS is a file system in memory that knows what was synced. It is Pebble's, made safe to clone while it is in use
// (there, two calls take a lock twice, and a clone in between makes them wait for ever), with a hook at each sync.
type CrashFS struct {
	vfs.FS
	mem *vfs.MemFS
	// cloning is held by Crash against the calls that must not be interrupted.
	cloning sync.RWMutex
	// beforeSync is called before each sync of a file or directory, from whatever goroutine syncs, with its name.
	beforeSync func(name string)
}

// NewCrashFS returns an empty file system. beforeSync may be nil; it may call Crash.
func NewCrashFS(beforeSync func(name string)) *CrashFS {
	return wrapMem(vfs.NewCrashableMem(), beforeSync)
}

func wrapMem(mem *vfs.MemFS, beforeSync func(name string)) *CrashFS {
	return &CrashFS{FS: mem, mem: mem, beforeSync: beforeSync}
}

// Crash returns the file system as a power failure at this moment may leave it: all that was synced, and each block or
// directory entry that was not with the given probability in percent. The original goes on unchanged. rnd may be nil if
// percent is 0.
func (f *CrashFS) Crash(percent int, rnd *rand.Rand) *CrashFS {
	f.cloning.Lock()
	defer f.cloning.Unlock()
	return wrapMem(f.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rnd}), nil)
}

// Link implements vfs.FS.
func (f *CrashFS) Link(oldname, newname string) error {
	f.cloning.RLock()
	defer f.cloning.RUnlock()
	return f.FS.Link(oldname, newname)
}

// ReuseForWrite implements vfs.FS.
func (f *CrashFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f.cloning.RLock()
	defer f.cloning.RUnlock()
	return f.wrap(f.FS.ReuseForWrite(oldname, newname, category))
}

// Create implements vfs.FS.
func (f *CrashFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.Create(name, category))
}

// OpenReadWrite implements vfs.FS.
func (f *CrashFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.wrap(f.FS.OpenReadWrite(name, category, opts...))
}

// OpenDir implements vfs.FS.
func (f *CrashFS) OpenDir(name string) (vfs.File, error) { return f.wrap(f.FS.OpenDir(name)) }

// Unwrap implements vfs.FS.
func (f *CrashFS) Unwrap() vfs.FS { return f.FS }

func (f *CrashFS) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &crashFile{File: file, fs: f}, nil
}

// crashFile tells the hook about syncs.
type crashFile struct {
	vfs.File
	fs *CrashFS
}

func (c *crashFile) hook() {
	if c.fs.beforeSync == nil {
		return
	}
	name := "?"
	if info, err := c.Stat(); err == nil {
		name = info.Name()
	}
	c.fs.beforeSync(name)
}

// Sync implements vfs.File.
func (c *crashFile) Sync() error {
	c.hook()
	return c.File.Sync()
}

// SyncData implements vfs.File.
func (c *crashFile) SyncData() error {
	c.hook()
	return c.File.SyncData()
}

// SyncTo implements vfs.File.
func (c *crashFile) SyncTo(length int64) (bool, error) {
	c.hook()
	return c.File.SyncTo(length)
}
