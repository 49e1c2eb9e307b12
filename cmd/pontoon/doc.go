// Command pontoon is the whole of Pontoon: a node of a cluster (server), a local cluster to try things on (dev), and the
// operator's verbs (range, version).
//
// One file per command; package node puts a node together. Start with main.go, then server.go.
package main
