package node

import "context"

// Node is one running node.
type Node struct{}

// New checks the configuration and builds the node; nothing runs yet.
func New(cfg Config) (*Node, error) { return &Node{}, cfg.Validate() }

// Start begins serving.
func (n *Node) Start(ctx context.Context) error { return nil }

// Ready is closed once clients are served.
func (n *Node) Ready() <-chan struct{} { c := make(chan struct{}); close(c); return c }

// Err delivers the error that stops the node.
func (n *Node) Err() <-chan error { return nil }

// ClientAddr is the address of the first client listener.
func (n *Node) ClientAddr() string { return "" }

// Close stops the node and waits.
func (n *Node) Close() error { return nil }
