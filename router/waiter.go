package router

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// waiter is where one request waits for one answer at a time, and its clock. It goes back to the pool only while no
// answer is outstanding: an answer that comes after its request gave up finds a waiter that is nobody's.
type waiter struct {
	answer chan answer // room for one
	timer  *time.Timer // fires when the request's time is up
	// The two ways of answering, bound once.
	message func(proto.Message, error)
	bytes   func([]byte, error)
}

type answer struct {
	message proto.Message
	bytes   []byte
	err     error
}

// waiters pools waiters. Each router has its own, so that timers stay within one test's bubble of virtual time.
type waiters struct{ pool sync.Pool }

func (ws *waiters) get(timeout time.Duration) *waiter {
	w, _ := ws.pool.Get().(*waiter)
	if w != nil {
		w.timer.Reset(timeout)
		return w
	}
	w = &waiter{answer: make(chan answer, 1), timer: time.NewTimer(timeout)}
	w.message = func(m proto.Message, err error) { w.answer <- answer{message: m, err: err} }
	w.bytes = func(b []byte, err error) { w.answer <- answer{bytes: b, err: err} }
	return w
}

// put gives a waiter back. outstanding says that an answer may still come.
func (ws *waiters) put(w *waiter, outstanding bool) {
	w.timer.Stop()
	if !outstanding {
		ws.pool.Put(w)
	}
}

// wait returns the answer, or an error if the request's time is up first; then the answer is still outstanding.
func (w *waiter) wait(ctx context.Context) (a answer, outstanding bool) {
	select {
	case a = <-w.answer:
		return a, false
	case <-ctx.Done():
		return answer{err: ctx.Err()}, true
	case <-w.timer.C:
		return answer{err: errExpired}, true
	}
}

// sleep pauses; it returns false if the request's time is up.
func (w *waiter) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-w.timer.C:
		return false
	}
}

// deadlineContext adds a deadline to a context at no cost unless somebody waits on it. It is for one goroutine.
type deadlineContext struct {
	context.Context
	at     time.Time
	inner  context.Context // nil until needed
	cancel context.CancelFunc
}

func (c *deadlineContext) real() context.Context {
	if c.inner == nil {
		parent := c.Context
		if p, ok := parent.(*deadlineContext); ok {
			parent = p.real() // package context starts a goroutine per child of a parent it does not know
		}
		c.inner, c.cancel = context.WithDeadline(parent, c.at)
	}
	return c.inner
}

// release ends the context.
func (c *deadlineContext) release() {
	if c.cancel != nil {
		c.cancel()
	}
}

// Deadline implements context.Context.
func (c *deadlineContext) Deadline() (time.Time, bool) {
	if t, ok := c.Context.Deadline(); ok && t.Before(c.at) {
		return t, true
	}
	return c.at, true
}

// Done implements context.Context.
func (c *deadlineContext) Done() <-chan struct{} { return c.real().Done() }

// Err implements context.Context.
func (c *deadlineContext) Err() error {
	if c.inner != nil {
		return c.inner.Err()
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(c.at) {
		return context.DeadlineExceeded
	}
	return nil
}
