// Package sequencer is the protocol by which a cluster gets its revisions, as two step machines without goroutines,
// clocks, disks or sockets: inputs go in, effects come out, and whoever drives them decides when.
//
//	range leaders of a node          one per node               one in the cluster
//	  Join{range, term, want} ──►  Exchanger ── Request ──►  Machine ── Lease, Ceiling, Release ──► placement log
//	  Answer{current, first}  ◄──             ◄── Answer ──          ◄── Applied ──────────────────
//
// Machine (machine.go) is the server half: it lives with every replica of the placement group and serves while that
// replica leads and holds the sequencer lease. Its counter, ceiling and lease are in lease.go, its table of registered
// range leaders in table.go.
//
// Exchanger (exchanger.go) is the client half: it groups what the node's range leaders ask for into exchanges of one
// session, at most two under way, and processes answers strictly in order.
//
// Start with message.go, the words that the halves exchange. docs/sequencer.md tells the story and the reasons.
package sequencer
