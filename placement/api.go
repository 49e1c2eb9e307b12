package placement

import (
	"time"

	"github.com/pontoon-kv/pontoon/internal/clock"
	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/placement/book"
	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Join is one range leader's part in an exchange; see package sequencer.
type Join = sequencer.Join

// Answer answers one Join; see sequencer.Result.
type Answer = sequencer.Result

// NodeInfo is a node as the book knows it.
type NodeInfo = book.Node

// Bootstrap is what a new cluster starts from. Every node computes the same.
type Bootstrap = book.Bootstrap

// The errors of Join, for callers that see only this package.
var (
	ErrNeedProof   = sequencer.ErrNeedProof
	ErrSuperseded  = sequencer.ErrSuperseded
	ErrBehind      = sequencer.ErrBehind
	ErrSessionLost = sequencer.ErrSessionLost
	ErrNoSequencer = sequencer.ErrNoSequencer
	ErrClosed      = sequencer.ErrClosed
)

// Proof is how a sequencer makes sure that it is the only one.
type Proof uint8

// The proofs. ProofLease trusts the clocks' rates to 5 %; ProofQuorum trusts no clock and costs a round trip of the
// placement group for each batch of answers.
const (
	ProofLease Proof = iota
	ProofQuorum
)

// Config is what a Service needs.
type Config struct {
	Node ids.NodeID
	// Engine is the placement group's own small engine, prepared by InitEngine.
	Engine *storage.Engine
	Clock  clock.Clock
	// LeaseDuration is D (default 1 s, the election timeout): a new sequencer waits so long for a silent old one.
	LeaseDuration time.Duration
	Proof         Proof
	// Transport may be nil in a cluster of one node.
	Transport  transport.Transport
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// ClientConfig is what a Client needs.
type ClientConfig struct {
	Node ids.NodeID
	// Incarnation tells this process from earlier ones of the node.
	Incarnation uint64
	// Nodes are those that have (or may have) a replica of the placement group.
	Nodes []ids.NodeID
	// Local is this node's own placement replica, or nil.
	Local *Service
	// LeaseDuration is D, as in Config. An exchange without an answer for 2·D ends its session; a Join that finds no
	// sequencer for 5·D fails.
	LeaseDuration time.Duration
	Transport     transport.Transport
	Logger        *zap.Logger
	Registerer    prometheus.Registerer
}
