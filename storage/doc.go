// Package storage is a node's one Pebble engine and the only place that knows it: the Raft log and hard state of every
// replica on the node, the replicated data of their ranges as versions by revision, snapshots of a range, and the
// physical removal of old versions. It knows nothing of leaders, requests or the network.
//
// Where to start reading: layout.go draws the keys; Batch (batch.go) is how everything is written; View (view.go) how
// everything replicated is read; Engine.Ranges (state.go) what a node finds at start and the laws it checks.
//
// Duties of the caller, per range:
//
//  1. Entries are appended, in a synced batch, before anybody is told that they are stable.
//  2. An entry is applied only once it is stable here. Applying is one unsynced batch that holds all that the entry does
//     and the new Applied. The one WAL keeps the order, so after a crash Applied is never ahead of the log.
//  3. The log is truncated only up to an index that an earlier batch has applied.
//  4. A compaction floor is made part of Applied before GC is called with it.
//  5. While a range is imported or removed nobody writes to it.
//
// The engine makes no goroutines of its own (Pebble does, and stops them in Close). It works inside a testing/synctest
// bubble if it is opened and closed there and if the file system that it is given never sleeps inside a call: Pebble
// holds mutexes over some calls, and virtual time stands still while somebody waits for a mutex.
package storage
