package router

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// adminServer is the operator's service: what the directory says of ranges, completed by what the nodes say of their
// replicas.
type adminServer struct {
	pontoonpb.UnimplementedAdminServer
	rt *Router
}

// nodeTimeout is how long a node is waited for that is asked for its status; counting keys takes longer.
const (
	nodeTimeout      = 2 * time.Second
	nodeCountTimeout = 60 * time.Second
)

// RangeList implements pontoonpb.AdminServer.
func (s *adminServer) RangeList(
	ctx context.Context, r *pontoonpb.RangeListRequest,
) (*pontoonpb.RangeListResponse, error) {
	span := ids.Span{Start: ids.SystemSpan.Start, End: ids.UserSpace.End}
	switch {
	case len(r.Key) > 0:
		span = ids.UserSpan(r.Key, r.RangeEnd)
	case r.UserOnly:
		span = ids.UserSpace
	}
	ds, err := s.rt.dir.Descriptors(ctx)
	if err != nil {
		return nil, s.rt.clusterError(ctx, err)
	}
	ds = slices.DeleteFunc(slices.Clone(ds), func(d *ids.Descriptor) bool { return !d.Span.Overlaps(span) })
	infos, errs := s.rt.describe(ctx, ds, r.CountKeys)
	h := s.rt.header()
	return &pontoonpb.RangeListResponse{
		ClusterId: h.ClusterId, NodeId: h.MemberId, Revision: h.Revision, Ranges: infos, Errors: errs,
	}, nil
}

// RangeShow implements pontoonpb.AdminServer.
func (s *adminServer) RangeShow(
	ctx context.Context, r *pontoonpb.RangeShowRequest,
) (*pontoonpb.RangeShowResponse, error) {
	if r.RangeId == 0 && len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	ds, err := s.rt.dir.Descriptors(ctx)
	if err != nil {
		return nil, s.rt.clusterError(ctx, err)
	}
	i := slices.IndexFunc(ds, func(d *ids.Descriptor) bool {
		if r.RangeId != 0 {
			return d.ID == ids.RangeID(r.RangeId)
		}
		return d.Span.Contains(ids.UserKey(r.Key))
	})
	if i < 0 {
		return nil, status.Error(codes.NotFound, "pontoon: there is no such range")
	}
	infos, errs := s.rt.describe(ctx, ds[i:i+1], r.CountKeys)
	return &pontoonpb.RangeShowResponse{Range: infos[0], Errors: errs}, nil
}

// describe asks all nodes that have replicas of the ranges, at once. errs names those that did not answer.
func (rt *Router) describe(
	ctx context.Context, ds []*ids.Descriptor, countKeys bool,
) (infos []*pontoonpb.RangeInfo, errs []string) {
	timeout := nodeTimeout
	if countKeys {
		timeout = nodeCountTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	byNode := make(map[ids.NodeID][]uint64)
	for _, d := range ds {
		for _, r := range d.Replicas {
			byNode[r.Node] = append(byNode[r.Node], uint64(d.ID))
		}
	}
	type reply struct {
		node ids.NodeID
		resp *pontoonpb.NodeStatusResponse
		err  error
	}
	replies := make(chan reply, len(byNode))
	for node, ranges := range byNode {
		req := &pontoonpb.NodeStatusRequest{Ranges: ranges, CountKeys: countKeys}
		rt.askNode(ctx, node, req, func(resp *pontoonpb.NodeStatusResponse, err error) {
			replies <- reply{node, resp, err}
		})
	}
	replicas := make(map[ids.RangeID][]*pontoonpb.ReplicaStatus)
	for range byNode {
		r := <-replies
		if r.err != nil {
			errs = append(errs, fmt.Sprintf("node %v: %v", r.node, r.err))
			continue
		}
		for _, s := range r.resp.Replicas {
			id := ids.RangeID(s.GetRange().GetId())
			replicas[id] = append(replicas[id], s)
		}
	}
	slices.Sort(errs)
	for _, d := range ds {
		infos = append(infos, summarize(d, replicas[d.ID]))
	}
	slices.SortFunc(infos, func(a, b *pontoonpb.RangeInfo) int {
		return bytes.Compare(a.Range.Start, b.Range.Start)
	})
	return infos, errs
}

// summarize describes a range by its replicas: the leader of the highest term speaks for it; without one, the replica
// that has applied most.
func summarize(d *ids.Descriptor, replicas []*pontoonpb.ReplicaStatus) *pontoonpb.RangeInfo {
	info := &pontoonpb.RangeInfo{
		Range: wire.DescriptorToProto(d), Keys: -1, Load: &pontoonpb.RangeLoad{}, Replicas: replicas,
	}
	slices.SortFunc(replicas, func(a, b *pontoonpb.ReplicaStatus) int { return cmp.Compare(a.Node, b.Node) })
	var speaker *pontoonpb.ReplicaStatus
	leads := func(s *pontoonpb.ReplicaStatus) bool { return s.Leader == s.Node }
	for _, s := range replicas {
		info.Load.Reads += s.Load.GetReads()
		info.Load.ReadBytes += s.Load.GetReadBytes()
		info.Load.Writes += s.Load.GetWrites()
		info.Load.WriteBytes += s.Load.GetWriteBytes()
		switch {
		case speaker == nil, leads(s) && !leads(speaker), leads(s) && s.Term > speaker.Term:
			speaker = s
		case !leads(speaker) && s.AppliedIndex > speaker.AppliedIndex:
			speaker = s
		}
	}
	if speaker == nil {
		return info
	}
	if leads(speaker) {
		info.Leader = speaker.Node
	}
	if speaker.GetRange().GetGeneration() > info.Range.Generation {
		info.Range = speaker.Range
	}
	info.Term, info.SizeBytes, info.Keys = speaker.Term, speaker.SizeBytes, speaker.Keys
	info.AppliedRevision, info.ResolvedRevision = speaker.AppliedRevision, speaker.ResolvedRevision
	info.GcFloor = speaker.GcFloor
	return info
}

// askNode asks a node, perhaps this one, for the status of its replicas. done is called once and must not block.
func (rt *Router) askNode(
	ctx context.Context, node ids.NodeID, req *pontoonpb.NodeStatusRequest,
	done func(*pontoonpb.NodeStatusResponse, error),
) {
	if node == rt.self {
		if !rt.served.run(func(context.Context) { done(rt.nodeStatus(req), nil) }) {
			done(nil, &ids.UnavailableError{Reason: "closing, or overloaded"})
		}
		return
	}
	payload, err := proto.Marshal(req)
	if err != nil {
		done(nil, err)
		return
	}
	rt.sender.Go(ctx, node, CallNode, payload, func(b []byte, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		resp := &pontoonpb.NodeStatusResponse{}
		done(resp, proto.Unmarshal(b, resp))
	})
}

// HandleNode serves transport.MethodNode: the status of this node's replicas.
func (rt *Router) HandleNode(_ ids.NodeID, payload []byte, reply func([]byte, error)) {
	var req pontoonpb.NodeStatusRequest
	if err := proto.Unmarshal(payload, &req); err != nil {
		reply(nil, status.Errorf(codes.InvalidArgument, "malformed node status request: %v", err))
		return
	}
	if !rt.served.run(func(context.Context) { reply(proto.Marshal(rt.nodeStatus(&req))) }) {
		reply(nil, &ids.UnavailableError{Reason: "closing, or overloaded"})
	}
}

func (rt *Router) nodeStatus(req *pontoonpb.NodeStatusRequest) *pontoonpb.NodeStatusResponse {
	resp := &pontoonpb.NodeStatusResponse{Node: uint64(rt.self)}
	var all []rangegroup.Status
	if len(req.Ranges) == 0 {
		all = rt.ranges.Statuses()
	}
	for _, id := range req.Ranges {
		if st, ok := rt.ranges.Status(ids.RangeID(id)); ok {
			all = append(all, st)
		}
	}
	for _, st := range all {
		resp.Replicas = append(resp.Replicas, rt.replicaStatus(st, req.CountKeys))
	}
	return resp
}

func (rt *Router) replicaStatus(st rangegroup.Status, countKeys bool) *pontoonpb.ReplicaStatus {
	p := &pontoonpb.ReplicaStatus{
		Range: wire.DescriptorToProto(st.Descriptor), Node: uint64(rt.self), Replica: uint64(st.Raft.Replica),
		Leader: uint64(st.Leader), Term: st.Raft.Term, CommitIndex: st.Raft.Commit, AppliedIndex: st.Raft.Applied,
		LastIndex: st.Raft.Last, Asleep: st.Raft.Asleep, AppliedRevision: int64(st.MaxRevision),
		ResolvedRevision: int64(st.Resolved), GcFloor: int64(st.GCFloor), Keys: -1,
		Load: &pontoonpb.RangeLoad{
			Writes: st.Writes, Reads: st.Reads, WriteBytes: st.WriteBytes, ReadBytes: st.ReadBytes,
		},
	}
	// Only the leader counts keys: all replicas hold the same.
	count := countKeys && st.Leader == rt.self
	if u, err := rt.ranges.Usage(st.Descriptor.ID, count); err == nil {
		p.SizeBytes = u.Bytes
		if count {
			p.Keys = u.Keys
		}
	}
	return p
}
