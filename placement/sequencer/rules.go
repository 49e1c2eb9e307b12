package sequencer

// rules switches single sentences of the protocol off, so that the model test can show that each is needed. The zero
// value, which is all that other packages can make, has them all on.
type rules struct {
	// Machine: lease and counter.
	noLeaseWait        bool // a new sequencer waits for D after another holder's last lease
	noLeaseCheck       bool // every answer is checked against the lease …
	checkBeforeCompute bool // … after it was computed
	keepComputed       bool // … and dropped if the epoch it was computed in is over
	leaseFromCommit    bool // a lease runs from its proposal, not from its commit
	noMargin           bool // the holder uses 0.9 D, the successor waits D
	noRestartWait      bool // a restarted replica counts another's lease as seen at its start
	noOwnTerm          bool // the state is complete only once an entry of the own term is applied
	ignoreCeiling      bool // the counter never passes the replicated ceiling
	serveAfterRelease  bool // Release is proposed after serving has stopped for good
	// Machine: sessions and table.
	acceptLowerTerms bool // a registration below a term in the table is refused
	forgetTerms      bool // the table keeps its terms when a session is replaced
	serveOldSessions bool // a node's newest session is the only one served
	staleStandings   bool // standings are worked out in one step with Current
	tellOnce         bool // standings are repeated until acknowledged (matters with dropStandings)
	anyRequestOrder  bool // the requests of a session are computed in order
	ignoreParent     bool // a child's registration supersedes its parent's below the split's generation
	// Exchanger.
	keepOldSessions bool // a replaced session's answers are dropped
	anyAnswerOrder  bool // answers are processed in order
	currentAfter    bool // Current does not include the answer's own revisions, allocations come first
	rideInFlight    bool // a join goes into an exchange that starts after it
	noRegistration  bool // a leader is registered before anything counts for it
	noReRegister    bool // a new session registers everything again
	noProof         bool // a registration needs a proof for the epoch
	ignoreStandings bool // what a standing names does not count
	dropStandings   bool // a standing holds for all later answers as well, not only for the one that named it
}
