package router

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// authServer is etcd's Auth service as it is while authentication is off and cannot be turned on: reading says so,
// changing is refused (the embedded server's Unimplemented).
type authServer struct {
	pb.UnimplementedAuthServer
	rt *Router
}

// AuthStatus implements etcdserverpb.AuthServer.
func (s *authServer) AuthStatus(context.Context, *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return &pb.AuthStatusResponse{Header: s.rt.header(), AuthRevision: 1}, nil
}

// Authenticate implements etcdserverpb.AuthServer.
func (s *authServer) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return nil, rpctypes.ErrGRPCAuthNotEnabled
}

// AuthDisable implements etcdserverpb.AuthServer: it is off already.
func (s *authServer) AuthDisable(context.Context, *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return &pb.AuthDisableResponse{Header: s.rt.header()}, nil
}

// AuthEnable implements etcdserverpb.AuthServer: as in a store without a root user.
func (s *authServer) AuthEnable(context.Context, *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return nil, rpctypes.ErrGRPCRootUserNotExist
}

// UserList implements etcdserverpb.AuthServer.
func (s *authServer) UserList(context.Context, *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return &pb.AuthUserListResponse{Header: s.rt.header()}, nil
}

// UserGet implements etcdserverpb.AuthServer.
func (s *authServer) UserGet(context.Context, *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// RoleList implements etcdserverpb.AuthServer.
func (s *authServer) RoleList(context.Context, *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return &pb.AuthRoleListResponse{Header: s.rt.header()}, nil
}

// RoleGet implements etcdserverpb.AuthServer.
func (s *authServer) RoleGet(context.Context, *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}

// UserAdd implements etcdserverpb.AuthServer.
func (s *authServer) UserAdd(context.Context, *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	return nil, later("adding a user")
}

// RoleAdd implements etcdserverpb.AuthServer.
func (s *authServer) RoleAdd(context.Context, *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return nil, later("adding a role")
}
