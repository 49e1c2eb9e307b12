// Package multiraft runs many Raft groups on a fixed pool of workers over one engine and one transport.
package multiraft
