package storage

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// TestRaftState runs the scripts of testdata/raft: what is written of a replica's Raft state, how the log answers, and
// what Ranges makes of it after a restart. Each file is one engine. Commands, one change per line of input:
//
//	batch          create range=R span=a-b | append range=R term=T from=I n=N last=L | hardstate range=R term=T commit=C
//	               apply range=R index=I term=T | truncate range=R to=I term=T | remove range=R replica=N span=a-b
//	               raw-delete range=R kind=K  (damage)
//	entries range=R lo=I hi=J [max=bytes]
//	term range=R index=I
//	ranges         the state of all replicas after closing and opening the engine
//	tombstone range=R
func TestRaftState(t *testing.T) {
	datadriven.Walk(t, "testdata/raft", func(t *testing.T, path string) {
		fs := vfs.NewMem()
		e := openTest(t, fs)
		defer func() { _ = e.Close() }()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "batch":
				if err := runBatch(e, d.Input); err != nil {
					return err.Error()
				}
				return "ok"
			case "entries":
				a := scriptArgs(d.CmdArgs)
				limit := a.uint("max")
				if limit == 0 {
					limit = NoLimit
				}
				ents, err := e.Entries(ids.RangeID(a.uint("range")), a.uint("lo"), a.uint("hi"), limit)
				var b strings.Builder
				for _, ent := range ents {
					fmt.Fprintf(&b, "%d/%d %q\n", ent.GetTerm(), ent.GetIndex(), ent.GetData())
				}
				if err != nil {
					fmt.Fprintln(&b, err)
				}
				return b.String()
			case "term":
				a := scriptArgs(d.CmdArgs)
				term, err := e.Term(ids.RangeID(a.uint("range")), a.uint("index"))
				if err != nil {
					return err.Error()
				}
				return fmt.Sprint(term)
			case "tombstone":
				id, err := e.Tombstone(ids.RangeID(scriptArgs(d.CmdArgs).uint("range")))
				return fmt.Sprint(id, " ", err)
			case "ranges":
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				e = openTest(t, fs)
				states, err := e.Ranges()
				if err != nil {
					var damaged *CorruptError
					if !errors.As(err, &damaged) {
						t.Fatalf("not a *CorruptError: %v", err)
					}
					return damaged.Cause.Error()
				}
				var b strings.Builder
				for _, s := range states {
					fmt.Fprintln(&b, describe(s))
				}
				return b.String()
			}
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		})
	})
}

// args are the name=value pairs of a script's line.
type args map[string]string

func scriptArgs(cmd []datadriven.CmdArg) args {
	a := args{}
	for _, c := range cmd {
		a[c.Key] = strings.Join(c.Vals, ",")
	}
	return a
}

func (a args) uint(name string) uint64 {
	if a[name] == "" {
		return 0
	}
	if a[name] == "max" {
		return math.MaxUint64
	}
	return must(strconv.ParseUint(a[name], 10, 64))
}

func (a args) span() ids.Span {
	start, end, _ := strings.Cut(a["span"], "-")
	return userSpan(start, end)
}

func runBatch(e *Engine, script string) error {
	b := e.NewBatch()
	defer b.Close()
	for line := range strings.Lines(script) {
		words := strings.Fields(line)
		a := args{}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			a[k] = v
		}
		r := ids.RangeID(a.uint("range"))
		switch words[0] {
		case "create":
			b.CreateRange(testState(r, a.span()))
		case "append":
			var ents []*raftpb.Entry
			for i := range a.uint("n") {
				index := a.uint("from") + i
				ents = append(ents, entry(a.uint("term"), index, fmt.Sprint("e", index)))
			}
			b.Append(r, ents, a.uint("last"))
		case "hardstate":
			b.SetHardState(r, &raftpb.HardState{
				Term: proto.Uint64(a.uint("term")), Vote: proto.Uint64(a.uint("vote")), Commit: proto.Uint64(a.uint("commit")),
			})
		case "apply":
			b.SetApplied(r, Applied{Index: a.uint("index"), Term: a.uint("term")})
		case "truncate":
			b.Truncate(r, EntryID{Term: a.uint("term"), Index: a.uint("to")})
		case "remove":
			b.RemoveRange(r, ids.ReplicaID(a.uint("replica")), a.span())
		case "raw-delete":
			b.key = appendRangeKey(b.key[:0], r, byte(a.uint("kind")))
			b.delete(b.key)
		default:
			return fmt.Errorf("unknown change %q", line)
		}
	}
	return b.Commit(true)
}
