package rangegroup

// rules are the sentences of the lane's protocol that a test can switch off, one at a time, to see that it would notice.
// The zero value obeys them all.
type rules struct {
	// noOverlay: evaluation does not see what is in the lane.
	noOverlay bool
	// noChangeAtCurrent: a request that changes nothing is answered at the exchange's current, not above what is ahead.
	noChangeAtCurrent bool
	// answerEarly: it is answered before what is ahead of it is committed.
	answerEarly bool
	// claimApplied: a claim names the applied index, not the last appended one.
	claimApplied bool
	// dropRefused: when an append is refused, what is behind it in the lane is lost with it.
	dropRefused bool
}
