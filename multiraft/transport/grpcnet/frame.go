package grpcnet

import (
	"fmt"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that other services use
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The bytes of a frame are those of pontoonpb.Frame, written and read by hand: this is the hottest path between nodes,
// and reading through reflection takes three times as long and seventeen times the allocations (frame_test.go measures
// both and checks that they agree).

const (
	// frameBytesMax is the size up to which a sender fills a frame. One larger message makes a larger frame.
	frameBytesMax = 1 << 20
	// frameRecvMax bounds what a receiver accepts: a full frame, or one message of the greatest payload.
	frameRecvMax = transport.MaxPayload + frameBytesMax
	// messageOverhead is at least what a message takes in a frame beside its payload.
	messageOverhead = 32
)

// outFrame is an encoded frame on its way into gRPC, which returns the buffer to the pool.
type outFrame struct{ buf *[]byte }

// inCall and inFrame are a decoded frame. Payloads share the frame's one buffer, which is nobody else's.
type inCall struct {
	id      uint64
	method  transport.Method
	payload []byte
}

type inFrame struct {
	raft    []*pontoonpb.RaftMessage // new for each frame: the handler may keep it
	calls   []inCall                 // reused by the next frame
	answers []calls.Answer           // reused by the next frame
	hello   *pontoonpb.Hello
	size    int
}

func (f *inFrame) empty() bool {
	return len(f.raft) == 0 && len(f.calls) == 0 && len(f.answers) == 0 && f.hello == nil
}

// outReply is an answer that waits to be sent.
type outReply struct {
	id      uint64
	payload []byte
	err     []byte // marshalled pontoonpb.Error; empty: success
}

func newBuffer(size int) *[]byte {
	buf := mem.DefaultBufferPool().Get(size)
	*buf = (*buf)[:0]
	return buf
}

func helloFrame(h *pontoonpb.Hello) (outFrame, error) {
	b, err := proto.Marshal(&pontoonpb.Frame{Hello: h})
	return outFrame{&b}, err
}

func raftFrame(msgs []*pontoonpb.RaftMessage) outFrame {
	size := 0
	for _, m := range msgs {
		size += raftSize(m) + 2*protowire.SizeVarint(uint64(frameRecvMax))
	}
	buf := newBuffer(size)
	b := *buf
	for _, m := range msgs {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(raftSize(m)))
		b = appendUint(b, 1, m.GetRangeId())
		b = appendUint(b, 2, m.GetToReplica())
		b = appendBytes(b, 3, m.GetMessage())
	}
	*buf = b
	return outFrame{buf}
}

func callFrame(cs []*calls.Call) outFrame {
	size := 0
	for _, c := range cs {
		size += len(c.Payload) + messageOverhead
	}
	buf := newBuffer(size)
	b := *buf
	for _, c := range cs {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeUint(c.ID)+sizeUint(uint64(c.Method))+sizeBytes(c.Payload)))
		b = appendUint(b, 1, c.ID)
		b = appendUint(b, 2, uint64(c.Method))
		b = appendBytes(b, 3, c.Payload)
	}
	*buf = b
	return outFrame{buf}
}

func replyFrame(rs []outReply) outFrame {
	size := 0
	for _, r := range rs {
		size += len(r.payload) + len(r.err) + messageOverhead
	}
	buf := newBuffer(size)
	b := *buf
	for _, r := range rs {
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeUint(r.id)+sizeBytes(r.payload)+sizeBytes(r.err)))
		b = appendUint(b, 1, r.id)
		b = appendBytes(b, 2, r.payload)
		b = appendBytes(b, 3, r.err)
	}
	*buf = b
	return outFrame{buf}
}

func raftSize(m *pontoonpb.RaftMessage) int {
	return sizeUint(m.GetRangeId()) + sizeUint(m.GetToReplica()) + sizeBytes(m.GetMessage())
}

// The field numbers here are all below 16: a tag is one byte. Zero values are left out, as proto3 does.

func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeBytes(v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(len(v))
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// fields calls f for each field of a message; f sees varints as n and bytes as v, which shares msg's memory.
func fields(msg []byte, f func(field protowire.Number, n uint64, v []byte) error) error {
	for len(msg) > 0 {
		field, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		var num uint64
		var val []byte
		switch typ {
		case protowire.VarintType:
			num, n = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			val, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(field, typ, msg)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		if typ != protowire.VarintType && typ != protowire.BytesType {
			continue // not of this version
		}
		if err := f(field, num, val[:len(val):len(val)]); err != nil {
			return err
		}
	}
	return nil
}

// decode reads a frame. The frame keeps data.
func (f *inFrame) decode(data []byte) error {
	f.raft, f.hello, f.size = nil, nil, len(data)
	clear(f.calls)
	clear(f.answers)
	f.calls, f.answers = f.calls[:0], f.answers[:0]
	var raft []pontoonpb.RaftMessage
	err := fields(data, func(field protowire.Number, _ uint64, v []byte) error {
		switch field {
		case 1:
			return f.decodeRaft(&raft, data, v)
		case 2:
			return f.decodeCall(v)
		case 3:
			return f.decodeAnswer(v)
		case 4:
			f.hello = &pontoonpb.Hello{}
			return proto.Unmarshal(v, f.hello)
		}
		return nil
	})
	return err
}

// decodeRaft takes memory for messages in blocks sized by what the first of them suggests.
func (f *inFrame) decodeRaft(block *[]pontoonpb.RaftMessage, data, v []byte) error {
	if len(*block) == 0 {
		n := min(max(1, len(data)/(len(v)+2)), raftBlockMax)
		*block = make([]pontoonpb.RaftMessage, n)
	}
	m := &(*block)[0]
	*block = (*block)[1:]
	f.raft = append(f.raft, m)
	return fields(v, func(field protowire.Number, n uint64, v []byte) error {
		switch field {
		case 1:
			m.RangeId = n
		case 2:
			m.ToReplica = n
		case 3:
			m.Message = v
		}
		return nil
	})
}

// raftBlockMax bounds the messages allocated at once: a kept message keeps its block.
const raftBlockMax = 64

func (f *inFrame) decodeCall(v []byte) error {
	var c inCall
	err := fields(v, func(field protowire.Number, n uint64, v []byte) error {
		switch field {
		case 1:
			c.id = n
		case 2:
			c.method = transport.Method(n)
		case 3:
			c.payload = v
		}
		return nil
	})
	f.calls = append(f.calls, c)
	return err
}

func (f *inFrame) decodeAnswer(v []byte) error {
	var a calls.Answer
	err := fields(v, func(field protowire.Number, n uint64, v []byte) error {
		switch field {
		case 1:
			a.ID = n
		case 2:
			a.Payload = v
		case 3:
			var e pontoonpb.Error
			if err := proto.Unmarshal(v, &e); err != nil {
				return err
			}
			a.Err = wire.ErrorFromProto(&e)
		}
		return nil
	})
	f.answers = append(f.answers, a)
	return err
}

// codec puts frames through gRPC without a copy of ours beyond the one out of its buffers. Messages of other services
// on the same server go through gRPC's own codec.
type codec struct{}

// Name implements encoding.CodecV2. The bytes are protobuf's.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(outFrame); ok {
		if len(*f.buf) == 0 {
			return nil, nil
		}
		return mem.BufferSlice{mem.NewBuffer(f.buf, mem.DefaultBufferPool())}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*inFrame); ok {
		if err := f.decode(data.Materialize()); err != nil {
			return fmt.Errorf("malformed frame: %w", err)
		}
		return nil
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}
