package node

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// ConfigError is a setting that can't work: the flag it came from, what is wrong with it, and what to do.
type ConfigError struct {
	Flag    string // without dashes
	Problem string
	Remedy  string
}

func (e *ConfigError) Error() string {
	s := fmt.Sprintf("--%s: %s", e.Flag, e.Problem)
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func invalid(flag, format string, args ...any) *ConfigError {
	return &ConfigError{Flag: flag, Problem: fmt.Sprintf(format, args...)}
}

func (e *ConfigError) fix(format string, args ...any) *ConfigError {
	e.Remedy = fmt.Sprintf(format, args...)
	return e
}

// electionTimeoutMax is etcd's: a longer one helps no network.
const electionTimeoutMax = 50 * time.Second

// Validate returns the first thing in the configuration that can't work, as a *ConfigError.
func (c *Config) Validate() error {
	for _, check := range []func() *ConfigError{
		c.checkIdentity, c.checkURLs, c.checkCluster, c.checkSplits, c.checkTimes, c.checkLimits, c.checkTLS,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) checkIdentity() *ConfigError {
	switch {
	case c.Name == "":
		return invalid("name", "is empty").fix("give the node the name it has in --initial-cluster")
	case strings.ContainsAny(c.Name, "=,"):
		return invalid("name", "%q contains '=' or ','", c.Name).fix("choose a name that --initial-cluster can list")
	case c.DataDir == "":
		return invalid("data-dir", "is empty").fix("name a directory that is this node's alone")
	}
	return nil
}

func (c *Config) checkURLs() *ConfigError {
	lists := []struct {
		flag     string
		urls     []url.URL
		injected bool
		bind     bool
		optional bool
	}{
		{flag: "listen-client-urls", urls: c.ListenClientURLs, injected: c.ClientListeners != nil, bind: true},
		{flag: "listen-peer-urls", urls: c.ListenPeerURLs, injected: c.PeerListeners != nil || c.Transport != nil, bind: true},
		{flag: "listen-metrics-urls", urls: c.ListenMetricsURLs, bind: true, optional: true},
		{flag: "advertise-client-urls", urls: c.AdvertiseClientURLs},
		{flag: "initial-advertise-peer-urls", urls: c.AdvertisePeerURLs},
	}
	for _, l := range lists {
		if len(l.urls) == 0 && !l.injected && !l.optional {
			if l.flag == "advertise-client-urls" {
				return invalid(l.flag, "is not set although --listen-client-urls is").fix("say how clients reach this node")
			}
			return invalid(l.flag, "is empty").fix("name at least one URL")
		}
		for _, u := range l.urls {
			if err := checkURL(l.flag, u, l.bind); err != nil {
				return err
			}
		}
	}
	for _, u := range c.ListenClientURLs {
		for _, p := range c.ListenPeerURLs {
			if u.Host != "" && u.Host == p.Host && !strings.HasSuffix(u.Host, ":0") {
				return invalid("listen-peer-urls", "%s is also in --listen-client-urls", u.Host).fix("use two ports")
			}
		}
	}
	return nil
}

// checkURL applies etcd's rules: a scheme it knows, host and port, no path; to bind, an address and not a name.
func checkURL(flag string, u url.URL, bind bool) *ConfigError {
	switch u.Scheme {
	case "unix", "unixs":
		return nil
	case "http", "https":
	default:
		return invalid(flag, "%q has no scheme that is known here", u.String()).fix("use http:// or https://")
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || port == "" {
		return invalid(flag, "%q has no port", u.String()).fix("write it as %s://host:port", u.Scheme)
	}
	if u.Path != "" {
		return invalid(flag, "%q has a path", u.String()).fix("write it as %s://host:port", u.Scheme)
	}
	if bind && host != "" && host != "localhost" && net.ParseIP(host) == nil {
		return invalid(flag, "%q names a host, and a node can only listen on an address", u.String()).
			fix("use an IP address of this machine, or 0.0.0.0")
	}
	if !bind && host == "" {
		return invalid(flag, "%q has no host", u.String()).fix("name the host by which others reach this node")
	}
	return nil
}

func (c *Config) checkCluster() *ConfigError {
	if c.InitialClusterState != ClusterNew && c.InitialClusterState != ClusterExisting {
		return invalid("initial-cluster-state", "is %q", c.InitialClusterState).fix("use new or existing")
	}
	if len(c.InitialCluster) == 0 {
		return invalid("initial-cluster", "is empty").fix("list every node as name=peer-URL")
	}
	self := -1
	for i, m := range c.InitialCluster {
		if m.Name == c.Name {
			self = i
		}
		if m.Name == "" || len(m.PeerURLs) == 0 {
			return invalid("initial-cluster", "has an entry without name or URL").fix("write every node as name=peer-URL")
		}
		for _, s := range m.PeerURLs {
			u, err := url.Parse(s)
			if err != nil {
				return invalid("initial-cluster", "%q is not a URL", s).fix("write every node as name=http://host:port")
			}
			if err := checkURL("initial-cluster", *u, false); err != nil {
				return err
			}
		}
	}
	if self < 0 {
		return invalid("initial-cluster", "does not list this node, --name=%s", c.Name).
			fix("add %s=%s, or set --name to the name it has there", c.Name, joinURLs(c.AdvertisePeerURLs))
	}
	want, have := slices.Clone(c.InitialCluster[self].PeerURLs), urlStrings(c.AdvertisePeerURLs)
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		return invalid("initial-cluster", "has %s=%s, but --initial-advertise-peer-urls is %s",
			c.Name, strings.Join(want, ","), strings.Join(have, ",")).fix("make the two the same")
	}
	return nil
}

// initialRangesMax bounds the ranges of a new cluster; more come by splitting.
const initialRangesMax = 20_000

func (c *Config) checkSplits() *ConfigError {
	if len(c.InitialSplits) >= initialRangesMax {
		return invalid("initial-splits", "makes %d ranges", len(c.InitialSplits)+1).
			fix("begin with at most %d", initialRangesMax)
	}
	for i, s := range c.InitialSplits {
		if len(s) == 0 {
			return invalid("initial-splits", "has an empty key").fix("leave it out: the first range begins there anyway")
		}
		if i > 0 && bytes.Compare(c.InitialSplits[i-1], s) >= 0 {
			return invalid("initial-splits", "%q does not come after %q", s, c.InitialSplits[i-1]).
				fix("list the keys in order, each once")
		}
	}
	return nil
}

func (c *Config) checkTimes() *ConfigError {
	switch {
	case c.HeartbeatInterval <= 0:
		return invalid("heartbeat-interval", "is not above 0").fix("100 (milliseconds) suits a local network")
	case c.ElectionTimeout <= 0:
		return invalid("election-timeout", "is not above 0").fix("1000 (milliseconds) suits a local network")
	case 5*c.HeartbeatInterval > c.ElectionTimeout:
		return invalid("election-timeout", "%v is less than five times --heartbeat-interval %v", c.ElectionTimeout, c.HeartbeatInterval).
			fix("raise it or lower the heartbeat interval; ten times is usual")
	case c.ElectionTimeout > electionTimeoutMax:
		return invalid("election-timeout", "%v is too long", c.ElectionTimeout).fix("stay below %v", electionTimeoutMax)
	case c.SequencerProof != ProofLease && c.SequencerProof != ProofQuorum:
		return invalid("sequencer-proof", "is %q", c.SequencerProof).fix("use lease or quorum")
	case c.LeaderPolicy != LeadersGathered && c.LeaderPolicy != LeadersSpread:
		return invalid("leader-policy", "is %q", c.LeaderPolicy).fix("use gathered or spread")
	}
	return nil
}

// requestBytesMax keeps a request well below what one Raft message and one frame between nodes may hold.
const requestBytesMax = 64 << 20

func (c *Config) checkLimits() *ConfigError {
	switch {
	case c.MaxTxnOps == 0:
		return invalid("max-txn-ops", "is 0").fix("128 is etcd's default")
	case c.MaxRequestBytes == 0 || c.MaxRequestBytes > requestBytesMax:
		return invalid("max-request-bytes", "%d is out of range", c.MaxRequestBytes).fix("stay between 1 and %d", requestBytesMax)
	case c.QuotaBytes < 0:
		return nil // etcd: no quota
	case c.MaxConcurrentStreams == 0:
		return invalid("max-concurrent-streams", "is 0").fix("leave it out")
	case c.CacheBytes < 0 || c.CacheBytes > 0 && c.CacheBytes < 1<<20:
		return invalid("cache-bytes", "%d is too small", c.CacheBytes).fix("give the cache at least 1 MiB")
	}
	return nil
}

func (c *Config) checkTLS() *ConfigError {
	pairs := []struct {
		prefix, cert, key string
		auto              bool
		urls              []url.URL
		auth              bool
		ca                string
	}{
		{"", c.ClientTLS.CertFile, c.ClientTLS.KeyFile, c.ClientAutoTLS, c.ListenClientURLs,
			c.ClientTLS.ClientCertAuth, c.ClientTLS.TrustedCAFile},
		{"peer-", c.PeerTLS.CertFile, c.PeerTLS.KeyFile, c.PeerAutoTLS, c.ListenPeerURLs,
			c.PeerTLS.ClientCertAuth, c.PeerTLS.TrustedCAFile},
	}
	for _, p := range pairs {
		if (p.cert == "") != (p.key == "") {
			return invalid(p.prefix+"cert-file", "and --%skey-file go together", p.prefix).fix("set both or neither")
		}
		hasCert := p.cert != "" || p.auto
		for _, u := range p.urls {
			if (u.Scheme == "https" || u.Scheme == "unixs") && !hasCert {
				return invalid(p.prefix+"cert-file", "is missing, but the node is to listen on %s", u.String()).
					fix("set --%scert-file and --%skey-file, or --%sauto-tls", p.prefix, p.prefix, p.prefix)
			}
		}
		if p.auth && p.ca == "" && !p.auto {
			return invalid(p.prefix+"client-cert-auth", "needs to know whom to trust").fix("set --%strusted-ca-file", p.prefix)
		}
	}
	return nil
}
