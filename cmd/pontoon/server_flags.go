package main

import (
	"net/url"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/spf13/pflag"
)

// serverOptions is the command line of `pontoon server`. Flags, environment variables and the configuration file all set
// it through flags, so they know the same names.
type serverOptions struct {
	cfg        node.Config
	configFile string
	log        logOptions
	httpURLs   []url.URL
	cluster    string // --initial-cluster, read when the other flags are known
	tls        tlsOptions
	version    bool

	flags  *pflag.FlagSet
	groups []flagGroup // what help prints, in order
}

// tlsOptions are shared by both listeners.
type tlsOptions struct {
	cipherSuites []string
	min, max     string
}

type flagGroup struct {
	title string
	flags *pflag.FlagSet
}

func newServerOptions() *serverOptions {
	o := &serverOptions{cfg: node.Default(), flags: pflag.NewFlagSet("server", pflag.ContinueOnError)}
	o.cfg.DataDir = "" // follows the name
	o.memberFlags(o.group("Member"))
	o.clusterFlags(o.group("Clustering (all nodes of a new cluster must agree on these)"))
	o.limitFlags(o.group("Limits"))
	o.clientTLSFlags(o.group("Security of clients"))
	o.peerTLSFlags(o.group("Security between nodes"))
	o.log.register(o.group("Logging and monitoring"))
	o.monitorFlags(o.groups[len(o.groups)-1].flags)
	o.engineFlags(o.group("Pontoon's own"))
	for _, g := range o.groups {
		o.flags.AddFlagSet(g.flags)
	}
	for _, f := range inertFlags {
		v := o.flags.VarPF(&inertValue{}, f.name, "", f.why)
		v.Hidden = true
		if f.boolean {
			v.NoOptDefVal = "true"
		}
	}
	return o
}

func (o *serverOptions) group(title string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(title, pflag.ContinueOnError)
	fs.SortFlags = false
	o.groups = append(o.groups, flagGroup{title, fs})
	return fs
}

func (o *serverOptions) memberFlags(fs *pflag.FlagSet) {
	c := &o.cfg
	urls := func(name string, to *[]url.URL, help string) { fs.Var(urlsValue{name, to}, name, help) }
	fs.StringVar(&c.Name, "name", c.Name, "this node's name in --initial-cluster")
	fs.StringVar(&c.DataDir, "data-dir", "", "directory of this node's data (default ${name}.pontoon)")
	urls("listen-client-urls", &c.ListenClientURLs, "where to listen for clients")
	urls("listen-client-http-urls", &o.httpURLs, "where to serve plain HTTP (/health, /version, /metrics) besides the client URLs")
	urls("advertise-client-urls", &c.AdvertiseClientURLs, "how clients reach this node")
	urls("listen-peer-urls", &c.ListenPeerURLs, "where to listen for the other nodes")
	fs.Var(millisValue{&c.HeartbeatInterval}, "heartbeat-interval", "milliseconds between heartbeats")
	fs.Var(millisValue{&c.ElectionTimeout}, "election-timeout", "milliseconds of silence after which a leader is taken for dead")
	fs.DurationVar(&c.KeepAliveMinTime, "grpc-keepalive-min-time", c.KeepAliveMinTime, "a client that pings more often is disconnected")
	fs.DurationVar(&c.KeepAliveInterval, "grpc-keepalive-interval", c.KeepAliveInterval, "time between the node's own pings to clients (0: none)")
	fs.DurationVar(&c.KeepAliveTimeout, "grpc-keepalive-timeout", c.KeepAliveTimeout, "time a client has to answer a ping")
	fs.BoolVar(&c.ReusePort, "socket-reuse-port", false, "let several processes listen on the same ports (SO_REUSEPORT)")
	fs.BoolVar(&c.ReuseAddress, "socket-reuse-address", false, "listen on addresses in TIME_WAIT (always the case)")
	fs.StringVar(&o.configFile, "config-file", "", "YAML file of these settings; flags and environment variables are then not looked at")
}

func (o *serverOptions) clusterFlags(fs *pflag.FlagSet) {
	c := &o.cfg
	fs.Var(urlsValue{"initial-advertise-peer-urls", &c.AdvertisePeerURLs}, "initial-advertise-peer-urls", "how the other nodes reach this one")
	fs.StringVar(&o.cluster, "initial-cluster", "", "every node of the new cluster, name=URL,… (default: this node alone)")
	fs.StringVar(&c.InitialClusterState, "initial-cluster-state", c.InitialClusterState, "new, or existing")
	fs.StringVar(&c.InitialClusterToken, "initial-cluster-token", c.InitialClusterToken, "tells clusters with the same addresses apart")
	fs.Var(splitsValue{&c.InitialSplits}, "initial-splits", "cut the user keys into n ranges, or at these keys (k1,k2,…)")
}

func (o *serverOptions) limitFlags(fs *pflag.FlagSet) {
	c := &o.cfg
	fs.UintVar(&c.MaxTxnOps, "max-txn-ops", c.MaxTxnOps, "operations in one transaction")
	fs.UintVar(&c.MaxRequestBytes, "max-request-bytes", c.MaxRequestBytes, "size of one client request")
	fs.Uint32Var(&c.MaxConcurrentStreams, "max-concurrent-streams", c.MaxConcurrentStreams, "streams of one client connection")
	fs.Int64Var(&c.QuotaBytes, "quota-backend-bytes", c.QuotaBytes, "size of this node's data from which on writes are refused (0: no limit but the disk's)")
}

func (o *serverOptions) clientTLSFlags(fs *pflag.FlagSet) {
	t := &o.cfg.ClientTLS
	fs.StringVar(&t.CertFile, "cert-file", "", "certificate of the client listener")
	fs.StringVar(&t.KeyFile, "key-file", "", "its key")
	fs.StringVar(&t.TrustedCAFile, "trusted-ca-file", "", "CA that client certificates must come from")
	fs.BoolVar(&t.ClientCertAuth, "client-cert-auth", false, "clients must show a certificate")
	fs.StringVar(&t.CRLFile, "client-crl-file", "", "client certificates that were revoked")
	fs.Var(listValue{&t.AllowedHostnames}, "client-cert-allowed-hostname", "names one of which a client certificate must carry")
	fs.StringVar(&t.ClientCertFile, "client-cert-file", "", "certificate this node shows as a client, if another one")
	fs.StringVar(&t.ClientKeyFile, "client-key-file", "", "its key")
	fs.BoolVar(&o.cfg.ClientAutoTLS, "auto-tls", false, "make a certificate for the client listener")
}

func (o *serverOptions) peerTLSFlags(fs *pflag.FlagSet) {
	t := &o.cfg.PeerTLS
	fs.StringVar(&t.CertFile, "peer-cert-file", "", "certificate of the peer listener")
	fs.StringVar(&t.KeyFile, "peer-key-file", "", "its key")
	fs.StringVar(&t.TrustedCAFile, "peer-trusted-ca-file", "", "CA that the other nodes' certificates must come from")
	fs.BoolVar(&t.ClientCertAuth, "peer-client-cert-auth", false, "the other nodes must show a certificate")
	fs.StringVar(&t.CRLFile, "peer-crl-file", "", "peer certificates that were revoked")
	fs.Var(listValue{&t.AllowedCNs}, "peer-cert-allowed-cn", "common names one of which a peer certificate must carry")
	fs.Var(listValue{&t.AllowedHostnames}, "peer-cert-allowed-hostname", "names one of which a peer certificate must carry")
	fs.BoolVar(&t.SkipClientSANVerify, "peer-skip-client-san-verification", false, "do not check the names in peer certificates")
	fs.StringVar(&t.ClientCertFile, "peer-client-cert-file", "", "certificate this node shows to the others, if another one")
	fs.StringVar(&t.ClientKeyFile, "peer-client-key-file", "", "its key")
	fs.BoolVar(&o.cfg.PeerAutoTLS, "peer-auto-tls", false, "make a certificate for the peer listener")
	fs.UintVar(&o.cfg.SelfSignedYears, "self-signed-cert-validity", o.cfg.SelfSignedYears, "years a certificate made here is valid")
	fs.Var(listValue{&o.tls.cipherSuites}, "cipher-suites", "TLS cipher suites of both listeners (default: Go's)")
	fs.StringVar(&o.tls.min, "tls-min-version", "TLS1.2", "least TLS version, TLS1.2 or TLS1.3")
	fs.StringVar(&o.tls.max, "tls-max-version", "", "greatest TLS version, TLS1.2 or TLS1.3 (default: Go's)")
}

func (o *serverOptions) monitorFlags(fs *pflag.FlagSet) {
	c := &o.cfg
	fs.Var(urlsValue{"listen-metrics-urls", &c.ListenMetricsURLs}, "listen-metrics-urls", "where to serve /metrics and /health besides the client URLs")
	fs.DurationVar(&c.SlowRequest, "warning-unary-request-duration", c.SlowRequest, "log requests that take longer")
	fs.BoolVar(&c.Pprof, "enable-pprof", false, "serve /debug/pprof/ on the client URLs")
	fs.BoolVar(&o.version, "version", false, "print the version and exit")
}

func (o *serverOptions) engineFlags(fs *pflag.FlagSet) {
	c := &o.cfg
	fs.Int64Var(&c.CacheBytes, "engine-cache-bytes", c.CacheBytes, "block cache of the storage engine")
	fs.Uint64Var(&c.MemTableBytes, "engine-memtable-bytes", c.MemTableBytes, "size of one memtable of the storage engine")
	fs.IntVar(&c.Workers, "raft-workers", c.Workers, "workers that step Raft groups (0: one per processor)")
	fs.StringVar((*string)(&c.SequencerProof), "sequencer-proof", string(c.SequencerProof), "what the sequencer relies on: lease (clock rates within 5 %) or quorum")
	fs.StringVar((*string)(&c.LeaderPolicy), "leader-policy", string(c.LeaderPolicy), "where range leaders go: gathered (on the sequencer's node) or spread")
}
