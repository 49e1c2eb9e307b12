package node

import (
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/prometheus/client_golang/prometheus"
	tlsinfo "go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"
)

// The values of Config.InitialClusterState.
const (
	ClusterNew      = "new"
	ClusterExisting = "existing"
)

// SequencerProof says what convinces the sequencer, before it answers, that no other sequencer serves.
type SequencerProof string

// The two proofs: a time lease (clock rates are trusted to 5 %), or a round through the placement group's quorum for
// every batch of answers.
const (
	ProofLease  SequencerProof = "lease"
	ProofQuorum SequencerProof = "quorum"
)

// LeaderPolicy says where range leaders should be.
type LeaderPolicy string

// The policies: on the sequencer's node as far as it has replicas there, which makes revisions a function call, or
// evenly over the nodes.
const (
	LeadersGathered LeaderPolicy = "gathered"
	LeadersSpread   LeaderPolicy = "spread"
)

// Config is everything a Node is made from. Default fills in what has a default; Validate checks the whole. New copies
// it.
type Config struct {
	// Name is this member's name in InitialCluster. DataDir holds everything the node keeps.
	Name    string
	DataDir string

	// ListenClientURLs, ListenPeerURLs and ListenMetricsURLs are where the node listens, each unless the corresponding
	// …Listeners below is given. Metrics and health are served on the client URLs in any case.
	ListenClientURLs  []url.URL
	ListenPeerURLs    []url.URL
	ListenMetricsURLs []url.URL
	// AdvertiseClientURLs and AdvertisePeerURLs are how clients and the other nodes reach this one.
	AdvertiseClientURLs []url.URL
	AdvertisePeerURLs   []url.URL

	Bootstrapping
	Limits
	GRPC
	TLS
	Engine

	// HeartbeatInterval is the tick of Raft groups, ElectionTimeout the silence after which a leader is taken for dead.
	HeartbeatInterval time.Duration
	ElectionTimeout   time.Duration
	SequencerProof    SequencerProof
	LeaderPolicy      LeaderPolicy

	// SlowRequest is the duration from which on a unary request is logged.
	SlowRequest time.Duration
	// Pprof serves /debug/pprof/ on the client port.
	Pprof bool

	Injected
}

// Bootstrapping says what a new cluster consists of. All its nodes must be started with the same values; they are not
// looked at once a node has its data.
type Bootstrapping struct {
	InitialCluster      []Member
	InitialClusterState string // ClusterNew or ClusterExisting
	InitialClusterToken string
	// InitialSplits are the user keys at which the user space is cut at bootstrap, strictly rising. n keys make n+1
	// ranges.
	InitialSplits [][]byte
}

// Member is one node of the initial cluster.
type Member struct {
	Name     string
	PeerURLs []string
}

// Limits are what a request and a node's store may not exceed.
type Limits struct {
	MaxTxnOps       uint // operations in a transaction
	MaxRequestBytes uint // one client request
	// QuotaBytes is the size of the node's data from which on writes are refused with NOSPACE. It counts what is live,
	// as etcd's does. 0 means no limit: a Pontoon node may hold as much as its disk.
	QuotaBytes           int64
	MaxConcurrentStreams uint32 // of one client connection
}

// GRPC shapes the client listener.
type GRPC struct {
	KeepAliveMinTime  time.Duration // a client that pings more often is disconnected
	KeepAliveInterval time.Duration // the server's own pings; 0: none
	KeepAliveTimeout  time.Duration
	ReusePort         bool // SO_REUSEPORT
	ReuseAddress      bool // SO_REUSEADDR
}

// TLS holds the certificates of both listeners, and who may connect.
type TLS struct {
	ClientTLS tlsinfo.TLSInfo
	PeerTLS   tlsinfo.TLSInfo
	// ClientAutoTLS and PeerAutoTLS generate a certificate at start, of SelfSignedYears' validity.
	ClientAutoTLS, PeerAutoTLS bool
	SelfSignedYears            uint
}

// Engine sizes the node's Pebble engine (of the placement group's own small engine they are a sixteenth).
type Engine struct {
	CacheBytes    int64
	MemTableBytes uint64
	// Workers step the Raft groups; 0 means as many as there are processors.
	Workers int
}

// Injected are values of the process, which tests replace. Each has a working default.
type Injected struct {
	FS vfs.FS // nil: the machine's
	// SyncDelay is how long a sync takes in simulations; see storage.Config.
	SyncDelay  func()
	Clock      clock.Clock // nil: the machine's
	Logger     *zap.Logger // nil: nothing is logged
	Registerer prometheus.Registerer
	// Gatherer is what /metrics shows. With both it and Registerer nil the node has a registry of its own.
	Gatherer prometheus.Gatherer
	// Transport makes the connections to the other nodes; nil: gRPC over the peer URLs.
	Transport func(TransportParams) (PeerTransport, error)
	// ClientListeners, PeerListeners and MetricsListeners are used instead of the listen URLs. The node closes them. One
	// that is a *Listener with a secure URL is served with TLS.
	ClientListeners  []net.Listener
	PeerListeners    []net.Listener
	MetricsListeners []net.Listener
	// Seed makes election jitter repeatable; 0 means random.
	Seed int64
	// Headless opens no client or metrics listener: the services are called in the process (Node.KV).
	Headless bool
}

// PeerTransport is a transport with its life cycle.
type PeerTransport interface {
	transport.Transport
	Start() error
	Close() error
}

// TransportParams is what a node knows when it makes its transport.
type TransportParams struct {
	ClusterID   uint64
	Self        ids.NodeID
	DiskID      uint64 // of this data directory, made at its first boot
	Incarnation uint64 // of this process, rises with each start
	Resolve     func(ids.NodeID) (addr string, ok bool)
	// CheckPeer refuses a peer that shows up with another disk than the node was known by.
	CheckPeer func(node ids.NodeID, disk uint64) error
	// OnRefused is told that a peer refuses this node, and why. It must not block.
	OnRefused func(by ids.NodeID, reason string)
	// LivenessTimeout is the silence after which a peer counts as down.
	LivenessTimeout time.Duration
}

// Default returns the configuration of a single node with etcd's default ports, which every field of a real
// configuration starts from.
func Default() Config {
	local := func(port string) []url.URL { return []url.URL{{Scheme: "http", Host: "localhost:" + port}} }
	return Config{
		Name:                "default",
		ListenClientURLs:    local("2379"),
		ListenPeerURLs:      local("2380"),
		AdvertiseClientURLs: local("2379"),
		AdvertisePeerURLs:   local("2380"),
		Bootstrapping: Bootstrapping{
			InitialClusterState: ClusterNew,
			InitialClusterToken: "etcd-cluster",
		},
		Limits: Limits{
			MaxTxnOps:            128,
			MaxRequestBytes:      1536 << 10,
			MaxConcurrentStreams: 1<<32 - 1,
		},
		GRPC: GRPC{
			KeepAliveMinTime:  5 * time.Second,
			KeepAliveInterval: 2 * time.Hour,
			KeepAliveTimeout:  20 * time.Second,
		},
		TLS:               TLS{SelfSignedYears: 1},
		Engine:            Engine{CacheBytes: 256 << 20, MemTableBytes: 64 << 20},
		HeartbeatInterval: 100 * time.Millisecond,
		ElectionTimeout:   time.Second,
		SequencerProof:    ProofLease,
		LeaderPolicy:      LeadersGathered,
		SlowRequest:       300 * time.Millisecond,
	}
}

// EngineDir is the directory of the node's engine, PlacementDir that of the placement group's own.
func (c *Config) EngineDir() string { return filepath.Join(c.DataDir, "data") }

// PlacementDir is the directory of the placement group's engine.
func (c *Config) PlacementDir() string { return filepath.Join(c.DataDir, "placement") }

// TLSDir is where generated certificates are kept.
func (c *Config) TLSDir() string { return filepath.Join(c.DataDir, "fixtures") }

// SetInitialClusterFromSelf makes the node a cluster of its own, as etcd does without --initial-cluster.
func (c *Config) SetInitialClusterFromSelf() {
	c.InitialCluster = []Member{{Name: c.Name, PeerURLs: urlStrings(c.AdvertisePeerURLs)}}
}

// urlStrings prints URLs as they are compared and advertised.
func urlStrings(us []url.URL) []string {
	out := make([]string, len(us))
	for i := range us {
		out[i] = us[i].String()
	}
	return out
}

// joinURLs prints URLs as a flag takes them.
func joinURLs(us []url.URL) string { return strings.Join(urlStrings(us), ",") }
