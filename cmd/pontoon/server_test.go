package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// parse runs a command line, an environment and optionally a file through what the server does before it opens a port.
func parse(t *testing.T, args []string, environ ...string) (*serverOptions, []string, error) {
	t.Helper()
	o := newServerOptions()
	if err := o.flags.Parse(etcdArgs(args)); err != nil {
		return nil, nil, err
	}
	return o.resolve(environ)
}

func mustParse(t *testing.T, args []string, environ ...string) (*serverOptions, []string) {
	t.Helper()
	o, warnings, err := parse(t, args, environ...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return o, warnings
}

// TestEveryEtcdFlagIsKnown reads the list that etcd 3.7.3's own help gives.
func TestEveryEtcdFlagIsKnown(t *testing.T) {
	raw, err := os.ReadFile("testdata/etcd-3.7.3-flags.txt")
	if err != nil {
		t.Fatal(err)
	}
	o := newServerOptions()
	for _, name := range strings.Fields(string(raw)) {
		if o.flags.Lookup(name) == nil {
			t.Errorf("--%s is unknown", name)
		}
	}
	for _, f := range inertFlags {
		if f.why == "" {
			t.Errorf("--%s does nothing, and nothing says why", f.name)
		}
	}
}

func TestInertFlagsWarnOrRefuse(t *testing.T) {
	_, w := mustParse(t, []string{"--snapshot-count=5000", "--pre-vote", "--strict-reconfig-check=false"})
	if len(w) != 2 || !strings.Contains(w[0]+w[1], "--snapshot-count does nothing") || !strings.Contains(w[0]+w[1], "--strict-reconfig-check") {
		t.Errorf("warnings: %q", w)
	}
	for _, args := range [][]string{{"--force-new-cluster"}, {"--discovery-srv=example.com"}} {
		if _, _, err := parse(t, args); err == nil || !strings.Contains(err.Error(), args[0][:10]) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestFlagsWinOverEnvironment(t *testing.T) {
	o, w := mustParse(t, []string{"--name=flag"}, "ETCD_NAME=etcd", "ETCD_DATA_DIR=/e", "PONTOON_DATA_DIR=/p", "ETCD_ELECTION_TIMEOUT=2000", "ETCD_NO_SUCH=1", "HOME=/")
	if o.cfg.Name != "flag" || o.cfg.DataDir != "/p" || o.cfg.ElectionTimeout != 2*time.Second {
		t.Errorf("name %q, data dir %q, election %v", o.cfg.Name, o.cfg.DataDir, o.cfg.ElectionTimeout)
	}
	all := strings.Join(w, "\n")
	if len(w) != 2 || !strings.Contains(all, "ETCD_NAME: not looked at") || !strings.Contains(all, "ETCD_NO_SUCH") {
		t.Errorf("warnings: %q", w)
	}
	if _, _, err := parse(t, nil, "ETCD_MAX_TXN_OPS=many"); err == nil || !strings.Contains(err.Error(), "ETCD_MAX_TXN_OPS") {
		t.Errorf("bad environment value: %v", err)
	}
}

const etcdFile = `
name: n1
data-dir: /data
initial-cluster: n1=https://10.0.0.1:2380,n2=https://10.0.0.2:2380
initial-advertise-peer-urls: https://10.0.0.1:2380
listen-peer-urls: https://0.0.0.0:2380
listen-client-urls: https://0.0.0.0:2379,http://127.0.0.1:2379
advertise-client-urls: https://10.0.0.1:2379
heartbeat-interval: 50
election-timeout: 500
grpc-keepalive-interval: 7200000000000
quota-backend-bytes: 8589934592
snapshot-count: 10000
log-outputs: [stderr]
made-up: true
client-transport-security:
  cert-file: c.crt
  key-file: c.key
  client-cert-auth: true
  trusted-ca-file: ca.crt
peer-transport-security:
  cert-file: p.crt
  key-file: p.key
  allowed-cn: [node]
`

func TestConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etcd.yaml")
	if err := os.WriteFile(path, []byte(etcdFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range []struct{ args, env []string }{
		{args: []string{"--config-file", path, "--name=ignored", "--max-txn-ops=7"}},
		{env: []string{"ETCD_CONFIG_FILE=" + path, "ETCD_NAME=ignored"}},
	} {
		o, w := mustParse(t, how.args, how.env...)
		c := &o.cfg
		switch {
		case c.Name != "n1", c.DataDir != "/data", len(c.InitialCluster) != 2, len(c.ListenClientURLs) != 2, c.MaxTxnOps != 128:
			t.Errorf("%+v", c)
		case c.HeartbeatInterval != 50*time.Millisecond, c.KeepAliveInterval != 2*time.Hour, c.QuotaBytes != 8<<30:
			t.Errorf("%v %v %d", c.HeartbeatInterval, c.KeepAliveInterval, c.QuotaBytes)
		case c.ClientTLS.CertFile != "c.crt", !c.ClientTLS.ClientCertAuth, c.PeerTLS.KeyFile != "p.key", len(c.PeerTLS.AllowedCNs) != 1:
			t.Errorf("%+v %+v", c.ClientTLS, c.PeerTLS)
		}
		all := strings.Join(w, "\n")
		if !strings.Contains(all, "made-up") || !strings.Contains(all, "--snapshot-count does nothing") ||
			(how.args != nil) != strings.Contains(all, "not looked at because of --config-file") {
			t.Errorf("warnings: %q", w)
		}
	}
	for _, bad := range []string{"name: [", "heartbeat-interval: soon", "client-transport-security: yes", "name: {a: b}"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := parse(t, []string{"--config-file=" + path}); err == nil || !strings.HasPrefix(err.Error(), "--config-file: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestDefaultsFollowEtcd(t *testing.T) {
	o, w := mustParse(t, []string{"--name", "solo"})
	c := &o.cfg
	if c.DataDir != "solo.pontoon" || len(c.InitialCluster) != 1 || c.InitialCluster[0].Name != "solo" || len(w) != 0 {
		t.Errorf("%+v, %q", c, w)
	}
	if _, _, err := parse(t, []string{"--listen-client-urls=http://0.0.0.0:2379"}); err == nil || !strings.Contains(err.Error(), "--advertise-client-urls") {
		t.Errorf("listening without advertising: %v", err)
	}
	if _, _, err := parse(t, []string{"--cipher-suites=ROT13"}); err == nil || !strings.Contains(err.Error(), "--cipher-suites") {
		t.Errorf("%v", err)
	}
}

func TestCommandLines(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
		out  string // in stdout or stderr
	}{
		{"--help", 0, "pontoon dev"},
		{"version", 0, "pontoon Version: " + version},
		{"version -o json", 0, `"etcdAPI"`},
		{"--version", 0, "pontoon Version: "}, // a command line for etcd
		{"-version", 0, "pontoon Version: "},
		{"server --help", 0, "Accepted for etcd's sake"},
		{"server --data-dri=x", 2, "unknown flag --data-dri; did you mean --data-dir?"},
		{"--nmae=x --data-dir=y", 2, "unknown flag --nmae"},
		{"server stray", 2, `"stray" is not a flag`},
		{"server --heartbeat-interval=0", 2, "--heartbeat-interval: is not above 0"},
		{"server -heartbeat-interval=soon", 2, "not a number of milliseconds"},
		{"dev --nodes 2", 2, "use 1, 3 or 5"},
		{"dev --splits 0", 2, "out of the range"},
		{"dev --log-level loud", 2, "--log-level"},
		{"completion bash", 0, "bash completion"},
		{"nonsense", 1, "unknown command"},
	} {
		var out, errs strings.Builder
		code := run(strings.Fields(tc.args), &out, &errs)
		if all := out.String() + errs.String(); code != tc.code || !strings.Contains(all, tc.out) {
			t.Errorf("pontoon %s: code %d, want %d with %q; got:\n%.300s", tc.args, code, tc.code, tc.out, all)
		}
		if code != 0 && strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("pontoon %s: more than a line of error:\n%s", tc.args, errs.String())
		}
	}
}

func TestParseSplits(t *testing.T) {
	keys, err := parseSplits("4")
	if err != nil || len(keys) != 3 || string(keys[1]) != "\x80\x00" {
		t.Errorf("%q, %v", keys, err)
	}
	if keys, err = parseSplits("20000"); err != nil || len(keys) != 19999 {
		t.Errorf("%d, %v", len(keys), err)
	}
	for i := 1; i < len(keys); i++ {
		if string(keys[i-1]) >= string(keys[i]) {
			t.Fatalf("key %d does not rise", i)
		}
	}
	keys, err = parseSplits(`a,b\x00,/registry/`)
	if err != nil || len(keys) != 3 || string(keys[1]) != "b\x00" {
		t.Errorf("%q, %v", keys, err)
	}
	if _, err = parseSplits(`\q`); err == nil {
		t.Error("bad escape accepted")
	}
}
