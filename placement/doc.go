// Package placement keeps the cluster's one book, itself a Raft group (range 1) of few replicas on a small engine of its
// own: the nodes, the directory of ranges, the settings, the logical compaction floor, and above all the sequencer that
// gives out the cluster's revisions.
//
//	Service   a replica of the book and, on its leader, the sequencer: multiraft's state machine of range 1 (service.go)
//	Client    what every node has: revisions and confirmations for its range leaders, and the book's calls (client.go)
//	book      the replicated state, pure (package book)
//	sequencer the protocol between Client and Service, pure (package sequencer)
//
// Start with Client.Join and follow it: client.go, then Service.exchange in exchange.go, then package sequencer.
package placement
