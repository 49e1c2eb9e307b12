// Package history records what clients of a store did and saw, and judges afterwards whether one store with one revision
// line can have answered that way.
//
// A Recorder writes one line of JSON per operation; Check reads the operations and returns what cannot be. The rules are
// those of the contract, seen from the client's chair:
//
//	real time   an operation's revision is above that of every mutation that completed before it began (for a read: at
//	            least), and at least that of every linearizable read that did
//	unique      no two mutations have the same revision
//	exact       what a read at revision R returns of a key is the newest write of it at or below R: none that was
//	            acknowledged is missing, none that failed is there, none comes from nowhere
//	condition   between the revision that a conditional write named and its own nobody wrote the key
//
// An operation whose outcome the client does not know may have happened or not, at any time after it began. If a read
// shows its value, its revision is known from then on and all rules apply to it. For that, no value may be written twice.
package history
