package calls

import "github.com/pontoon-kv/pontoon/multiraft/transport"

// Class is a class of traffic. Classes do not wait for each other, and keep no order among each other.
type Class uint8

// The classes. Their numbers travel in hellos.
const (
	Raft  Class = iota // Raft messages
	Calls              // calls that a client waits for
	Bulk               // snapshots and feeds
	NumClasses
)

func (c Class) String() string { return [...]string{"raft", "calls", "bulk", "?"}[min(c, NumClasses)] }

// ClassOf returns the class in which a method's calls travel.
func ClassOf(m transport.Method) Class {
	switch m {
	case transport.MethodSnapshot, transport.MethodFeed:
		return Bulk
	}
	return Calls
}
