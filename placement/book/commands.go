package book

import (
	"time"

	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// EncodeSequencer returns the log entry of a command of the sequencer.
func EncodeSequencer(c sequencer.Command) *pontoonpb.PlacementCommand {
	switch {
	case c.Lease != nil:
		return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_Lease{Lease: &pontoonpb.SequencerLease{
			Epoch: c.Lease.Epoch, Holder: uint64(c.Lease.Holder), DurationNs: int64(c.Lease.Duration), ProposedNs: int64(c.Lease.ProposedAt)}}}
	case c.Ceiling != nil:
		return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_Ceiling{Ceiling: &pontoonpb.RaiseCeiling{
			Epoch: c.Ceiling.Epoch, Ceiling: int64(c.Ceiling.Ceiling)}}}
	}
	return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_Release{Release: &pontoonpb.SequencerRelease{
		Epoch: c.Release.Epoch, Counter: int64(c.Release.Counter)}}}
}

// SequencerCommand returns the sequencer's command that an entry holds; ok is false if it holds another.
func SequencerCommand(c *pontoonpb.PlacementCommand) (cmd sequencer.Command, ok bool) {
	switch c := c.GetKind().(type) {
	case *pontoonpb.PlacementCommand_Lease:
		return sequencer.Command{Lease: &sequencer.Lease{Epoch: c.Lease.GetEpoch(), Holder: ids.NodeID(c.Lease.GetHolder()),
			Duration: time.Duration(c.Lease.GetDurationNs()), ProposedAt: time.Duration(c.Lease.GetProposedNs())}}, true
	case *pontoonpb.PlacementCommand_Ceiling:
		return sequencer.Command{Ceiling: &sequencer.Ceiling{Epoch: c.Ceiling.GetEpoch(), Ceiling: ids.Revision(c.Ceiling.GetCeiling())}}, true
	case *pontoonpb.PlacementCommand_Release:
		return sequencer.Command{Release: &sequencer.Release{Epoch: c.Release.GetEpoch(), Counter: ids.Revision(c.Release.GetCounter())}}, true
	}
	return sequencer.Command{}, false
}
