// Package evaltest is a keyspace in memory that evaluates requests one after the other: what a single etcd would be if
// it were made of package eval. It is for tests, and slow where that makes it plain.
package evaltest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/storage"
)

// Store is a keyspace in memory. It holds every version of every key, pending ones too. It is a State, and has a
// View that is a Reader.
type Store struct {
	// Limits are those of etcd unless changed.
	Limits eval.Limits
	// Pipeline is the number of writes that may be evaluated before the first of them gets its revision.
	Pipeline int
	// Splits cuts reads into parts, at these etcd keys in order.
	Splits [][]byte
	// Rand, if set, varies what must not matter: how fresh the Env is, and whether a revision is known beforehand.
	Rand *rand.Rand
	// History is every write that has its revision, in the order of events.
	History []eval.Write

	current  ids.Revision
	floor    ids.Revision
	leases   map[int64]bool
	keys     []string                     // addressed, sorted
	versions map[string][]storage.Version // oldest first
	pending  []*Outcome
	seq      uint64
}

// Outcome is the answer to a request. A pending one has its response once the store was flushed.
type Outcome struct {
	Response proto.Message
	Err      error

	seq    uint64
	result eval.Result
}

// New returns an empty store at revision 1.
func New() *Store {
	return &Store{
		Limits: eval.DefaultLimits, Pipeline: 1, current: 1, floor: -1,
		leases: map[int64]bool{}, versions: map[string][]storage.Version{},
	}
}

// Revision is the revision of the last write that is not pending.
func (s *Store) Revision() ids.Revision { return s.current }

// Floor is the last compaction's revision, -1 before the first.
func (s *Store) Floor() ids.Revision { return s.floor }

// Keys is the number of live keys.
func (s *Store) Keys() (n int) {
	for _, key := range s.keys {
		if v := s.newest(s.versions[key]); !v.Tombstone {
			n++
		}
	}
	return n
}

// Grant makes a lease.
func (s *Store) Grant(id int64) { s.leases[id] = true }

// Do checks and evaluates a *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest or *pb.RangeRequest.
func (s *Store) Do(req proto.Message) *Outcome {
	if r, ok := req.(*pb.RangeRequest); ok {
		s.Flush()
		resp, err := s.rangeRequest(r)
		if err != nil {
			return &Outcome{Err: err}
		}
		return &Outcome{Response: resp}
	}
	if err := s.check(req); err != nil {
		return &Outcome{Err: err}
	}
	env := eval.Env{
		State: s, Self: eval.Pending(s.seq), Current: s.current, Floor: s.floor,
		Fresh:       len(s.pending) == 0 && s.coin(),
		LeaseExists: func(id int64) bool { return s.leases[id] },
	}
	if s.Rand != nil && len(s.pending) == 0 && s.coin() {
		env.Self = s.current + 1
	}
	if txn, ok := req.(*pb.TxnRequest); ok && env.Fresh && eval.ReadOnly(txn) && s.coin() {
		env.State, env.Self = eval.AtRevision(s.View(), s.current), s.current+1
	}
	touched := touches(req)
	env.Span, _ = touched.Hull()
	env.State = guard{env.State, touched}
	res, err := evaluate(&env, req)
	if errors.Is(err, eval.ErrUndecided) {
		if env.Fresh {
			panic(fmt.Sprintf("undecided although fresh: %v", req))
		}
		s.Flush()
		env.Fresh, env.Current = true, s.current
		res, err = evaluate(&env, req)
	}
	if err != nil {
		return &Outcome{Err: err}
	}
	o := &Outcome{result: res, seq: s.seq}
	s.seq++
	if res.Mutates != (len(res.Writes) > 0) {
		panic("Mutates does not tell whether there are writes")
	}
	for i := range res.Writes {
		if !covered(touched.Writes, ids.Span{Start: res.Writes[i].Key, End: ids.Next(res.Writes[i].Key)}) {
			panic("a write beyond the spans of the request")
		}
		s.apply(&res.Writes[i], i, env.Self)
	}
	s.pending = append(s.pending, o)
	if len(s.pending) >= s.Pipeline {
		s.Flush()
	}
	return o
}

// Flush gives the pending writes their revisions and completes their outcomes.
func (s *Store) Flush() {
	if len(s.pending) == 0 {
		return
	}
	first := s.pending[0].seq
	before, self := make([]ids.Revision, len(s.pending)), make([]ids.Revision, len(s.pending))
	for i, o := range s.pending {
		before[i] = s.current
		if o.result.Mutates {
			s.current++
		}
		self[i] = s.current
	}
	rev := func(p ids.Revision) ids.Revision {
		seq := uint64(p-eval.PendingBase+1) / 2
		if p == eval.Pending(seq) {
			return self[seq-first]
		}
		return before[seq-first]
	}
	for _, o := range s.pending {
		o.result.Patch(rev)
		o.Response = o.result.Response
		s.History = append(s.History, o.result.Writes...)
		for i := range o.result.Writes {
			list := s.versions[string(o.result.Writes[i].Key)]
			for j := len(list) - 1; j >= 0 && eval.IsPending(list[j].Mod); j-- {
				w := []eval.Write{{Version: list[j]}}
				eval.PatchWrites(w, rev)
				list[j] = w[0].Version
			}
		}
	}
	s.pending = nil
}

// Compact moves the floor, as etcd's Compact does.
func (s *Store) Compact(rev int64) error {
	s.Flush()
	switch r := ids.Revision(rev); {
	case r <= s.floor:
		return rpctypes.ErrGRPCCompacted
	case r > s.current:
		return rpctypes.ErrGRPCFutureRev
	default:
		s.floor = r
		return nil
	}
}

func (s *Store) check(req proto.Message) error {
	switch r := req.(type) {
	case *pb.PutRequest:
		return eval.CheckPut(r, s.Limits)
	case *pb.DeleteRangeRequest:
		return eval.CheckDelete(r, s.Limits)
	case *pb.TxnRequest:
		return eval.CheckTxn(r, s.Limits)
	}
	return fmt.Errorf("unknown request %T", req)
}

func evaluate(env *eval.Env, req proto.Message) (eval.Result, error) {
	switch r := req.(type) {
	case *pb.PutRequest:
		return eval.Put(env, r)
	case *pb.DeleteRangeRequest:
		return eval.DeleteRange(env, r)
	default:
		return eval.Txn(env, r.(*pb.TxnRequest))
	}
}

func touches(req proto.Message) eval.Spans {
	switch r := req.(type) {
	case *pb.PutRequest:
		return eval.Spans{Writes: []ids.Span{eval.PutSpan(r)}}
	case *pb.DeleteRangeRequest:
		return eval.Spans{Writes: []ids.Span{eval.DeleteSpan(r)}}
	default:
		return eval.TxnSpans(r.(*pb.TxnRequest))
	}
}

// guard is a State that holds a request to the spans it is said to touch.
type guard struct {
	eval.State
	touched eval.Spans
}

func (g guard) check(span ids.Span) {
	if !covered(g.touched.Reads, span) && !covered(g.touched.Writes, span) {
		panic(fmt.Sprintf("%v is read and is not among the spans of the request: %v", span, g.touched))
	}
}

func covered(list []ids.Span, span ids.Span) bool {
	return slices.ContainsFunc(list, func(s ids.Span) bool { return s.Covers(span) })
}

func (g guard) Latest(key []byte, withValue bool) (storage.Version, bool, error) {
	g.check(ids.Span{Start: key, End: ids.Next(key)})
	return g.State.Latest(key, withValue)
}

func (g guard) Scan(span ids.Span, withValue bool, fn func([]byte, *storage.Version) bool) error {
	g.check(span)
	return g.State.Scan(span, withValue, fn)
}

func (g guard) ScanAt(span ids.Span, at ids.Revision, withValue bool, fn func([]byte, *storage.Version) bool) error {
	g.check(span)
	return g.State.ScanAt(span, at, withValue, fn)
}

func (s *Store) rangeRequest(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := eval.CheckRange(r); err != nil {
		return nil, err
	}
	at, err := eval.ReadAt(r.Revision, s.current, s.floor)
	if err != nil {
		return nil, err
	}
	span, q := ids.UserSpan(r.Key, r.RangeEnd), eval.PlanRange(r)
	var parts []eval.Part
	start := ids.UserSpace.Start
	for i := range len(s.Splits) + 1 {
		end := ids.UserSpace.End
		if i < len(s.Splits) {
			end = ids.UserKey(s.Splits[i])
		}
		part, err := eval.ReadPart(s.View(), span.Intersect(ids.Span{Start: start, End: end}), at, q)
		if err != nil {
			return nil, err
		}
		parts, start = append(parts, part), end
	}
	resp := eval.Assemble(r, parts)
	resp.Header.Revision = int64(s.current)
	return resp, nil
}

func (s *Store) apply(w *eval.Write, op int, self ids.Revision) {
	if w.Version.Mod != self || w.Version.Op != uint32(op) {
		panic(fmt.Sprintf("write %d of %d: bad ordinal or revision: %+v", op, self, w))
	}
	key := string(w.Key)
	list, ok := s.versions[key]
	if !ok {
		i, _ := slices.BinarySearch(s.keys, key)
		s.keys = slices.Insert(s.keys, i, key)
	}
	if prev := s.newest(list); prev.Lease != w.PrevLease {
		panic(fmt.Sprintf("write of %q: previous lease %d instead of %d", key, w.PrevLease, prev.Lease))
	}
	if n := len(list); n > 0 && list[n-1].Mod == w.Version.Mod {
		list = list[:n-1]
	}
	s.versions[key] = append(list, w.Version)
}

func (s *Store) newest(list []storage.Version) (v storage.Version) {
	if len(list) > 0 {
		v = list[len(list)-1]
	}
	return v
}

func (s *Store) coin() bool { return s.Rand == nil || s.Rand.IntN(2) == 0 }

// Latest implements eval.State.
func (s *Store) Latest(key []byte, withValue bool) (storage.Version, bool, error) {
	list := s.versions[string(key)]
	v := s.newest(list)
	if !withValue {
		v.Value = nil
	}
	return v, len(list) > 0, nil
}

// newestRevision is above every revision, pending ones included.
const newestRevision ids.Revision = 1<<63 - 1

// Scan implements eval.State.
func (s *Store) Scan(span ids.Span, withValue bool, fn func([]byte, *storage.Version) bool) error {
	return s.ScanAt(span, newestRevision, withValue, fn)
}

// ScanAt implements eval.State.
func (s *Store) ScanAt(span ids.Span, at ids.Revision, withValue bool, fn func([]byte, *storage.Version) bool) error {
	s.scan(span, at, storage.ScanOptions{WithoutValue: !withValue}, fn)
	return nil
}

func (s *Store) scan(span ids.Span, at ids.Revision, opt storage.ScanOptions, fn func([]byte, *storage.Version) bool) {
	if span.Empty() {
		panic("scan of an empty span")
	}
	keys := slices.Clone(s.keys)
	if opt.Reverse {
		slices.Reverse(keys)
	}
	for _, key := range keys {
		if !span.Contains([]byte(key)) {
			continue
		}
		v, ok := s.at(key, at)
		if !ok {
			continue
		}
		// What fn gets is overwritten afterwards: it is valid during the call only.
		k := []byte(key)
		if v.Value = bytes.Clone(v.Value); opt.WithoutValue {
			v.Value = nil
		}
		more := fn(k, &v)
		for i := range k {
			k[i] ^= 0x55
		}
		for i := range v.Value {
			v.Value[i] ^= 0x55
		}
		v = storage.Version{Mod: -1, Create: -1, Version: -1, Lease: -1}
		if !more {
			return
		}
	}
}

func (s *Store) at(key string, at ids.Revision) (storage.Version, bool) {
	list := s.versions[key]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Mod <= at {
			return list[i], !list[i].Tombstone
		}
	}
	return storage.Version{}, false
}

// View returns the store as a Reader.
func (s *Store) View() eval.Reader { return reader{s} }

type reader struct{ s *Store }

func (r reader) Get(key []byte, at ids.Revision, opt storage.ScanOptions) (storage.Version, bool, error) {
	v, ok := r.s.at(string(key), at)
	if v.Value = bytes.Clone(v.Value); opt.WithoutValue {
		v.Value = nil
	}
	return v, ok, nil
}

func (r reader) Scan(span ids.Span, at ids.Revision, opt storage.ScanOptions, fn func([]byte, *storage.Version) bool) error {
	r.s.scan(span, at, opt, fn)
	return nil
}

func (r reader) Count(span ids.Span, at ids.Revision) (n int64, err error) {
	r.s.scan(span, at, storage.ScanOptions{WithoutValue: true}, func([]byte, *storage.Version) bool {
		n++
		return true
	})
	return n, nil
}
