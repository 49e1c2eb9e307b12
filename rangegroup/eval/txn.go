package eval

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
)

// Txn evaluates a transaction that CheckTxn has passed. It does so in etcd's three steps: all comparisons, those of
// nested txns on the way included, are decided on the state before the txn; then the operations on the path taken are
// checked against that same state, and one failure fails the whole; then they are executed in order, each seeing the
// writes before it. Errors: rpctypes.ErrGRPCLeaseNotFound, ErrGRPCKeyNotFound, ErrGRPCFutureRev, ErrGRPCCompacted,
// and ErrUndecided.
func Txn(env *Env, r *pb.TxnRequest) (Result, error) {
	e := evaluator{env: env}
	path, err := e.decide(r, make([]bool, 0, 8))
	if err != nil {
		return Result{}, err
	}
	if _, err := e.check(r, path); err != nil {
		return Result{}, err
	}
	resp, _, err := e.execute(r, path)
	if err != nil {
		return Result{}, err
	}
	resp.Header.Revision = int64(e.revision())
	return Result{Writes: e.writes, Response: resp, Mutates: len(e.writes) > 0, late: e.late}, nil
}

// The path of a txn is which branch it and each nested txn on the way takes, in the order in which they are met. Each
// step below returns what is left of it.

func branch(r *pb.TxnRequest, succeeded bool) []*pb.RequestOp {
	if succeeded {
		return r.GetSuccess()
	}
	return r.GetFailure()
}

// decide appends the path of a txn.
func (e *evaluator) decide(r *pb.TxnRequest, path []bool) ([]bool, error) {
	succeeded, err := e.compares(r.GetCompare())
	if err != nil {
		return nil, err
	}
	path = append(path, succeeded)
	for _, op := range branch(r, succeeded) {
		if nested, ok := op.Request.(*pb.RequestOp_RequestTxn); ok {
			if path, err = e.decide(nested.RequestTxn, path); err != nil {
				return nil, err
			}
		}
	}
	return path, nil
}

// compares decides a list of comparisons. One that is decidedly false settles the list, whatever is not decided.
func (e *evaluator) compares(list []*pb.Compare) (bool, error) {
	undecided := false
	for _, c := range list {
		holds, decided, err := e.holds(c)
		switch {
		case err != nil:
			return false, err
		case !decided:
			undecided = true
		case !holds:
			return false, nil
		}
	}
	if undecided {
		return false, ErrUndecided
	}
	return true, nil
}

// holds decides one comparison, over a key or over all live keys of a range.
func (e *evaluator) holds(c *pb.Compare) (holds, decided bool, err error) {
	withValue := c.Target == pb.Compare_VALUE
	if len(c.RangeEnd) > 0 {
		return e.holdsForAll(c, withValue)
	}
	_, v, live, err := e.before(c.Key, withValue)
	if err != nil {
		return false, false, err
	}
	if !live {
		return e.env.holdsForNone(c), true, nil
	}
	holds, decided = e.env.holdsFor(c, &v)
	return holds, decided, nil
}

// holdsForAll: one key for which the comparison is decidedly false settles it; no key at all is one missing key.
func (e *evaluator) holdsForAll(c *pb.Compare, withValue bool) (holds, decided bool, err error) {
	holds, decided = true, true
	none := true
	err = e.scan(ids.UserSpan(c.Key, c.RangeEnd), withValue, func(_ []byte, v *storage.Version) bool {
		none = false
		h, d := e.env.holdsFor(c, v)
		if d && !h {
			holds, decided = false, true
			return false
		}
		decided = decided && d
		return true
	})
	if err == nil && none {
		holds = e.env.holdsForNone(c)
	}
	return holds, decided, err
}

// holdsForNone decides a comparison for a missing key: false for a value, whatever the operator, else that of zero.
func (env *Env) holdsForNone(c *pb.Compare) bool {
	if c.Target == pb.Compare_VALUE {
		return false
	}
	holds, _ := env.holdsFor(c, &storage.Version{})
	return holds
}

// holdsFor decides a comparison for one version. Requests that etcd takes although they make no sense keep its answers:
// an unknown target compares equal, a missing operand is zero, an unknown operator holds.
func (env *Env) holdsFor(c *pb.Compare, v *storage.Version) (holds, decided bool) {
	order, decided := 0, true
	switch c.Target {
	case pb.Compare_VALUE:
		var want []byte
		if t, ok := c.TargetUnion.(*pb.Compare_Value); ok {
			want = t.Value
		}
		order = bytes.Compare(v.Value, want)
	case pb.Compare_CREATE:
		var want int64
		if t, ok := c.TargetUnion.(*pb.Compare_CreateRevision); ok {
			want = t.CreateRevision
		}
		order, decided = env.compare(v.Create, want)
	case pb.Compare_MOD:
		var want int64
		if t, ok := c.TargetUnion.(*pb.Compare_ModRevision); ok {
			want = t.ModRevision
		}
		order, decided = env.compare(v.Mod, want)
	case pb.Compare_VERSION:
		var want int64
		if t, ok := c.TargetUnion.(*pb.Compare_Version); ok {
			want = t.Version
		}
		order = cmp.Compare(v.Version, want)
	case pb.Compare_LEASE:
		var want int64
		if t, ok := c.TargetUnion.(*pb.Compare_Lease); ok {
			want = t.Lease
		}
		order = cmp.Compare(v.Lease, want)
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0, decided
	case pb.Compare_NOT_EQUAL:
		return order != 0, decided
	case pb.Compare_GREATER:
		return order > 0, decided
	case pb.Compare_LESS:
		return order < 0, decided
	}
	return true, true
}

// check looks for what fails the operations on the path, on the state before the txn.
func (e *evaluator) check(r *pb.TxnRequest, path []bool) (rest []bool, err error) {
	succeeded, rest := path[0], path[1:]
	for _, op := range branch(r, succeeded) {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = e.checkRevision(o.RequestRange.Revision)
		case *pb.RequestOp_RequestPut:
			err = e.checkPut(o.RequestPut)
		case *pb.RequestOp_RequestTxn:
			rest, err = e.check(o.RequestTxn, rest)
		}
		if err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// checkRevision decides about a revision that the client named. Unlike a range on its own, a txn takes a negative one
// literally.
func (e *evaluator) checkRevision(named int64) error {
	switch {
	case named == 0:
		return nil
	case !e.env.Fresh:
		return ErrUndecided
	case named > int64(e.env.Current):
		return rpctypes.ErrGRPCFutureRev
	case named < int64(e.env.Floor):
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

func (e *evaluator) checkPut(r *pb.PutRequest) error {
	if err := e.env.checkLease(r.Lease); err != nil {
		return err
	}
	if r.IgnoreValue || r.IgnoreLease {
		_, _, live, err := e.before(r.Key, r.IgnoreValue || r.PrevKv)
		if err != nil {
			return err
		}
		if !live {
			return rpctypes.ErrGRPCKeyNotFound
		}
	}
	return nil
}

// execute runs the operations on the path.
func (e *evaluator) execute(r *pb.TxnRequest, path []bool) (resp *pb.TxnResponse, rest []bool, err error) {
	succeeded, rest := path[0], path[1:]
	ops := branch(r, succeeded)
	b := &struct { // allocated together
		resp   pb.TxnResponse
		header pb.ResponseHeader
	}{}
	resp = &b.resp
	resp.Header, resp.Succeeded, resp.Responses = &b.header, succeeded, make([]*pb.ResponseOp, len(ops))
	for i, op := range ops {
		var answer *pb.ResponseOp
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			answer, err = e.put(o.RequestPut)
		case *pb.RequestOp_RequestRange:
			var m *pb.RangeResponse
			m, err = e.rangeOp(o.RequestRange)
			answer = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: m}}
		case *pb.RequestOp_RequestDeleteRange:
			var m *pb.DeleteRangeResponse
			m, err = e.deleteRange(o.RequestDeleteRange)
			answer = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: m}}
		case *pb.RequestOp_RequestTxn:
			var m *pb.TxnResponse
			m, rest, err = e.execute(o.RequestTxn, rest)
			answer = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: m}}
		default:
			answer = &pb.ResponseOp{} // CheckTxn does not let it pass
		}
		if err != nil {
			return nil, nil, err
		}
		resp.Responses[i] = answer
	}
	return resp, rest, nil
}

func (e *evaluator) put(r *pb.PutRequest) (*pb.ResponseOp, error) {
	key, prev, live, err := e.now(r.Key, r.PrevKv || r.IgnoreValue)
	if err != nil {
		return nil, err
	}
	if !live && (r.IgnoreValue || r.IgnoreLease) {
		// The key was there when the path was checked: this txn has deleted it, up to the end of the keyspace (which the
		// check for duplicate keys lets pass). etcd dies of it.
		return nil, rpctypes.ErrGRPCKeyNotFound
	}
	b := &struct { // allocated together
		op     pb.ResponseOp
		which  pb.ResponseOp_ResponsePut
		resp   pb.PutResponse
		header pb.ResponseHeader
	}{}
	b.op.Response, b.which.ResponsePut, b.resp.Header = &b.which, &b.resp, &b.header
	b.header.Revision = int64(e.env.Self)
	if r.PrevKv && live {
		b.resp.PrevKv = keyValue(key, &prev)
	}
	e.write(putWrite(e.env.Self, key, r, &prev, live, len(e.writes)))
	return &b.op, nil
}

func (e *evaluator) deleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{}}
	gone := func(key []byte, v *storage.Version) Write {
		resp.Deleted++
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, keyValue(key, v))
		}
		return Write{Key: key, PrevLease: v.Lease, Version: storage.Version{Mod: e.env.Self, Tombstone: true}}
	}
	if len(r.RangeEnd) == 0 {
		key, v, live, err := e.now(r.Key, r.PrevKv)
		if err != nil {
			return nil, err
		}
		if live {
			w := gone(key, &v)
			w.Version.Op = uint32(len(e.writes))
			e.write(w)
		}
	} else {
		var writes []Write // not made while the scan still goes on
		err := e.scan(ids.UserSpan(r.Key, r.RangeEnd), r.PrevKv, func(key []byte, v *storage.Version) bool {
			own := *v
			own.Value = bytes.Clone(v.Value)
			writes = append(writes, gone(bytes.Clone(key), &own))
			return true
		})
		if err != nil {
			return nil, err
		}
		for i := range writes {
			writes[i].Version.Op = uint32(len(e.writes))
			e.write(writes[i])
		}
	}
	resp.Header.Revision = int64(e.revision())
	return resp, nil
}

// rangeOp reads within a txn: its own writes included, unless it names a revision.
func (e *evaluator) rangeOp(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	q := PlanRange(r)
	late := r.Revision <= 0 && e.env.Fresh && len(e.writes) > 0 && IsPending(e.env.Self) &&
		q.Filtered() && q.maxNamed() > int64(e.env.Current)
	if late {
		q.MinMod, q.MaxMod, q.MinCreate, q.MaxCreate, q.Limit = 0, 0, 0, 0, 0
	}
	part, err := e.read(r, &q)
	if err != nil {
		return nil, err
	}
	var resp *pb.RangeResponse
	if late {
		l := lateRange{req: r, part: part}
		l.resp = l.assemble(e.env)
		e.late = append(e.late, l)
		resp = l.resp
	} else {
		resp = Assemble(r, []Part{part})
	}
	resp.Header.Revision = int64(e.revision())
	return resp, nil
}

func (e *evaluator) read(r *pb.RangeRequest, q *Query) (Part, error) {
	c := collector{q: q, env: e.env}
	if len(r.RangeEnd) == 0 && r.Revision <= 0 {
		key, v, live, err := e.now(r.Key, q.WithValue)
		if err != nil {
			return Part{}, err
		}
		if live {
			c.add(key, &v)
		}
		return c.part()
	}
	span := ids.UserSpan(r.Key, r.RangeEnd)
	if span.Empty() {
		return Part{}, nil
	}
	if err := e.env.checkSpan(span); err != nil {
		return Part{}, err
	}
	scan := func(span ids.Span, withValue bool, fn func([]byte, *storage.Version) bool) error {
		if r.Revision > 0 {
			return e.env.State.ScanAt(span, ids.Revision(r.Revision), withValue, fn)
		}
		return e.scan(span, withValue, fn)
	}
	// A State has no reverse order, so everything is read where the last keys are wanted.
	if q.Reverse {
		q.Limit = 0
	}
	err := scan(span, q.WithValue, c.addCopy)
	if rest := (ids.Span{Start: ids.Next(c.lastKey), End: span.End}); err == nil && c.full && !rest.Empty() {
		err = scan(rest, false, func([]byte, *storage.Version) bool {
			c.count++
			return true
		})
	}
	if err != nil {
		return Part{}, err
	}
	return c.part()
}
