package placement

import (
	"github.com/pontoon-kv/pontoon/placement/book"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// handleCall serves another node's call to the book.
func (s *Service) handleCall(_ ids.NodeID, payload []byte, reply func([]byte, error)) {
	var call pontoonpb.PlacementCall
	if err := proto.Unmarshal(payload, &call); err != nil {
		reply(nil, status.Error(codes.InvalidArgument, "pontoon: malformed placement call"))
		return
	}
	s.call(&call, func(m *pontoonpb.PlacementReply, err error) {
		if err != nil {
			reply(nil, err)
			return
		}
		reply(proto.Marshal(m))
	})
}

// call does one call: queries from this replica's copy, everything else through the log, on the leader. done is called
// exactly once, perhaps before call returns.
func (s *Service) call(c *pontoonpb.PlacementCall, done func(*pontoonpb.PlacementReply, error)) {
	if q := c.GetQuery(); q != nil {
		done(s.query(q), nil)
		return
	}
	command := commandOf(c)
	if command == nil {
		done(nil, status.Error(codes.Unimplemented, "pontoon: unknown placement call: upgrade this node"))
		return
	}
	s.proposeAsync(command, func(r book.Result) {
		if r.Err != nil {
			done(nil, r.Err)
			return
		}
		done(&pontoonpb.PlacementReply{FirstRange: uint64(r.FirstRange)}, nil)
	})
}

func commandOf(c *pontoonpb.PlacementCall) *pontoonpb.PlacementCommand {
	switch c := c.GetKind().(type) {
	case *pontoonpb.PlacementCall_Compact:
		return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_Compact{Compact: c.Compact}}
	case *pontoonpb.PlacementCall_RegisterNode:
		return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_RegisterNode{RegisterNode: c.RegisterNode}}
	case *pontoonpb.PlacementCall_AllocateRanges:
		return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_AllocateRanges{AllocateRanges: c.AllocateRanges}}
	case *pontoonpb.PlacementCall_PutSetting:
		return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_PutSetting{PutSetting: c.PutSetting}}
	case *pontoonpb.PlacementCall_UpdateRange:
		return &pontoonpb.PlacementCommand{Kind: &pontoonpb.PlacementCommand_UpdateRange{UpdateRange: c.UpdateRange}}
	}
	return nil
}

func (s *Service) query(q *pontoonpb.BookQuery) *pontoonpb.PlacementReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.mu.book
	m := &pontoonpb.PlacementReply{Floor: int64(b.Floor())}
	if q.GetNodes() {
		for _, n := range b.Nodes() {
			m.Nodes = append(m.Nodes, book.NodeToProto(n))
		}
	}
	if q.GetRanges() {
		m.Ranges = wire.DescriptorsToProto(b.Ranges())
	}
	if q.GetSettings() {
		for name, value := range b.Settings() {
			m.Settings = append(m.Settings, &pontoonpb.SettingRecord{Name: name, Value: value})
		}
	}
	return m
}

// CheckDisk returns an error that says so if the node is known with another disk than this.
func (s *Service) CheckDisk(n ids.NodeID, disk uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.book.CheckDisk(n, disk)
}
