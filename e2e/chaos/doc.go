// Package chaos kills nodes of a real cluster while clients work, and judges what the clients saw.
//
//	go test ./e2e/chaos -chaos.duration=5m -chaos.history=history.jsonl
//
// Three `pontoon server` processes; clients on all endpoints that put, delete, compare-and-set, read and scan a few keys
// in several ranges; one node after the other is killed with SIGKILL and started again. Then the history is checked (see
// package history), and how long the throughput stayed away after each kill.
package chaos
