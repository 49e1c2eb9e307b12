package node

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/rangegroup/eval"
	"github.com/pontoon-kv/pontoon/router"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// front is what clients talk to: the router, and the server that listens for them.
type front struct {
	n      *Node
	router *router.Router
	server *router.Server
	wg     sync.WaitGroup // what serves a listener
	lns    []net.Listener
	close1 sync.Once
}

// openFront makes the router and installs the handlers that other nodes call.
func (n *Node) openFront() error {
	c := &n.cfg
	rt, err := router.New(router.Config{
		ClusterID: n.id.ClusterID, Node: n.id.Node,
		Limits:          eval.Limits{MaxTxnOps: int(c.MaxTxnOps), MaxRequestBytes: int(c.MaxRequestBytes)},
		ElectionTimeout: c.ElectionTimeout, SlowRequest: c.SlowRequest, QuotaBytes: c.QuotaBytes,
		Logger: n.log, Registerer: c.Registerer,
	}, router.Deps{
		Ranges: n.ranges, Sender: sender{n.net}, Directory: directory{n.client}, Cluster: clusterView{n},
		Store: store{n.data}, Clock: c.Clock,
	})
	if err != nil {
		return err
	}
	if n.boot != nil {
		rt.Learn(n.boot.Ranges...)
	}
	n.net.Handle(transport.MethodRange, n.ranges.HandleRange(rt.ServeRead))
	n.net.Handle(transport.MethodConfirm, n.ranges.HandleConfirm)
	n.net.Handle(transport.MethodNode, rt.HandleNode)
	n.front = &front{n: n, router: rt}
	return nil
}

// KV is the KV service, for callers in the same process.
func (n *Node) KV() pb.KVServer { return n.front.router.KV() }

// Cluster is the Cluster service, for callers in the same process.
func (n *Node) Cluster() pb.ClusterServer { return n.front.router.Cluster() }

// Maintenance is the Maintenance service, for callers in the same process.
func (n *Node) Maintenance() pb.MaintenanceServer { return n.front.router.Maintenance() }

// ClientAddr is the address of the first client listener; empty before Ready, and if there is none.
func (n *Node) ClientAddr() string {
	if len(n.cfg.ClientListeners) == 0 {
		return ""
	}
	return n.cfg.ClientListeners[0].Addr().String()
}

// newServer makes the client-facing server of the node's configuration.
func (f *front) newServer() (*router.Server, error) {
	c := &f.n.cfg
	handlers := map[string]http.Handler{}
	if c.Gatherer != nil {
		handlers["/metrics"] = promhttp.HandlerFor(c.Gatherer, promhttp.HandlerOpts{})
	}
	if c.Pprof {
		mux := http.NewServeMux()
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		handlers["/debug/pprof/"] = mux
	}
	cfg := router.ServerConfig{
		MaxConcurrentStreams: c.MaxConcurrentStreams, KeepAliveMinTime: c.KeepAliveMinTime,
		KeepAliveInterval: c.KeepAliveInterval, KeepAliveTimeout: c.KeepAliveTimeout,
		Handlers: handlers, Logger: f.n.log, Registerer: c.Registerer,
	}
	if !c.ClientTLS.Empty() {
		t, err := c.ClientTLS.ServerConfig()
		if err != nil {
			return nil, fmt.Errorf("client TLS: %w", err)
		}
		cfg.TLS = t
	}
	return router.NewServer(cfg, f.router)
}

// secure reports whether a listener was opened for a URL that asks for TLS.
func secure(l net.Listener) bool {
	s, ok := l.(*Listener)
	return ok && s.Secure()
}

// start opens the client listeners, if the node is to have any.
func (f *front) start() (err error) {
	c := &f.n.cfg
	if c.Headless {
		return nil
	}
	if len(c.ClientListeners) == 0 {
		if c.ClientListeners, err = Listen("listen-client-urls", c.ListenClientURLs, c.GRPC); err != nil {
			return err
		}
	}
	if len(c.MetricsListeners) == 0 {
		if c.MetricsListeners, err = Listen("listen-metrics-urls", c.ListenMetricsURLs, c.GRPC); err != nil {
			return err
		}
	}
	f.server, err = f.newServer()
	if err != nil {
		return err
	}
	for _, l := range c.ClientListeners {
		if secure(l) {
			f.serve(l, f.server.ServeTLS)
		} else {
			f.serve(l, f.server.Serve)
		}
	}
	for _, l := range c.MetricsListeners {
		f.serve(l, f.server.ServeHTTP)
	}
	return nil
}

func (f *front) serve(l net.Listener, serve func(net.Listener) error) {
	f.lns = append(f.lns, l)
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		if err := serve(l); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			f.n.fail(fmt.Errorf("serving %v: %w", l.Addr(), err))
		}
	}()
}

func (f *front) close() error {
	var err error
	f.close1.Do(func() {
		if f.server != nil {
			err = f.server.Close()
		}
		CloseListeners(f.lns)
		f.wg.Wait()
		err = errors.Join(err, f.router.Close())
	})
	return err
}
