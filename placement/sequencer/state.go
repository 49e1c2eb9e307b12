package sequencer

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// State is the sequencer's part of the replicated book as a placement replica has applied it.
type State struct {
	Epoch    uint64
	Holder   ids.NodeID
	Duration time.Duration // D of the last lease; 0 if its holder proves itself by quorum
	Released bool          // the holder stopped at exactly Ceiling
	Ceiling  ids.Revision
}

// Command is an entry that the machine wants in the placement log. Exactly one field is set.
type Command struct {
	Lease   *Lease
	Ceiling *Ceiling
	Release *Release
}

// Lease makes Holder the sequencer of Epoch, or renews that. ProposedAt is the holder's clock before it proposed.
type Lease struct {
	Epoch      uint64
	Holder     ids.NodeID
	Duration   time.Duration
	ProposedAt time.Duration
}

// Ceiling allows the sequencer of Epoch to give out revisions up to Ceiling.
type Ceiling struct {
	Epoch   uint64
	Ceiling ids.Revision
}

// Release ends Epoch: its sequencer has stopped for good, having given out exactly the revisions up to Counter.
type Release struct {
	Epoch   uint64
	Counter ids.Revision
}

// Apply does a command when it is applied from the log, and reports whether it had an effect. A command of an epoch that
// is over, or was released, has none: it was proposed before its holder knew.
func (s *State) Apply(c Command) bool {
	switch {
	case c.Lease != nil:
		return s.lease(c.Lease)
	case c.Ceiling != nil:
		if c.Ceiling.Epoch != s.Epoch || s.Released || c.Ceiling.Ceiling <= s.Ceiling {
			return false
		}
		s.Ceiling = c.Ceiling.Ceiling
		return true
	case c.Release != nil:
		if c.Release.Epoch != s.Epoch || s.Released || c.Release.Counter > s.Ceiling {
			return false
		}
		// The ceiling comes down to the counter: its holder stopped there before it proposed this.
		s.Released, s.Ceiling = true, c.Release.Counter
		return true
	}
	return false
}

// lease takes a new epoch, or renews the one that runs.
func (s *State) lease(l *Lease) bool {
	renewal := l.Epoch == s.Epoch && l.Holder == s.Holder && !s.Released
	if !renewal && l.Epoch <= s.Epoch {
		return false
	}
	s.Epoch, s.Holder, s.Duration, s.Released = l.Epoch, l.Holder, l.Duration, false
	return true
}
