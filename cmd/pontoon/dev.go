package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

// devOptions is the command line of `pontoon dev`.
type devOptions struct {
	nodes      int
	dataDir    string
	clientPort uint16
	splits     [][]byte
	log        logOptions
}

// devReadyTimeout is how long a local cluster may take to serve; it normally takes well under a second.
const devReadyTimeout = 30 * time.Second

func newDevCommand() *cobra.Command {
	o := &devOptions{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a local cluster in this process, to try things on",
		Example: `  pontoon dev                                # three nodes, data removed at exit
  pontoon dev --nodes 1 --data-dir ./data    # one node that keeps its data
  pontoon dev --splits 16                    # sixteen ranges
  pontoon dev --splits /registry/,/users/    # cut at these keys`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDev(cmd.Context(), cmd.OutOrStdout(), o) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	o.splits = [][]byte{[]byte("f"), []byte("m"), []byte("t")}
	fs.IntVar(&o.nodes, "nodes", 3, "how many nodes, 1, 3 or 5")
	fs.StringVar(&o.dataDir, "data-dir", "", "keep the data here (default: a temporary directory, removed at exit)")
	fs.Uint16Var(&o.clientPort, "client-port", 2379, "client port of the first node; the others take the next ones (0: any free ports)")
	fs.Var(splitsValue{&o.splits}, "splits", "cut the user keys into n ranges, or at these keys (k1,k2,…)")
	o.log.register(fs)
	o.log.level, o.log.format = "warn", "console"
	fs.Lookup("log-level").DefValue, fs.Lookup("log-format").DefValue = "warn", "console"
	return cmd
}

func runDev(ctx context.Context, out io.Writer, o *devOptions) (err error) {
	if o.nodes != 1 && o.nodes != 3 && o.nodes != 5 {
		return &usageError{fmt.Errorf("--nodes: %d makes no majority worth having; use 1, 3 or 5", o.nodes)}
	}
	lg, err := o.log.logger()
	if err != nil {
		return &usageError{err}
	}
	dir := o.dataDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "pontoon-dev-"); err != nil {
			return fmt.Errorf("cannot make a temporary directory: %w; name one with --data-dir", err)
		}
		defer func() {
			if rerr := os.RemoveAll(dir); rerr != nil {
				fmt.Fprintf(out, "Could not remove %s: %v\n", dir, rerr)
				return
			}
			fmt.Fprintf(out, "Removed %s and all data in it.\n", dir)
		}()
		defer forceOnSecondSignal(ctx, out, dir)()
	} else {
		defer forceOnSecondSignal(ctx, out, "")()
	}
	began := time.Now()
	c, err := newDevCluster(o, dir, lg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // Ctrl-C while starting
		}
		return err
	}
	c.describe(out, o.dataDir == "", time.Since(began))
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "\nStopping (Ctrl-C again to force) …")
		return nil
	case err := <-c.failed:
		return err
	}
}

// forceOnSecondSignal lets an impatient second Ctrl-C end the process at once. The function it returns ends the watch.
func forceOnSecondSignal(ctx context.Context, out io.Writer, removeDir string) func() {
	done := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-done:
			return
		}
		again := make(chan os.Signal, 1)
		signal.Notify(again, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(again)
		select {
		case <-again:
			if removeDir != "" {
				_ = os.RemoveAll(removeDir)
			}
			fmt.Fprintln(out, "Forced.")
			os.Exit(130)
		case <-done:
		}
	}()
	return func() { close(done) }
}

// devCluster is the nodes of a local cluster.
type devCluster struct {
	dir    string
	cfgs   []node.Config
	nodes  []*node.Node
	failed chan error // the first error of a running node
	stop   chan struct{}
	wg     sync.WaitGroup
}

// devLayout is what must stay the same when a kept data directory is started again: node ids come from peer addresses.
// It is in dev.json of the data directory.
type devLayout struct {
	Nodes     int      `json:"nodes"`
	PeerPorts []int    `json:"peerPorts"`
	Splits    [][]byte `json:"splits"` // for information: later splits do not come here
}

func newDevCluster(o *devOptions, dir string, lg *zap.Logger) (c *devCluster, err error) {
	c = &devCluster{dir: dir, failed: make(chan error, 1), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	layout, known, err := readDevLayout(dir)
	if err != nil {
		return c, err
	}
	if known && layout.Nodes != o.nodes {
		return c, fmt.Errorf("--nodes: %s holds a cluster of %d nodes; start it with --nodes %d, or name another --data-dir",
			dir, layout.Nodes, layout.Nodes)
	}
	if !known {
		layout = devLayout{Nodes: o.nodes, PeerPorts: make([]int, o.nodes), Splits: o.splits}
	}
	members := make([]node.Member, o.nodes)
	for i := range o.nodes {
		cfg, err := devNode(o, dir, i, &layout)
		if err != nil {
			return c, err
		}
		cfg.Logger = lg.With(zap.String("node", cfg.Name))
		members[i] = node.Member{Name: cfg.Name, PeerURLs: []string{cfg.AdvertisePeerURLs[0].String()}}
		c.cfgs = append(c.cfgs, cfg)
	}
	if !known {
		if err := writeDevLayout(dir, layout); err != nil {
			return c, err
		}
	}
	for i := range c.cfgs {
		c.cfgs[i].InitialCluster, c.cfgs[i].InitialSplits = members, layout.Splits
		n, err := node.New(c.cfgs[i])
		if err != nil {
			return c, fmt.Errorf("%s: %w", c.cfgs[i].Name, err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// devNode configures node i with listeners that are open already; a new cluster's peer ports are the kernel's choice.
func devNode(o *devOptions, dir string, i int, layout *devLayout) (node.Config, error) {
	cfg := node.Default()
	cfg.Name = fmt.Sprintf("n%d", i+1)
	cfg.DataDir = filepath.Join(dir, cfg.Name)
	cfg.InitialClusterToken = "pontoon-dev"
	// The nodes share one machine, so each takes its share of what one node would.
	cfg.CacheBytes /= int64(o.nodes)
	reg := prometheus.NewRegistry()
	if i == 0 {
		reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	cfg.Registerer, cfg.Gatherer = reg, reg
	peers, err := node.Listen("data-dir", []url.URL{loopback(layout.PeerPorts[i])}, cfg.GRPC)
	if err != nil {
		return cfg, fmt.Errorf("port %d, which %s/dev.json has for the peers of %s, cannot be used: %w", layout.PeerPorts[i], dir, cfg.Name, err)
	}
	layout.PeerPorts[i] = portOf(peers[0])
	port := 0
	if o.clientPort != 0 {
		port = int(o.clientPort) + i
	}
	clients, err := node.Listen("client-port", []url.URL{loopback(port)}, cfg.GRPC)
	if err != nil {
		node.CloseListeners(peers)
		return cfg, err
	}
	cfg.PeerListeners, cfg.ClientListeners = peers, clients
	cfg.ListenPeerURLs = []url.URL{loopback(portOf(peers[0]))}
	cfg.ListenClientURLs = []url.URL{loopback(portOf(clients[0]))}
	cfg.AdvertisePeerURLs, cfg.AdvertiseClientURLs = cfg.ListenPeerURLs, cfg.ListenClientURLs
	return cfg, nil
}

func loopback(port int) url.URL {
	return url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func readDevLayout(dir string) (l devLayout, known bool, err error) {
	path := filepath.Join(dir, "dev.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &l)
	}
	if err != nil || len(l.PeerPorts) != l.Nodes {
		return l, false, fmt.Errorf("--data-dir: %s cannot be read (%v); restore it, or name another directory", path, err)
	}
	return l, true, nil
}

func writeDevLayout(dir string, l devLayout) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w; name a directory that can be made", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("--data-dir: %s has no dev.json but is not empty; name an empty directory", dir)
	}
	raw, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "dev.json"), append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	return nil
}

// start starts all nodes and waits until all serve.
func (c *devCluster) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, devReadyTimeout)
	defer cancel()
	errs := make(chan error, len(c.nodes))
	for i, n := range c.nodes {
		c.wg.Go(func() {
			if err := n.Start(ctx); err != nil {
				errs <- fmt.Errorf("%s: %w", c.cfgs[i].Name, err)
				return
			}
			select {
			case <-n.Ready():
				errs <- nil
			case err := <-n.Err():
				errs <- fmt.Errorf("%s: %w", c.cfgs[i].Name, err)
			case <-ctx.Done():
				errs <- fmt.Errorf("%s does not serve after %v; --log-level info says more", c.cfgs[i].Name, devReadyTimeout)
			}
		})
	}
	for range c.nodes {
		if err := <-errs; err != nil {
			return err
		}
	}
	for i, n := range c.nodes {
		c.wg.Go(func() { c.watch(i, n) })
	}
	return nil
}

// watch passes on the first error of a running node.
func (c *devCluster) watch(i int, n *node.Node) {
	select {
	case err := <-n.Err():
		select {
		case c.failed <- fmt.Errorf("%s: %w", c.cfgs[i].Name, err):
		default:
		}
	case <-c.stop:
	}
}

// close stops the sequencer's node first, while the others can still witness that it goes (so that no revision is
// skipped at the next start), then the rest at once. The listeners of nodes that never came to be are closed, too.
func (c *devCluster) close() error {
	close(c.stop)
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		if b, err := node.NewBootstrap(&c.cfgs[i]); err == nil && n.Sequencer() == b.Self {
			errs[i] = n.Close() // closing it once more below does nothing
			break
		}
	}
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = n.Close() })
	}
	for i := len(c.nodes); i < len(c.cfgs); i++ {
		closeAll(&c.cfgs[i])
	}
	wg.Wait()
	c.wg.Wait()
	return errors.Join(errs...)
}

// describe prints what one needs to know to use the cluster.
func (c *devCluster) describe(out io.Writer, temporary bool, took time.Duration) {
	fmt.Fprintf(out, "Pontoon %s: %d nodes, %d ranges, ready in %v.\n\n", version, len(c.nodes),
		len(c.cfgs[0].InitialSplits)+1, took.Round(10*time.Millisecond))
	tw := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(tw, "NODE\tCLIENTS\tPEERS\tDATA")
	endpoints := ""
	for i, cfg := range c.cfgs {
		clients := hostPorts(cfg.ClientListeners)
		if i > 0 {
			endpoints += ","
		}
		endpoints += clients
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", cfg.Name, clients, hostPorts(cfg.PeerListeners), cfg.DataDir)
	}
	_ = tw.Flush()
	fmt.Fprintf(out, "\nTry it:      etcdctl --endpoints=%s put greeting hello\n", endpoints)
	fmt.Fprintf(out, "Ranges:      pontoon range list --endpoints=%s\n", hostPorts(c.cfgs[0].ClientListeners))
	fmt.Fprintf(out, "Metrics:     http://%s/metrics (every node has its own)\n", hostPorts(c.cfgs[0].ClientListeners))
	if temporary {
		fmt.Fprintf(out, "Data:        %s, removed at exit; keep it with --data-dir\n", c.dir)
	} else {
		fmt.Fprintf(out, "Data:        %s, kept\n", c.dir)
	}
	fmt.Fprintln(out, "Stop:        Ctrl-C")
}
