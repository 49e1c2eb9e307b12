package storage

import "context"

// Compact rewrites the whole engine so that what was deleted takes no space any more, and waits for it. It reads and
// writes everything: for operators, not for loops.
func (e *Engine) Compact(ctx context.Context) error {
	if err := e.Flush(); err != nil {
		return err
	}
	return e.wrap(e.db.Compact(ctx, []byte{0}, []byte{0xff, 0}, false))
}
