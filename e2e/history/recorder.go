package history

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Recorder writes a history. Its methods may be called at once.
type Recorder struct {
	start time.Time

	mu struct {
		sync.Mutex
		w   *bufio.Writer
		ops []Op
		err error
	}
}

// NewRecorder returns a recorder whose clock starts now; it also writes to w, if that is not nil.
func NewRecorder(w io.Writer) *Recorder {
	r := &Recorder{start: time.Now()}
	if w != nil {
		r.mu.w = bufio.NewWriter(w)
	}
	return r
}

// Begin starts an operation's clock. It must come before the request leaves.
func (r *Recorder) Begin(op Op) Op {
	op.Began = int64(time.Since(r.start))
	return op
}

// End stops an operation's clock and records it. It must come after the answer arrived.
func (r *Recorder) End(op Op) {
	op.Ended = int64(time.Since(r.start))
	line, err := json.Marshal(op)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.ops = append(r.mu.ops, op)
	if r.mu.w != nil && err == nil {
		_, err = r.mu.w.Write(append(line, '\n'))
	}
	if err != nil && r.mu.err == nil {
		r.mu.err = err
	}
}

// Finish flushes the history and returns its operations.
func (r *Recorder) Finish() ([]Op, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.w != nil && r.mu.err == nil {
		r.mu.err = r.mu.w.Flush()
	}
	return r.mu.ops, r.mu.err
}

// Load reads a history that a Recorder wrote.
func Load(r io.Reader) ([]Op, error) {
	var ops []Op
	dec := json.NewDecoder(r)
	for {
		var op Op
		switch err := dec.Decode(&op); err {
		case nil:
			ops = append(ops, op)
		case io.EOF:
			return ops, nil
		default:
			return ops, fmt.Errorf("operation %d: %w", len(ops)+1, err)
		}
	}
}
