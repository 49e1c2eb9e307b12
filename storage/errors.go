package storage

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
)

// ErrNoSpace is wrapped by what Commit returns when the file system is full. The engine needs a restart then.
var ErrNoSpace = errors.New("no space left on the file system of the data directory: free space and start again")

// ErrClosed is returned by Commit on a closed engine. Other calls must not follow Close: Pebble panics.
var ErrClosed = errors.New("storage: engine is closed")

// FormatError says that a directory was written by a newer build.
type FormatError struct {
	Dir   string
	Found uint64 // its version, 0 if Pebble's own refused
	Cause error
}

func (e *FormatError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("data directory %s was written by a newer build (%v): run that build or a later one", e.Dir, e.Cause)
	}
	return fmt.Sprintf("data directory %s has storage format %d, this build reads up to %d: run a newer build",
		e.Dir, e.Found, formatVersion)
}

func (e *FormatError) Unwrap() error { return e.Cause }

// LockedError says that another process has the directory open.
type LockedError struct {
	Dir   string
	Cause error
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("data directory %s is in use by another process (%v): stop that process or choose another directory",
		e.Dir, e.Cause)
}

func (e *LockedError) Unwrap() error { return e.Cause }

// CorruptError says that what the directory holds cannot be right.
type CorruptError struct {
	Dir   string
	Cause error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("data directory %s is damaged (%v): check the disk, move the directory away and "+
		"let the node join again as a new one, or restore it from a backup", e.Dir, e.Cause)
}

func (e *CorruptError) Unwrap() error { return e.Cause }

// corrupt makes a *CorruptError of a law that stored data breaks.
func (e *Engine) corrupt(format string, args ...any) error {
	return &CorruptError{Dir: e.dir, Cause: fmt.Errorf(format, args...)}
}

// wrap gives an error of Pebble one of this package's types where it has one.
func (e *Engine) wrap(err error) error {
	var damaged *CorruptError
	switch {
	case err == nil || errors.As(err, &damaged):
		return err
	case pebble.IsCorruptionError(err):
		return &CorruptError{Dir: e.dir, Cause: err}
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}
