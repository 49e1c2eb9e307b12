package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// gcPercent is how much the heap may grow between collections, in percent. Pebble keeps its cache and memtables outside
// the heap, which is therefore small: at Go's 100 a tenth of a busy node's time went into collecting it. $GOGC overrides.
const gcPercent = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	root.SetArgs(etcdArgs(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "pontoon: %s\n", oneLine(err))
		var usage *usageError
		if errors.As(err, &usage) {
			return 2
		}
		return 1
	}
	return 0
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pontoon",
		Short: "An etcd v3 store cut into ranges, each its own Raft group",
		Long: `Pontoon is an etcd v3 store whose keyspace is cut into ranges, each its own Raft group.
Clients of etcd (etcdctl, clientv3, kube-apiserver) use it unchanged.`,
		Example: `  pontoon dev                        # three nodes on this machine, to try it
  pontoon server --name n1 …         # one node of a real cluster, with etcd's flags
  pontoon range list                 # the ranges of a running cluster`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return flagError(c, err) })
	root.AddCommand(newDevCommand(), newServerCommand(), newRangeCommand(), newVersionCommand())
	return root
}

// etcdArgs lets a command line written for etcd work: without a command, flags mean the server; and a long flag may have
// one dash, as Go's flag package reads them.
func etcdArgs(args []string) []string {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") && args[0] != "server" {
		return args
	}
	known := newServerOptions().flags
	out := make([]string, 0, len(args)+1)
	for _, a := range args {
		name, _, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
		if !strings.HasPrefix(a, "--") && strings.HasPrefix(a, "-") && len(name) > 1 && known.Lookup(name) != nil {
			a = "-" + a
		}
		out = append(out, a)
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(out[0], "--"), "=")
	if out[0] != "server" && known.Lookup(name) != nil && name != "help" {
		out = append([]string{"server"}, out...)
	}
	return out
}

// usageError is a command line that makes no sense; the exit code is 2, as etcd's.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// flagError adds to cobra's complaint where help is to be had, and the flag that may have been meant.
func flagError(c *cobra.Command, err error) error {
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "unknown flag: --"); ok {
		if near := nearestFlag(c, name); near != "" {
			return &usageError{fmt.Errorf("unknown flag --%s; did you mean --%s? (%s --help lists all)", name, near, c.CommandPath())}
		}
		return &usageError{fmt.Errorf("unknown flag --%s; %s --help lists all", name, c.CommandPath())}
	}
	return &usageError{fmt.Errorf("%s; see %s --help", msg, c.CommandPath())}
}

// oneLine keeps an error on one line, whatever library it came from.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
