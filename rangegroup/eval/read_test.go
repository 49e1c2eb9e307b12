package eval_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/rangegroup/eval/evaltest"
	"github.com/pontoon-kv/pontoon/storage"
)

func fourKeys(t *testing.T) *evaltest.Store {
	s := evaltest.New()
	s.Grant(7)
	for _, kv := range []string{"a2", "b1", "c1", "d3"} {
		must[*pb.PutResponse](t, s, &pb.PutRequest{Key: []byte(kv[:1]), Value: []byte(kv[1:]), Lease: 7})
	}
	return s
}

func TestRangeQuirks(t *testing.T) {
	desc, asc := pb.RangeRequest_DESCEND, pb.RangeRequest_ASCEND
	for _, c := range []struct {
		name string
		req  *pb.RangeRequest
		want string
		more bool
	}{
		{"all", &pb.RangeRequest{}, "a b c d ", false},
		{"limit", &pb.RangeRequest{Limit: 2}, "a b ", true},
		{"limit of all", &pb.RangeRequest{Limit: 4}, "a b c d ", false},
		{"negative limit", &pb.RangeRequest{Limit: -2}, "a b c d ", false},
		{"last ones", &pb.RangeRequest{Limit: 2, SortOrder: desc}, "d c ", true},
		{"by value, equal ones in key order", &pb.RangeRequest{SortOrder: asc, SortTarget: pb.RangeRequest_VALUE}, "b c a d ", false},
		{"without order the limit comes first", &pb.RangeRequest{Limit: 1, SortTarget: pb.RangeRequest_VALUE}, "b ", true},
		{"a filter comes before that limit", &pb.RangeRequest{Limit: 1, SortTarget: pb.RangeRequest_VALUE, MinModRevision: 4}, "c ", true},
		{"more is about what passes the filter", &pb.RangeRequest{Limit: 2, MinModRevision: 4}, "c d ", false},
		{"filters", &pb.RangeRequest{MinCreateRevision: 3, MaxModRevision: 4}, "b c ", false},
		{"count only", &pb.RangeRequest{CountOnly: true, Limit: 1}, "", false},
	} {
		s := fourKeys(t)
		c.req.Key, c.req.RangeEnd = []byte{0}, []byte{0}
		for _, splits := range [][][]byte{nil, {[]byte("b")}, {[]byte("a"), []byte("c"), []byte("d"), []byte("x")}} {
			s.Splits = splits
			r := must[*pb.RangeResponse](t, s, c.req)
			if keys(r) != c.want || r.More != c.more || r.Count != 4 || r.Header.Revision != 5 {
				t.Errorf("%s, split at %q: %v", c.name, splits, r)
			}
		}
	}
}

func TestKeysOnly(t *testing.T) {
	s := fourKeys(t)
	r := must[*pb.RangeResponse](t, s, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, KeysOnly: true})
	if kv := r.Kvs[0]; kv.Lease != 0 || kv.Value != nil || kv.ModRevision != 2 {
		t.Errorf("keys only: %v", kv)
	}
	r = must[*pb.RangeResponse](t, s, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, KeysOnly: true,
		SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_ASCEND})
	if kv := r.Kvs[0]; kv.Lease != 7 || kv.Value != nil || string(kv.Key) != "b" {
		t.Errorf("keys only by value: %v", kv)
	}
}

func TestReadAt(t *testing.T) {
	for _, c := range []struct {
		named, want ids.Revision
		err         error
	}{
		{0, 10, nil}, {-4, 10, nil}, {10, 10, nil}, {11, 0, rpctypes.ErrGRPCFutureRev},
		{5, 5, nil}, {4, 0, rpctypes.ErrGRPCCompacted},
	} {
		if at, err := eval.ReadAt(int64(c.named), 10, 5); at != c.want || err != c.err {
			t.Errorf("%d: %d, %v", c.named, at, err)
		}
	}
}

// However a keyspace is cut into ranges, a read of it is the same.
func TestPartsEqualWhole(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := evaltest.New()
	key := func() []byte { return fmt.Appendf(nil, "%02d", rnd.IntN(60)) }
	for range 400 {
		if rnd.IntN(4) == 0 {
			must[*pb.DeleteRangeResponse](t, s, &pb.DeleteRangeRequest{Key: key()})
		} else {
			must[*pb.PutResponse](t, s, &pb.PutRequest{Key: key(), Value: fmt.Appendf(nil, "%d", rnd.IntN(5))})
		}
	}
	near := func() int64 { return int64(s.Revision()) - rnd.Int64N(200) }
	for range 3000 {
		r := &pb.RangeRequest{Key: key(), RangeEnd: key(), Limit: rnd.Int64N(20) * rnd.Int64N(2),
			SortOrder: pb.RangeRequest_SortOrder(rnd.IntN(3)), SortTarget: pb.RangeRequest_SortTarget(rnd.IntN(5)),
			KeysOnly: rnd.IntN(3) == 0, CountOnly: rnd.IntN(6) == 0, Revision: near() * rnd.Int64N(2)}
		if rnd.IntN(3) == 0 {
			r.MinModRevision, r.MaxCreateRevision = near()*rnd.Int64N(2), near()*rnd.Int64N(2)
		}
		s.Splits = nil
		whole := must[*pb.RangeResponse](t, s, r)
		for at := range 60 {
			if rnd.IntN(12) == 0 {
				s.Splits = append(s.Splits, fmt.Appendf(nil, "%02d", at))
			}
		}
		if parts := must[*pb.RangeResponse](t, s, r); !proto.Equal(whole, parts) {
			t.Fatalf("%v\nwhole: %v\nsplit at %q: %v", r, whole, s.Splits, parts)
		}
	}
}

// counting counts what a read asks of a view.
type counting struct {
	eval.Reader
	gets, scans, counts, seen int
}

func (c *counting) Get(key []byte, at ids.Revision, opt storage.ScanOptions) (storage.Version, bool, error) {
	c.gets++
	return c.Reader.Get(key, at, opt)
}

func (c *counting) Scan(span ids.Span, at ids.Revision, opt storage.ScanOptions, fn func([]byte, *storage.Version) bool) error {
	c.scans++
	return c.Reader.Scan(span, at, opt, func(key []byte, v *storage.Version) bool {
		c.seen++
		return fn(key, v)
	})
}

func (c *counting) Count(span ids.Span, at ids.Revision) (int64, error) {
	c.counts++
	return c.Reader.Count(span, at)
}

func TestReadsNoMoreThanNeeded(t *testing.T) {
	s := fourKeys(t)
	for _, c := range []struct {
		name                      string
		req                       *pb.RangeRequest
		gets, scans, counts, seen int
	}{
		{"single key", get("a", ""), 1, 0, 0, 0},
		{"count", &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), CountOnly: true}, 0, 0, 1, 0},
		{"limit", &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 1}, 0, 1, 1, 2},
		{"chunk", &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 1}, 0, 1, 0, 2},
		{"last", &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 1, SortOrder: pb.RangeRequest_DESCEND}, 0, 1, 1, 2},
		{"empty", get("z", "a"), 0, 0, 0, 0},
	} {
		v := &counting{Reader: s.View()}
		q := eval.PlanRange(c.req)
		q.SkipCount = c.name == "chunk"
		if _, err := eval.ReadPart(v, eval.RangeSpan(c.req), 5, q); err != nil {
			t.Fatal(err)
		}
		if v.gets != c.gets || v.scans != c.scans || v.counts != c.counts || v.seen != c.seen {
			t.Errorf("%s: %d gets, %d scans of %d keys, %d counts", c.name, v.gets, v.scans, v.seen, v.counts)
		}
	}
}
