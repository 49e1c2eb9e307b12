package eval

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Spans are the addressed keys that a request may touch, whichever branches it takes. Spans without a possible key are
// left out; others may overlap and are in the order of the request.
type Spans struct {
	// Reads are compared or ranged over, Writes are put or deleted.
	Reads, Writes []ids.Span
	// Anchor is the first key that the request may write, nil if it cannot write: the one whose range decides about a
	// transaction over several ranges.
	Anchor []byte
}

// TxnSpans returns what a txn may touch: comparisons, both branches, nested ones too. CheckTxn has passed it.
func TxnSpans(r *pb.TxnRequest) Spans {
	var s Spans
	s.addTxn(r)
	return s
}

// PutSpan is what a put touches.
func PutSpan(r *pb.PutRequest) ids.Span { return ids.UserSpan(r.Key, nil) }

// DeleteSpan is what a delete touches; it may be empty.
func DeleteSpan(r *pb.DeleteRangeRequest) ids.Span { return ids.UserSpan(r.Key, r.RangeEnd) }

// RangeSpan is what a range touches; it may be empty.
func RangeSpan(r *pb.RangeRequest) ids.Span { return ids.UserSpan(r.Key, r.RangeEnd) }

// Hull is the least span that holds all of it; ok is false if nothing is touched.
func (s *Spans) Hull() (hull ids.Span, ok bool) {
	for _, list := range [][]ids.Span{s.Reads, s.Writes} {
		for _, sp := range list {
			if !ok {
				hull, ok = sp, true
				continue
			}
			if bytes.Compare(sp.Start, hull.Start) < 0 {
				hull.Start = sp.Start
			}
			if bytes.Compare(sp.End, hull.End) > 0 {
				hull.End = sp.End
			}
		}
	}
	return hull, ok
}

// Within reports whether a span covers everything that is touched.
func (s *Spans) Within(span ids.Span) bool {
	hull, ok := s.Hull()
	return !ok || span.Covers(hull)
}

func (s *Spans) addTxn(r *pb.TxnRequest) {
	for _, c := range r.GetCompare() {
		s.read(c.Key, c.RangeEnd)
	}
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				s.read(o.RequestRange.Key, o.RequestRange.RangeEnd)
			case *pb.RequestOp_RequestPut:
				s.write(o.RequestPut.Key, nil)
			case *pb.RequestOp_RequestDeleteRange:
				s.write(o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd)
			case *pb.RequestOp_RequestTxn:
				s.addTxn(o.RequestTxn)
			}
		}
	}
}

func (s *Spans) read(key, rangeEnd []byte) {
	if sp := ids.UserSpan(key, rangeEnd); !sp.Empty() {
		s.Reads = append(s.Reads, sp)
	}
}

func (s *Spans) write(key, rangeEnd []byte) {
	sp := ids.UserSpan(key, rangeEnd)
	if sp.Empty() {
		return
	}
	s.Writes = append(s.Writes, sp)
	if s.Anchor == nil {
		s.Anchor = sp.Start
	}
}
