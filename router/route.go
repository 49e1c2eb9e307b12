package router

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errNoRoute says that no range is known for a key even after asking the directory.
var errNoRoute = errors.New("no range is known for the key")

// errNoLeader says that nobody knows who leads a range.
var errNoLeader = errors.New("no leader is known for the range")

// errExpired says that the time of a request, or of one of its waits, is up.
var errExpired = errors.New("time is up")

// route finds the range of a key, asking the directory if need be.
func (rt *Router) route(ctx context.Context, key []byte) (*route, error) {
	if r := rt.cache.lookup(key); r != nil {
		return r, nil
	}
	if err := rt.refresh(ctx); err != nil {
		return nil, err
	}
	if r := rt.cache.lookup(key); r != nil {
		return r, nil
	}
	return nil, errNoRoute
}

// tile finds the ranges of a span, asking the directory if need be.
func (rt *Router) tile(ctx context.Context, into []*route, span ids.Span) ([]*route, error) {
	routes, ok := rt.cache.tile(into, span)
	if ok {
		return routes, nil
	}
	if err := rt.refresh(ctx); err != nil {
		return nil, err
	}
	if routes, ok = rt.cache.tile(into[:0], span); ok {
		return routes, nil
	}
	return nil, errNoRoute
}

// refresh learns what the local replicas and the directory know of ranges. Those who need it at once share one look-up.
func (rt *Router) refresh(ctx context.Context) error {
	if rt.cache.learn(rt.ranges.Descriptors()) {
		return nil // perhaps enough; if not, the caller comes again
	}
	f := &rt.lookups
	f.mu.Lock()
	if f.done == nil {
		done := make(chan struct{})
		started := rt.served.run(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, rt.timeout)
			defer cancel()
			ds, err := rt.dir.Descriptors(ctx)
			rt.cache.learn(ds)
			f.mu.Lock()
			f.err, f.done = err, nil
			f.mu.Unlock()
			close(done)
		})
		if !started {
			f.mu.Unlock()
			return &ids.UnavailableError{Reason: "closing, or overloaded"}
		}
		f.done = done
	}
	done := f.done
	f.mu.Unlock()
	select {
	case <-done:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lookups is the directory look-up under way.
type lookups struct {
	mu   sync.Mutex
	done chan struct{} // closed when it ends; nil: none is under way
	err  error         // of the last one
}

// leaderOf guesses who leads a range: what was last heard, else the local replica's view, else one replica after the
// other by attempt.
func (rt *Router) leaderOf(r *route, attempt int) ids.NodeID {
	if l := r.leader.Load(); l != 0 {
		return ids.NodeID(l)
	}
	if r.local {
		if st, ok := rt.ranges.Status(r.desc.ID); ok && st.Leader != 0 {
			r.leader.CompareAndSwap(0, uint64(st.Leader))
			return st.Leader
		}
	}
	return r.desc.Replicas[attempt%len(r.desc.Replicas)].Node
}

// heed learns from the error of a node that was asked for a range. retry says that the request had no effect and may be
// sent again, now that it should be sent at once to somebody else.
func (rt *Router) heed(err error, r *route, asked ids.NodeID) (retry, now bool) {
	var (
		notLeader   *ids.NotLeaderError
		wrongRange  *ids.WrongRangeError
		notAppended *ids.NotAppendedError
		unavailable *ids.UnavailableError
	)
	switch {
	case errors.As(err, &notLeader):
		hint := notLeader.Leader
		if hint == asked {
			hint = 0
		}
		if l := r.leader.Load(); l == 0 || l == uint64(asked) {
			r.leader.CompareAndSwap(l, uint64(hint))
		}
		return true, hint != 0
	case errors.As(err, &wrongRange):
		changed := rt.cache.learn(wrongRange.Descriptors)
		if len(wrongRange.Descriptors) == 0 {
			r.leader.CompareAndSwap(uint64(asked), 0)
			rt.cache.forget(r)
		}
		return true, changed
	case errors.As(err, &notAppended), errors.As(err, &unavailable):
		return true, false
	case errors.Is(err, errNoRoute), errors.Is(err, errNoLeader):
		return true, false
	case asked != rt.self && asked != 0 && rt.sender.NotSent(err):
		r.leader.CompareAndSwap(uint64(asked), 0)
		return true, false
	}
	return false, false
}

// heedRead is heed for requests without effect: what was lost on the way may be asked again, too.
func (rt *Router) heedRead(err error, r *route, asked ids.NodeID) (retry, now bool) {
	if retry, now = rt.heed(err, r, asked); retry {
		return retry, now
	}
	if isStatus(err) || isContext(err) {
		return false, false
	}
	if asked != rt.self || errors.Is(err, errExpired) {
		r.leader.CompareAndSwap(uint64(asked), 0)
		return true, false
	}
	return false, false
}

// hopsMax is how often a request follows hints without a pause.
const hopsMax = 3

// pause returns how long to wait before the next attempt: not at all for the first hints, then from 2 ms doubling to
// 100 ms, with jitter.
func pause(attempt int, now bool) time.Duration {
	if now && attempt < hopsMax {
		return 0
	}
	d := 2 * time.Millisecond << min(attempt, 6)
	d = min(d, 100*time.Millisecond)
	return d/2 + rand.N(d/2+1)
}

func isStatus(err error) bool {
	_, ok := status.FromError(err)
	return ok
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// timeoutError is what etcd says of a request whose time is up; last is why it was not served so far.
func (rt *Router) timeoutError(ctx context.Context, last error) error {
	var (
		notLeader *ids.NotLeaderError
		typed     *ids.UnavailableError
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return rpctypes.ErrGRPCCanceled
	case last == nil || errors.As(last, &typed):
		return rpctypes.ErrGRPCTimeout
	case errors.As(last, &notLeader), errors.Is(last, errNoLeader):
		return rpctypes.ErrGRPCTimeoutDueToLeaderFail
	case isStatus(last) || isContext(last) || ids.Retryable(last) || errors.Is(last, errNoRoute):
		return rpctypes.ErrGRPCTimeout
	}
	return rpctypes.ErrGRPCTimeoutDueToConnectionLost
}

// writeError is what the client of a mutation gets for an error after which it is not tried again. asked is who was
// asked: an error of another node's connection leaves the outcome open.
func (rt *Router) writeError(ctx context.Context, err error, asked ids.NodeID) error {
	var ambiguous *ids.AmbiguousError
	switch {
	case errors.As(err, &ambiguous):
		return rpctypes.ErrGRPCTimeoutDueToLeaderFail
	case isContext(err) || errors.Is(err, errExpired):
		return rt.timeoutError(ctx, nil)
	case isStatus(err):
		return safe(err)
	case asked != rt.self && asked != 0:
		return rpctypes.ErrGRPCTimeoutDueToConnectionLost
	}
	return safe(err)
}

// readError is the same for a read.
func (rt *Router) readError(ctx context.Context, err error) error {
	switch {
	case isContext(err) || errors.Is(err, errExpired):
		return rt.timeoutError(ctx, nil)
	case ids.Retryable(err):
		return rpctypes.ErrGRPCTimeout
	}
	return safe(err)
}

// The two texts on which etcd's client repeats a mutation, which may have had an effect (design 8 #37).
var repeating = []string{"there is no address available", "there is no connection available"}

// safe makes a gRPC status of any error, without a text that makes clients repeat it.
func safe(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		s = status.New(codes.Unknown, err.Error())
	}
	for _, text := range repeating {
		if strings.Contains(s.Message(), text) {
			return rpctypes.ErrGRPCTimeoutDueToConnectionLost
		}
	}
	return s.Err()
}
