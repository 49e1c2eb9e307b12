package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

func newServerCommand() *cobra.Command {
	o := newServerOptions()
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run one node of a cluster, with etcd's flags",
		Long: `Run one node of a cluster. The flags are etcd's where both have the thing; the rest of etcd's are accepted with a
warning that says why they do nothing. Every flag can also be set as PONTOON_… or ETCD_… in the environment
(--data-dir: PONTOON_DATA_DIR), or in a YAML file of etcd's form.`,
		Example: `  pontoon server                                   # a cluster of one, on etcd's ports
  pontoon server --name n1 --data-dir /var/lib/pontoon \
    --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://10.0.0.1:2379 \
    --listen-peer-urls http://0.0.0.0:2380 --initial-advertise-peer-urls http://10.0.0.1:2380 \
    --initial-cluster n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("%q is not a flag; pontoon server takes only flags", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.version {
				return printVersion(cmd.OutOrStdout(), "text")
			}
			defer forceOnSecondSignal(cmd.Context(), cmd.ErrOrStderr(), "")()
			return runServer(cmd.Context(), o)
		},
	}
	cmd.Flags().AddFlagSet(o.flags)
	cmd.SetUsageFunc(func(c *cobra.Command) error { return o.usage(c.OutOrStdout(), c) })
	return cmd
}

// usage prints the flags in their groups.
func (o *serverOptions) usage(w io.Writer, c *cobra.Command) error {
	fmt.Fprintf(w, "Usage:\n  %s\n\nExamples:\n%s\n", c.UseLine(), c.Example)
	for _, g := range o.groups {
		fmt.Fprintf(w, "\n%s:\n%s", g.title, g.flags.FlagUsagesWrapped(110))
	}
	var names []string
	for _, f := range inertFlags {
		names = append(names, "--"+f.name)
	}
	fmt.Fprintf(w, "\nAccepted for etcd's sake, with a warning that says why each does nothing:\n")
	line := " "
	for _, n := range names {
		if len(line)+len(n) > 108 {
			fmt.Fprintln(w, line)
			line = " "
		}
		line += " " + n
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// runServer runs a node until the context ends (a signal) or the node fails.
func runServer(ctx context.Context, o *serverOptions) (err error) {
	o, warnings, err := o.resolve(os.Environ())
	if err != nil {
		return &usageError{err}
	}
	lg, err := o.log.logger()
	if err != nil {
		return &usageError{err}
	}
	defer func() { _ = lg.Sync() }()
	for _, w := range warnings {
		lg.Warn(w)
	}
	cfg := o.cfg
	cfg.Logger = lg
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	cfg.Registerer, cfg.Gatherer = reg, reg
	if err := openListeners(&cfg); err != nil {
		return err
	}
	lg.Info("starting a node", zap.String("pontoon-version", version), zap.String("name", cfg.Name),
		zap.String("data-dir", cfg.DataDir), zap.String("initial-cluster", o.cluster))
	if err := cfg.PrepareTLS(lg); err != nil {
		closeAll(&cfg)
		return err
	}
	n, err := node.New(cfg)
	if err != nil {
		closeAll(&cfg)
		return err
	}
	defer func() {
		lg.Info("stopping the node")
		if cerr := n.Close(); err == nil {
			err = cerr
		}
		lg.Info("stopped")
	}()
	if err := n.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while starting
		}
		return err
	}
	return serve(ctx, n, &cfg)
}

// serve says when clients are served, in etcd's words, and waits for the end.
func serve(ctx context.Context, n *node.Node, cfg *node.Config) error {
	lg := cfg.Logger
	ready := n.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			lg.Info("ready to serve client requests")
			for _, l := range cfg.ClientListeners {
				lg.Info("serving client traffic", zap.String("traffic", "grpc+http"), zap.Stringer("address", l.Addr()),
					zap.Bool("tls", l.(*node.Listener).Secure()))
			}
		case <-ctx.Done():
			lg.Info("received a signal; shutting down")
			return nil
		case err := <-n.Err():
			if err == nil {
				err = errors.New("the node stopped by itself; see its log")
			}
			return err
		}
	}
}

// openListeners opens all ports before anything is written, so that a busy one leaves no trace.
func openListeners(cfg *node.Config) (err error) {
	defer func() {
		if err != nil {
			closeAll(cfg)
		}
	}()
	if cfg.PeerListeners, err = node.Listen("listen-peer-urls", cfg.ListenPeerURLs, cfg.GRPC); err != nil {
		return err
	}
	if cfg.ClientListeners, err = node.Listen("listen-client-urls", cfg.ListenClientURLs, cfg.GRPC); err != nil {
		return err
	}
	cfg.MetricsListeners, err = node.Listen("listen-metrics-urls", cfg.ListenMetricsURLs, cfg.GRPC)
	return err
}

func closeAll(cfg *node.Config) {
	for _, ls := range [][]net.Listener{cfg.PeerListeners, cfg.ClientListeners, cfg.MetricsListeners} {
		node.CloseListeners(ls)
	}
}

// hostPorts prints listeners' addresses for people.
func hostPorts(ls []net.Listener) string {
	out := make([]string, len(ls))
	for i, l := range ls {
		out[i] = l.Addr().String()
	}
	return strings.Join(out, ",")
}
