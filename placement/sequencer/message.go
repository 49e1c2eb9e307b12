package sequencer

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// SessionID names a node's session: N rises with every session of one incarnation (one life of the node's process).
// A node has one session at a time, and the sequencer serves none but its newest.
type SessionID struct {
	Node        ids.NodeID
	Incarnation uint64
	N           uint64
}

// Registration says that a node leads Range in Term, at Generation of the range's descriptor. A range that came from a
// split names its parent and the generation that the parent had before, until the parent is known to have registered
// above it.
type Registration struct {
	Range            ids.RangeID
	Term             uint64
	Generation       ids.Generation
	Parent           ids.RangeID
	ParentGeneration ids.Generation
}

// Request is one exchange. Seq 0 opens the session and asks for nothing; the others count from 1 without a gap.
type Request struct {
	Session SessionID
	Seq     uint64
	Epoch   uint64 // the session's; unknown (0) in the opening request
	Ack     uint64 // the greatest Seq whose answer the node has processed
	Wanted  int64
	// Registrations are processed before the revisions of the same exchange are given out.
	Registrations []Registration
}

// Refusal says why a request got no answer; the session is over then.
type Refusal uint8

// The refusals.
const (
	Served       Refusal = iota
	NotSequencer         // this node is not the sequencer (any more)
	BadSession           // unknown, replaced, of another epoch, or out of order
)

// Standing tells that a registration of the asking session does not count: only one of Term and Generation or above
// does.
type Standing struct {
	Range      ids.RangeID
	Term       uint64
	Generation ids.Generation
}

// Answer answers one Request.
type Answer struct {
	Refusal Refusal
	Leader  ids.NodeID // with NotSequencer: who may be it; a hint, 0 if unknown
	Epoch   uint64
	// Current is the greatest revision given out before this answer's own, which are Current+1 … Current+Wanted.
	Current ids.Revision
	// Standings name every registration of the session that does not count, worked out in one step with Current. Each
	// is repeated until the node has acknowledged an answer that held it.
	Standings []Standing
	Fresh     Fresh
	// Pacing is the least time a busy node should let pass from one exchange to the next.
	Pacing time.Duration
}

// Fresh is what every answer carries because it must be known everywhere at once.
type Fresh struct {
	Floor           ids.Revision // F, the logical compaction floor; -1 before the first compaction
	AuthRevision    uint64
	SettingsVersion uint64
}
