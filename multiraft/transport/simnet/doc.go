// Package simnet is a network in memory, for whole clusters in one process under virtual time (testing/synctest).
//
// It behaves as TCP connections between machines do: frames of one direction and class arrive in order, a cut holds
// them back until it heals or the connection is given up for silence, a crash loses them. A call whose connection broke
// fails with ErrLost, and may or may not have been delivered. Nodes share no memory: everything is copied on the way.
//
// All randomness comes from generators seeded per direction, so a run repeats as far as the scheduler of goroutines
// lets it. Start with Network.
package simnet
