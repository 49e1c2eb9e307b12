package router

import (
	"errors"
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/rangegroup"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// freshFor is how old a claim may be that a serializable read uses without asking.
	freshFor = 100 * time.Millisecond
	// freshBudget is what a serializable read spends on a newer claim before it takes what there is.
	freshBudget = 50 * time.Millisecond
)

// serializable tries once: the local replicas at the newest revision for which all of them have claims; nobody need be
// reachable. Claims that are old, or older than what this node has answered before, are renewed if that is quick.
func (rd *reader) serializable(attempt int) (*route, ids.NodeID, error) {
	rt := rd.rt
	var err error
	if rd.routes, err = rt.tile(&rd.ctx, rd.routes[:0], rd.span); err != nil {
		return nil, 0, err
	}
	rd.t.on(rd.routes[0])
	for _, r := range rd.routes {
		if r.local {
			continue
		}
		if len(rd.routes) == 1 {
			return rd.forward(attempt)
		}
		return rd.linearizable(attempt)
	}
	rd.claims = rd.claims[:0]
	now, answered, stale := rt.clock.Now(), ids.Revision(rt.answered.Load()), false
	for _, r := range rd.routes {
		c, ok := rt.ranges.LocalClaim(r.desc.ID)
		rd.claims = append(rd.claims, c)
		stale = stale || !ok || now-c.At >= freshFor || c.Revision < answered
	}
	if stale {
		rd.freshen(attempt)
	}
	failed, asked, err := rd.readAtClaims()
	var unavailable *ids.UnavailableError
	if err != nil && rd.req.Revision > 0 && errors.As(err, &unavailable) {
		return nil, 0, rpctypes.ErrGRPCCompacted // its history is physically gone here
	}
	return failed, asked, err
}

// freshen renews the claims of all parts within the budget, and fills those that are missing with what the replica has
// applied: revisions come in order within a range, so it has everything at or below its greatest.
func (rd *reader) freshen(attempt int) {
	rt := rd.rt
	begun := time.Now()
	ctx := deadlineContext{Context: &rd.ctx, at: begun.Add(freshBudget)}
	defer ctx.release()
	rd.tickets = rd.tickets[:0]
	for _, r := range rd.routes {
		rd.tickets = append(rd.tickets, rt.confirms.join(r.desc.ID, r.desc.Generation, rt.leaderOf(r, attempt)))
	}
	for i, r := range rd.routes {
		c, err := rd.tickets[i].wait(&ctx)
		if err == nil {
			err = rt.ranges.WaitApplied(&ctx, r.desc.ID, c.Index)
		}
		switch {
		case err == nil:
			rd.claims[i] = c
		case !isContext(err):
			rt.heedRead(err, r, rd.tickets[i].asked) // so that the next one asks somebody better
		}
		if rd.claims[i].Revision == 0 {
			st, _ := rt.ranges.Status(r.desc.ID)
			rd.claims[i] = rangegroup.Claim{Revision: max(st.MaxRevision, 1)}
		}
	}
	rd.t.claim += time.Since(begun)
}
