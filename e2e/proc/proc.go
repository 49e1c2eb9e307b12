// Package proc runs the built binary: nodes of a cluster as real processes that can be killed and started again.
package proc

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Build builds the pontoon binary into dir and returns its path.
func Build(dir string) (string, error) {
	_, self, _, _ := runtime.Caller(0)
	bin := filepath.Join(dir, "pontoon")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/pontoon")
	cmd.Dir = filepath.Join(filepath.Dir(self), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
}

// FreePort returns a TCP port of the loopback interface that was free a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Cluster is some nodes of one cluster, each a process.
type Cluster struct {
	Nodes []*Node
}

// Node is one node; its process comes and goes, its name, addresses and directory stay.
type Node struct {
	Name   string
	Client string // URL
	Dir    string
	Log    string // file of all its processes' output

	bin  string
	args []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// NewCluster lays out n nodes below dir; args are given to each. Nothing runs yet. The command line is etcd's, so bin may
// be an etcd as well.
func NewCluster(bin, dir string, n int, args ...string) (*Cluster, error) {
	c := &Cluster{}
	var peers, initial []string
	for i := range n {
		client, err := FreePort()
		if err != nil {
			return nil, err
		}
		peer, err := FreePort()
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("n%d", i+1)
		node := &Node{Name: name, Client: fmt.Sprintf("http://127.0.0.1:%d", client), Dir: filepath.Join(dir, name),
			Log: filepath.Join(dir, name+".log"), bin: bin}
		c.Nodes = append(c.Nodes, node)
		peers = append(peers, fmt.Sprintf("http://127.0.0.1:%d", peer))
		initial = append(initial, name+"="+peers[i])
	}
	for i, node := range c.Nodes {
		node.args = append([]string{
			"--name", node.Name, "--data-dir", node.Dir,
			"--listen-client-urls", node.Client, "--advertise-client-urls", node.Client,
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-token", filepath.Base(dir),
		}, args...)
	}
	return c, nil
}

// Endpoints are the client URLs of all nodes.
func (c *Cluster) Endpoints() (urls []string) {
	for _, n := range c.Nodes {
		urls = append(urls, n.Client)
	}
	return urls
}

// Start starts all nodes and waits until each is ready.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Stop asks all nodes to stop, waits for them, and kills those that take longer than a few seconds.
func (c *Cluster) Stop() {
	var wg sync.WaitGroup
	for _, n := range c.Nodes {
		wg.Go(func() { _ = n.Stop(10 * time.Second) })
	}
	wg.Wait()
}

// Start starts the node's process.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(n.bin, n.args...)
	cmd.Stdout, cmd.Stderr = log, log
	// The nodes must not outlive a test that is itself killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		_ = log.Close()
		return err
	}
	done := make(chan struct{})
	n.cmd, n.done = cmd, done
	go func() {
		_ = cmd.Wait()
		_ = log.Close()
		close(done)
	}()
	return nil
}

// WaitReady waits until the node answers /readyz, or has ended.
func (n *Node) WaitReady(ctx context.Context) error {
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for {
		if resp, err := client.Get(n.Client + "/readyz"); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-done:
			return fmt.Errorf("%s has ended by itself; the end of its log:\n%s", n.Name, n.LogTail(10))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; the end of its log:\n%s", n.Name, ctx.Err(), n.LogTail(10))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the process as kill -9 does, and waits until it is gone.
func (n *Node) Kill() error { return n.signal(syscall.SIGKILL, time.Minute) }

// Stop asks the process to stop, and kills it after a while.
func (n *Node) Stop(patience time.Duration) error {
	if err := n.signal(syscall.SIGTERM, patience); err != nil {
		_ = n.Kill()
		return err
	}
	return nil
}

func (n *Node) signal(sig syscall.Signal, patience time.Duration) error {
	n.mu.Lock()
	cmd, done := n.cmd, n.done
	n.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(sig) // an error means that it has ended already
	select {
	case <-done:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s goes on %v after %v", n.Name, patience, sig)
	}
}

// ExitCode is that of the last process, -1 if it was killed or still runs.
func (n *Node) ExitCode() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.done:
		return n.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// CPU is the processor time that the running process has used.
func (n *Node) CPU() (time.Duration, error) {
	n.mu.Lock()
	pid := n.cmd.Process.Pid
	n.mu.Unlock()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses, which may hold blanks; user and system time are fields 14
	// and 15, in hundredths of a second.
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	var sum time.Duration
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum, nil
}

// LogTail returns the last lines of the node's output.
func (n *Node) LogTail(lines int) string {
	raw, err := os.ReadFile(n.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
