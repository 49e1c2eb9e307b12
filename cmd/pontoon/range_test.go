package main

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeAdmin is a cluster of two nodes with two user ranges; the second node did not answer.
type fakeAdmin struct {
	pontoonpb.UnimplementedAdminServer
	pb.UnimplementedClusterServer
}

func (fakeAdmin) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	return &pb.MemberListResponse{Members: []*pb.Member{{ID: 10, Name: "n1"}}}, nil
}

func (fakeAdmin) info(id uint64, start, end []byte) *pontoonpb.RangeInfo {
	return &pontoonpb.RangeInfo{
		Range: &pontoonpb.Descriptor{Id: id, Start: start, End: end, Generation: 4, Replicas: []*pontoonpb.ReplicaDescriptor{
			{Node: 10, Replica: 1}, {Node: 11, Replica: 2, Learner: true}}},
		Leader: 10, Term: 7, SizeBytes: 3 << 20, Keys: -1, AppliedRevision: 20, ResolvedRevision: 21,
		Load:     &pontoonpb.RangeLoad{Writes: 5, Reads: 6},
		Replicas: []*pontoonpb.ReplicaStatus{{Node: 10, Replica: 1, Leader: 10, Term: 7, CommitIndex: 12, AppliedIndex: 11, LastIndex: 13}},
	}
}

func (f fakeAdmin) RangeList(context.Context, *pontoonpb.RangeListRequest) (*pontoonpb.RangeListResponse, error) {
	return &pontoonpb.RangeListResponse{ClusterId: 255, Revision: 21, Errors: []string{"node b: no answer"}, Ranges: []*pontoonpb.RangeInfo{
		f.info(3, ids.UserSpace.Start, ids.UserKey([]byte("m"))), f.info(4, ids.UserKey([]byte("m")), ids.UserSpace.End)}}, nil
}

func (f fakeAdmin) RangeShow(_ context.Context, r *pontoonpb.RangeShowRequest) (*pontoonpb.RangeShowResponse, error) {
	if r.RangeId == 99 {
		return nil, status.Error(codes.NotFound, "there is no range 99")
	}
	return &pontoonpb.RangeShowResponse{Range: f.info(3, ids.UserSpace.Start, ids.UserKey([]byte("m")))}, nil
}

func serveFake(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pontoonpb.RegisterAdminServer(s, fakeAdmin{})
	pb.RegisterClusterServer(s, fakeAdmin{})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func TestRangeCommands(t *testing.T) {
	addr := serveFake(t)
	for _, tc := range []struct {
		args string
		code int
		want []string
	}{
		{"range list", 0, []string{"RANGE", `"m"`, "max", "n1,b(learner)", "3.0 MiB", "warning: node b: no answer"}},
		{"range list -o json", 0, []string{`"clusterId": "ff"`, `"toKey": "bQ=="`, `"toKey": null`}},
		{"range show 3", 0, []string{`from "" to "m"`, "n1, term 7", "COMMIT"}},
		{"range show --holding a -o json", 0, []string{`"answered": false`}},
		{"range show 99", 1, []string{addr + ": there is no range 99"}},
		{"range show", 2, []string{"name a range by its id"}},
		{"range show three", 2, []string{`"three" is not a range's id`}},
		{"range list -o xml", 2, []string{"use table or json"}},
	} {
		var out, errs strings.Builder
		code := run(append(strings.Fields(tc.args), "--endpoints="+addr), &out, &errs)
		if code != tc.code {
			t.Errorf("pontoon %s: code %d, want %d: %s", tc.args, code, tc.code, errs.String())
		}
		for _, w := range tc.want {
			if all := out.String() + errs.String(); !strings.Contains(all, w) {
				t.Errorf("pontoon %s: no %q in\n%s", tc.args, w, all)
			}
		}
		if strings.Contains(tc.args, "json") && code == 0 && !json.Valid([]byte(out.String())) {
			t.Errorf("pontoon %s: not JSON:\n%s", tc.args, out.String())
		}
	}
}

func TestSizeText(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 63: "8192.0 PiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
