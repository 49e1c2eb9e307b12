package eval

import (
	"bytes"
	"cmp"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
)

// Query is what each part of a range request must return, so that Assemble can make of the parts what etcd would make
// of the whole.
type Query struct {
	// CountOnly leaves out all keys. KeysOnly leaves out values and leases, as etcd does unless it sorts by value.
	CountOnly, KeysOnly bool
	// WithValue says that values are needed, be it only to sort by them.
	WithValue bool
	// Limit is the number of keys to return after filtering, one more than the client's so that `more` can be told; 0 is
	// no limit. The count is always that of all keys.
	Limit int64
	// SkipCount leaves out of the count what lies beyond the limit, for a reader that comes back for the rest.
	SkipCount bool
	// Reverse says that the limit takes the last keys. A part is in key order all the same.
	Reverse bool
	// Keys outside these inclusive bounds are left out; 0 is no bound.
	MinMod, MaxMod, MinCreate, MaxCreate int64
}

// Part is what one range contributes: keys in key order, and how many there are in all, unfiltered.
type Part struct {
	KVs   []*mvccpb.KeyValue
	Count int64
}

// PlanRange derives the query of a request that CheckRange has passed.
func PlanRange(r *pb.RangeRequest) Query {
	q := Query{
		CountOnly: r.CountOnly,
		KeysOnly:  r.KeysOnly && r.SortTarget != pb.RangeRequest_VALUE,
		MinMod:    r.MinModRevision,
		MaxMod:    r.MaxModRevision,
		MinCreate: r.MinCreateRevision,
		MaxCreate: r.MaxCreateRevision,
	}
	q.WithValue = !q.CountOnly && !q.KeysOnly
	byKey := r.SortTarget == pb.RangeRequest_KEY
	switch r.SortOrder {
	case pb.RangeRequest_NONE:
		if byKey || !q.Filtered() {
			q.Limit = limitAndOne(r.Limit)
		}
	case pb.RangeRequest_ASCEND:
		if byKey {
			q.Limit = limitAndOne(r.Limit)
		}
	case pb.RangeRequest_DESCEND:
		if byKey {
			q.Limit, q.Reverse = limitAndOne(r.Limit), true
		}
	}
	return q
}

func limitAndOne(limit int64) int64 {
	if limit <= 0 || limit == math.MaxInt64 {
		return 0
	}
	return limit + 1
}

// Filtered reports whether any revision bound is set.
func (q *Query) Filtered() bool {
	return q.MinMod != 0 || q.MaxMod != 0 || q.MinCreate != 0 || q.MaxCreate != 0
}

func (q *Query) maxNamed() int64 { return max(q.MinMod, q.MaxMod, q.MinCreate, q.MaxCreate) }

// passes filters known revisions.
func (q *Query) passes(mod, create int64) bool {
	return (q.MaxMod == 0 || mod <= q.MaxMod) && (q.MinMod == 0 || mod >= q.MinMod) &&
		(q.MaxCreate == 0 || create <= q.MaxCreate) && (q.MinCreate == 0 || create >= q.MinCreate)
}

// ReadAt turns the revision that a range names, 0 or less for none, into the one to read at. Errors:
// rpctypes.ErrGRPCFutureRev, ErrGRPCCompacted. The response's header reports current all the same.
func ReadAt(named int64, current, floor ids.Revision) (ids.Revision, error) {
	switch at := ids.Revision(named); {
	case at > current:
		return 0, rpctypes.ErrGRPCFutureRev
	case at <= 0:
		return current, nil
	case at < floor:
		return 0, rpctypes.ErrGRPCCompacted
	default:
		return at, nil
	}
}

// Reader is the part of a storage.View that reads need.
type Reader interface {
	Get(key []byte, at ids.Revision, opt storage.ScanOptions) (storage.Version, bool, error)
	Scan(span ids.Span, at ids.Revision, opt storage.ScanOptions, fn func(key []byte, v *storage.Version) bool) error
	Count(span ids.Span, at ids.Revision) (int64, error)
}

var _ Reader = (*storage.View)(nil)

// ReadPart reads the keys of a span at a revision. The part aliases the span's bytes.
func ReadPart(view Reader, span ids.Span, at ids.Revision, q Query) (Part, error) {
	switch {
	case span.Empty():
		return Part{}, nil
	case span.Single():
		return readOne(view, span.Start, at, &q)
	case q.CountOnly:
		n, err := view.Count(span, at)
		return Part{Count: n}, err
	}
	return readSpan(view, span, at, q)
}

func readSpan(view Reader, span ids.Span, at ids.Revision, q Query) (Part, error) {
	c := collector{q: &q}
	opt := storage.ScanOptions{Reverse: q.Reverse && q.Limit > 0, WithoutValue: !q.WithValue}
	if err := view.Scan(span, at, opt, c.addCopy); err != nil {
		return Part{}, err
	}
	if c.full && !q.SkipCount {
		rest := ids.Span{Start: ids.Next(c.lastKey), End: span.End}
		if opt.Reverse {
			rest = ids.Span{Start: span.Start, End: c.lastKey}
		}
		if !rest.Empty() {
			n, err := view.Count(rest, at)
			if err != nil {
				return Part{}, err
			}
			c.count += n
		}
	}
	if opt.Reverse {
		slices.Reverse(c.kvs)
	}
	return c.part()
}

func readOne(view Reader, key []byte, at ids.Revision, q *Query) (Part, error) {
	v, ok, err := view.Get(key, at, storage.ScanOptions{WithoutValue: !q.WithValue})
	if err != nil || !ok {
		return Part{}, err
	}
	if q.CountOnly || !q.passes(int64(v.Mod), int64(v.Create)) {
		return Part{Count: 1}, nil
	}
	b := &struct {
		kv  mvccpb.KeyValue
		kvs [1]*mvccpb.KeyValue
	}{}
	q.fill(&b.kv, key, &v)
	b.kvs[0] = &b.kv
	return Part{KVs: b.kvs[:], Count: 1}, nil
}

// fill makes a version what the client is to see of it.
func (q *Query) fill(kv *mvccpb.KeyValue, key []byte, v *storage.Version) {
	kv.Key = ids.EtcdKey(key)
	kv.CreateRevision = int64(v.Create)
	kv.ModRevision = int64(v.Mod)
	kv.Version = v.Version
	if !q.KeysOnly {
		kv.Value, kv.Lease = v.Value, v.Lease
	}
}

// collector gathers a part from a scan.
type collector struct {
	q *Query
	// env decides about provisional revisions; nil if there can be none.
	env       *Env
	kvs       []*mvccpb.KeyValue
	chunk     []mvccpb.KeyValue // unused ones, allocated ahead
	count     int64
	lastKey   []byte // the last key that was added
	full      bool   // the limit is reached: the scan was stopped right after lastKey
	undecided bool
}

// addCopy takes a key whose bytes are valid during the call only; false ends the scan.
func (c *collector) addCopy(key []byte, v *storage.Version) bool {
	if c.q.CountOnly || !c.wants(v) {
		c.count++
		return true
	}
	own := *v
	own.Value = nil
	if len(v.Value) > 0 && !c.q.KeysOnly {
		// Key and value share one allocation.
		buf := make([]byte, len(key)+len(v.Value))
		n := copy(buf, key)
		copy(buf[n:], v.Value)
		key, own.Value = buf[:n:n], buf[n:]
	} else {
		key = bytes.Clone(key)
	}
	return c.take(key, &own)
}

// add takes a key whose bytes stay.
func (c *collector) add(key []byte, v *storage.Version) bool {
	if c.q.CountOnly || !c.wants(v) {
		c.count++
		return true
	}
	return c.take(key, v)
}

func (c *collector) take(key []byte, v *storage.Version) bool {
	c.count++
	if len(c.chunk) == 0 {
		c.chunk = make([]mvccpb.KeyValue, min(max(len(c.kvs), 1), 64))
	}
	kv := &c.chunk[0]
	c.chunk = c.chunk[1:]
	c.q.fill(kv, key, v)
	c.kvs = append(c.kvs, kv)
	c.lastKey = key
	c.full = c.q.Limit > 0 && int64(len(c.kvs)) >= c.q.Limit
	return !c.full
}

// wants filters; a filter that is not decided is remembered.
func (c *collector) wants(v *storage.Version) bool {
	q := c.q
	if !q.Filtered() {
		return true
	}
	if !IsPending(v.Mod) && !IsPending(v.Create) {
		return q.passes(int64(v.Mod), int64(v.Create))
	}
	decided := true
	bound := func(have ids.Revision, named int64, wrong int) (passes bool) {
		if named == 0 {
			return true
		}
		order, d := c.env.compare(have, named)
		decided = decided && d
		return !d || order != wrong
	}
	passes := bound(v.Mod, q.MaxMod, +1) && bound(v.Mod, q.MinMod, -1) &&
		bound(v.Create, q.MaxCreate, +1) && bound(v.Create, q.MinCreate, -1)
	if passes && !decided {
		c.undecided = true
	}
	return passes
}

func (c *collector) part() (Part, error) {
	if c.undecided {
		return Part{}, ErrUndecided
	}
	return Part{KVs: c.kvs, Count: c.count}, nil
}

// Assemble makes the response of a range request from its parts, which are in key order, tile the request, and were
// read with PlanRange's query. The header is there and empty, for the caller to fill. The response takes over the
// parts' keys.
func Assemble(r *pb.RangeRequest, parts []Part) *pb.RangeResponse {
	b := &struct {
		resp   pb.RangeResponse
		header pb.ResponseHeader
	}{}
	resp := &b.resp
	resp.Header = &b.header
	var kvs []*mvccpb.KeyValue
	for i := range parts {
		resp.Count += parts[i].Count
		if kvs == nil {
			kvs = parts[i].KVs
		} else {
			kvs = append(kvs, parts[i].KVs...)
		}
	}
	kvs = sortKVs(r, kvs)
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs = kvs[:r.Limit]
		resp.More = true
	}
	if r.KeysOnly {
		for _, kv := range kvs {
			kv.Value = nil
		}
	}
	resp.Kvs = kvs
	return resp
}

// sortKVs brings keys from key order into the order asked for. Where several keys are equal in it, the result is that of
// Go's unstable sort over key order, which is what etcd returns.
func sortKVs(r *pb.RangeRequest, kvs []*mvccpb.KeyValue) []*mvccpb.KeyValue {
	order := r.SortOrder
	if order == pb.RangeRequest_NONE && r.SortTarget != pb.RangeRequest_KEY {
		// Without an order the limit comes first; a target sorts what it has left, one key more than is returned.
		q := PlanRange(r)
		if q.Limit > 0 && int64(len(kvs)) > q.Limit {
			kvs = kvs[:q.Limit]
		}
		order = pb.RangeRequest_ASCEND
	}
	var compare func(a, b *mvccpb.KeyValue) int
	switch r.SortTarget {
	case pb.RangeRequest_KEY:
		if order == pb.RangeRequest_DESCEND {
			slices.Reverse(kvs)
		}
		return kvs
	case pb.RangeRequest_VERSION:
		compare = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		compare = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case pb.RangeRequest_MOD:
		compare = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case pb.RangeRequest_VALUE:
		compare = func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	default:
		return kvs
	}
	if order == pb.RangeRequest_DESCEND {
		slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return compare(b, a) })
	} else {
		slices.SortFunc(kvs, compare)
	}
	return kvs
}

// AtRevision is the state of a view's keys at a revision, for evaluating a read-only txn there.
func AtRevision(view Reader, at ids.Revision) State { return viewState{view, at} }

type viewState struct {
	view Reader
	at   ids.Revision
}

func (s viewState) Latest(key []byte, withValue bool) (storage.Version, bool, error) {
	return s.view.Get(key, s.at, storage.ScanOptions{WithoutValue: !withValue})
}

func (s viewState) Scan(span ids.Span, withValue bool, fn func([]byte, *storage.Version) bool) error {
	return s.view.Scan(span, s.at, storage.ScanOptions{WithoutValue: !withValue}, fn)
}

func (s viewState) ScanAt(span ids.Span, at ids.Revision, withValue bool, fn func([]byte, *storage.Version) bool) error {
	return s.view.Scan(span, at, storage.ScanOptions{WithoutValue: !withValue}, fn)
}
