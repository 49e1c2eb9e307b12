package router

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchServer answers for etcd's Watch service until there is one.
type watchServer struct{ pb.UnimplementedWatchServer }

// Watch implements etcdserverpb.WatchServer.
func (watchServer) Watch(pb.Watch_WatchServer) error { return later("watching") }

// leaseServer answers for etcd's Lease service until there is one.
type leaseServer struct{ pb.UnimplementedLeaseServer }

// LeaseGrant implements etcdserverpb.LeaseServer.
func (leaseServer) LeaseGrant(context.Context, *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return nil, later("granting a lease")
}

// LeaseRevoke implements etcdserverpb.LeaseServer.
func (leaseServer) LeaseRevoke(context.Context, *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	return nil, later("revoking a lease")
}

// LeaseKeepAlive implements etcdserverpb.LeaseServer.
func (leaseServer) LeaseKeepAlive(pb.Lease_LeaseKeepAliveServer) error {
	return later("keeping a lease alive")
}

// LeaseTimeToLive implements etcdserverpb.LeaseServer.
func (leaseServer) LeaseTimeToLive(context.Context, *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return nil, later("a lease's time to live")
}

// LeaseLeases implements etcdserverpb.LeaseServer.
func (leaseServer) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	return nil, later("listing leases")
}
