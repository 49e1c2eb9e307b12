package eval

import (
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// PendingBase is where provisional revisions begin. A request is evaluated before it has a revision; until then
// PendingBase + 2*seq stands for the revision of the lane's item seq, and that minus one for the revision before it
// (what a read reports before the first write of its txn). Provisional revisions sort like the real ones will: above
// everything known, and among each other by seq.
const PendingBase ids.Revision = 1 << 62

// Pending returns the provisional revision of a lane item.
func Pending(seq uint64) ids.Revision { return PendingBase + ids.Revision(2*seq) }

// IsPending reports whether a revision is provisional.
func IsPending(r ids.Revision) bool { return r >= PendingBase-1 }

// compare orders a revision of the state against a number that the client named. It is not decided if the revision is
// pending and the number is above everything that the Env knows to be below it.
func (env *Env) compare(have ids.Revision, named int64) (order int, decided bool) {
	if !IsPending(have) {
		return cmp.Compare(int64(have), named), true
	}
	return +1, named <= int64(env.Current)
}

// Patch replaces every provisional revision in the response and the writes by rev of it. rev is called with what
// Pending returned, or that minus one. It must be called before the response leaves, if Env held anything provisional.
func (r *Result) Patch(rev func(ids.Revision) ids.Revision) {
	Patch(r.Response, rev)
	PatchWrites(r.Writes, rev)
	for i := range r.late {
		r.late[i].patch(rev)
	}
	r.late = nil
}

// PatchWrites is the part of Result.Patch that concerns writes.
func PatchWrites(writes []Write, rev func(ids.Revision) ids.Revision) {
	for i := range writes {
		v := &writes[i].Version
		if IsPending(v.Mod) {
			v.Mod = rev(v.Mod)
		}
		if IsPending(v.Create) {
			v.Create = rev(v.Create)
		}
	}
}

// Patch is the part of Result.Patch that concerns a response. It does not repeat decisions that hung on the revision of
// the request itself (a range in a txn that filters the txn's own writes by a revision yet to come); Result.Patch does.
func Patch(resp proto.Message, rev func(ids.Revision) ids.Revision) {
	p := patcher{rev}
	switch m := resp.(type) {
	case *pb.PutResponse:
		p.put(m)
	case *pb.DeleteRangeResponse:
		p.deleteRange(m)
	case *pb.RangeResponse:
		p.rangeResponse(m)
	case *pb.TxnResponse:
		p.txn(m)
	}
}

type patcher struct {
	rev func(ids.Revision) ids.Revision
}

func (p patcher) number(n *int64) {
	if r := ids.Revision(*n); IsPending(r) {
		*n = int64(p.rev(r))
	}
}

func (p patcher) header(h *pb.ResponseHeader) {
	if h != nil {
		p.number(&h.Revision)
	}
}

func (p patcher) kvs(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		p.number(&kv.ModRevision)
		p.number(&kv.CreateRevision)
	}
}

func (p patcher) put(m *pb.PutResponse) {
	p.header(m.Header)
	if m.PrevKv != nil {
		p.number(&m.PrevKv.ModRevision)
		p.number(&m.PrevKv.CreateRevision)
	}
}

func (p patcher) deleteRange(m *pb.DeleteRangeResponse) {
	p.header(m.Header)
	p.kvs(m.PrevKvs)
}

func (p patcher) rangeResponse(m *pb.RangeResponse) {
	p.header(m.Header)
	p.kvs(m.Kvs)
}

func (p patcher) txn(m *pb.TxnResponse) {
	p.header(m.Header)
	for _, op := range m.Responses {
		switch o := op.Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			p.put(o.ResponsePut)
		case *pb.ResponseOp_ResponseDeleteRange:
			p.deleteRange(o.ResponseDeleteRange)
		case *pb.ResponseOp_ResponseRange:
			p.rangeResponse(o.ResponseRange)
		case *pb.ResponseOp_ResponseTxn:
			p.txn(o.ResponseTxn)
		}
	}
}

// lateRange is a range within a txn that filters the txn's own writes by a revision that is not decided even by a fresh
// exchange, because the txn's own number is still to come. It keeps the unfiltered keys and is assembled once more when
// the number is known. (A range's outcome never bears on what its txn writes.)
type lateRange struct {
	req  *pb.RangeRequest
	part Part
	resp *pb.RangeResponse
}

func (l *lateRange) patch(rev func(ids.Revision) ids.Revision) {
	patcher{rev}.kvs(l.part.KVs)
	again := l.assemble(nil)
	l.resp.Kvs, l.resp.More, l.resp.Count = again.Kvs, again.More, again.Count
}

// assemble filters copies of the keys, taking provisional revisions as rev says, and makes a response of them.
func (l *lateRange) assemble(env *Env) *pb.RangeResponse {
	q := PlanRange(l.req)
	part := Part{Count: l.part.Count}
	for _, kv := range l.part.KVs {
		mod, create := kv.ModRevision, kv.CreateRevision
		if env != nil && IsPending(ids.Revision(mod)) {
			mod = int64(env.Current) + 1
		}
		if env != nil && IsPending(ids.Revision(create)) {
			create = int64(env.Current) + 1
		}
		if q.passes(mod, create) {
			part.KVs = append(part.KVs, &mvccpb.KeyValue{
				Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
				Version: kv.Version, Lease: kv.Lease,
			})
		}
	}
	return Assemble(l.req, []Part{part})
}
