package wire

import (
	"context"
	"errors"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrorToProto returns the wire form of err; nil for nil.
//
//   - One of ids' typed errors, wrapped or not, travels with all its fields; the wrapping is lost.
//   - A gRPC status (etcd's errors are such), wrapped or not, travels with its code and its text; so does the form in
//     which etcd's client hands them out. The wrapping and the details are lost.
//   - The errors of a context travel as the statuses of their codes and come back as themselves.
//   - Any other error becomes a status of code Unknown with its text.
func ErrorToProto(err error) *pontoonpb.Error {
	if err == nil {
		return nil
	}
	if p := typedToProto(err); p != nil {
		return p
	}
	code, text := codes.Unknown, err.Error()
	var withStatus interface{ GRPCStatus() *status.Status }
	var withCode interface{ Code() codes.Code }
	switch {
	case errors.As(err, &withStatus):
		st := withStatus.GRPCStatus()
		code, text = st.Code(), st.Message()
	case errors.As(err, &withCode):
		code = withCode.Code()
		if e, ok := withCode.(error); ok {
			text = e.Error()
		}
	case errors.Is(err, context.Canceled):
		code, text = codes.Canceled, context.Canceled.Error()
	case errors.Is(err, context.DeadlineExceeded):
		code, text = codes.DeadlineExceeded, context.DeadlineExceeded.Error()
	}
	if code == codes.OK {
		code = codes.Unknown // an error never turns into a success
	}
	return &pontoonpb.Error{Kind: &pontoonpb.Error_Status{
		Status: &pontoonpb.Status{Code: uint32(code), Message: text},
	}}
}

// typedToProto returns the wire form of ids' typed errors, and nil for all others.
func typedToProto(err error) *pontoonpb.Error {
	var (
		notLeader   *ids.NotLeaderError
		wrongRange  *ids.WrongRangeError
		notAppended *ids.NotAppendedError
		ambiguous   *ids.AmbiguousError
		unavailable *ids.UnavailableError
	)
	switch {
	case errors.As(err, &notLeader):
		return &pontoonpb.Error{Kind: &pontoonpb.Error_NotLeader{NotLeader: &pontoonpb.NotLeader{
			RangeId: uint64(notLeader.Range), Leader: uint64(notLeader.Leader)}}}
	case errors.As(err, &wrongRange):
		return &pontoonpb.Error{Kind: &pontoonpb.Error_WrongRange{WrongRange: &pontoonpb.WrongRange{
			RangeId: uint64(wrongRange.Range), Descriptors: DescriptorsToProto(wrongRange.Descriptors)}}}
	case errors.As(err, &notAppended):
		return &pontoonpb.Error{Kind: &pontoonpb.Error_NotAppended{NotAppended: &pontoonpb.NotAppended{
			RangeId: uint64(notAppended.Range), Reason: notAppended.Reason}}}
	case errors.As(err, &ambiguous):
		return &pontoonpb.Error{Kind: &pontoonpb.Error_Ambiguous{Ambiguous: &pontoonpb.Ambiguous{
			RangeId: uint64(ambiguous.Range), Reason: ambiguous.Reason}}}
	case errors.As(err, &unavailable):
		return &pontoonpb.Error{Kind: &pontoonpb.Error_Unavailable{Unavailable: &pontoonpb.Unavailable{
			RangeId: uint64(unavailable.Range), Reason: unavailable.Reason}}}
	}
	return nil
}

// ErrorFromProto returns the error that p carries; nil for nil only. A p that carries none of the known kinds (a newer
// node's, a damaged one) is an error of code Unknown, so that a failure never reads as success, nor as proof that
// nothing happened.
func ErrorFromProto(p *pontoonpb.Error) error {
	if p == nil {
		return nil
	}
	switch k := p.GetKind().(type) {
	case *pontoonpb.Error_NotLeader:
		return &ids.NotLeaderError{Range: ids.RangeID(k.NotLeader.GetRangeId()), Leader: ids.NodeID(k.NotLeader.GetLeader())}
	case *pontoonpb.Error_WrongRange:
		return &ids.WrongRangeError{Range: ids.RangeID(k.WrongRange.GetRangeId()),
			Descriptors: DescriptorsFromProto(k.WrongRange.GetDescriptors())}
	case *pontoonpb.Error_NotAppended:
		return &ids.NotAppendedError{Range: ids.RangeID(k.NotAppended.GetRangeId()), Reason: k.NotAppended.GetReason()}
	case *pontoonpb.Error_Ambiguous:
		return &ids.AmbiguousError{Range: ids.RangeID(k.Ambiguous.GetRangeId()), Reason: k.Ambiguous.GetReason()}
	case *pontoonpb.Error_Unavailable:
		return &ids.UnavailableError{Range: ids.RangeID(k.Unavailable.GetRangeId()), Reason: k.Unavailable.GetReason()}
	case *pontoonpb.Error_Status:
		return statusError(codes.Code(k.Status.GetCode()), k.Status.GetMessage())
	}
	return status.Error(codes.Unknown, "another node answered with an error of an unknown kind")
}

func statusError(code codes.Code, text string) error {
	switch {
	case code == codes.Canceled && text == context.Canceled.Error():
		return context.Canceled
	case code == codes.DeadlineExceeded && text == context.DeadlineExceeded.Error():
		return context.DeadlineExceeded
	case code == codes.OK:
		code = codes.Unknown
	}
	return status.Error(code, text)
}
