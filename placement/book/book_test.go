package book

import (
	"reflect"
	"testing"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// TestRecordsHoldTheBook applies commands, writing the changed records down like the engine does, and loads the book
// from them: nothing may be missing.
func TestRecordsHoldTheBook(t *testing.T) {
	d := &ids.Descriptor{ID: 3, Span: ids.UserSpace, Generation: 1, Replicas: []ids.ReplicaDesc{{Node: 1, Replica: 1}}}
	k := New(Bootstrap{Nodes: []Node{{ID: 1, Name: "a", PeerURLs: []string{"http://a"}}}, Ranges: []*ids.Descriptor{d}})
	disk := map[string][]byte{}
	write := func(rs []Record) {
		for _, r := range rs {
			disk[string(r.Key)] = r.Value
		}
	}
	write(k.Records())
	newer := *d
	newer.Generation = 2
	type c = pontoonpb.PlacementCommand
	for _, x := range []struct {
		command *c
		refused bool
	}{
		{&c{Kind: &pontoonpb.PlacementCommand_Lease{Lease: &pontoonpb.SequencerLease{Epoch: 1, Holder: 1, DurationNs: 5}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_Ceiling{Ceiling: &pontoonpb.RaiseCeiling{Epoch: 1, Ceiling: 1001}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_Compact{Compact: &pontoonpb.CompactCommand{Revision: 0}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_Compact{Compact: &pontoonpb.CompactCommand{Revision: 0}}}, true},
		{&c{Kind: &pontoonpb.PlacementCommand_Compact{Compact: &pontoonpb.CompactCommand{Revision: 7}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_RegisterNode{RegisterNode: &pontoonpb.NodeRecord{Id: 1, DiskId: 9, Incarnation: 1}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_RegisterNode{RegisterNode: &pontoonpb.NodeRecord{Id: 1, DiskId: 8, Incarnation: 2}}}, true},
		{&c{Kind: &pontoonpb.PlacementCommand_RegisterNode{RegisterNode: &pontoonpb.NodeRecord{Id: 2}}}, true},
		{&c{Kind: &pontoonpb.PlacementCommand_AllocateRanges{AllocateRanges: &pontoonpb.AllocateRanges{Count: 4}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_PutSetting{PutSetting: &pontoonpb.SettingRecord{Name: "s", Value: []byte("v")}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_UpdateRange{UpdateRange: &pontoonpb.Descriptor{Id: 3, Start: ids.UserSpace.Start,
			End: ids.UserSpace.End, Generation: 2, Replicas: []*pontoonpb.ReplicaDescriptor{{Node: 1, Replica: 1}}}}}, false},
		{&c{Kind: &pontoonpb.PlacementCommand_UpdateRange{}}, true},
		{&c{Kind: &pontoonpb.PlacementCommand_Release{Release: &pontoonpb.SequencerRelease{Epoch: 1, Counter: 42}}}, false},
		{&c{}, true},
	} {
		r, records := k.Apply(x.command)
		if (r.Err != nil) != x.refused {
			t.Errorf("%v: %v, want refused %v", x.command, r.Err, x.refused)
		}
		write(records)
	}
	l := NewLoader()
	for key, value := range disk {
		if err := l.Add([]byte(key), value); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(l.Book(), k) {
		t.Errorf("loaded  %+v\napplied %+v", l.Book(), k)
	}
	if s := k.Sequencer(); !s.Released || s.Ceiling != 42 || k.Floor() != 7 || k.Ranges()[0].Generation != newer.Generation {
		t.Errorf("book %+v", k)
	}
	if l.Add([]byte{ids.SpaceSystem, 'Z'}, nil) == nil || l.Add(nil, nil) == nil {
		t.Error("foreign records were taken")
	}
}
