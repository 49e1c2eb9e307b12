package placement

import (
	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// replyFunc is what the machine's tags are: it takes a finished answer, on any goroutine, without blocking.
type replyFunc func(sequencer.Answer)

// exchange serves one request: reply is called exactly once, perhaps before exchange returns. The requests of a session
// are served in the order in which exchange was called.
//
// An answer is computed and then checked against the lease under one lock. That it leaves after the lock is free does
// no harm: it was the truth at a moment when nobody else could serve, and whoever gets it asked before that moment.
func (s *Service) exchange(req sequencer.Request, reply replyFunc) {
	var buf [4]sequencer.Reply
	s.mu.Lock()
	s.mu.machine.Submit(s.cfg.Clock.Now(), req, reply)
	out := s.mu.machine.Flush(s.cfg.Clock.Now(), buf[:0])
	schedule := s.mu.machine.Hungry() || s.mu.machine.WantsRead()
	leader, g := s.leaderHintLocked(), s.mu.group
	s.mu.Unlock()
	deliver(out, leader)
	if schedule && g != nil {
		g.Schedule()
	}
}

// flush sends the answers that may go now.
func (s *Service) flush() {
	var buf [4]sequencer.Reply
	s.mu.Lock()
	out := s.mu.machine.Flush(s.cfg.Clock.Now(), buf[:0])
	leader := s.leaderHintLocked()
	s.mu.Unlock()
	deliver(out, leader)
}

func (s *Service) leaderHintLocked() ids.NodeID {
	if s.mu.leading {
		return 0 // this node, which just said that it is not the sequencer yet
	}
	return s.mu.leader
}

func deliver(replies []sequencer.Reply, leader ids.NodeID) {
	for i := range replies {
		r := &replies[i]
		if r.Answer.Refusal == sequencer.NotSequencer {
			r.Answer.Leader = leader
		}
		r.Tag.(replyFunc)(r.Answer)
	}
}

// handleExchange serves another node's exchange. The request names its session's node itself, so that a third node may
// pass it on for one whose own path is cut.
func (s *Service) handleExchange(_ ids.NodeID, payload []byte, reply func([]byte, error)) {
	req, err := decodeRequest(payload)
	if err != nil {
		reply(nil, status.Error(codes.InvalidArgument, "pontoon: malformed exchange request"))
		return
	}
	s.exchange(req, func(a sequencer.Answer) { reply(encodeAnswer(&a)) })
}
