package main

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// output collects what a command prints while a test reads it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// devRun is a running `pontoon dev`.
type devRun struct {
	out    output
	cancel context.CancelFunc
	err    chan error
}

func startDev(t *testing.T, o *devOptions) *devRun {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &devRun{cancel: cancel, err: make(chan error, 1)}
	o.log.level, o.log.format, o.log.outputs = "error", "console", []string{"stderr"}
	go func() { r.err <- runDev(ctx, &r.out, o) }()
	t.Cleanup(cancel)
	for begin := time.Now(); !strings.Contains(r.out.String(), "Stop:"); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-r.err:
			t.Fatalf("pontoon dev ended: %v\n%s", err, r.out.String())
		default:
		}
		if time.Since(begin) > devReadyTimeout {
			t.Fatalf("pontoon dev does not get ready:\n%s", r.out.String())
		}
	}
	return r
}

// client uses the endpoints that the command told people to use.
func (r *devRun) client(t *testing.T) *clientv3.Client {
	t.Helper()
	m := regexp.MustCompile(`etcdctl --endpoints=(\S+)`).FindStringSubmatch(r.out.String())
	if m == nil {
		t.Fatalf("no etcdctl line:\n%s", r.out.String())
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(m[1], ","), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func (r *devRun) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.err:
		if err != nil {
			t.Errorf("pontoon dev ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("pontoon dev does not stop")
	}
}

func TestDevKeepsOrRemovesData(t *testing.T) {
	if testing.Short() {
		t.Skip("whole clusters; not with -short")
	}
	dir := t.TempDir() + "/kept"
	splits := [][]byte{[]byte("m")}
	r := startDev(t, &devOptions{nodes: 3, dataDir: dir, splits: splits})
	cli := r.client(t)
	var rev int64
	for _, key := range []string{"a", "z"} { // one in each range
		resp, err := cli.Put(t.Context(), key, "kept")
		if err != nil {
			t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	if rev != 3 {
		t.Errorf("the second put of a new cluster has revision %d, want 3", rev)
	}
	r.stop(t)
	if !strings.Contains(r.out.String(), dir+", kept") {
		t.Errorf("not a word about the kept data:\n%s", r.out.String())
	}

	if err := runDev(t.Context(), &output{}, &devOptions{nodes: 1, dataDir: dir, log: logOptions{level: "error", format: "json"}}); err == nil ||
		!strings.Contains(err.Error(), "--nodes: ") {
		t.Errorf("another number of nodes on the same data: %v", err)
	}

	r = startDev(t, &devOptions{nodes: 3, dataDir: dir})
	resp, err := r.client(t).Get(t.Context(), "a", clientv3.WithFromKey())
	if err != nil || resp.Count != 2 || resp.Header.Revision != rev {
		t.Errorf("after a restart: %+v, %v; want 2 keys at revision %d", resp, err, rev)
	}
	r.stop(t)
}

func TestDevTemporaryData(t *testing.T) {
	if testing.Short() {
		t.Skip("whole clusters; not with -short")
	}
	t.Setenv("TMPDIR", t.TempDir())
	r := startDev(t, &devOptions{nodes: 1})
	if _, err := r.client(t).Put(t.Context(), "k", "v"); err != nil {
		t.Error(err)
	}
	r.stop(t)
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if !strings.Contains(r.out.String(), "Removed ") {
		t.Errorf("not a word about the removal:\n%s", r.out.String())
	}
}
