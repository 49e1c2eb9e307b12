package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

// adminOptions say how an operator's command reaches the cluster; they are etcdctl's.
type adminOptions struct {
	endpoints []string
	tls       transport.TLSInfo
	timeout   time.Duration
	output    string
}

func (o *adminOptions) register(fs *pflag.FlagSet) {
	o.endpoints = []string{"127.0.0.1:2379"}
	fs.Var(listValue{&o.endpoints}, "endpoints", "client addresses of the cluster; one that works is enough")
	fs.StringVar(&o.tls.TrustedCAFile, "cacert", "", "CA that the nodes' certificates come from")
	fs.StringVar(&o.tls.CertFile, "cert", "", "certificate to show")
	fs.StringVar(&o.tls.KeyFile, "key", "", "its key")
	fs.DurationVar(&o.timeout, "command-timeout", 10*time.Second, "how long the cluster may take to answer")
	fs.StringVarP(&o.output, "output", "o", "table", "table or json")
}

// admin is a connection to the cluster, and the names of its nodes.
type admin struct {
	pontoonpb.AdminClient
	cli   *clientv3.Client
	names map[uint64]string
}

// withAdmin connects, runs a command, and words its error for an operator.
func (o *adminOptions) withAdmin(ctx context.Context, run func(ctx context.Context, a *admin) error) error {
	if o.output != "table" && o.output != "json" {
		return &usageError{fmt.Errorf("--output: %q is none; use table or json", o.output)}
	}
	if len(o.endpoints) == 0 {
		return &usageError{fmt.Errorf("--endpoints: is empty; name a node's client address")}
	}
	cfg := clientv3.Config{Endpoints: o.endpoints, Logger: zap.NewNop()}
	if o.tls.TrustedCAFile != "" || o.tls.CertFile != "" || strings.HasPrefix(o.endpoints[0], "https://") {
		tls, err := o.tls.ClientConfig()
		if err != nil {
			return &usageError{fmt.Errorf("--cacert, --cert, --key: %w", err)}
		}
		cfg.TLS = tls
	}
	cli, err := clientv3.New(cfg)
	if err != nil {
		return &usageError{fmt.Errorf("--endpoints: %w", err)}
	}
	defer func() { _ = cli.Close() }()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	a := &admin{AdminClient: pontoonpb.NewAdminClient(cli.ActiveConnection()), cli: cli, names: map[uint64]string{}}
	if err := run(ctx, a); err != nil {
		if s, ok := status.FromError(err); ok {
			return fmt.Errorf("%s: %s", strings.Join(o.endpoints, ","), s.Message())
		}
		return err
	}
	return nil
}

// learnNames asks for the nodes' names; without them ids are printed, so an error is nobody's business.
func (a *admin) learnNames(ctx context.Context) {
	resp, err := a.cli.Cluster.MemberList(ctx)
	if err != nil {
		return
	}
	for _, m := range resp.Members {
		a.names[m.ID] = m.Name
	}
}

// node prints a node for people: its name, or its id.
func (a *admin) node(id uint64) string {
	switch name := a.names[id]; {
	case id == 0:
		return "-"
	case name != "":
		return name
	}
	return fmt.Sprintf("%x", id)
}

// noFile keeps shells from completing file names where none can be.
func noFile(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}
