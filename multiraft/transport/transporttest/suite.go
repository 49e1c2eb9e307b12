package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pontoon-kv/pontoon/multiraft/transport"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
)

// LivenessTimeout is what the networks under test are made with.
const LivenessTimeout = time.Second

// Node is a transport under test.
type Node interface {
	transport.Transport
	OnDown(f func(n ids.NodeID))
	Start() error
	Close() error
}

// Config describes a node to Network.Join.
type Config struct {
	ID          ids.NodeID
	Incarnation uint64
	Disk        uint64
	CheckPeer   func(n ids.NodeID, disk uint64) error // nil: accept all
}

// Limits bounds the nodes of a network; 0 means the transport's default.
type Limits struct{ RaftQueueMessages, CallsInFlight int }

// Network makes nodes that can reach each other. A node that was closed may be made again, with a new incarnation.
type Network interface {
	Join(t *testing.T, c Config) Node
}

// Run runs all tests. wrap runs one test's body (in a bubble of virtual time, say); made makes a network for it.
func Run(t *testing.T, wrap func(t *testing.T, body func(*testing.T)), made func(*testing.T, Limits) Network) {
	tests := []struct {
		name   string
		limits Limits
		body   func(*testing.T, Network)
	}{
		{"Answers", Limits{}, testAnswers},
		{"CallOrder", Limits{}, testCallOrder},
		{"RaftOrder", Limits{}, testRaftOrder},
		{"Context", Limits{}, testContext},
		{"NotSent", Limits{}, testNotSent},
		{"DoneOutsideGo", Limits{}, testDoneOutsideGo},
		{"Lost", Limits{}, testLost},
		{"CloseEndsOwnCalls", Limits{}, testCloseEndsOwnCalls},
		{"ExactlyOnce", Limits{}, testExactlyOnce},
		{"Restart", Limits{}, testRestart},
		{"Refusal", Limits{}, testRefusal},
		{"CallsBounded", Limits{CallsInFlight: 50}, testCallsBounded},
		{"RaftBounded", Limits{RaftQueueMessages: 100}, testRaftBounded},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wrap(t, func(t *testing.T) { test.body(t, made(t, test.limits)) })
		})
	}
}

// start joins and starts a node and closes it at the end of the test. setup installs handlers.
func start(t *testing.T, n Network, c Config, setup func(Node)) Node {
	t.Helper()
	d := n.Join(t, c)
	if setup != nil {
		setup(d)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// within fails the test if what does not become true in time.
func within(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// call calls and gives up after a time far beyond all timeouts.
func call(t *testing.T, d transport.Transport, to ids.NodeID, m transport.Method, payload string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := transport.Call(ctx, d, to, m, []byte(payload))
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		t.Fatalf("call %d %q to node %v hangs", m, payload, to)
	}
	return string(p), err
}

// echo answers with the payload.
func echo(_ ids.NodeID, payload []byte, reply func([]byte, error)) { reply(payload, nil) }

// silent never answers.
func silent(ids.NodeID, []byte, func([]byte, error)) {}

// connect waits until calls get through.
func connect(t *testing.T, d transport.Transport, to ids.NodeID, m transport.Method) {
	t.Helper()
	within(t, 20*time.Second, fmt.Sprintf("node %v answers", to), func() bool {
		_, err := call(t, d, to, m, "hello")
		return err == nil
	})
}

// log collects what arrives.
type log struct {
	mu    sync.Mutex
	items []string
}

func (l *log) add(s string) {
	l.mu.Lock()
	l.items = append(l.items, s)
	l.mu.Unlock()
}

func (l *log) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.items...)
}

func raftMessage(s string) *pontoonpb.RaftMessage {
	return &pontoonpb.RaftMessage{RangeId: 7, ToReplica: 3, Message: []byte(s)}
}
