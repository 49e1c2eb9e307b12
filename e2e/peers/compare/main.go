// Command compare runs etcd's official benchmark against three nodes of etcd and three of Pontoon, one after the other
// on this machine, and prints what came out side by side.
//
//	go run ./compare                 (in e2e/peers; builds etcd, the benchmark and pontoon first)
//	go run ./compare -rounds 3 -only put
//
// The nodes of both get the same flags and listen on the loopback interface; each run starts with empty directories.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pontoon-kv/pontoon/e2e/proc"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

var (
	rounds = flag.Int("rounds", 1, "rounds; the best of each workload counts, for both")
	only   = flag.String("only", "", "run only workloads whose name contains this")
	scale  = flag.Float64("scale", 1, "multiply the number of requests")
	splits = flag.String("splits", "", "Pontoon's --initial-splits")
	dir    = flag.String("dir", "", "where data goes (default: a temporary directory)")
	pick   = flag.String("stores", "etcd,pontoon", "what to run, in this order")
)

// workload is one run of the benchmark.
type workload struct {
	name  string
	total int
	args  []string
}

const valueSize = 256

// heldKey is what the range workloads read.
const heldKey = "compare"

func workloads() []workload {
	many := []string{"--conns=100", "--clients=1000"}
	one := []string{"--conns=1", "--clients=1"}
	put := []string{"put", fmt.Sprintf("--val-size=%d", valueSize)}
	seq := append(put, "--sequential-keys", "--key-space-size=1000000")
	get := func(consistency string) []string { return []string{"range", heldKey, "--consistency=" + consistency} }
	var out []workload
	add := func(name string, load []string, total int, args []string) {
		if strings.Contains(name, *only) {
			out = append(out, workload{name, max(1, int(float64(total)**scale)), append(append([]string{}, args...), load...)})
		}
	}
	add("put sequential, 1000 clients", many, 100_000, seq)
	add("put one key, 1000 clients", many, 100_000, put)
	add("range linearizable, 1000 clients", many, 200_000, get("l"))
	add("range serializable, 1000 clients", many, 200_000, get("s"))
	add("put sequential, 1 client", one, 3_000, seq)
	add("put one key, 1 client", one, 3_000, put)
	add("range linearizable, 1 client", one, 10_000, get("l"))
	add("range serializable, 1 client", one, 10_000, get("s"))
	return out
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run() error {
	base := *dir
	if base == "" {
		tmp, err := os.MkdirTemp("", "pontoon-compare-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(tmp) }()
		base = tmp
	}
	bins, err := build(base)
	if err != nil {
		return err
	}
	stores := strings.Split(*pick, ",")
	best := map[string]map[string]result{}
	for _, s := range stores {
		if bins[s] == "" {
			return fmt.Errorf("-stores: %q is none; use etcd and pontoon", s)
		}
		best[s] = map[string]result{}
	}
	for round := range *rounds {
		for _, store := range stores {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, *rounds, store)
			got, err := measure(bins, store, filepath.Join(base, fmt.Sprintf("%s-%d", store, round)))
			if err != nil {
				return fmt.Errorf("%s: %w", store, err)
			}
			for name, r := range got {
				if r.perSecond > best[store][name].perSecond {
					best[store][name] = r
				}
			}
		}
	}
	return print(stores, best)
}

// build returns the binaries by name.
func build(base string) (map[string]string, error) {
	_, self, _, _ := runtime.Caller(0)
	peers := filepath.Join(filepath.Dir(self), "..")
	bins := map[string]string{}
	for _, b := range []struct{ name, module, pkg string }{
		{"etcd", "tools", "go.etcd.io/etcd/server/v3"},
		{"benchmark", "benchmark", "go.etcd.io/etcd/v3/tools/benchmark"},
	} {
		bins[b.name] = filepath.Join(base, b.name)
		cmd := exec.Command("go", "build", "-o", bins[b.name], b.pkg)
		cmd.Dir = filepath.Join(peers, b.module)
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w\n%s", b.name, err, out)
		}
	}
	var err error
	bins["pontoon"], err = proc.Build(base)
	return bins, err
}

// measure starts three nodes of a store and runs all workloads against them.
func measure(bins map[string]string, store, dir string) (map[string]result, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	args := []string{"--log-level", "error", "--quota-backend-bytes", "8589934592"}
	if store == "pontoon" && *splits != "" {
		args = append(args, "--initial-splits", *splits)
	}
	c, err := proc.NewCluster(bins[store], dir, 3, args...)
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	if err := putHeldKey(ctx, c); err != nil {
		return nil, err
	}
	out := map[string]result{}
	for _, w := range workloads() {
		r, err := w.run(bins["benchmark"], c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		fmt.Fprintf(os.Stderr, "  %-34s %9.0f/s  mean %v  99%% %v\n", w.name, r.perSecond, r.mean, r.p99)
		out[w.name] = r
	}
	return out, nil
}

func putHeldKey(ctx context.Context, c *proc.Cluster) error {
	cli, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	_, err = cli.Put(ctx, heldKey, strings.Repeat("v", valueSize))
	return err
}

// print prints both stores side by side. Latency and CPU of Pontoon are relative to etcd's.
func print(stores []string, best map[string]map[string]result) error {
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprint(tw, "workload")
	for _, s := range stores {
		fmt.Fprintf(tw, "\t%s req/s\tmean\t99%%\tCPU/req", s)
	}
	ratio := len(stores) == 2
	if ratio {
		fmt.Fprintf(tw, "\treq/s %[1]s:%[2]s\tmean %[1]s:%[2]s", stores[1], stores[0])
	}
	fmt.Fprintln(tw)
	for _, w := range workloads() {
		fmt.Fprint(tw, w.name)
		for _, s := range stores {
			r := best[s][w.name]
			fmt.Fprintf(tw, "\t%.0f\t%v\t%v\t%v", r.perSecond, r.mean, r.p99, r.cpu)
		}
		if ratio {
			a, b := best[stores[0]][w.name], best[stores[1]][w.name]
			fmt.Fprintf(tw, "\t%.2f\t%.2f", b.perSecond/a.perSecond, float64(b.mean)/float64(a.mean))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}
