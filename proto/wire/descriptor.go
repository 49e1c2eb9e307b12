package wire

import (
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// DescriptorToProto returns the wire form of d; nil for nil. The bounds' bytes are shared, not copied.
func DescriptorToProto(d *ids.Descriptor) *pontoonpb.Descriptor {
	if d == nil {
		return nil
	}
	p := &pontoonpb.Descriptor{
		Id:         uint64(d.ID),
		Start:      d.Span.Start,
		End:        d.Span.End,
		Generation: uint64(d.Generation),
	}
	for _, r := range d.Replicas {
		p.Replicas = append(p.Replicas, &pontoonpb.ReplicaDescriptor{
			Node: uint64(r.Node), Replica: uint64(r.Replica), Learner: r.Learner,
		})
	}
	return p
}

// DescriptorFromProto returns what p describes; nil for nil. The bounds' bytes are shared, not copied. The result is
// as good as its sender: call Validate before trusting it.
func DescriptorFromProto(p *pontoonpb.Descriptor) *ids.Descriptor {
	if p == nil {
		return nil
	}
	d := &ids.Descriptor{
		ID:         ids.RangeID(p.GetId()),
		Span:       ids.Span{Start: p.GetStart(), End: p.GetEnd()},
		Generation: ids.Generation(p.GetGeneration()),
	}
	for _, r := range p.GetReplicas() {
		d.Replicas = append(d.Replicas, ids.ReplicaDesc{
			Node: ids.NodeID(r.GetNode()), Replica: ids.ReplicaID(r.GetReplica()), Learner: r.GetLearner(),
		})
	}
	return d
}

// DescriptorsToProto is DescriptorToProto for many.
func DescriptorsToProto(ds []*ids.Descriptor) []*pontoonpb.Descriptor {
	var out []*pontoonpb.Descriptor
	for _, d := range ds {
		if d != nil {
			out = append(out, DescriptorToProto(d))
		}
	}
	return out
}

// DescriptorsFromProto is DescriptorFromProto for many. Descriptors that are not valid are left out.
func DescriptorsFromProto(ps []*pontoonpb.Descriptor) []*ids.Descriptor {
	var out []*ids.Descriptor
	for _, p := range ps {
		if d := DescriptorFromProto(p); d != nil && d.Validate() == nil {
			out = append(out, d)
		}
	}
	return out
}
