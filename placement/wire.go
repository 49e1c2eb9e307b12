package placement

import (
	"time"

	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"google.golang.org/protobuf/proto"
)

// The exchange on the wire. The sequencer's own types are plain structs, so that a node that is the sequencer itself
// encodes nothing.

func encodeRequest(r *sequencer.Request) ([]byte, error) {
	m := &pontoonpb.ExchangeRequest{
		Node: uint64(r.Session.Node), Incarnation: r.Session.Incarnation, Session: r.Session.N,
		Seq: r.Seq, Epoch: r.Epoch, Ack: r.Ack, Wanted: r.Wanted,
	}
	if len(r.Registrations) > 0 {
		m.Registrations = make([]*pontoonpb.Registration, len(r.Registrations))
		for i, g := range r.Registrations {
			m.Registrations[i] = &pontoonpb.Registration{RangeId: uint64(g.Range), Term: g.Term, Generation: uint64(g.Generation),
				Parent: uint64(g.Parent), ParentGeneration: uint64(g.ParentGeneration)}
		}
	}
	return proto.Marshal(m)
}

func decodeRequest(payload []byte) (sequencer.Request, error) {
	var m pontoonpb.ExchangeRequest
	if err := proto.Unmarshal(payload, &m); err != nil {
		return sequencer.Request{}, err
	}
	r := sequencer.Request{
		Session: sequencer.SessionID{Node: ids.NodeID(m.Node), Incarnation: m.Incarnation, N: m.Session},
		Seq:     m.Seq, Epoch: m.Epoch, Ack: m.Ack, Wanted: m.Wanted,
	}
	for _, g := range m.Registrations {
		r.Registrations = append(r.Registrations, sequencer.Registration{
			Range: ids.RangeID(g.GetRangeId()), Term: g.GetTerm(), Generation: ids.Generation(g.GetGeneration()),
			Parent: ids.RangeID(g.GetParent()), ParentGeneration: ids.Generation(g.GetParentGeneration())})
	}
	return r, nil
}

func encodeAnswer(a *sequencer.Answer) ([]byte, error) {
	m := &pontoonpb.ExchangeAnswer{
		Refusal: pontoonpb.ExchangeAnswer_Refusal(a.Refusal), Leader: uint64(a.Leader), Epoch: a.Epoch, Current: int64(a.Current),
		Floor: int64(a.Fresh.Floor), AuthRevision: a.Fresh.AuthRevision, SettingsVersion: a.Fresh.SettingsVersion,
		PacingUs: uint32(a.Pacing / time.Microsecond),
	}
	for _, s := range a.Standings {
		m.Standings = append(m.Standings, &pontoonpb.Standing{RangeId: uint64(s.Range), Term: s.Term, Generation: uint64(s.Generation)})
	}
	return proto.Marshal(m)
}

func decodeAnswer(payload []byte) (sequencer.Answer, error) {
	var m pontoonpb.ExchangeAnswer
	if err := proto.Unmarshal(payload, &m); err != nil {
		return sequencer.Answer{}, err
	}
	a := sequencer.Answer{
		Refusal: sequencer.Refusal(m.Refusal), Leader: ids.NodeID(m.Leader), Epoch: m.Epoch, Current: ids.Revision(m.Current),
		Fresh: sequencer.Fresh{Floor: ids.Revision(m.Floor), AuthRevision: m.AuthRevision, SettingsVersion: m.SettingsVersion},
		// The encoding keeps whole microseconds; less means nothing to a timer.
		Pacing: time.Duration(m.PacingUs) * time.Microsecond,
	}
	for _, s := range m.Standings {
		a.Standings = append(a.Standings, sequencer.Standing{Range: ids.RangeID(s.GetRangeId()), Term: s.GetTerm(), Generation: ids.Generation(s.GetGeneration())})
	}
	return a, nil
}
