package eval

import (
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
)

// ErrUndecided says that the outcome depends on how a pending revision compares to a number that the client named, or
// on how a revision that the client named relates to the present or to the compaction floor, and that Env is not Fresh
// enough to tell. Nothing has happened; the request is evaluated again with a Fresh Env.
var ErrUndecided = errors.New("eval: depends on revisions that are not known yet")

// Env is what one request is evaluated against. It is not modified.
type Env struct {
	// State is the state before the request: what is applied, overlaid by everything in the lane.
	State State
	// Self is the revision of the request if it changes anything: Pending(seq), or a real revision if that is known. A
	// read-only txn at revision R is evaluated with Self = R+1.
	Self ids.Revision
	// Current is the greatest `current` seen: every pending revision is greater.
	Current ids.Revision
	// Floor is the logical compaction floor F. It is negative as long as nothing was ever compacted, which shows only in
	// how a txn takes a revision of -1.
	Floor ids.Revision
	// Fresh says that Current and Floor come from an exchange begun after the request arrived, and that nothing in State
	// is pending.
	Fresh bool
	// Span is what the range owns. The caller has checked ownership; a span that is not owned all the same is refused
	// with WrongRangeError rather than answered with half of the truth. The zero Span owns everything.
	Span ids.Span
	// LeaseExists says whether a lease may be attached to a key; nil means that there are no leases.
	LeaseExists func(id int64) bool
}

// State is the keys of a range as of some moment. Keys are addressed. The revisions in what it returns may be
// provisional. Errors are the engine's and are passed on as they are.
type State interface {
	// Latest returns the newest version of a key, be it a tombstone; ok is false if there is none. The value, if asked
	// for, is never modified later.
	Latest(key []byte, withValue bool) (v storage.Version, ok bool, err error)
	// Scan calls fn for the live keys of a span in key order until fn returns false. Key and version are valid during
	// the call only.
	Scan(span ids.Span, withValue bool, fn func(key []byte, v *storage.Version) bool) error
	// ScanAt is Scan as of a revision that the client named. It is called only with Env.Fresh.
	ScanAt(span ids.Span, at ids.Revision, withValue bool, fn func(key []byte, v *storage.Version) bool) error
}

// Write is one version that a request creates.
type Write struct {
	Key []byte // addressed
	// Version.Mod is Env.Self, Version.Op the ordinal of the write in its request: etcd's sub revision.
	Version storage.Version
	// PrevLease is the lease that the key was attached to before this write, 0 if none.
	PrevLease int64
}

// Result is what a request does and how it is answered.
type Result struct {
	// Writes are in the order of their ordinals. A key can occur twice (etcd lets a txn put a key and delete it again in
	// two nested txns, and delete up to the end of the keyspace before it puts): each is an event, the last one stays.
	Writes []Write
	// Response is a *pb.PutResponse, *pb.DeleteRangeResponse or *pb.TxnResponse. Its revisions are provisional as far as
	// Env's are; its header carries nothing but the revision.
	Response proto.Message
	// Mutates says that the request takes a revision: there are Writes.
	Mutates bool

	late []lateRange
}

// Put evaluates a put that CheckPut has passed. Errors: rpctypes.ErrGRPCLeaseNotFound, ErrGRPCKeyNotFound.
func Put(env *Env, r *pb.PutRequest) (Result, error) {
	if err := env.checkLease(r.Lease); err != nil {
		return Result{}, err
	}
	key := ids.UserKey(r.Key)
	if err := env.checkKey(key); err != nil {
		return Result{}, err
	}
	prev, ok, err := env.State.Latest(key, r.PrevKv || r.IgnoreValue)
	if err != nil {
		return Result{}, err
	}
	live := ok && !prev.Tombstone
	if !live && (r.IgnoreValue || r.IgnoreLease) {
		return Result{}, rpctypes.ErrGRPCKeyNotFound
	}
	// One allocation for all that a put brings into being, but for the key.
	b := &struct {
		resp   pb.PutResponse
		header pb.ResponseHeader
		writes [1]Write
	}{}
	b.writes[0] = putWrite(env.Self, key, r, &prev, live, 0)
	b.header.Revision = int64(env.Self)
	b.resp.Header = &b.header
	if r.PrevKv && live {
		b.resp.PrevKv = keyValue(key, &prev)
	}
	return Result{Writes: b.writes[:], Response: &b.resp, Mutates: true}, nil
}

// DeleteRange evaluates a delete that CheckDelete has passed.
func DeleteRange(env *Env, r *pb.DeleteRangeRequest) (Result, error) {
	e := evaluator{env: env}
	resp, err := e.deleteRange(r)
	if err != nil {
		return Result{}, err
	}
	return Result{Writes: e.writes, Response: resp, Mutates: len(e.writes) > 0}, nil
}

// putWrite is the version that a put makes of the one before it.
func putWrite(self ids.Revision, key []byte, r *pb.PutRequest, prev *storage.Version, live bool, op int) Write {
	w := Write{Key: key, Version: storage.Version{
		Mod: self, Create: self, Version: 1, Lease: r.Lease, Op: uint32(op), Value: r.Value,
	}}
	if live {
		w.Version.Create, w.Version.Version = prev.Create, prev.Version+1
		w.PrevLease = prev.Lease
		if r.IgnoreValue {
			w.Version.Value = prev.Value
		}
		if r.IgnoreLease {
			w.Version.Lease = prev.Lease
		}
	}
	return w
}

// keyValue is a version as clients see it. The result aliases key and value.
func keyValue(key []byte, v *storage.Version) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key:            ids.EtcdKey(key),
		CreateRevision: int64(v.Create),
		ModRevision:    int64(v.Mod),
		Version:        v.Version,
		Value:          v.Value,
		Lease:          v.Lease,
	}
}

func (env *Env) checkLease(id int64) error {
	if id != 0 && (env.LeaseExists == nil || !env.LeaseExists(id)) {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return nil
}

func (env *Env) checkKey(key []byte) error {
	if env.Span.Start != nil && !env.Span.Contains(key) {
		return &ids.WrongRangeError{}
	}
	return nil
}

func (env *Env) checkSpan(span ids.Span) error {
	if env.Span.Start != nil && !env.Span.Covers(span) {
		return &ids.WrongRangeError{}
	}
	return nil
}
