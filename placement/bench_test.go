package placement

import (
	"sync"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// BenchmarkJoin measures revisions per second, with the sequencer on the node and one network hop away (the simulated
// network, without delay worth speaking of: what remains is encoding, queues and goroutines).
func BenchmarkJoin(b *testing.B) {
	for _, where := range []string{"local", "remote"} {
		b.Run(where, func(b *testing.B) {
			c := newCluster(b, 3, ProofLease)
			c.nodes[0].take(b, 1)
			s := c.sequencer()
			if where == "remote" {
				s = (s + 1) % 3
			}
			n := c.nodes[s]
			n.take(b, 1)
			proven := n.client.Known()
			b.ResetTimer()
			b.ReportAllocs()
			var wg sync.WaitGroup
			gate := make(chan struct{}, 1000)
			start := time.Now()
			for range b.N {
				gate <- struct{}{}
				wg.Add(1)
				n.client.Join(Join{Range: ids.RangeID(100 + n.id), Term: 1, Want: 1, Proven: proven, Done: func(a Answer) {
					if a.Err != nil {
						b.Error(a.Err)
					}
					<-gate
					wg.Done()
				}})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "joins/s")
		})
	}
}
