package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/e2e/history"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// keys are few, so that clients meet, and lie in the ranges that splits makes.
var keys = []string{"a1", "a2", "g1", "g2", "n1", "n2", "u1", "u2"}

const splits = "f,m,t"

// requestTimeout is above what an election takes, so that a request can survive one.
const requestTimeout = 3 * time.Second

// clients work until their context ends.
type clients struct {
	rec  *history.Recorder
	next atomic.Int64 // numbers values
	// done counts acknowledged operations by time slot since start.
	start time.Time
	mu    struct {
		sync.Mutex
		slots  []int
		errors map[string]int
	}
	wg sync.WaitGroup
}

// slot is the resolution of the throughput that is watched.
const slot = 100 * time.Millisecond

func newClients(rec *history.Recorder) *clients {
	c := &clients{rec: rec, start: time.Now()}
	c.mu.errors = map[string]int{}
	return c
}

// run starts n clients, each with a connection of its own to all endpoints.
func (c *clients) run(ctx context.Context, endpoints []string, n int, seed uint64) error {
	for i := range n {
		w, err := c.worker(i, endpoints...)
		if err != nil {
			return err
		}
		w.rng = rand.New(rand.NewPCG(seed, uint64(i)))
		c.wg.Go(func() {
			defer func() { _ = w.cli.Close() }()
			for ctx.Err() == nil {
				w.step()
			}
		})
	}
	return nil
}

func (c *clients) worker(id int, endpoints ...string) (*worker, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	return &worker{clients: c, id: id, cli: cli, mods: map[string]int64{}}, nil
}

func (c *clients) count(op *history.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op.Outcome != history.OK {
		c.mu.errors[op.Error]++
		return
	}
	at := int(time.Since(c.start) / slot)
	for len(c.mu.slots) <= at {
		c.mu.slots = append(c.mu.slots, 0)
	}
	c.mu.slots[at]++
}

// pad adds the empty slots at the end of a run that ended without a working cluster.
func (c *clients) pad(end time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.mu.slots) < int(end/slot) {
		c.mu.slots = append(c.mu.slots, 0)
	}
}

// worker is one client.
type worker struct {
	*clients
	id   int
	cli  *clientv3.Client
	rng  *rand.Rand
	mods map[string]int64 // newest mod revision seen of a key, for conditions
}

// step does one random operation.
func (w *worker) step() {
	key := keys[w.rng.IntN(len(keys))]
	op := history.Op{Client: w.id, Key: key}
	switch p := w.rng.IntN(100); {
	case p < 40:
		op.Kind = history.Put
	case p < 45:
		op.Kind = history.Delete
	case p < 60:
		op.Kind, op.IfMod = history.CAS, w.mods[key]
	case p < 85:
		op.Kind, op.Serializable = history.Read, p >= 80
	default:
		op.Kind, op.Key, op.End, op.Serializable = history.Read, "a", "z", p >= 95
	}
	if op.Kind == history.Put || op.Kind == history.CAS {
		op.Value = fmt.Sprintf("%d-%d", w.id, w.next.Add(1))
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	op = w.rec.Begin(op)
	err := w.do(ctx, &op)
	op.Outcome = outcome(&op, err)
	if err != nil {
		op.Error = err.Error()
	}
	w.rec.End(op)
	w.count(&op)
	if err != nil {
		time.Sleep(10 * time.Millisecond) // a node that refuses at once must not fill the history
	}
}

// do sends the operation and notes the answer in it.
func (w *worker) do(ctx context.Context, op *history.Op) error {
	switch op.Kind {
	case history.Put:
		resp, err := w.cli.Put(ctx, op.Key, op.Value)
		if err != nil {
			return err
		}
		op.Revision, op.Changed = resp.Header.Revision, true
		w.mods[op.Key] = op.Revision
	case history.Delete:
		resp, err := w.cli.Delete(ctx, op.Key)
		if err != nil {
			return err
		}
		op.Revision, op.Changed = resp.Header.Revision, resp.Deleted > 0
	case history.CAS:
		resp, err := w.cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(op.Key), "=", op.IfMod)).
			Then(clientv3.OpPut(op.Key, op.Value)).Else(clientv3.OpGet(op.Key)).Commit()
		if err != nil {
			return err
		}
		op.Revision, op.Changed = resp.Header.Revision, resp.Succeeded
		if !resp.Succeeded {
			w.sees(op, resp.Responses[0].GetResponseRange().GetKvs())
		} else {
			w.mods[op.Key] = op.Revision
		}
	case history.Read:
		var opts []clientv3.OpOption
		if op.End != "" {
			opts = append(opts, clientv3.WithRange(op.End))
		}
		if op.Serializable {
			opts = append(opts, clientv3.WithSerializable())
		}
		resp, err := w.cli.Get(ctx, op.Key, opts...)
		if err != nil {
			return err
		}
		op.Revision = resp.Header.Revision
		w.sees(op, resp.Kvs)
	}
	return nil
}

func (w *worker) sees(op *history.Op, kvs []*mvccpb.KeyValue) {
	w.mods[op.Key] = 0
	for _, kv := range kvs {
		op.KVs = append(op.KVs, history.KV{Key: string(kv.Key), Value: string(kv.Value), Mod: kv.ModRevision,
			Create: kv.CreateRevision, Version: kv.Version})
		w.mods[string(kv.Key)] = kv.ModRevision
	}
}

// outcome says what an error proves. Only a request that was certainly refused before it could have an effect failed.
func outcome(op *history.Op, err error) history.Outcome {
	switch {
	case err == nil:
		return history.OK
	case op.Kind == history.Read, errors.Is(err, clientv3.ErrNoAvailableEndpoints):
		return history.Failed
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.ResourceExhausted:
		return history.Failed
	}
	return history.Unknown
}
