package transporttest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

func testRestart(t *testing.T, n Network) {
	var met, silentNodes log
	d := start(t, n, Config{ID: 1, Incarnation: 1}, func(d Node) {
		d.OnIncarnation(func(n ids.NodeID, inc uint64) { met.add(fmt.Sprintf("%v/%d", n, inc)) })
		d.OnDown(func(n ids.NodeID) { silentNodes.add(n.String()) })
	})
	handlers := func(d Node) { d.Handle(transport.MethodRange, echo) }
	e := start(t, n, Config{ID: 2, Incarnation: 10}, handlers)
	connect(t, d, 2, transport.MethodRange)
	within(t, 5*time.Second, "node 2 is alive", func() bool { return d.Alive(2) })
	time.Sleep(3 * LivenessTimeout)
	if !d.Alive(2) || len(silentNodes.get()) != 0 {
		t.Error("an idle node counts as dead")
	}
	_ = e.Close()
	within(t, 3*LivenessTimeout, "node 2 is dead", func() bool { return !d.Alive(2) })
	within(t, 3*LivenessTimeout, "told so", func() bool { return slices.Equal(silentNodes.get(), []string{"2"}) })

	start(t, n, Config{ID: 2, Incarnation: 11}, handlers)
	within(t, 10*time.Second, "node 2 is alive again without being called", func() bool { return d.Alive(2) })
	connect(t, d, 2, transport.MethodRange)
	if got := met.get(); !slices.Equal(got, []string{"2/10", "2/11"}) {
		t.Errorf("met %v", got)
	}
}

func testRefusal(t *testing.T, n Network) {
	wiped := errors.New("node 2 has another disk than before: remove it and add it as a new node")
	check := func(n ids.NodeID, disk uint64) error {
		if n == 2 && disk != 20 {
			return wiped
		}
		return nil
	}
	handlers := func(d Node) { d.Handle(transport.MethodRange, echo) }
	d := start(t, n, Config{ID: 1, Incarnation: 1, Disk: 10, CheckPeer: check}, handlers)
	e := start(t, n, Config{ID: 2, Incarnation: 1, Disk: 21}, handlers)
	for _, c := range []struct {
		from transport.Transport
		to   ids.NodeID
	}{{d, 2}, {e, 1}} { // whoever dials
		_, err := call(t, c.from, c.to, transport.MethodRange, "")
		if !errors.Is(err, transport.ErrNotSent) || !strings.Contains(err.Error(), wiped.Error()) {
			t.Errorf("call to node %v: %v", c.to, err)
		}
	}
	if d.Alive(2) {
		t.Error("a refused node counts as alive")
	}
	_ = e.Close()
	start(t, n, Config{ID: 2, Incarnation: 2, Disk: 20}, handlers)
	connect(t, d, 2, transport.MethodRange)
}

func testCallsBounded(t *testing.T, n Network) {
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	e := start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		d.Handle(transport.MethodRange, echo)
		d.Handle(transport.MethodTxn, silent)
	})
	connect(t, d, 2, transport.MethodRange)
	const limit, more = 50, 30 // Limits.CallsInFlight
	var notSent, lost atomic.Int32
	for range limit + more {
		d.Go(t.Context(), 2, transport.MethodTxn, nil, func(_ []byte, err error) {
			switch {
			case errors.Is(err, transport.ErrNotSent):
				notSent.Add(1)
			case errors.Is(err, transport.ErrLost):
				lost.Add(1)
			}
		})
	}
	within(t, 5*time.Second, "calls beyond the limit fail", func() bool { return notSent.Load() == more })
	time.Sleep(50 * time.Millisecond) // the rest leaves
	_ = e.Close()
	within(t, 5*time.Second, "the others are lost", func() bool { return lost.Load() == limit })
}

func testRaftBounded(t *testing.T, n Network) {
	release := make(chan struct{})
	var got atomic.Int32
	d := start(t, n, Config{ID: 1, Incarnation: 1}, nil)
	start(t, n, Config{ID: 2, Incarnation: 1}, func(d Node) {
		d.Handle(transport.MethodRange, echo)
		d.HandleRaft(func(_ ids.NodeID, msgs []*pontoonpb.RaftMessage) { // a handler that breaks the rules
			<-release
			got.Add(int32(len(msgs)))
		})
	})
	connect(t, d, 2, transport.MethodRange)
	accepted := int32(0)
	for d.SendRaft(2, []*pontoonpb.RaftMessage{raftMessage(strings.Repeat("x", 256<<10))}) {
		if accepted++; accepted > 1000 {
			t.Error("no bound")
			break
		}
	}
	close(release)
	t.Logf("%d messages were accepted", accepted)
	// The node is well; what comes now arrives.
	before := int32(-1)
	within(t, 10*time.Second, "Raft messages arrive again", func() bool {
		if before < 0 {
			before = got.Load()
		}
		d.SendRaft(2, []*pontoonpb.RaftMessage{raftMessage("y")})
		return got.Load() > before
	})
}
