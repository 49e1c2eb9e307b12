package node

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestValidateNamesFlagAndRemedy breaks one setting at a time.
func TestValidateNamesFlagAndRemedy(t *testing.T) {
	mustURLs := func(s string) []url.URL {
		u, err := ParseURLs("x", s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, tc := range []struct {
		flag string
		harm func(c *Config)
	}{
		{"name", func(c *Config) { c.Name = "" }},
		{"name", func(c *Config) { c.Name = "a=b" }},
		{"data-dir", func(c *Config) { c.DataDir = "" }},
		{"listen-client-urls", func(c *Config) { c.ListenClientURLs = nil }},
		{"listen-client-urls", func(c *Config) { c.ListenClientURLs = mustURLs("http://example.com:2379") }},
		{"listen-client-urls", func(c *Config) { c.ListenClientURLs = mustURLs("http://127.0.0.1") }},
		{"listen-client-urls", func(c *Config) { c.ListenClientURLs = mustURLs("ftp://127.0.0.1:1") }},
		{"listen-peer-urls", func(c *Config) { c.ListenPeerURLs = c.ListenClientURLs }},
		{"listen-metrics-urls", func(c *Config) { c.ListenMetricsURLs = mustURLs("http://0.0.0.0:9/path") }},
		{"advertise-client-urls", func(c *Config) { c.AdvertiseClientURLs = nil }},
		{"advertise-client-urls", func(c *Config) { c.AdvertiseClientURLs = mustURLs("http://:2379") }},
		{"initial-cluster-state", func(c *Config) { c.InitialClusterState = "old" }},
		{"initial-cluster", func(c *Config) { c.InitialCluster = nil }},
		{"initial-cluster", func(c *Config) { c.Name = "stranger" }},
		{"initial-cluster", func(c *Config) { c.AdvertisePeerURLs = mustURLs("http://10.0.0.9:2380") }},
		{"initial-splits", func(c *Config) { c.InitialSplits = [][]byte{[]byte("b"), []byte("a")} }},
		{"initial-splits", func(c *Config) { c.InitialSplits = [][]byte{{}} }},
		{"heartbeat-interval", func(c *Config) { c.HeartbeatInterval = 0 }},
		{"election-timeout", func(c *Config) { c.ElectionTimeout = 4 * c.HeartbeatInterval }},
		{"election-timeout", func(c *Config) { c.ElectionTimeout = time.Minute }},
		{"sequencer-proof", func(c *Config) { c.SequencerProof = "hope" }},
		{"leader-policy", func(c *Config) { c.LeaderPolicy = "chaos" }},
		{"max-txn-ops", func(c *Config) { c.MaxTxnOps = 0 }},
		{"max-request-bytes", func(c *Config) { c.MaxRequestBytes = 1 << 30 }},
		{"cert-file", func(c *Config) { c.ClientTLS.KeyFile = "key" }},
		{"cert-file", func(c *Config) { c.ListenClientURLs = mustURLs("https://127.0.0.1:2379") }},
		{"peer-cert-file", func(c *Config) { c.ListenPeerURLs = mustURLs("https://127.0.0.1:2380") }},
		{"client-cert-auth", func(c *Config) { c.ClientTLS.ClientCertAuth = true }},
	} {
		c := cluster(t, 3, 1)
		tc.harm(c)
		err := c.Validate()
		var ce *ConfigError
		if !errors.As(err, &ce) {
			t.Errorf("%s: accepted, or no ConfigError: %v", tc.flag, err)
			continue
		}
		if ce.Flag != tc.flag || ce.Remedy == "" || !strings.HasPrefix(err.Error(), "--"+tc.flag) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", tc.flag, err)
		}
	}
}

func TestParseInitialCluster(t *testing.T) {
	ms, err := ParseInitialCluster("a=http://1:1,b=http://2:1, a=http://1:2 ,")
	if err != nil || len(ms) != 2 || ms[0].Name != "a" || len(ms[0].PeerURLs) != 2 || ms[1].PeerURLs[0] != "http://2:1" {
		t.Errorf("%v, %v", ms, err)
	}
	for _, bad := range []string{"http://1:1", "=http://1:1", "a="} {
		if _, err := ParseInitialCluster(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
