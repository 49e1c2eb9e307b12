// Package evaldiff compares package rangegroup/eval with the etcd server that it imitates: long random sequences of
// requests go through an embedded etcd and through a keyspace in memory made of eval, and every field of every answer
// must be the same, as must the code and text of every error.
//
// It is a test only; see diff_test.go (the comparison) and random_test.go (the requests). It lives in a module of its
// own so that the etcd server is no dependency of Pontoon's.
//
//	go test ./evaldiff -ops 200000
//	go test ./evaldiff -seed 42     # again what failed
package evaldiff
