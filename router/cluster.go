package router

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// clusterServer is etcd's Cluster service: nodes are its members.
type clusterServer struct {
	pb.UnimplementedClusterServer
	rt *Router
}

// later is the answer to what another issue brings.
func later(what string) error {
	return status.Error(codes.Unimplemented, "pontoon: "+what+" is not supported by this version")
}

// MemberList implements etcdserverpb.ClusterServer.
func (s *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.rt.timeout)
	defer cancel()
	members, err := s.rt.cluster.Members(ctx, r.Linearizable)
	if err != nil {
		return nil, s.rt.clusterError(ctx, err)
	}
	resp := &pb.MemberListResponse{Header: s.rt.header()}
	for _, m := range members {
		resp.Members = append(resp.Members, &pb.Member{
			ID: uint64(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs,
		})
	}
	return resp, nil
}

// MemberAdd implements etcdserverpb.ClusterServer.
func (s *clusterServer) MemberAdd(context.Context, *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	return nil, later("adding a member")
}

// MemberRemove implements etcdserverpb.ClusterServer.
func (s *clusterServer) MemberRemove(context.Context, *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	return nil, later("removing a member")
}

// MemberUpdate implements etcdserverpb.ClusterServer.
func (s *clusterServer) MemberUpdate(context.Context, *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	return nil, later("changing a member's peer URLs")
}

// MemberPromote implements etcdserverpb.ClusterServer.
func (s *clusterServer) MemberPromote(context.Context, *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return nil, later("promoting a member")
}
