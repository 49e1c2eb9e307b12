package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
)

// creatingName is a file that is there from before the engine's first file until the first Open is done. A power failure
// in between may leave any part of Pebble's first files, which Pebble refuses to open; nothing of them was ever used, so
// the next Open begins anew.
const creatingName = "CREATING"

// makeDir creates a directory with its missing parents, all durable.
func makeDir(f vfs.FS, dir string) error {
	var created []string
	for d := dir; ; d = f.PathDir(d) {
		_, err := f.Stat(d)
		if err == nil || f.PathDir(d) == d {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		created = append(created, d)
	}
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range created {
		if err := syncDir(f, f.PathDir(d)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(f vfs.FS, dir string) error {
	d, err := f.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// prepareDir makes the locked directory ready for Pebble: untouched if it holds an engine, marked as being created if it
// is empty. It refuses a directory that holds data files and no engine: Pebble would take them for rubbish.
func (e *Engine) prepareDir() error {
	names, err := e.fs.List(e.dir)
	if err != nil {
		return fmt.Errorf("read data directory %s: %w", e.dir, err)
	}
	creating, data := false, ""
	for _, name := range names {
		creating = creating || name == creatingName
		if strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".log") {
			data = name
		}
	}
	if creating {
		return e.emptyDir(names)
	}
	// Pebble names its own format in a marker file; it says "unknown" only in a text.
	if v, err := atomicfs.ReadMarker(e.fs, e.dir, "format-version"); err == nil && v != "" {
		if found, err := strconv.ParseUint(v, 10, 64); err == nil && found > uint64(pebble.FormatNewest) {
			return &FormatError{Dir: e.dir, Cause: fmt.Errorf("format %d of Pebble", found)}
		}
	}
	desc, err := pebble.Peek(e.dir, e.fs)
	switch {
	case err != nil:
		return &CorruptError{Dir: e.dir, Cause: err}
	case desc.Exists:
		return nil
	case data != "":
		return &CorruptError{Dir: e.dir, Cause: fmt.Errorf("it holds %s but no manifest", data)}
	}
	mark, err := e.fs.Create(e.fs.PathJoin(e.dir, creatingName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create data directory %s: %w", e.dir, err)
	}
	if err := errors.Join(mark.Sync(), mark.Close(), syncDir(e.fs, e.dir)); err != nil {
		return fmt.Errorf("create data directory %s: %w", e.dir, err)
	}
	return nil
}

// emptyDir removes the files, not the directories, that a creation which did not end has left, but for the lock and the
// mark itself.
func (e *Engine) emptyDir(names []string) error {
	for _, name := range names {
		path := e.fs.PathJoin(e.dir, name)
		info, err := e.fs.Stat(path)
		if err != nil {
			return fmt.Errorf("clear data directory %s: %w", e.dir, err)
		}
		if info.IsDir() || name == creatingName || name == "LOCK" {
			continue
		}
		if err := e.fs.Remove(path); err != nil {
			return fmt.Errorf("clear data directory %s: %w", e.dir, err)
		}
	}
	return syncDir(e.fs, e.dir)
}

// finishDir takes the mark of creation away.
func (e *Engine) finishDir() error {
	err := e.fs.Remove(e.fs.PathJoin(e.dir, creatingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(e.fs, e.dir))
}
