package multiraft

import (
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// parcel is one encoded message and the node it goes to.
type parcel struct {
	to  ids.NodeID
	msg *pontoonpb.RaftMessage
}

// outbox gathers messages by node, so that what many groups say to one node leaves as one frame. It belongs to one
// goroutine.
type outbox struct {
	host  *Host
	nodes []outboxNode
}

type outboxNode struct {
	id   ids.NodeID
	msgs []*pontoonpb.RaftMessage
}

func newOutbox(h *Host) *outbox { return &outbox{host: h} }

func (o *outbox) add(p parcel) {
	for i := range o.nodes {
		if o.nodes[i].id == p.to {
			o.nodes[i].msgs = append(o.nodes[i].msgs, p.msg)
			return
		}
	}
	o.nodes = append(o.nodes, outboxNode{p.to, []*pontoonpb.RaftMessage{p.msg}})
}

// flush hands everything to the transport, which keeps the slices.
func (o *outbox) flush() {
	for i := range o.nodes {
		n := &o.nodes[i]
		if len(n.msgs) == 0 {
			continue
		}
		o.host.metrics.sentMessages.Add(float64(len(n.msgs)))
		if !o.host.cfg.Transport.SendRaft(n.id, n.msgs) {
			o.host.metrics.droppedSend.Add(float64(len(n.msgs)))
		}
		n.msgs = nil
	}
}
