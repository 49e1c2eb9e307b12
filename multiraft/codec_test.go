package multiraft

import (
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func randomMessage(rng *rand.Rand) *raftpb.Message {
	u := func() *uint64 { return proto.Uint64(rng.Uint64N(1<<20) + 1) }
	types := []raftpb.MessageType{
		raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgPreVoteResp, raftpb.MsgHeartbeat, raftpb.MsgTimeoutNow,
	}
	m := &raftpb.Message{
		Type: types[rng.IntN(len(types))].Enum(), To: u(), From: u(), Term: proto.Uint64(1 << 40), LogTerm: u(), Index: u(), Commit: u(),
	}
	if rng.IntN(2) == 0 {
		m.Reject, m.RejectHint = proto.Bool(true), u()
	}
	if rng.IntN(3) == 0 {
		m.Context = []byte("contexts")
	}
	if m.GetType() == raftpb.MsgApp {
		for i := range rng.IntN(5) {
			e := &raftpb.Entry{
				Type: raftpb.EntryType(rng.IntN(3)).Enum(), Term: proto.Uint64(m.GetLogTerm() + uint64(i)),
				Index: proto.Uint64(m.GetIndex() + 1 + uint64(i)),
			}
			if rng.IntN(4) > 0 {
				e.Data = make([]byte, 1+rng.IntN(300))
				for j := range e.Data {
					e.Data[j] = byte(rng.Uint32())
				}
			}
			m.Entries = append(m.Entries, e)
		}
	}
	return m
}

// TestCodecAgreesWithProtobuf holds our codec against the library's, both ways.
func TestCodecAgreesWithProtobuf(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		m := randomMessage(rng)
		ours := new(raftpb.Message)
		b := encodeMessage(m)
		if err := proto.Unmarshal(b, ours); err != nil || !proto.Equal(m, ours) {
			t.Fatalf("seed %d: %v\nencoded by us reads %v, %v", seed, m, ours, err)
		}
		theirs, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{b, theirs} {
			got, err := decodeMessage(b)
			if err != nil || !proto.Equal(m, got) {
				t.Fatalf("seed %d: %v\ndecoded by us reads %v, %v", seed, m, got, err)
			}
		}
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	ok := func() *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(5), LogTerm: proto.Uint64(4),
			Index: proto.Uint64(10), Entries: []*raftpb.Entry{{Term: proto.Uint64(5), Index: proto.Uint64(11)}},
		}
	}
	if _, err := decodeMessage(encodeMessage(ok())); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(m *raftpb.Message){
		"gap":               func(m *raftpb.Message) { m.Entries[0].Index = proto.Uint64(12) },
		"term falls":        func(m *raftpb.Message) { m.Entries[0].Term = proto.Uint64(3) },
		"entry of future":   func(m *raftpb.Message) { m.Entries[0].Term = proto.Uint64(6) },
		"no term":           func(m *raftpb.Message) { m.Term = proto.Uint64(0) },
		"no sender":         func(m *raftpb.Message) { m.From = proto.Uint64(0) },
		"local sender":      func(m *raftpb.Message) { m.From = proto.Uint64(1<<64 - 1) },
		"local message":     func(m *raftpb.Message) { m.Type = raftpb.MsgHup.Enum() },
		"forwarded read":    func(m *raftpb.Message) { m.Type = raftpb.MsgReadIndex.Enum() },
		"answer to it":      func(m *raftpb.Message) { m.Type = raftpb.MsgReadIndexResp.Enum() },
		"forwarded write":   func(m *raftpb.Message) { m.Type = raftpb.MsgProp.Enum() },
		"snapshot":          func(m *raftpb.Message) { m.Type = raftpb.MsgSnap.Enum() },
		"entries in answer": func(m *raftpb.Message) { m.Type = raftpb.MsgAppResp.Enum() },
		"odd context": func(m *raftpb.Message) {
			m.Type, m.Entries, m.Context = raftpb.MsgHeartbeatResp.Enum(), nil, []byte("x")
		},
	} {
		m := ok()
		spoil(m)
		if _, err := decodeMessage(encodeMessage(m)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzDecodeMessage(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		f.Add(encodeMessage(randomMessage(rng)))
	}
	f.Add(note{kind: noteSleep, from: 1, term: 2, commit: 3, serial: 4}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if isNote(b) {
			_, _ = decodeNote(b)
			return
		}
		m, err := decodeMessage(b)
		if err != nil {
			return
		}
		again, err := decodeMessage(encodeMessage(m))
		if err != nil || !proto.Equal(m, again) {
			t.Errorf("%v became %v, %v", m, again, err)
		}
	})
}
