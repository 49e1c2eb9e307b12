package router

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/soheilhy/cmux"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// requestOverhead is what gRPC lets through above the greatest request, so that a request a little too large gets
// etcd's own error.
const requestOverhead = 512 << 10

// stopTimeout is how long Close lets requests end by themselves.
const stopTimeout = 2 * time.Second

// ServerConfig shapes the client-facing server. The zero value is etcd's defaults without TLS.
type ServerConfig struct {
	// MaxConcurrentStreams of one connection; 0: no limit.
	MaxConcurrentStreams uint32
	// A client that pings more often than KeepAliveMinTime is disconnected. KeepAliveInterval is between the server's own
	// pings, which are answered within KeepAliveTimeout. 0 leaves gRPC's default.
	KeepAliveMinTime, KeepAliveInterval, KeepAliveTimeout time.Duration
	// TLS is for the listeners given to ServeTLS and ServeGateway; nil: none.
	TLS *tls.Config
	// Handlers are added to the HTTP paths of every listener: "/metrics", "/debug/pprof/".
	Handlers map[string]http.Handler
	// NoGateway leaves out the JSON form of the API under /v3/.
	NoGateway bool
	// Options are added to the gRPC server's.
	Options    []grpc.ServerOption
	Logger     *zap.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Server is what clients connect to: gRPC and HTTP on the same ports.
//
//	listener ─► cmux ─┬─ HTTP/2 ─► gRPC, natively
//	                  └─ HTTP/1 ─► /health /livez /readyz /version, Handlers, /v3/… ─► gateway ─► gRPC, in memory
type Server struct {
	rt      *Router
	cfg     ServerConfig
	log     *zap.Logger
	grpc    *grpc.Server
	health  *health.Server
	gateway *gateway
	api     http.Handler // everything, with the gateway
	ops     http.Handler // health, version and Handlers only
	mu      struct {
		sync.Mutex
		closed bool
		https  []*http.Server
		lns    []net.Listener
	}
	wg sync.WaitGroup // goroutines of Serve, and the gateway's
}

// NewServer makes the server; it serves nobody until a listener is given to it.
func NewServer(cfg ServerConfig, rt *Router) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Server{rt: rt, cfg: cfg, log: cfg.Logger}
	s.grpc = grpc.NewServer(s.options()...)
	rt.Register(s.grpc)
	s.health = health.NewServer()
	healthpb.RegisterHealthServer(s.grpc, s.health)
	mux := http.NewServeMux()
	s.handleOps(mux)
	s.ops = mux
	s.api = mux
	if !cfg.NoGateway {
		if err := s.openGateway(); err != nil {
			return nil, err
		}
		mux = http.NewServeMux()
		s.handleOps(mux)
		mux.Handle("/v3/", s.gateway.mux)
		s.api = mux
	}
	return s, nil
}

func (s *Server) options() []grpc.ServerOption {
	c := &s.cfg
	in := newInterceptor(s.rt, s.log, c.Registerer)
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(in.unary),
		grpc.ChainStreamInterceptor(in.stream),
		grpc.MaxRecvMsgSize(s.rt.cfg.Limits.MaxRequestBytes + requestOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
	}
	if c.MaxConcurrentStreams > 0 {
		opts = append(opts, grpc.MaxConcurrentStreams(c.MaxConcurrentStreams))
	}
	if c.KeepAliveMinTime > 0 {
		opts = append(opts, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: c.KeepAliveMinTime}))
	}
	if c.KeepAliveInterval > 0 && c.KeepAliveTimeout > 0 {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: c.KeepAliveInterval, Timeout: c.KeepAliveTimeout,
		}))
	}
	return append(opts, c.Options...)
}

// Serve serves gRPC and HTTP on a listener until that or the server is closed. It returns nil if it was the server.
func (s *Server) Serve(l net.Listener) error {
	hs, ok := s.begin(l, s.api)
	if !ok {
		return net.ErrClosed
	}
	m := cmux.New(l)
	m.SetReadTimeout(10 * time.Second) // of a connection that says nothing
	hl, gl := m.Match(cmux.HTTP1Fast()), m.Match(cmux.Any())
	s.wg.Go(func() { _ = hs.Serve(hl) })
	s.wg.Go(func() { _ = s.grpc.Serve(gl) })
	defer m.Close()
	return s.ended(m.Serve())
}

// ServeTLS is Serve with ServerConfig.TLS: the handshake is made here, so that gRPC stays on its own transport.
func (s *Server) ServeTLS(l net.Listener) error {
	tl, err := s.secure(l)
	if err != nil {
		return err
	}
	return s.Serve(tl)
}

// ServeGateway serves HTTP only, with the gateway; with TLS if ServerConfig.TLS is set and secure is.
func (s *Server) ServeGateway(l net.Listener, secure bool) (err error) {
	if secure {
		if l, err = s.secure(l); err != nil {
			return err
		}
	}
	return s.serveHTTP(l, s.api)
}

// ServeHTTP serves health, version and ServerConfig.Handlers only, for a port that is not for clients.
func (s *Server) ServeHTTP(l net.Listener) error { return s.serveHTTP(l, s.ops) }

func (s *Server) serveHTTP(l net.Listener, h http.Handler) error {
	hs, ok := s.begin(l, h)
	if !ok {
		return net.ErrClosed
	}
	return s.ended(hs.Serve(l))
}

func (s *Server) secure(l net.Listener) (net.Listener, error) {
	if s.cfg.TLS == nil {
		return nil, errors.New("router: a secure listener needs a TLS configuration")
	}
	c := s.cfg.TLS.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	return tls.NewListener(l, c), nil
}

// begin enters a listener into the books.
func (s *Server) begin(l net.Listener, h http.Handler) (*http.Server, bool) {
	hs := &http.Server{
		Handler: h, ReadHeaderTimeout: 30 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0), // what clients do wrong is not worth a line each
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, false
	}
	s.mu.https = append(s.mu.https, hs)
	s.mu.lns = append(s.mu.lns, l)
	return hs, true
}

// ended makes nothing of an error that Close has caused.
func (s *Server) ended(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil
	}
	return err
}

// SetServing tells health checks over gRPC whether this node serves; it begins with yes.
func (s *Server) SetServing(ok bool) {
	st := healthpb.HealthCheckResponse_SERVING
	if !ok {
		st = healthpb.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus("", st)
}

// Close stops taking requests, lets those under way end for a moment, then ends them. It may be called twice.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return nil
	}
	s.mu.closed = true
	https, lns := s.mu.https, s.mu.lns
	s.mu.Unlock()
	s.health.Shutdown()
	for _, l := range lns {
		_ = l.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, h := range https {
		if h.Shutdown(ctx) != nil {
			_ = h.Close()
		}
	}
	if s.gateway != nil {
		s.gateway.close()
	}
	stopped := make(chan struct{})
	s.wg.Go(func() {
		s.grpc.GracefulStop()
		close(stopped)
	})
	select {
	case <-stopped:
	case <-ctx.Done():
		s.grpc.Stop()
	}
	s.wg.Wait()
	return nil
}
