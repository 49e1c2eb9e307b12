// Package wire translates between the vocabulary of ids and its form on the wire (pontoonpb): descriptors and errors.
// Start with ErrorToProto: what it says about each kind of error is the contract between nodes.
package wire
