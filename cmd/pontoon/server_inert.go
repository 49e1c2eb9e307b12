package main

// inertFlag is a flag of etcd's that is accepted and does nothing, with a warning that says why.
type inertFlag struct {
	name    string
	boolean bool
	why     string
	// refuse: to go on without it would not be what was asked for, so it is an error.
	refuse bool
	// silent is the value that asks for nothing but what happens anyway.
	silent string
}

// The reasons that several flags share.
const (
	noBbolt     = "there is no bbolt file; the engine has its own settings, --engine-*"
	noSnapshots = "Raft logs are cut by how far followers have applied, and there are no snapshot or WAL files to keep"
	noTracing   = "there is no tracing"
	noDiscovery = "discovery services are not supported; list the nodes in --initial-cluster"
	noAuth      = "this version has no users and roles"
	notYet      = "not in this version"
	obsolete    = "etcd has dropped it as well"
	ownPace     = "old revisions are removed in the background at the engine's own pace"
)

// inertFlags are the rest of etcd 3.7's flags. The table is read only.
var inertFlags = []inertFlag{
	{name: "wal-dir", why: "the log is in the engine's directory; put --data-dir on the disk that syncs fastest"},
	{name: "snapshot-count", why: noSnapshots},
	{name: "snapshot-catchup-entries", why: noSnapshots},
	{name: "max-snapshots", why: noSnapshots},
	{name: "max-wals", why: noSnapshots},
	{name: "initial-election-tick-advance", boolean: true, why: "a group that has never had a leader elects one at once"},
	{name: "memory-mlock", boolean: true, why: noBbolt},
	{name: "backend-bbolt-freelist-type", why: noBbolt},
	{name: "backend-batch-interval", why: noBbolt},
	{name: "backend-batch-limit", why: noBbolt},
	{name: "bootstrap-defrag-threshold-megabytes", why: noBbolt},
	{name: "raft-read-timeout", why: "nodes keep long-lived streams, which count as dead after an election timeout"},
	{name: "raft-write-timeout", why: "nodes keep long-lived streams, which count as dead after an election timeout"},
	{name: "enable-grpc-gateway", boolean: true, silent: "true", why: "the JSON form of the API is " + notYet},
	{name: "feature-gates", why: "etcd's feature gates switch code that is not here"},

	{name: "discovery", refuse: true, why: noDiscovery},
	{name: "discovery-token", refuse: true, why: noDiscovery},
	{name: "discovery-endpoints", refuse: true, why: noDiscovery},
	{name: "discovery-srv", refuse: true, why: noDiscovery},
	{name: "discovery-srv-name", why: noDiscovery},
	{name: "discovery-dial-timeout", why: noDiscovery},
	{name: "discovery-request-timeout", why: noDiscovery},
	{name: "discovery-keepalive-time", why: noDiscovery},
	{name: "discovery-keepalive-timeout", why: noDiscovery},
	{name: "discovery-insecure-transport", boolean: true, why: noDiscovery},
	{name: "discovery-insecure-skip-tls-verify", boolean: true, why: noDiscovery},
	{name: "discovery-cert", why: noDiscovery},
	{name: "discovery-key", why: noDiscovery},
	{name: "discovery-cacert", why: noDiscovery},
	{name: "discovery-user", why: noDiscovery},
	{name: "discovery-password", why: noDiscovery},
	{name: "discovery-fallback", silent: "exit", why: noDiscovery},
	{name: "discovery-proxy", why: noDiscovery},

	{name: "strict-reconfig-check", boolean: true, silent: "true", why: "changes that would cost a quorum are always refused"},
	{name: "pre-vote", boolean: true, silent: "true", why: "pre-vote is always on"},
	{name: "auto-compaction-retention", silent: "0", why: "compaction by the clock is " + notYet + "; compact with etcdctl or the API"},
	{name: "auto-compaction-mode", silent: "periodic", why: "compaction by the clock is " + notYet + "; compact with etcdctl or the API"},
	{name: "v2-deprecation", why: "there is no v2 store"},
	{name: "max-learners", why: notYet},

	{name: "cors", silent: "*", why: "there is no JSON API to protect"},
	{name: "host-whitelist", silent: "*", why: "there is no JSON API to protect"},
	{name: "auth-token", silent: "simple", why: noAuth},
	{name: "bcrypt-cost", why: noAuth},
	{name: "auth-token-ttl", why: noAuth},

	{name: "metrics", silent: "basic", why: "all metrics are always there"},
	{name: "logger", silent: "zap", why: "zap is the only logger"},
	{name: "enable-log-rotation", boolean: true, silent: "false", why: "leave log files to logrotate"},
	{name: "log-rotation-config-json", why: "leave log files to logrotate"},
	{name: "enable-distributed-tracing", boolean: true, silent: "false", why: noTracing},
	{name: "distributed-tracing-address", why: noTracing},
	{name: "distributed-tracing-service-name", why: noTracing},
	{name: "distributed-tracing-instance-id", why: noTracing},
	{name: "distributed-tracing-sampling-rate", why: noTracing},

	{name: "corrupt-check-time", why: "comparing replicas in the background is " + notYet},
	{name: "compact-hash-check-time", why: "comparing replicas in the background is " + notYet},
	{name: "compaction-batch-limit", why: ownPace},
	{name: "compaction-sleep-interval", why: ownPace},
	{name: "watch-progress-notify-interval", why: "watches are " + notYet},
	{name: "warning-apply-duration", why: "requests are timed as a whole, see --warning-unary-request-duration"},
	{name: "downgrade-check-time", why: "there are no downgrades; a data directory says which versions can read it"},

	{name: "force-new-cluster", boolean: true, refuse: true, silent: "false",
		why: "a cluster cannot be remade from one node's data; start an empty one and restore a backup"},
	{name: "unsafe-no-fsync", boolean: true, silent: "false", why: "what is acknowledged is always synced"},

	{name: "cluster-active-size", why: obsolete},
	{name: "cluster-remove-delay", why: obsolete},
	{name: "cluster-sync-interval", why: obsolete},
	{name: "config", why: obsolete},
	{name: "force", boolean: true, why: obsolete},
	{name: "max-result-buffer", why: obsolete},
	{name: "max-retry-attempts", why: obsolete},
	{name: "peer-heartbeat-interval", why: obsolete},
	{name: "peer-election-timeout", why: obsolete},
	{name: "retry-interval", why: obsolete},
	{name: "snapshot", boolean: true, why: obsolete},
}
