package router

import (
	"fmt"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The field numbers of pontoonpb.RangeCall and RangeReply that are written by hand below, so that a request's bytes are
// marshalled into the call and a response's unmarshalled out of the reply without a copy between.
const (
	callRange      protowire.Number = 1
	callGeneration protowire.Number = 2
	callKind       protowire.Number = 3
	callRequest    protowire.Number = 4
	callRevision   protowire.Number = 5
	callStart      protowire.Number = 6
	callEnd        protowire.Number = 7
	callSkipCount  protowire.Number = 8
	replyResponse  protowire.Number = 1
)

// callPart says which part of a read a call is for. The zero value is a whole read.
type callPart struct {
	at        ids.Revision
	span      ids.Span
	skipCount bool
}

// encodeCall marshals a pontoonpb.RangeCall.
func encodeCall(d *ids.Descriptor, kind pontoonpb.RangeCall_Kind, op proto.Message, part callPart) ([]byte, error) {
	size := proto.Size(op)
	b := make([]byte, 0, size+48+len(part.span.Start)+len(part.span.End))
	uint := func(n protowire.Number, v uint64) {
		b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	uint(callRange, uint64(d.ID))
	uint(callGeneration, uint64(d.Generation))
	uint(callKind, uint64(kind))
	if part.at != 0 {
		uint(callRevision, uint64(part.at))
	}
	if len(part.span.Start) > 0 {
		b = protowire.AppendBytes(protowire.AppendTag(b, callStart, protowire.BytesType), part.span.Start)
		b = protowire.AppendBytes(protowire.AppendTag(b, callEnd, protowire.BytesType), part.span.End)
	}
	if part.skipCount {
		uint(callSkipCount, 1)
	}
	b = protowire.AppendTag(b, callRequest, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, op)
	if err != nil {
		return nil, fmt.Errorf("marshalling a request: %w", err)
	}
	return b, nil
}

// decodeReply unmarshals the response in a pontoonpb.RangeReply.
func decodeReply(payload []byte, resp proto.Message) error {
	for len(payload) > 0 {
		num, typ, n := protowire.ConsumeTag(payload)
		if n < 0 {
			return fmt.Errorf("malformed range reply: %w", protowire.ParseError(n))
		}
		payload = payload[n:]
		if num == replyResponse && typ == protowire.BytesType {
			body, n := protowire.ConsumeBytes(payload)
			if n < 0 {
				return fmt.Errorf("malformed range reply: %w", protowire.ParseError(n))
			}
			return proto.Unmarshal(body, resp)
		}
		if n = protowire.ConsumeFieldValue(num, typ, payload); n < 0 {
			return fmt.Errorf("malformed range reply: %w", protowire.ParseError(n))
		}
		payload = payload[n:]
	}
	return nil // an empty response is no bytes
}
