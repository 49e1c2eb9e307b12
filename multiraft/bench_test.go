package multiraft

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport/simnet"
)

// BenchmarkProposals measures three hosts in one process, over a network and file systems in memory: with many clients
// per group, each of which proposes 256 bytes and waits, and with a single one.
func BenchmarkProposals(b *testing.B) {
	for _, groups := range []int{1, 200} {
		for _, clients := range []int{1, 400} {
			b.Run(fmt.Sprintf("groups=%d/clients=%d", groups, clients), func(b *testing.B) {
				benchProposals(b, groups, clients)
			})
		}
	}
}

func benchProposals(b *testing.B, groups, clients int) {
	c := newCluster(b, 3, groups, simnet.Options{Seed: 1})
	defer c.close()
	for !c.allLed() {
		time.Sleep(10 * time.Millisecond)
	}
	data := string(make([]byte, 256))
	var left atomic.Int64
	left.Store(int64(b.N))
	type waiter struct {
		m *machine
		g *Group
	}
	ws := make([]waiter, groups)
	for i, r := range c.ranges {
		n := c.leader(r)
		ws[i] = waiter{n.machines[r], n.host.Group(r)}
		n.machines[r].waiters = make(map[uint64]chan struct{})
	}
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan struct{})
	for i := range clients {
		go func() {
			w := ws[i%groups]
			for left.Add(-1) >= 0 {
				ch := make(chan struct{})
				w.m.mu.Lock()
				w.m.queue = append(w.m.queue, data)
				w.m.queueWaiters = append(w.m.queueWaiters, ch)
				w.m.mu.Unlock()
				w.g.Schedule()
				<-ch
			}
			done <- struct{}{}
		}()
	}
	for range clients {
		<-done
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proposals/s")
}
