package rangegroup

import (
	"bytes"
	"slices"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/storage"
)

// overlay is the newest version of every key that something in the lane writes: what is evaluated, appended, or
// committed and not yet applied. Evaluation sees it on top of the applied state, so that a thousand clients that put
// one key do not wait for one another.
//
// Revisions in it are provisional until their segment's numbers are known (eval.PendingBase).
type overlay struct {
	keys  map[string]*overlaid
	bytes int
}

type overlaid struct {
	version storage.Version
	seq     int64 // of the lane item that wrote it
}

func (o *overlay) set(w *eval.Write, seq int64) {
	if o.keys == nil {
		o.keys = make(map[string]*overlaid)
	}
	if e := o.keys[string(w.Key)]; e != nil {
		o.bytes += len(w.Version.Value) - len(e.version.Value)
		e.version, e.seq = w.Version, seq
		return
	}
	o.bytes += len(w.Version.Value) + len(w.Key)
	o.keys[string(w.Key)] = &overlaid{version: w.Version, seq: seq}
}

// settle replaces the provisional revisions of what item seq wrote, unless a later item has overwritten it.
func (o *overlay) settle(w *eval.Write, seq int64) {
	if e := o.keys[string(w.Key)]; e != nil && e.seq == seq {
		e.version.Mod, e.version.Create = w.Version.Mod, w.Version.Create
	}
}

// drop forgets what item seq wrote (it is applied now), unless a later item has overwritten it.
func (o *overlay) drop(w *eval.Write, seq int64) {
	if e := o.keys[string(w.Key)]; e != nil && e.seq == seq {
		o.bytes -= len(e.version.Value) + len(w.Key)
		delete(o.keys, string(w.Key))
	}
	if len(o.keys) == 0 {
		o.keys, o.bytes = nil, 0 // maps never shrink by themselves
	}
}

// laneState is what evaluation sees: eval.State over the applied state and the overlay.
type laneState struct {
	view    *storage.View
	overlay *overlay
}

var _ eval.State = (*laneState)(nil)

func (s *laneState) Latest(key []byte, withValue bool) (storage.Version, bool, error) {
	if e := s.overlay.keys[string(key)]; e != nil {
		return e.version, true, nil
	}
	if withValue {
		return s.view.LatestValue(key)
	}
	return s.view.Latest(key)
}

func (s *laneState) Scan(
	span ids.Span, withValue bool, fn func(key []byte, v *storage.Version) bool,
) error {
	// The overlay is small (bounded by the lane) and scans inside transactions are rare: sorting its keys per scan is
	// cheaper than keeping it sorted for every put.
	var pending []string
	for k := range s.overlay.keys {
		if span.Contains([]byte(k)) {
			pending = append(pending, k)
		}
	}
	slices.Sort(pending)
	emit := func(k string) bool {
		e := s.overlay.keys[k]
		return e.version.Tombstone || fn([]byte(k), &e.version)
	}
	more := true
	err := s.view.Scan(span, eval.PendingBase-1, storage.ScanOptions{WithoutValue: !withValue},
		func(key []byte, v *storage.Version) bool {
			for more && len(pending) > 0 && pending[0] < string(key) {
				more = emit(pending[0])
				pending = pending[1:]
			}
			switch {
			case !more:
			case len(pending) > 0 && bytes.Equal([]byte(pending[0]), key):
				more = emit(pending[0])
				pending = pending[1:]
			default:
				more = fn(key, v)
			}
			return more
		})
	for err == nil && more && len(pending) > 0 {
		more = emit(pending[0])
		pending = pending[1:]
	}
	return err
}

func (s *laneState) ScanAt(
	span ids.Span, at ids.Revision, withValue bool, fn func(key []byte, v *storage.Version) bool,
) error {
	return s.view.Scan(span, at, storage.ScanOptions{WithoutValue: !withValue}, fn)
}
