package node

import (
	"crypto/tls"
	"fmt"

	"github.com/pontoon-kv/pontoon/multiraft/transport/grpcnet"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// newGRPCTransport is the transport of real nodes: gRPC over the first peer listener.
func (n *Node) newGRPCTransport(p TransportParams) (PeerTransport, error) {
	c := &n.cfg
	if len(c.PeerListeners) == 0 {
		ls, err := Listen("listen-peer-urls", c.ListenPeerURLs, c.GRPC)
		if err != nil {
			return nil, err
		}
		c.PeerListeners = ls
	}
	if len(c.PeerListeners) != 1 {
		return nil, invalid("listen-peer-urls", "%d URLs", len(c.PeerListeners)).fix("give one; 0.0.0.0 listens on all addresses")
	}
	cfg := grpcnet.Config{
		ClusterID: p.ClusterID, Self: p.Self, DiskID: p.DiskID, Incarnation: p.Incarnation,
		Listener: c.PeerListeners[0], Resolve: p.Resolve, CheckPeer: p.CheckPeer, OnRefused: p.OnRefused,
		LivenessTimeout: p.LivenessTimeout, Logger: n.log, Registerer: c.Registerer,
	}
	if l, ok := c.PeerListeners[0].(*Listener); ok && l.Secure() {
		server, err := c.PeerTLS.ServerConfig()
		if err != nil {
			return nil, fmt.Errorf("peer TLS: %w", err)
		}
		client, err := c.PeerTLS.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("peer TLS: %w", err)
		}
		if c.PeerAutoTLS {
			// A certificate that this node made for itself can't be checked by others: it encrypts, it does not identify.
			client = client.Clone()
			client.InsecureSkipVerify = true
		}
		cfg.ServerTLS, cfg.ClientTLS = withHTTP2(server), client
	}
	return grpcnet.New(cfg)
}

func withHTTP2(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"h2"}
	return c
}

// refused is told that another node refuses this one. While it starts, and a majority does so, it will never get in: it
// says why and ends, rather than wait for ever.
func (n *Node) refused(by ids.NodeID, reason string) {
	n.refusals.mu.Lock()
	if n.refusals.by == nil {
		n.refusals.by = make(map[ids.NodeID]bool)
	}
	n.refusals.by[by] = true
	k := len(n.refusals.by)
	n.refusals.mu.Unlock()
	if !n.isReady() && k > len(n.id.Members)/2 {
		n.fail(fmt.Errorf("the cluster refuses this node: %s", reason))
	}
}
