package grpcnet

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/multiraft/transport/internal/calls"
	"github.com/pontoon-kv/pontoon/multiraft/transport/transporttest"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"google.golang.org/protobuf/proto"
)

func someRaft(n, size int) []*pontoonpb.RaftMessage {
	ms := make([]*pontoonpb.RaftMessage, n)
	for i := range ms {
		ms[i] = &pontoonpb.RaftMessage{RangeId: uint64(i), ToReplica: 3, Message: bytes.Repeat([]byte{byte(i)}, size*(i%3))}
	}
	return ms
}

// TestFrameIsProtobuf: what is written and read by hand is what the generated code writes and reads.
func TestFrameIsProtobuf(t *testing.T) {
	notLeader := &ids.NotLeaderError{Range: 1, Leader: 2}
	frames := map[string]struct {
		ours outFrame
		want *pontoonpb.Frame
	}{
		"raft": {raftFrame(someRaft(200, 300)), &pontoonpb.Frame{Raft: someRaft(200, 300)}},
		"calls": {
			callFrame([]*calls.Call{{ID: 1, Method: 3, Payload: []byte("x")}, {ID: 1 << 60, Method: 900}}),
			&pontoonpb.Frame{Calls: []*pontoonpb.Call{{Id: 1, Method: 3, Payload: []byte("x")}, {Id: 1 << 60, Method: 900}}},
		},
		"replies": {
			replyFrame([]outReply{{id: 7, payload: []byte("y")}, {id: 8, err: marshalError(notLeader)}, {id: 9}}),
			&pontoonpb.Frame{Replies: []*pontoonpb.Reply{{Id: 7, Payload: []byte("y")},
				{Id: 8, Error: wire.ErrorToProto(notLeader)}, {Id: 9}}},
		},
	}
	for name, f := range frames {
		var got pontoonpb.Frame
		if err := proto.Unmarshal(*f.ours.buf, &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !proto.Equal(&got, f.want) {
			t.Errorf("%s: we wrote %v", name, &got)
		}
		b, err := proto.Marshal(f.want)
		if err != nil {
			t.Fatal(err)
		}
		var in inFrame
		if err := in.decode(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back := &pontoonpb.Frame{Raft: in.raft}
		for _, c := range in.calls {
			back.Calls = append(back.Calls, &pontoonpb.Call{Id: c.id, Method: uint32(c.method), Payload: c.payload})
		}
		for _, a := range in.answers {
			back.Replies = append(back.Replies, &pontoonpb.Reply{Id: a.ID, Payload: a.Payload, Error: wire.ErrorToProto(a.Err)})
		}
		if !proto.Equal(back, f.want) {
			t.Errorf("%s: we read %v", name, back)
		}
	}
}

func TestHelloFrame(t *testing.T) {
	f, err := helloFrame(&pontoonpb.Hello{ClusterId: 1, NodeId: 2, Refused: "no"})
	if err != nil {
		t.Fatal(err)
	}
	var in inFrame
	if err := in.decode(*f.buf); err != nil || in.hello.GetNodeId() != 2 || in.hello.GetRefused() != "no" || in.empty() {
		t.Errorf("read %v, %v", in.hello, err)
	}
	if err := in.decode(nil); err != nil || !in.empty() {
		t.Errorf("a ping is not empty: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(*raftFrame(someRaft(5, 10)).buf)
	f.Add(*replyFrame([]outReply{{id: 8, err: marshalError(errors.New("x"))}}).buf)
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var in inFrame
		err := in.decode(b)
		var want pontoonpb.Frame
		if werr := proto.Unmarshal(b, &want); werr == nil && err != nil {
			t.Errorf("we refuse what protobuf accepts: %v", err)
		}
	})
}

func BenchmarkEncodeRaft(b *testing.B) {
	ms := someRaft(100, 300)
	b.Run("hand", func(b *testing.B) {
		for b.Loop() {
			raftFrame(ms)
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		for b.Loop() {
			_, _ = proto.Marshal(&pontoonpb.Frame{Raft: ms})
		}
	})
}

func BenchmarkDecodeRaft(b *testing.B) {
	data := *raftFrame(someRaft(100, 300)).buf
	b.Run("hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var f inFrame
			_ = f.decode(data)
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var f pontoonpb.Frame
			_ = proto.Unmarshal(data, &f)
		}
	})
}

func benchPair(b *testing.B, handle func(e *Transport)) *Transport {
	n := newNetwork(transporttest.Limits{})
	d, e := join(b, n.config(b, 1, 1)), join(b, n.config(b, 2, 1))
	e.Handle(transport.MethodRange, echo)
	if handle != nil {
		handle(e)
	}
	startAll(b, d, e)
	callUntil(b, d, 2, transport.MethodRange)
	return d
}

// BenchmarkCalls: 300-byte calls, answered at once, with so many in flight.
func BenchmarkCalls(b *testing.B) {
	for name, inFlight := range map[string]int{"1": 1, "1000": 1000} {
		b.Run(name, func(b *testing.B) {
			d := benchPair(b, nil)
			payload := bytes.Repeat([]byte("x"), 300)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			tokens := make(chan struct{}, inFlight)
			b.ReportAllocs()
			for b.Loop() {
				tokens <- struct{}{}
				d.Go(ctx, 2, transport.MethodRange, payload, func(_ []byte, err error) {
					if err != nil {
						b.Error(err)
					}
					<-tokens
				})
			}
			for range inFlight {
				tokens <- struct{}{}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkRaft: batches of 10 messages of 300 bytes, one way.
func BenchmarkRaft(b *testing.B) {
	var mu sync.Mutex
	cond := sync.NewCond(&mu)
	got := 0
	d := benchPair(b, func(e *Transport) {
		e.HandleRaft(func(_ ids.NodeID, ms []*pontoonpb.RaftMessage) {
			mu.Lock()
			got += len(ms)
			cond.Signal()
			mu.Unlock()
		})
	})
	msg := &pontoonpb.RaftMessage{RangeId: 9, ToReplica: 2, Message: []byte(strings.Repeat("x", 300))}
	batch := []*pontoonpb.RaftMessage{msg, msg, msg, msg, msg, msg, msg, msg, msg, msg}
	sent := 0
	b.ReportAllocs()
	for b.Loop() {
		mu.Lock()
		for sent-got > 4000 {
			cond.Wait()
		}
		mu.Unlock()
		if !d.SendRaft(2, batch) {
			b.Fatal("dropped")
		}
		sent += len(batch)
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "messages/s")
}
