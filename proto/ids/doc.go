// Package ids holds the small vocabulary that every room shares: node, range and replica ids, revisions, spans of the
// one key order, range descriptors, and the typed errors that travel between nodes. It has no behaviour beyond
// comparing, printing and validating.
//
// Start with Span (how etcd's keys become the one order of keys) and Descriptor; the errors are in errors.go.
package ids
