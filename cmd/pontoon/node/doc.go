// Package node is one Pontoon node as a value: its configuration, what a new cluster consists of, and (node.go) how the
// rooms are put together, started and stopped. The commands `pontoon server` and `pontoon dev` build a Config and run a
// Node; whole clusters of them run in one test process.
//
// Start with Config; NewBootstrap says which ranges and replicas a new cluster begins with.
package node
