package storage

import (
	"context"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Export streams a snapshot.
func (e *Engine) Export(ctx context.Context, s RangeState, emit func(chunk []byte) error) error {
	panic("todo")
}

// Import receives one.
type Import struct{}

// NewImport starts one.
func (e *Engine) NewImport(r ids.RangeID, span ids.Span) (*Import, error) { panic("todo") }

// Add takes a chunk.
func (i *Import) Add(chunk []byte) error { panic("todo") }

// Finish makes it visible.
func (i *Import) Finish(s RangeState, destroy []ids.RangeID) error { panic("todo") }

// Abort drops it.
func (i *Import) Abort() error { panic("todo") }

func (e *Engine) importRoot() string { return e.fs.PathJoin(e.dir, "import") }
