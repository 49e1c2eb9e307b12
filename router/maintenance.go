package router

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
)

// storageVersion is what etcd 3.7 reports of its data files; clients compare it with what they know.
const storageVersion = "3.7.0"

// maintenanceServer is etcd's Maintenance service. Where etcd speaks of its one Raft group, this speaks of the placement
// group.
type maintenanceServer struct {
	pb.UnimplementedMaintenanceServer
	rt *Router
}

// Status implements etcdserverpb.MaintenanceServer.
func (s *maintenanceServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	rt := s.rt
	raft := rt.cluster.Raft()
	resp := &pb.StatusResponse{
		Header:           rt.header(),
		Version:          version.Version,
		StorageVersion:   storageVersion,
		Leader:           uint64(raft.Leader),
		RaftIndex:        raft.Commit,
		RaftAppliedIndex: raft.Applied,
		RaftTerm:         raft.Term,
		DbSizeQuota:      rt.cfg.QuotaBytes,
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	if rt.store != nil {
		resp.DbSize, resp.DbSizeInUse = rt.store.Size()
	}
	if raft.Leader == 0 {
		resp.Errors = append(resp.Errors, "etcdserver: no leader")
	}
	for _, a := range rt.cluster.Alarms() {
		resp.Errors = append(resp.Errors, a.String())
	}
	return resp, nil
}

// Alarm implements etcdserverpb.MaintenanceServer. Alarms are raised by what they tell of; a client can only list them,
// and disarm one that is not raised.
func (s *maintenanceServer) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	resp := &pb.AlarmResponse{Header: s.rt.header()}
	raised := s.rt.cluster.Alarms()
	match := func(a *pb.AlarmMember) bool {
		return (r.MemberID == 0 || r.MemberID == a.MemberID) && (r.Alarm == pb.AlarmType_NONE || r.Alarm == a.Alarm)
	}
	switch r.Action {
	case pb.AlarmRequest_GET:
		for _, a := range raised {
			if match(a) {
				resp.Alarms = append(resp.Alarms, a)
			}
		}
		return resp, nil
	case pb.AlarmRequest_DEACTIVATE:
		for _, a := range raised {
			if match(a) {
				return nil, later("disarming an alarm by hand")
			}
		}
		return resp, nil
	}
	return nil, later("raising an alarm by hand")
}

// Defragment implements etcdserverpb.MaintenanceServer: this node's engine gives back what it can.
func (s *maintenanceServer) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	rt := s.rt
	if rt.store != nil {
		rt.log.Info("engine compaction begins, as a client asked for it")
		if err := rt.store.Compact(ctx); err != nil {
			rt.log.Warn("engine compaction failed", zap.Error(err))
			return nil, safe(err)
		}
		rt.log.Info("engine compaction is done")
	}
	return &pb.DefragmentResponse{Header: rt.header()}, nil
}

// Hash implements etcdserverpb.MaintenanceServer.
func (s *maintenanceServer) Hash(context.Context, *pb.HashRequest) (*pb.HashResponse, error) {
	return nil, later("the hash of a member's files")
}

// HashKV implements etcdserverpb.MaintenanceServer.
func (s *maintenanceServer) HashKV(context.Context, *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	return nil, later("the hash of a member's keys")
}

// Snapshot implements etcdserverpb.MaintenanceServer.
func (s *maintenanceServer) Snapshot(*pb.SnapshotRequest, pb.Maintenance_SnapshotServer) error {
	return later("a backup by snapshot")
}

// MoveLeader implements etcdserverpb.MaintenanceServer.
func (s *maintenanceServer) MoveLeader(context.Context, *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if s.rt.cluster.Raft().Leader != s.rt.self {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	return nil, later("moving the placement group's leader by hand")
}

// Downgrade implements etcdserverpb.MaintenanceServer.
func (s *maintenanceServer) Downgrade(context.Context, *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	return nil, later("a downgrade")
}
