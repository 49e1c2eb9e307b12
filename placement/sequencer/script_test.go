package sequencer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/pontoon-kv/pontoon/proto/ids"
)

// TestScripts plays the files in testdata against one machine: commands move its world, the output is what it lets out.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var m *Machine
		var s State
		var now time.Duration
		var log []Command
		flush := func() string {
			var b strings.Builder
			for _, r := range m.Flush(now, nil) {
				a := r.Answer
				switch a.Refusal {
				case NotSequencer:
					fmt.Fprintf(&b, "%v: not the sequencer\n", r.Tag)
				case BadSession:
					fmt.Fprintf(&b, "%v: bad session\n", r.Tag)
				default:
					fmt.Fprintf(&b, "%v: epoch %d current %d", r.Tag, a.Epoch, a.Current)
					for _, st := range a.Standings {
						fmt.Fprintf(&b, " range %d needs term %d generation %d", st.Range, st.Term, st.Generation)
					}
					b.WriteString("\n")
				}
			}
			return b.String()
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			arg := func(name string, def int64) int64 {
				if d.HasArg(name) {
					d.ScanArgs(t, name, &def)
				}
				return def
			}
			term := uint64(arg("term", 1))
			switch d.Cmd {
			case "new":
				s = State{Ceiling: 1}
				m = NewMachine(Config{Node: 1, LeaseDuration: modelD}, now, s, Fresh{Floor: -1})
			case "lead":
				m.Changed(true, term)
				m.Applied(now, term, nil, s, Fresh{Floor: -1})
			case "follow":
				m.Changed(false, term)
			case "wait":
				now += time.Duration(arg("ms", 0)) * time.Millisecond
			case "tick":
				var b strings.Builder
				log = m.Tick(now)
				for _, c := range log {
					switch {
					case c.Lease != nil:
						fmt.Fprintf(&b, "lease of epoch %d\n", c.Lease.Epoch)
					case c.Ceiling != nil:
						fmt.Fprintf(&b, "ceiling %d\n", c.Ceiling.Ceiling)
					}
				}
				return b.String()
			case "release":
				c, ok := m.Release()
				if !ok {
					return "nothing to release\n"
				}
				log = []Command{c}
				return flush() + fmt.Sprintf("release at %d\n", c.Release.Counter)
			case "apply":
				for _, c := range log {
					s.Apply(c)
					m.Applied(now, term, c.Lease, s, Fresh{Floor: -1})
				}
				log = nil
				return flush()
			case "foreign":
				c := Command{Lease: &Lease{Epoch: uint64(arg("epoch", 1)), Holder: 2, Duration: modelD}}
				s.Apply(c)
				m.Applied(now, term, c.Lease, s, Fresh{Floor: -1})
			case "ask":
				r := Request{Session: SessionID{Node: ids.NodeID(arg("node", 1)), Incarnation: uint64(arg("inc", 1)), N: uint64(arg("session", 1))},
					Seq: uint64(arg("seq", 0)), Epoch: uint64(arg("epoch", 1)), Ack: uint64(arg("ack", 0)), Wanted: arg("want", 0)}
				if d.HasArg("range") {
					r.Registrations = []Registration{{Range: ids.RangeID(arg("range", 0)), Term: uint64(arg("leads", 1)), Generation: ids.Generation(arg("gen", 1))}}
				}
				m.Submit(now, r, fmt.Sprintf("n%d/%d#%d", r.Session.Node, r.Session.N, r.Seq))
				return flush()
			default:
				d.Fatalf(t, "unknown command")
			}
			return ""
		})
	})
}
