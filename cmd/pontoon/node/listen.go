package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"

	tlsinfo "go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Listener is a plain listener that remembers the URL it was opened for.
type Listener struct {
	net.Listener
	URL url.URL
}

// Secure reports whether the URL asks for TLS.
func (l *Listener) Secure() bool { return l.URL.Scheme == "https" || l.URL.Scheme == "unixs" }

// Listen opens a listener for each URL; flag is named in errors. If one fails, those already open are closed.
func Listen(flag string, urls []url.URL, opts GRPC) (out []net.Listener, err error) {
	defer func() {
		if err != nil {
			CloseListeners(out)
			out = nil
		}
	}()
	lc := net.ListenConfig{Control: opts.control}
	for _, u := range urls {
		network, addr := "tcp", u.Host
		if u.Scheme == "unix" || u.Scheme == "unixs" {
			network, addr = "unix", u.Host+u.Path
			// A socket left over by a dead process would make the address busy for ever.
			if c, err := net.Dial(network, addr); err == nil {
				_ = c.Close()
			} else {
				_ = os.Remove(addr)
			}
		}
		l, err := lc.Listen(context.Background(), network, addr)
		if err != nil {
			return out, listenError(flag, u, err)
		}
		out = append(out, &Listener{Listener: l, URL: u})
	}
	return out, nil
}

// control sets the options that etcd's --socket-reuse-* flags ask for.
func (g GRPC) control(_, _ string, conn syscall.RawConn) error {
	if !g.ReusePort {
		return nil // SO_REUSEADDR is Go's default
	}
	var serr error
	err := conn.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(err, serr)
}

func listenError(flag string, u url.URL, err error) error {
	e := invalid(flag, "cannot listen on %s: %v", u.String(), err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		e.Problem = fmt.Sprintf("%s is in use", u.Host+u.Path)
		return e.fix("stop what listens there (another pontoon or etcd?) or choose another port")
	case errors.Is(err, syscall.EACCES):
		return e.fix("choose a port above 1023 or run with the right to bind it")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return e.fix("use an address of this machine, or 0.0.0.0")
	}
	return e.fix("choose an address this machine can listen on")
}

// CloseListeners closes listeners that never came to use.
func CloseListeners(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close()
	}
}

// PrepareTLS makes the certificates that --auto-tls and --peer-auto-tls ask for, in the data directory.
func (c *Config) PrepareTLS(logger *zap.Logger) error {
	for _, t := range []struct {
		flag string
		auto bool
		info *tlsinfo.TLSInfo
		urls []url.URL
	}{
		{"auto-tls", c.ClientAutoTLS, &c.ClientTLS, c.ListenClientURLs},
		{"peer-auto-tls", c.PeerAutoTLS, &c.PeerTLS, c.ListenPeerURLs},
	} {
		t.info.Logger = logger
		if !t.auto || t.info.CertFile != "" {
			continue
		}
		var hosts []string
		for _, u := range t.urls {
			hosts = append(hosts, u.Host)
		}
		made, err := tlsinfo.SelfCert(logger, c.TLSDir()+"/"+t.flag, hosts, c.SelfSignedYears)
		if err != nil {
			return invalid(t.flag, "cannot make a certificate: %v", err).fix("name certificate files instead")
		}
		t.info.CertFile, t.info.KeyFile = made.CertFile, made.KeyFile
		t.info.ClientCertFile, t.info.ClientKeyFile = made.ClientCertFile, made.ClientKeyFile
	}
	return nil
}
