package proc

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestServerRefusals starts real servers in ways that cannot work: each must end by itself, with one line that names the
// remedy, and an exit code other than 0.
func TestServerRefusals(t *testing.T) {
	if testing.Short() {
		t.Skip("real processes; not with -short")
	}
	dir := t.TempDir()
	bin, err := Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCluster(bin, dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	running := c.Nodes[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	if log, err := os.ReadFile(running.Log); err != nil || !strings.Contains(string(log), `"msg":"ready to serve client requests"`) {
		t.Errorf("etcd's ready line is missing (%v):\n%s", err, log)
	}

	free := func() string { return "http://127.0.0.1:0" }
	start := func(args ...string) (string, int) {
		cmd := exec.CommandContext(ctx, bin, append([]string{"server", "--log-level", "fatal"}, args...)...)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	on := func(dataDir string, more ...string) []string {
		return append([]string{"--data-dir", dataDir, "--listen-client-urls", free(), "--advertise-client-urls", free(),
			"--listen-peer-urls", free()}, more...)
	}
	refuse := func(what string, args []string, want string) {
		t.Helper()
		out, code := start(args...)
		if code == 0 || !strings.HasPrefix(out, "pontoon: ") || strings.Count(out, "\n") != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d, want one line with %q; got:\n%s", what, code, want, out)
		}
	}
	refuse("a busy port", []string{"--data-dir", dir + "/x", "--listen-client-urls", running.Client, "--advertise-client-urls",
		running.Client, "--listen-peer-urls", free()}, "is in use; stop what listens there")
	refuse("a locked directory", on(running.Dir), running.Dir)
	refuse("contradictory flags", on(dir+"/x", "--initial-cluster", "other=http://127.0.0.1:1"), "--initial-cluster: does not list this node")

	if err := running.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if code := running.ExitCode(); code != 0 {
		t.Errorf("a node that is asked to stop exits with %d:\n%s", code, running.LogTail(5))
	}
	refuse("another cluster's data", on(running.Dir, "--initial-cluster-token", "another", "--name", "n1"), "cluster")
	if entries, err := os.ReadDir(dir + "/x"); err == nil && len(entries) > 0 {
		t.Errorf("a refused start left %d files behind", len(entries))
	}
}
