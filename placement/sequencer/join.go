package sequencer

import (
	"errors"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// Join is one range leader's part in an exchange, or (Range == 0) somebody's who only needs to know Current.
type Join struct {
	Range ids.RangeID
	Term  uint64
	// Want is the number of revisions asked for; 0 asks for a confirmation only.
	Want int
	// Proven is the greatest epoch for which the leader's term was proven (by a proof begun after the epoch was learnt).
	// If the session is of a newer epoch and (Range, Term) was not registered in that, Done gets ErrNeedProof.
	Proven uint64
	// Parent and ParentGeneration name the range that this one was split from and the generation it had then, until it
	// is known to be registered above that; zero otherwise. Generation is this range's own.
	Parent           ids.RangeID
	ParentGeneration ids.Generation
	Generation       ids.Generation
	// Done is called exactly once, without any lock held.
	Done func(Result)
}

// Result answers one Join.
//
// With Err == nil it proves: when Current was current, no leader of the range with a higher term had registered, and
// every revision that a newer leader will ever use is greater than Current. The revisions First … First+Want-1 belong
// to (Range, Term, Session): they are appended to the range's log under exactly that or thrown away.
type Result struct {
	Err     error
	Session uint64 // rises with each session of this process
	Current ids.Revision
	First   ids.Revision // 0 if nothing was wanted
	Floor   ids.Revision // logical compaction floor F as of the exchange; -1 before the first compaction
}

// The errors of a Join. After any of them nothing was given out that could still be used.
var (
	// ErrNeedProof: the sequencer is of an epoch for which the leader's term is not proven. Prove it (ReadIndex), join
	// again.
	ErrNeedProof = errors.New("leadership is not proven for the sequencer's epoch")
	// ErrSuperseded: a leader of a higher term has registered. The leader stops serving; its term is over.
	ErrSuperseded = errors.New("a leader of a higher term has registered with the sequencer")
	// ErrBehind: a range that was split off this one has registered. Apply the split, then join again at the higher
	// generation.
	ErrBehind = errors.New("a range split off this one has registered: join again at a newer generation")
	// ErrSessionLost: the session ended before the answer came. Join again.
	ErrSessionLost = errors.New("the session with the sequencer was lost")
	// ErrNoSequencer: no sequencer was found in time, or too much waits for one already. Join again later.
	ErrNoSequencer = errors.New("no sequencer can be reached")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("the sequencer client is closed")
)
