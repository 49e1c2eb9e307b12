// Package storage is a node's one Pebble engine and the only place that knows it.
package storage
