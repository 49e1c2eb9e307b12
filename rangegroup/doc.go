// Package rangegroup is one range's life on one node: evaluate, sequence, propose, apply, read.
package rangegroup
