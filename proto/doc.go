// Package proto is the root of the wire formats: pontoonpb (generated from the .proto files beside it: node-to-node
// frames, range requests, the placement group's commands and the operator's API) and ids (hand-written: the shared
// vocabulary). It imports nothing of ours; every other room imports it.
package proto
