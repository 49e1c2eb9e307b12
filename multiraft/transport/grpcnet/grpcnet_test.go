package grpcnet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/transporttest"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// network is a set of nodes on the loopback; a node keeps its port when it comes back.
type network struct {
	limits transporttest.Limits
	mu     sync.Mutex
	addrs  map[ids.NodeID]string
}

func newNetwork(l transporttest.Limits) *network {
	return &network{limits: l, addrs: map[ids.NodeID]string{}}
}

func (n *network) resolve(id ids.NodeID) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, ok := n.addrs[id]
	return addr, ok
}

func (n *network) listen(t testing.TB, id ids.NodeID) net.Listener {
	t.Helper()
	addr, ok := n.resolve(id)
	if !ok {
		addr = "127.0.0.1:0"
	}
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.addrs[id] = lis.Addr().String()
	n.mu.Unlock()
	return lis
}

func (n *network) config(t testing.TB, id ids.NodeID, incarnation uint64) Config {
	return Config{
		ClusterID: 99, Self: id, Incarnation: incarnation, Version: "test",
		Listener: n.listen(t, id), Resolve: n.resolve,
		LivenessTimeout:   transporttest.LivenessTimeout,
		RefusedBackoff:    50 * time.Millisecond,
		RaftQueueMessages: n.limits.RaftQueueMessages, CallsInFlight: n.limits.CallsInFlight,
		Registerer: prometheus.NewRegistry(),
	}
}

func (n *network) Join(t *testing.T, c transporttest.Config) transporttest.Node {
	t.Helper()
	cfg := n.config(t, c.ID, c.Incarnation)
	cfg.DiskID, cfg.CheckPeer = c.Disk, c.CheckPeer
	return join(t, cfg)
}

func join(t testing.TB, cfg Config) *Transport {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestConformance(t *testing.T) {
	withoutLeaks := func(t *testing.T, body func(*testing.T)) {
		t.Cleanup(func() { noLeaks(t) }) // runs last
		body(t)
	}
	transporttest.Run(t, withoutLeaks, func(t *testing.T, l transporttest.Limits) transporttest.Network {
		return newNetwork(l)
	})
}

// noLeaks fails the test if goroutines of the transport or of gRPC stay.
func noLeaks(t *testing.T) {
	var left string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 4<<20)
		left = ""
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "noLeaks") || strings.Contains(g, "testing.(*T).Run") {
				continue
			}
			if strings.Contains(g, "multiraft/transport") || strings.Contains(g, "google.golang.org/grpc") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			return
		}
	}
	t.Errorf("goroutines left:\n%s", left)
}

func startAll(t testing.TB, nodes ...*Transport) {
	t.Helper()
	for _, d := range nodes {
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
	}
}

func echo(_ ids.NodeID, p []byte, reply func([]byte, error)) { reply(p, nil) }

// callUntil calls until an answer comes.
func callUntil(t testing.TB, d *Transport, to ids.NodeID, m transport.Method) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := transport.Call(ctx, d, to, m, []byte("hello"))
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestRefusalsAreLoggedOnBothSides(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(cfg *Config)
		remedy string
	}{
		{"another cluster", func(cfg *Config) { cfg.ClusterID = 5 }, "--initial-cluster"},
		{"another node at the address", func(cfg *Config) { cfg.Self = 3 }, "--initial-advertise-peer-urls"},
		{"the dialled disk", func(cfg *Config) { cfg.DiskID = 66 }, "add the node again"},
		{"the dialling disk", func(cfg *Config) {
			cfg.CheckPeer = func(ids.NodeID, uint64) error { return errors.New("add the node again") }
		}, "add the node again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(transporttest.Limits{})
			cores := [2]*observer.ObservedLogs{}
			var nodes [2]*Transport
			for i := range nodes {
				var core zapcore.Core
				core, cores[i] = observer.New(zapcore.ErrorLevel)
				cfg := n.config(t, ids.NodeID(i+1), 1)
				cfg.Logger = zap.New(core)
				if i == 0 {
					cfg.CheckPeer = func(_ ids.NodeID, disk uint64) error {
						if disk == 66 {
							return errors.New("add the node again")
						}
						return nil
					}
				} else {
					c.change(&cfg)
				}
				nodes[i] = join(t, cfg)
			}
			startAll(t, nodes[:]...)
			_, err := transport.Call(t.Context(), nodes[0], 2, transport.MethodRange, nil)
			if !errors.Is(err, transport.ErrNotSent) || !strings.Contains(err.Error(), c.remedy) {
				t.Errorf("the call's error: %v", err)
			}
			for i, logs := range cores {
				end := time.Now().Add(5 * time.Second)
				found := false
				for !found && time.Now().Before(end) {
					for _, e := range logs.All() {
						reason, _ := e.ContextMap()["reason"].(string)
						found = found || strings.Contains(reason, c.remedy)
					}
					time.Sleep(5 * time.Millisecond)
				}
				if !found {
					t.Errorf("node %d logged %v", i+1, logs.All())
				}
			}
		})
	}
}

// TestBlackHole: a connection that goes silent without breaking must not make calls hang.
func TestBlackHole(t *testing.T) {
	n := newNetwork(transporttest.Limits{})
	e := join(t, n.config(t, 2, 1))
	e.Handle(transport.MethodRange, echo)
	proxy := newProxy(t, n.addrs[2])
	n.addrs[2] = proxy.addr()
	d := join(t, n.config(t, 1, 1))
	startAll(t, d, e)
	callUntil(t, d, 2, transport.MethodRange)
	proxy.stall(true)
	began := time.Now()
	_, err := transport.Call(t.Context(), d, 2, transport.MethodRange, nil)
	if took := time.Since(began); !errors.Is(err, transport.ErrLost) || took > 4*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	if d.Alive(2) {
		t.Error("alive in a black hole")
	}
	proxy.stall(false)
	callUntil(t, d, 2, transport.MethodRange)
}

// TestSlowTakerOfAnswers: answers that nobody takes must not pile up without bound.
func TestSlowTakerOfAnswers(t *testing.T) {
	n := newNetwork(transporttest.Limits{})
	cfg := n.config(t, 2, 1)
	cfg.ReplyQueueBytes = 1 << 20
	e := join(t, cfg)
	e.Handle(transport.MethodRange, func(_ ids.NodeID, _ []byte, reply func([]byte, error)) {
		reply(make([]byte, 1<<20), nil)
	})
	d := join(t, n.config(t, 1, 1))
	startAll(t, d, e)
	callUntil(t, d, 2, transport.MethodRange)
	ended := make(chan error, 200)
	release := make(chan struct{})
	for range cap(ended) {
		d.Go(t.Context(), 2, transport.MethodRange, nil, func(_ []byte, err error) {
			<-release // a done that breaks the rules holds up the reader
			ended <- err
		})
	}
	time.Sleep(500 * time.Millisecond)
	close(release)
	lost := 0
	for range cap(ended) {
		if err := <-ended; errors.Is(err, transport.ErrLost) {
			lost++
		}
	}
	if lost == 0 {
		t.Error("no stream was broken")
	}
}

func TestTLS(t *testing.T) {
	cert, pool := certificate(t)
	n := newNetwork(transporttest.Limits{})
	secure := func(cfg Config) Config {
		cfg.ServerTLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool,
			ClientAuth: tls.RequireAndVerifyClientCert}
		cfg.ClientTLS = &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}
		return cfg
	}
	d, e := join(t, secure(n.config(t, 1, 1))), join(t, secure(n.config(t, 2, 1)))
	plain := join(t, n.config(t, 3, 1))
	e.Handle(transport.MethodRange, echo)
	startAll(t, d, e, plain)
	callUntil(t, d, 2, transport.MethodRange)
	if _, err := transport.Call(t.Context(), plain, 2, transport.MethodRange, nil); !errors.Is(err, transport.ErrNotSent) {
		t.Errorf("a node without TLS: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	n := newNetwork(transporttest.Limits{})
	good := n.config(t, 1, 1)
	defer func() { _ = good.Listener.Close() }()
	for what, change := range map[string]func(c *Config){
		"Self":     func(c *Config) { c.Self = 0 },
		"Listener": func(c *Config) { c.Listener = nil },
		"Resolve":  func(c *Config) { c.Resolve = nil },
		"TLS":      func(c *Config) { c.ServerTLS = &tls.Config{} },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	n := newNetwork(transporttest.Limits{})
	reg := prometheus.NewPedanticRegistry()
	cfg := n.config(t, 1, 1)
	cfg.Registerer = reg
	d, e := join(t, cfg), join(t, n.config(t, 2, 1))
	e.Handle(transport.MethodRange, echo)
	startAll(t, d, e)
	callUntil(t, d, 2, transport.MethodRange)
	d.SendRaft(2, []*pontoonpb.RaftMessage{{RangeId: 1}})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pontoon_transport_messages_total" {
			return
		}
	}
	t.Errorf("got %v", families)
}

// proxy passes connections on to a target, or holds everything back.
type proxy struct {
	lis net.Listener

	mu      sync.Mutex
	cond    sync.Cond
	stalled bool
	closed  bool
	conns   []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{lis: lis}
	p.cond.L = &p.mu
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := lis.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			wg.Go(func() { p.copy(in, out) })
			wg.Go(func() { p.copy(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = lis.Close()
		p.mu.Lock()
		p.closed = true
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.cond.Broadcast()
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.lis.Addr().String() }

func (p *proxy) stall(on bool) {
	p.mu.Lock()
	p.stalled = on
	p.cond.Broadcast()
	p.mu.Unlock()
}

func (p *proxy) copy(dst, src net.Conn) {
	defer func() { _ = dst.Close(); _ = src.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		for p.stalled && !p.closed {
			p.cond.Wait()
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
