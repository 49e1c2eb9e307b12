package placement

import (
	"context"
	"errors"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/placement/book"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// Compact raises the logical compaction floor to rev and returns when every exchange begun from now on carries it. Its
// errors are etcd's: rpctypes.ErrGRPCCompacted for a revision at or below the floor, ErrGRPCFutureRev for one not given
// out yet; an *ids.AmbiguousError if the outcome is unknown.
func (c *Client) Compact(ctx context.Context, rev ids.Revision) error {
	current, floor, err := c.Confirm(ctx)
	switch {
	case err != nil:
		return err
	case rev <= floor:
		return rpctypes.ErrGRPCCompacted
	case rev > current:
		return rpctypes.ErrGRPCFutureRev
	}
	_, err = c.call(ctx, &pontoonpb.PlacementCall{Kind: &pontoonpb.PlacementCall_Compact{
		Compact: &pontoonpb.CompactCommand{Revision: int64(rev)}}}, false)
	return err
}

// Directory returns the ranges as the placement group knows them, by id: hints, for each newer generation found
// elsewhere is the truth.
func (c *Client) Directory(ctx context.Context) ([]*ids.Descriptor, error) {
	r, err := c.query(ctx, &pontoonpb.BookQuery{Ranges: true})
	return wire.DescriptorsFromProto(r.GetRanges()), err
}

// Nodes returns the nodes of the cluster, by id.
func (c *Client) Nodes(ctx context.Context) ([]NodeInfo, error) {
	r, err := c.query(ctx, &pontoonpb.BookQuery{Nodes: true})
	if err != nil {
		return nil, err
	}
	var out []NodeInfo
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range r.GetNodes() {
		n := book.NodeFromProto(m)
		c.mu.diskSeen[n.ID] = n.DiskID
		out = append(out, n)
	}
	return out, nil
}

// RegisterNode tells the book of this node's new process. It is refused (FailedPrecondition) if the book knows the node
// with another disk.
func (c *Client) RegisterNode(ctx context.Context, n NodeInfo) error {
	_, err := c.call(ctx, &pontoonpb.PlacementCall{Kind: &pontoonpb.PlacementCall_RegisterNode{
		RegisterNode: book.NodeToProto(n)}}, true)
	return err
}

// CheckPeer returns an error if the node is known with another disk than this: its data was lost, and it must not be
// let back in under its old identity. It never waits; a node that is not known yet passes.
func (c *Client) CheckPeer(n ids.NodeID, disk uint64) error {
	if c.cfg.Local != nil {
		return c.cfg.Local.CheckDisk(n, disk)
	}
	c.mu.Lock()
	known := c.mu.diskSeen[n]
	c.mu.Unlock()
	if known == 0 || known == disk {
		return nil
	}
	return book.DiskError(n, "", known, disk)
}

// AllocateRanges returns the first of count range ids that nobody else gets.
func (c *Client) AllocateRanges(ctx context.Context, count int) (ids.RangeID, error) {
	r, err := c.call(ctx, &pontoonpb.PlacementCall{Kind: &pontoonpb.PlacementCall_AllocateRanges{
		AllocateRanges: &pontoonpb.AllocateRanges{Count: uint32(count)}}}, true)
	return ids.RangeID(r.GetFirstRange()), err
}

// UpdateRange tells the directory of a descriptor; an older generation than it knows changes nothing.
func (c *Client) UpdateRange(ctx context.Context, d *ids.Descriptor) error {
	_, err := c.call(ctx, &pontoonpb.PlacementCall{Kind: &pontoonpb.PlacementCall_UpdateRange{
		UpdateRange: wire.DescriptorToProto(d)}}, true)
	return err
}

// PutSetting changes a setting; every exchange answer from then on carries a higher settings version.
func (c *Client) PutSetting(ctx context.Context, name string, value []byte) error {
	_, err := c.call(ctx, &pontoonpb.PlacementCall{Kind: &pontoonpb.PlacementCall_PutSetting{
		PutSetting: &pontoonpb.SettingRecord{Name: name, Value: value}}}, true)
	return err
}

// Settings returns all settings.
func (c *Client) Settings(ctx context.Context) (map[string][]byte, error) {
	r, err := c.query(ctx, &pontoonpb.BookQuery{Settings: true})
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, s := range r.GetSettings() {
		out[s.GetName()] = s.GetValue()
	}
	return out, nil
}

// Release is for a clean shutdown: if this node is the sequencer it stops and tells the successor where, so that no
// revision is skipped. No Join succeeds here until a session with the successor is open.
func (c *Client) Release(ctx context.Context) error {
	if c.cfg.Local == nil {
		return nil
	}
	return c.cfg.Local.Release(ctx)
}

func (c *Client) query(ctx context.Context, q *pontoonpb.BookQuery) (*pontoonpb.PlacementReply, error) {
	return c.call(ctx, &pontoonpb.PlacementCall{Kind: &pontoonpb.PlacementCall_Query{Query: q}}, true)
}

// call finds a node that does the call: the sequencer's first, for it leads the group. It goes on until ctx ends, but
// sends a call whose outcome is unknown again only if repeating it does no harm.
func (c *Client) call(ctx context.Context, call *pontoonpb.PlacementCall, repeatable bool) (*pontoonpb.PlacementReply, error) {
	payload, err := proto.Marshal(call)
	if err != nil {
		return nil, err
	}
	to := c.SequencerNode()
	for attempt := 0; ; attempt++ {
		if to == 0 || to == c.cfg.Node && c.cfg.Local == nil {
			to = c.cfg.Nodes[attempt%len(c.cfg.Nodes)]
		}
		r, err := c.callOne(ctx, to, call, payload)
		var notLeader *ids.NotLeaderError
		var ambiguous *ids.AmbiguousError
		switch {
		case err == nil:
			return r, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &notLeader):
			to = notLeader.Leader
		case errors.Is(err, transport.ErrNotSent):
			to = 0
		case errors.Is(err, transport.ErrLost), errors.As(err, &ambiguous):
			if !repeatable {
				return nil, &ids.AmbiguousError{Range: ids.PlacementRange, Reason: err.Error()}
			}
			to = 0
		default:
			return nil, err
		}
		if attempt >= 2 || to == 0 {
			if err := sleep(ctx, min(retryMin<<min(attempt, 4), retryMax)); err != nil {
				return nil, err
			}
		}
	}
}

func (c *Client) callOne(ctx context.Context, to ids.NodeID, call *pontoonpb.PlacementCall, payload []byte) (*pontoonpb.PlacementReply, error) {
	if to == c.cfg.Node && c.cfg.Local != nil {
		return c.callLocal(ctx, call)
	}
	if c.cfg.Transport == nil || to == c.cfg.Node {
		return nil, transport.ErrNotSent
	}
	// A node that hangs must not use up the caller's time.
	ctx, cancel := context.WithTimeout(ctx, 2*c.cfg.LeaseDuration)
	defer cancel()
	answer, err := transport.Call(ctx, c.cfg.Transport, to, transport.MethodPlacement, payload)
	if errors.Is(err, context.DeadlineExceeded) {
		err = transport.ErrLost
	}
	if err != nil {
		return nil, err
	}
	r := &pontoonpb.PlacementReply{}
	return r, proto.Unmarshal(answer, r)
}

func (c *Client) callLocal(ctx context.Context, call *pontoonpb.PlacementCall) (*pontoonpb.PlacementReply, error) {
	type answer struct {
		reply *pontoonpb.PlacementReply
		err   error
	}
	ch := make(chan answer, 1)
	c.cfg.Local.call(call, func(r *pontoonpb.PlacementReply, err error) { ch <- answer{r, err} })
	select {
	case a := <-ch:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
