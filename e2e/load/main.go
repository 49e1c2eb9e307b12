// Command load fills a running cluster with keys and measures gets of random ones, by any number of closed-loop clients:
//
//	go run ./e2e/load -endpoints 127.0.0.1:2379,127.0.0.1:2380 -keys 5000000 -value 256
//	go run ./e2e/load -endpoints … -keys 5000000 -load=false     # gets only
//
// It prints rates and latencies. The keys are /load/ and ten digits, so that every run with as many keys has the same.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

type options struct {
	endpoints []string
	keys      int
	value     int
	clients   int
	conns     int
	gets      time.Duration
	load      bool
}

func main() {
	var o options
	endpoints := flag.String("endpoints", "127.0.0.1:2379", "the nodes' client addresses, separated by commas")
	flag.IntVar(&o.keys, "keys", 100000, "number of keys")
	flag.IntVar(&o.value, "value", 256, "bytes of each value")
	flag.IntVar(&o.clients, "clients", 200, "concurrent clients while loading")
	flag.IntVar(&o.conns, "conns", 20, "connections that they share")
	flag.DurationVar(&o.gets, "gets", 10*time.Second, "how long to measure gets")
	flag.BoolVar(&o.load, "load", true, "write the keys first")
	flag.Parse()
	o.endpoints = strings.Split(*endpoints, ",")
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(o *options) error {
	clients := make([]*clientv3.Client, o.conns)
	for i := range clients {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{o.endpoints[i%len(o.endpoints)]}, DialTimeout: 5 * time.Second,
		})
		if err != nil {
			return err
		}
		defer c.Close()
		clients[i] = c
	}
	if o.load {
		if err := fill(o, clients); err != nil {
			return err
		}
	}
	for _, n := range []int{1, 50} {
		if err := measure(o, clients, n); err != nil {
			return err
		}
	}
	return nil
}

func key(i int) string { return fmt.Sprintf("/load/%010d", i) }

// fill writes every key once, in order but for the clients' race.
func fill(o *options, clients []*clientv3.Client) error {
	noise := make([]byte, o.value+1<<24) // values that do not compress, and don't overlap their neighbours'
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	var next, failed atomic.Int64
	var first atomic.Pointer[error]
	start := time.Now()
	stop := make(chan struct{})
	go func() {
		t := time.NewTicker(5 * time.Second)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				n := min(next.Load(), int64(o.keys))
				fmt.Fprintf(os.Stderr, "%d of %d keys, %.0f/s\n", n, o.keys, float64(n)/time.Since(start).Seconds())
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range o.clients {
		c := clients[i%len(clients)]
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= o.keys {
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				_, err := c.Put(ctx, key(n), string(noise[n*7919%(1<<24):][:o.value]))
				cancel()
				if err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	took := time.Since(start)
	fmt.Printf("put    %9d keys in %v: %.0f/s, %d failed\n", o.keys, took.Round(time.Millisecond),
		float64(o.keys)/took.Seconds(), failed.Load())
	if e := first.Load(); e != nil {
		return fmt.Errorf("%d puts failed, the first with: %w", failed.Load(), *e)
	}
	return nil
}

// measure gets random keys with n clients.
func measure(o *options, clients []*clientv3.Client, n int) error {
	var mu sync.Mutex
	var all []time.Duration
	var bad error
	end := time.Now().Add(o.gets)
	var wg sync.WaitGroup
	for i := range n {
		c := clients[i%len(clients)]
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			var mine []time.Duration
			for time.Now().Before(end) {
				k := key(rng.IntN(o.keys))
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				t := time.Now()
				r, err := c.Get(ctx, k)
				cancel()
				if err == nil && len(r.Kvs) != 1 {
					err = fmt.Errorf("%s is missing", k)
				}
				if err != nil {
					mu.Lock()
					bad = err
					mu.Unlock()
					return
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	if bad != nil || len(all) == 0 {
		return fmt.Errorf("get: %v", bad)
	}
	slices.Sort(all)
	at := func(q float64) time.Duration {
		return all[min(len(all)-1, int(q*float64(len(all))))].Round(time.Microsecond)
	}
	fmt.Printf("get    %9d of %d keys, %2d clients: %.0f/s, p50 %v, p99 %v, p99.9 %v\n", len(all), o.keys, n,
		float64(len(all))/o.gets.Seconds(), at(.5), at(.99), at(.999))
	return nil
}
