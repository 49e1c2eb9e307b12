// Package grpcnet is the real transport between nodes: long-lived gRPC streams, many messages per frame.
//
// Each node dials its own streams to another node, one per class of traffic (Raft; calls; bulk, which is snapshots and
// feeds) and each on a connection of its own, so that a snapshot never stands in the way of a heartbeat. A stream
// carries what its dialer sends, and the answers back. Between two nodes that talk to each other there are thus two
// streams per class.
//
//	caller ──Go/SendRaft──► bounded queue ──► sender ══frame══► reader ──► handler
//	                             (link)                (inbound)              │ reply, from any goroutine
//	done ◄──── reader ◄══════════frame══════════ sender ◄── bounded queue ◄───┘
//
// A sender takes whatever waits, up to a MiB, into one frame: while the network or the other side is busy, frames grow
// by themselves, and when it is idle a lone message leaves at once. Nothing waits for a timer.
//
// Start with link.run (the dialing side), inbound.go (the accepting side), frame.go (the bytes of a frame, which are
// those of pontoonpb.Frame). What a call's end means is decided in internal/calls.
package grpcnet
