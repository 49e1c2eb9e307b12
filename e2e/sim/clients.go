package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/e2e/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ClientOptions shape a workload. The zero value of a field means its default.
type ClientOptions struct {
	Clients int // default: two per node
	// Keys is how many keys they use, the first ones (default and most: Keys).
	Keys int
	// Think is how long a client rests between two operations, on average (default 10 ms).
	Think time.Duration
	// Compact has history compacted now and then.
	Compact bool
	// Timeout is the longest that a client waits for an answer; some wait for a tenth of it (default 5 s).
	Timeout time.Duration
}

// Clients is a running workload: puts, deletes, transactions in one range, reads of all kinds, on all nodes.
type Clients struct {
	c    *Cluster
	opt  ClientOptions
	rec  *history.Recorder
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	values atomic.Int64 // numbers the values, so that none is written twice
	// compactAsked is the greatest revision that anybody asked to compact at, compactDone that of an answered request.
	compactAsked, compactDone atomic.Int64

	mu      sync.Mutex
	wrong   []string       // guarded by mu: what the history cannot tell
	errors  map[string]int // guarded by mu: how often each was seen
	acked   int            // guarded by mu
	lastAck time.Time      // guarded by mu
	longest time.Duration  // guarded by mu: the longest time without an acknowledged write
}

// StartClients starts a workload.
func (c *Cluster) StartClients(opt ClientOptions) *Clients {
	if opt.Clients == 0 {
		opt.Clients = 2 * c.Size()
	}
	if opt.Keys == 0 {
		opt.Keys = Keys
	}
	if opt.Think == 0 {
		opt.Think = 10 * time.Millisecond
	}
	if opt.Timeout == 0 {
		opt.Timeout = 5 * time.Second
	}
	w := &Clients{
		c: c, opt: opt, rec: history.NewRecorder(nil), stop: make(chan struct{}), errors: map[string]int{},
		lastAck: time.Now(),
	}
	c.mu.Lock()
	c.mu.clients = append(c.mu.clients, w)
	c.mu.Unlock()
	for i := range opt.Clients {
		cl := w.client(i)
		w.wg.Go(cl.run)
	}
	return w
}

// Stop lets every client finish what it does and waits. It may be called twice.
func (w *Clients) Stop() {
	w.halt()
	w.wg.Wait()
}

func (w *Clients) halt() { w.once.Do(func() { close(w.stop) }) }

func (w *Clients) accuse(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// client is one of them; it belongs to one goroutine.
type client struct {
	*Clients
	id    int
	node  int
	rng   *rand.Rand
	mods  map[string]int64 // newest mod revision that it saw of a key
	known int64            // greatest revision that it saw
}

func (w *Clients) client(id int) *client {
	return &client{
		Clients: w, id: id, node: id%w.c.Size() + 1, mods: map[string]int64{},
		rng: rand.New(rand.NewPCG(w.c.opt.Seed, uint64(100+id))),
	}
}

func (cl *client) run() {
	for {
		select {
		case <-cl.stop:
			return
		case <-time.After(time.Duration(cl.rng.ExpFloat64() * float64(cl.opt.Think))):
		}
		cl.step()
	}
}

// step does one random operation.
func (cl *client) step() {
	timeout := cl.opt.Timeout
	if cl.rng.IntN(5) == 0 {
		timeout /= 10
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	i := cl.rng.IntN(cl.opt.Keys)
	op := history.Op{Client: cl.id, Key: Key(i)}
	var do func(context.Context, *history.Op) ([]history.Op, error)
	switch p := cl.rng.IntN(100); {
	case p < 30:
		op.Kind, do = history.Put, cl.put
	case p < 36:
		op.Kind, do = history.Delete, cl.delete
	case p < 38:
		op.Kind, op.End, do = history.Delete, Key(cl.neighbour(i)+1), cl.delete
	case p < 52:
		op.Kind, do = history.CAS, cl.txn
	case p < 62:
		op.Kind, do = history.CAS, cl.txn
		if j := cl.neighbour(i); j != i {
			op.More = []history.KV{{Key: Key(j)}}
		}
	case p < 98 || !cl.opt.Compact:
		op.Kind, do = history.Read, cl.read
		cl.shapeRead(&op, i)
	default:
		cl.compact(ctx)
		return
	}
	if op.Kind == history.Put || op.Kind == history.CAS {
		op.Value = cl.value()
		for k := range op.More {
			op.More[k].Value = cl.value()
		}
	}
	_ = cl.record(ctx, op, do)
}

// neighbour returns a random key of the same range, not before key i.
func (cl *client) neighbour(i int) int {
	last := i
	for last+1 < Keys && cl.c.RangeOf(last+1) == cl.c.RangeOf(i) {
		last++
	}
	return i + cl.rng.IntN(last-i+1)
}

func (cl *client) value() string { return fmt.Sprintf("%d.%d", cl.id, cl.values.Add(1)) }

func (cl *client) shapeRead(op *history.Op, i int) {
	switch cl.rng.IntN(3) {
	case 0:
		op.End = Key(i + 1 + cl.rng.IntN(Keys-i)) // as many ranges as it likes
	case 1:
		op.Key, op.End = keysStart, keysEnd
	}
	op.Serializable = cl.rng.IntN(4) == 0
	if cl.rng.IntN(6) == 0 && cl.known > 1 {
		op.At = cl.known - cl.rng.Int64N(min(100, cl.known-1))
	}
}

// record runs an operation, judges its outcome and writes both into the history.
func (cl *client) record(
	ctx context.Context, op history.Op, do func(context.Context, *history.Op) ([]history.Op, error),
) error {
	op = cl.rec.Begin(op)
	time.Sleep(time.Duration(cl.rng.IntN(500)) * time.Microsecond) // to the node
	seen, err := do(ctx, &op)
	time.Sleep(time.Duration(cl.rng.IntN(500)) * time.Microsecond) // and back
	op.Outcome = outcome(&op, err)
	if err != nil {
		op.Error = fmt.Sprintf("node %d: %v", cl.node, err)
	}
	op = cl.rec.End(op)
	for _, s := range seen {
		s.Client, s.Kind, s.Outcome, s.Began, s.Ended = op.Client, history.Read, history.OK, op.Began, op.Ended
		cl.rec.Add(s)
	}
	cl.known = max(cl.known, op.Revision)
	cl.count(&op, err)
	if err != nil {
		time.Sleep(20 * time.Millisecond) // a node that refuses at once must not fill the history
		if status.Code(err) == codes.Unavailable && cl.rng.IntN(2) == 0 {
			cl.node = cl.rng.IntN(cl.c.Size()) + 1
		}
	}
	return err
}

func (cl *client) count(op *history.Op, err error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if err != nil {
		cl.errors[string(op.Kind)+": "+status.Convert(err).Message()]++
	}
	if op.Outcome == history.OK && op.Changed {
		cl.acked++
		cl.longest = max(cl.longest, time.Since(cl.lastAck))
		cl.lastAck = time.Now()
	}
}

func (cl *client) kv() pb.KVServer { return cl.c.Node(cl.node).KV() }

func (cl *client) put(ctx context.Context, op *history.Op) (seen []history.Op, err error) {
	prev := cl.rng.IntN(3) == 0
	resp, err := cl.kv().Put(ctx, &pb.PutRequest{Key: []byte(op.Key), Value: []byte(op.Value), PrevKv: prev})
	if err != nil {
		return nil, err
	}
	op.Revision, op.Changed = resp.Header.Revision, true
	cl.mods[op.Key] = op.Revision
	if prev {
		before := history.Op{Key: op.Key, Revision: op.Revision, At: op.Revision - 1}
		if resp.PrevKv != nil {
			before.KVs = kvs(resp.PrevKv)
		}
		seen = append(seen, before)
	}
	return seen, nil
}

func (cl *client) delete(ctx context.Context, op *history.Op) (seen []history.Op, err error) {
	resp, err := cl.kv().DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(op.Key), RangeEnd: []byte(op.End), PrevKv: true})
	if err != nil {
		return nil, err
	}
	op.Revision, op.Changed = resp.Header.Revision, resp.Deleted > 0
	if int(resp.Deleted) != len(resp.PrevKvs) {
		cl.accuse("a delete counts %d keys and shows %d: %+v", resp.Deleted, len(resp.PrevKvs), op)
	}
	before := history.Op{Key: op.Key, End: op.End, Revision: op.Revision, KVs: kvs(resp.PrevKvs...)}
	if op.Changed {
		before.At = op.Revision - 1
	}
	return append(seen, before), nil
}

// txn is a compare-and-set of one or two keys that reads what it wrote, or what it found instead.
func (cl *client) txn(ctx context.Context, op *history.Op) (seen []history.Op, err error) {
	op.IfMod = cl.mods[op.Key]
	end := op.Key + "\x00"
	put := func(key, value string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
	}
	then := []*pb.RequestOp{put(op.Key, op.Value)}
	for _, kv := range op.More {
		then = append(then, put(kv.Key, kv.Value))
		end = kv.Key + "\x00"
	}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
		RequestRange: &pb.RangeRequest{Key: []byte(op.Key), RangeEnd: []byte(end)},
	}}
	resp, err := cl.kv().Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Key: []byte(op.Key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: op.IfMod},
		}},
		Success: append(then, get),
		Failure: []*pb.RequestOp{get},
	})
	if err != nil {
		return nil, err
	}
	op.Revision, op.Changed = resp.Header.Revision, resp.Succeeded
	found := kvs(resp.Responses[len(resp.Responses)-1].GetResponseRange().GetKvs()...)
	cl.mods[op.Key] = 0
	for _, kv := range found {
		cl.mods[kv.Key] = kv.Mod
		if !op.Changed && kv.Key == op.Key {
			op.KVs = []history.KV{kv}
		}
	}
	return append(seen, history.Op{Key: op.Key, End: end, Revision: op.Revision, KVs: found}), nil
}

func (cl *client) read(ctx context.Context, op *history.Op) ([]history.Op, error) {
	r := &pb.RangeRequest{Key: []byte(op.Key), RangeEnd: []byte(op.End), Serializable: op.Serializable, Revision: op.At}
	if op.End != "" && cl.rng.IntN(4) == 0 {
		r.Limit = int64(1 + cl.rng.IntN(5))
	}
	compacted, asked := cl.compactDone.Load(), int64(0)
	resp, err := cl.kv().Range(ctx, r)
	asked = cl.compactAsked.Load()
	switch {
	case status.Code(err) == codes.OutOfRange && op.At == 0,
		same(err, rpctypes.ErrGRPCCompacted) && op.At >= asked,
		same(err, rpctypes.ErrGRPCFutureRev) && op.At <= cl.known && !op.Serializable:
		cl.accuse("node %d: read at %d (known %d, compacted at most at %d): %v", cl.node, op.At, cl.known, asked, err)
	}
	if err != nil {
		return nil, err
	}
	if op.At != 0 && op.At < compacted && !op.Serializable {
		cl.accuse("node %d: read at %d succeeds although %d was compacted before it", cl.node, op.At, compacted)
	}
	op.Revision, op.KVs = resp.Header.Revision, kvs(resp.Kvs...)
	switch n := len(op.KVs); {
	case resp.More && n == 0:
		cl.accuse("node %d: nothing, and more: %+v", cl.node, op)
	case resp.More:
		op.End = op.KVs[n-1].Key + "\x00"
	case int(resp.Count) != n:
		cl.accuse("node %d: %d of %d keys, and no more: %+v", cl.node, n, resp.Count, op)
	}
	for _, kv := range op.KVs {
		if op.At == 0 {
			cl.mods[kv.Key] = kv.Mod
		}
	}
	return nil, nil
}

// compact forgets all but the last few hundred revisions.
func (cl *client) compact(ctx context.Context) {
	at := cl.known - 200 - cl.rng.Int64N(200)
	if at <= 1 {
		return
	}
	for {
		asked := cl.compactAsked.Load()
		if asked >= at || cl.compactAsked.CompareAndSwap(asked, at) {
			break
		}
	}
	_, err := cl.kv().Compact(ctx, &pb.CompactionRequest{Revision: at})
	switch {
	case err == nil:
		for {
			done := cl.compactDone.Load()
			if done >= at || cl.compactDone.CompareAndSwap(done, at) {
				return
			}
		}
	case same(err, rpctypes.ErrGRPCFutureRev):
		cl.accuse("node %d: compaction at %d, known %d: %v", cl.node, at, cl.known, err)
	}
}

func kvs(in ...*mvccpb.KeyValue) (out []history.KV) {
	for _, kv := range in {
		out = append(out, history.KV{
			Key: string(kv.Key), Value: string(kv.Value), Mod: kv.ModRevision, Create: kv.CreateRevision, Version: kv.Version,
		})
	}
	return out
}

func same(err, want error) bool {
	return err != nil && status.Convert(err).Message() == status.Convert(want).Message()
}

// outcome says what an error proves.
func outcome(op *history.Op, err error) history.Outcome {
	switch {
	case err == nil:
		return history.OK
	case op.Kind == history.Read, err == ErrDown:
		return history.Failed
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.ResourceExhausted:
		return history.Failed
	}
	return history.Unknown
}
