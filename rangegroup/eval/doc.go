// Package eval decides what an etcd request means: a pure function from (state, request) to (writes, response). It has
// no goroutine, clock, network or lock. It is shared by the range leader's lane, which evaluates writes before they have
// a revision, and by the router, which reads several ranges and assembles one response.
//
// Where to start reading:
//
//	eval.go      Env and State (what a request is evaluated against), Result, Put, DeleteRange
//	txn.go       Txn: decide all comparisons, check the path that is taken, then execute it
//	overlay.go   the writes of the txn so far, laid over the state before it
//	revision.go  provisional revisions: what they decide, and how they are replaced in the end
//	read.go      a RangeRequest as a plan, its parts, and their assembly
//	check.go     the checks that need no state; spans.go: the keys that a request touches
//
// The behaviour is that of etcd 3.7, quirks included; e2e/peers/evaldiff compares the two, field by field.
package eval
