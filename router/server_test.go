package router

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/rangegroup"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// running is a server on a real port.
type running struct {
	node *fakeNode
	s    *Server
	addr string
	ops  string
	reg  *prometheus.Registry
	stop func()
}

func run(t *testing.T) *running {
	t.Helper()
	c := newFakeCluster(t, 1, "m")
	r := &running{node: c.nodes[1], reg: prometheus.NewRegistry()}
	var err error
	r.s, err = NewServer(ServerConfig{
		Registerer: r.reg, KeepAliveMinTime: time.Second,
		Handlers: map[string]http.Handler{"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "some metrics")
		})},
	}, r.node.router)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	listen := func(serve func(net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := serve(l); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		return l.Addr().String()
	}
	r.addr, r.ops = listen(r.s.Serve), listen(r.s.ServeHTTP)
	r.stop = func() {
		http.DefaultClient.CloseIdleConnections()
		if err := r.s.Close(); err != nil {
			t.Error(err)
		}
		if err := r.s.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		wg.Wait()
		c.close()
	}
	return r
}

func (r *running) http(t *testing.T, addr, path, body string) (int, string) {
	t.Helper()
	var resp *http.Response
	var err error
	if body == "" {
		resp, err = http.Get("http://" + addr + path)
	} else {
		resp, err = http.Post("http://"+addr+path, "application/json", strings.NewReader(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestServer(t *testing.T) {
	before := runtime.NumGoroutine()
	r := run(t)
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{r.addr}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := cli.Put(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Put(ctx, "z", "2"); err != nil {
		t.Fatal(err)
	}
	got, err := cli.Get(clientv3.WithRequireLeader(ctx), "", clientv3.WithPrefix())
	if err != nil || got.Count != 2 || got.Header.Revision != 3 {
		t.Errorf("get over two ranges: %v, %v", got, err)
	}
	if _, err := cli.Put(ctx, "", "x"); err != rpctypes.ErrEmptyKey {
		t.Errorf("put without a key: %v", err)
	}
	_, err = cli.Put(ctx, "big", string(make([]byte, 1600<<10)))
	if err != rpctypes.ErrRequestTooLarge {
		t.Errorf("put of 1.6 MiB: %v", err)
	}
	_, err = pb.NewKVClient(cli.ActiveConnection()).Put(ctx, put("big", string(make([]byte, 2200<<10))))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("put of 2.2 MiB: %v", err)
	}
	if _, err := cli.Grant(ctx, 10); status.Code(err) != codes.Unimplemented {
		t.Errorf("lease grant: %v", err)
	}
	st, err := cli.Status(ctx, r.addr)
	if err != nil || st.Version == "" || st.Header.Revision != 3 {
		t.Errorf("status: %v, %v", st, err)
	}
	if as, err := cli.AuthStatus(ctx); err != nil || as.Enabled {
		t.Errorf("auth status: %v, %v", as, err)
	}
	r.node.onWrite = func(rangegroup.Request) error { panic("a bug") }
	if _, err := cli.Put(ctx, "a", "1"); status.Code(err) != codes.Internal {
		t.Errorf("after a panic: %v", err)
	}
	r.node.onWrite = nil
	if _, err := cli.Put(ctx, "a", "1"); err != nil {
		t.Errorf("the server did not survive a panic: %v", err)
	}
	mfs, err := r.reg.Gather()
	if err != nil || len(mfs) == 0 {
		t.Errorf("metrics: %v, %v", mfs, err)
	}
	cli.Close()
	r.stop()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}

func TestHTTP(t *testing.T) {
	r := run(t)
	defer r.stop()
	for _, tc := range []struct{ addr, path, body, want string }{
		{r.addr, "/health", "", `{"health":"true","reason":""}`},
		{r.addr, "/health?serializable=true", "", `{"health":"true"`},
		{r.addr, "/livez", "", "ok\n"},
		{r.addr, "/readyz?verbose", "", "[+]linearizable_read ok"},
		{r.addr, "/readyz/serializable_read", "", "ok\n"},
		{r.addr, "/metrics", "", "some metrics"},
		{r.addr, "/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`, `"revision":"2"`},
		{r.addr, "/v3/kv/range", `{"key":"Zm9v"}`, `"value":"YmFy"`},
		{r.addr, "/v3/maintenance/status", `{}`, `"raft_term":"6"`},
		{r.ops, "/health", "", `{"health":"true"`},
		{r.ops, "/metrics", "", "some metrics"},
	} {
		code, body := r.http(t, tc.addr, tc.path, tc.body)
		if code != http.StatusOK || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %q, want %q", tc.path, code, body, tc.want)
		}
	}
	if code, body := r.http(t, r.addr, "/v3/kv/put", `{"value":"YmFy"}`); code != http.StatusBadRequest || !strings.Contains(body, "key is not provided") {
		t.Errorf("bad put: %d %q", code, body)
	}
	if code, _ := r.http(t, r.ops, "/v3/kv/range", `{"key":"Zm9v"}`); code != http.StatusNotFound {
		t.Errorf("the API on a port that is not for clients: %d", code)
	}
	if code, _ := r.http(t, r.addr, "/health", "x"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST /health: %d", code)
	}
	var v map[string]string
	if code, body := r.http(t, r.addr, "/version", ""); code != 200 || json.Unmarshal([]byte(body), &v) != nil ||
		!strings.HasPrefix(v["etcdserver"], "3.7.") || v["etcdcluster"] != "3.7.0" {
		t.Errorf("version: %q", body)
	}
	r.node.onConfirm = func() (<-chan struct{}, error) { return nil, io.ErrUnexpectedEOF }
	if code, body := r.http(t, r.addr, "/readyz", ""); code != http.StatusServiceUnavailable || !bytes.Contains([]byte(body), []byte("[-]linearizable_read failed")) {
		t.Errorf("not ready: %d %q", code, body)
	}
}
