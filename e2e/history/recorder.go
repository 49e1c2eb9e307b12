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
		w    *bufio.Writer
		ops  []Op
		err  error
		last int64 // the newest time stamp
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
	r.mu.Lock()
	defer r.mu.Unlock()
	op.Began = r.stampLocked()
	return op
}

// stampLocked returns the time, or a nanosecond after the last stamp if the clock did not move since: what happened one
// after the other must look so, also under virtual time, which stands still while anybody works.
func (r *Recorder) stampLocked() int64 {
	r.mu.last = max(r.mu.last+1, int64(time.Since(r.start)))
	return r.mu.last
}

// End stops an operation's clock, records it and returns it. It must come after the answer arrived.
func (r *Recorder) End(op Op) Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	op.Ended = r.stampLocked()
	r.addLocked(op)
	return op
}

// Add records what else an operation's answer showed, with the times of that operation: what a delete removed, for
// example, is a read at the revision before.
func (r *Recorder) Add(op Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(op)
}

func (r *Recorder) addLocked(op Op) {
	r.mu.ops = append(r.mu.ops, op)
	if r.mu.w == nil {
		return
	}
	line, err := json.Marshal(op)
	if err == nil {
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
