package ids

import (
	"errors"
	"fmt"
)

// The typed errors below are what a range may answer to another node instead of a reply. Anything that is not one of
// them and not one of etcd's own errors is a bug. The zero forms work with errors.As.

// NotLeaderError says that the replica asked does not lead its range, and that nothing happened. Leader is a hint and
// may be zero.
type NotLeaderError struct {
	Range  RangeID
	Leader NodeID
}

func (e *NotLeaderError) Error() string {
	return fmt.Sprintf("range %d: not the leader (leader is on node %v)", e.Range, e.Leader)
}

// WrongRangeError says that the range asked does not own all keys of the request (or the node has no such range), and
// that nothing happened. Descriptors are the newer ones that the node knows for these keys, perhaps none.
type WrongRangeError struct {
	Range       RangeID
	Descriptors []*Descriptor
}

func (e *WrongRangeError) Error() string {
	return fmt.Sprintf("range %d does not own the requested keys", e.Range)
}

// NotAppendedError says that a mutation definitely has no effect: it never reached its range's log, or was overwritten
// there. It may be sent again.
type NotAppendedError struct {
	Range  RangeID
	Reason string
}

func (e *NotAppendedError) Error() string {
	return fmt.Sprintf("range %d: not appended: %s", e.Range, e.Reason)
}

// AmbiguousError says that the outcome of a mutation is unknown. It is never retried.
type AmbiguousError struct {
	Range  RangeID
	Reason string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("range %d: outcome unknown: %s", e.Range, e.Reason)
}

// UnavailableError says that a request without effect could not be served now (no session with the sequencer, no
// quorum, shutting down). It may be tried again until the client's time is up.
type UnavailableError struct {
	Range  RangeID
	Reason string
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("range %d: unavailable: %s", e.Range, e.Reason)
}

// Retryable reports whether err proves that the request had no effect, so that it may be sent again, here or elsewhere.
func Retryable(err error) bool {
	var (
		notLeader   *NotLeaderError
		wrongRange  *WrongRangeError
		notAppended *NotAppendedError
		unavailable *UnavailableError
	)
	return errors.As(err, &notLeader) || errors.As(err, &wrongRange) || errors.As(err, &notAppended) ||
		errors.As(err, &unavailable)
}
