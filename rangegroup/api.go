package rangegroup

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Sequencer is what a range leader needs of the node's sequencer client. See placement for the protocol; the sentences
// here are all that a range may rely on.
type Sequencer interface {
	// Join puts j into an exchange that starts after this call. j.Done is called exactly once: possibly before Join
	// returns, possibly on another goroutine; it must not block. The Done calls of one node are made strictly in the
	// order of exchanges, and within one answer allocations (Want > 0) come before confirmations (Want == 0), so a
	// range that queues what Done brings sees its revisions in order.
	Join(j Join)
	// Known returns the newest epoch that this node has learnt of. A proof of leadership counts for an epoch only if it
	// began after Known returned that epoch.
	Known() (epoch uint64)
	// Current is the greatest `current` that this node has seen in any answer. All revisions issued later are greater.
	Current() ids.Revision
	// Floor is the newest logical compaction floor F that this node has seen.
	Floor() ids.Revision
}

// Join is a range leader's part in an exchange.
type Join struct {
	Range ids.RangeID
	Term  uint64
	// Want is the number of revisions asked for; 0 asks for a confirmation only.
	Want int
	// Proven is the greatest epoch for which this leader's term was proven (a proof begun after the epoch was learnt).
	// If the session is of a newer epoch and (Range, Term) is not registered in it, Done gets ErrNeedProof.
	Proven uint64
	// Parent and ParentGeneration name the range that this one was split from, until that is known to be registered at a
	// higher generation; zero otherwise. Generation is this range's own.
	Parent           ids.RangeID
	ParentGeneration ids.Generation
	Generation       ids.Generation
	Done             func(Answer)
}

// Answer is an exchange's answer for one Join.
//
// With Err == nil it proves: when Current was current, no leader of the range with a higher term had registered, and
// every revision that a newer leader will ever use is greater than Current. The revisions First … First+Want-1 belong to
// (Range, Term, Session): they are appended under exactly that or thrown away.
type Answer struct {
	Err     error
	Session uint64 // rises with each session of this process
	Current ids.Revision
	First   ids.Revision // Current+1+offset if Want > 0
	Floor   ids.Revision // logical compaction floor F, fresh as of the exchange
}

// Feed and lease hooks are added by their rooms' issues.

// Router-facing results. A Response is an etcdserverpb response with its header's revision filled in.

// Claim says: every event at or below Revision on the span that the range had at Generation is final, and a replica has
// them all once it applied Index (design: resolved revision).
type Claim struct {
	Revision   ids.Revision
	Index      uint64
	Generation ids.Generation
	Floor      ids.Revision  // logical compaction floor F as of the claim
	At         time.Duration // on the node's clock when it was made or received; not sent
}
