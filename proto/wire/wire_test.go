package wire_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// travel sends err through the bytes of the wire.
func travel(t *testing.T, err error) error {
	t.Helper()
	b, merr := proto.Marshal(wire.ErrorToProto(err))
	if merr != nil {
		t.Fatal(merr)
	}
	var p pontoonpb.Error
	if uerr := proto.Unmarshal(b, &p); uerr != nil {
		t.Fatal(uerr)
	}
	return wire.ErrorFromProto(&p)
}

func descriptor() *ids.Descriptor {
	return &ids.Descriptor{
		ID:         7,
		Span:       ids.UserSpan([]byte("a"), []byte("k")),
		Generation: 12,
		Replicas:   []ids.ReplicaDesc{{Node: 1, Replica: 2}, {Node: 3, Replica: 4, Learner: true}},
	}
}

func TestDescriptorTravels(t *testing.T) {
	want := descriptor()
	b, err := proto.Marshal(wire.DescriptorToProto(want))
	if err != nil {
		t.Fatal(err)
	}
	var p pontoonpb.Descriptor
	if err := proto.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	if got := wire.DescriptorFromProto(&p); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if wire.DescriptorToProto(nil) != nil || wire.DescriptorFromProto(nil) != nil {
		t.Fatal("nil must stay nil")
	}
}

func TestInvalidDescriptorsAreLeftOut(t *testing.T) {
	bad := descriptor()
	bad.Replicas = nil
	got := wire.DescriptorsFromProto(wire.DescriptorsToProto([]*ids.Descriptor{bad, nil, descriptor()}))
	if len(got) != 1 || !reflect.DeepEqual(got[0], descriptor()) {
		t.Fatalf("got %v", got)
	}
}

func TestTypedErrorsTravel(t *testing.T) {
	for _, want := range []error{
		&ids.NotLeaderError{Range: 3, Leader: 9},
		&ids.NotLeaderError{Range: 3},
		&ids.WrongRangeError{Range: 3, Descriptors: []*ids.Descriptor{descriptor()}},
		&ids.WrongRangeError{Range: 3},
		&ids.NotAppendedError{Range: 3, Reason: "overwritten"},
		&ids.AmbiguousError{Range: 3, Reason: "lost leader"},
		&ids.UnavailableError{Range: 3, Reason: "no session"},
	} {
		if got := travel(t, want); !reflect.DeepEqual(got, want) {
			t.Errorf("%T: got %#v, want %#v", want, got, want)
		}
		if got := travel(t, fmt.Errorf("while forwarding: %w", want)); !reflect.DeepEqual(got, want) {
			t.Errorf("wrapped %T: got %#v, want %#v", want, got, want)
		}
	}
}

func TestEtcdErrorsKeepCodeAndText(t *testing.T) {
	for _, want := range []error{
		rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCFutureRev, rpctypes.ErrGRPCEmptyKey, rpctypes.ErrGRPCNoSpace,
		rpctypes.ErrGRPCLeaseNotFound, rpctypes.ErrGRPCTimeoutDueToConnectionLost, rpctypes.ErrGRPCDuplicateKey,
	} {
		forms := map[string]error{"server": want, "wrapped": fmt.Errorf("x: %w", want), "client": rpctypes.Error(want)}
		for form, err := range forms {
			got := travel(t, err)
			if status.Code(got) != status.Code(want) || rpctypes.ErrorDesc(got) != rpctypes.ErrorDesc(want) {
				t.Errorf("%s form of %v came back as %v", form, want, got)
			}
			if rpctypes.Error(got) != rpctypes.Error(want) {
				t.Errorf("etcd's client does not recognise %v", got)
			}
		}
	}
}

func TestContextErrorsTravel(t *testing.T) {
	for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
		for _, err := range []error{want, fmt.Errorf("waiting: %w", want)} {
			if got := travel(t, err); !errors.Is(got, want) {
				t.Errorf("%v came back as %v", err, got)
			}
		}
	}
}

func TestOtherErrorsBecomeUnknown(t *testing.T) {
	got := travel(t, errors.New("disk on fire"))
	if status.Code(got) != codes.Unknown || status.Convert(got).Message() != "disk on fire" {
		t.Errorf("got %v", got)
	}
	// Never a success, never a proof that nothing happened.
	ok := &pontoonpb.Error{Kind: &pontoonpb.Error_Status{Status: &pontoonpb.Status{}}}
	for _, p := range []*pontoonpb.Error{{}, ok} {
		got := wire.ErrorFromProto(p)
		if got == nil || ids.Retryable(got) || status.Code(got) != codes.Unknown {
			t.Errorf("%v read as %v", p, got)
		}
	}
	if wire.ErrorToProto(nil) != nil || wire.ErrorFromProto(nil) != nil {
		t.Error("nil must stay nil")
	}
}
