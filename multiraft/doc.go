// Package multiraft runs the replicas of thousands of Raft groups on one node: on a fixed pool of workers, over one engine
// with one sync for whatever many groups have to write, and over one transport that carries what many groups have to say
// to a node in few frames. It knows nothing of what an entry means; that is the StateMachine's affair.
//
// A group's life is a sequence of turns. A turn belongs to one worker, so nothing inside a group is ever locked:
//
//	transport ──messages──┐                    ┌── StateMachine.Changed, Process
//	log writer ─appended──┤  inbox and events  │
//	ticker ────tick───────┼──► run queue ──► worker: turn ──┬── messages ──► outbox ──► transport (at once)
//	Schedule, orders ─────┘                    │            └── appends ───► log writer: one batch, one sync
//	                                           │                              ├── answers to other nodes
//	                                           └── Apply, ReadState           └── answers to our own groups
//
// In a turn (turn.go): the mail is read and raft steps it; Changed, if role, term or leader did; Process, if scheduled;
// committed entries are applied; then the messages leave. A leader's appends travel to the followers while its own log
// is being written. What raft must not say before something is durable comes back from the log writer (logwriter.go).
//
// The duties of whoever uses it: open each replica found in the engine with Host.Add, pass it every Raft message of its
// ranges (Host.HandleRaft) and every snapshot call (Host.HandleSnapshot), tell it of nodes that restarted (WakeNode).
// Messages never create a replica; a snapshot does only if Config.AcceptSnapshot says so.
//
// Start reading with api.go and turn.go. Then: scheduler.go (queue and workers), raftlog.go (the log as raft reads it),
// truncate.go (what goes from it), sleep.go (groups that cost nothing), snapshot.go (how a replica catches up without a
// log).
package multiraft
