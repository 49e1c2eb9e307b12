package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/spf13/cobra"
)

func newRangeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "range",
		Short:   "Look at the ranges of a running cluster",
		Example: "  pontoon range list\n  pontoon range show 3",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRangeListCommand(), newRangeShowCommand())
	return cmd
}

func newRangeListCommand() *cobra.Command {
	var (
		o   adminOptions
		req pontoonpb.RangeListRequest
		key string
		end string
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List ranges in key order: span, leader, replicas, size, keys, revisions, load",
		Example: `  pontoon range list
  pontoon range list --endpoints=10.0.0.1:2379 -o json
  pontoon range list --from /registry/ --to /registry0     # those that hold these keys`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: noFile,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Key, req.RangeEnd = []byte(key), []byte(end)
			return o.withAdmin(cmd.Context(), func(ctx context.Context, a *admin) error {
				resp, err := a.RangeList(ctx, &req)
				if err != nil {
					return err
				}
				a.learnNames(ctx)
				if o.output == "json" {
					return writeJSON(cmd.OutOrStdout(), a.rangesJSON(resp))
				}
				printWarnings(cmd.ErrOrStderr(), resp.Errors)
				return a.printRanges(cmd.OutOrStdout(), resp.Ranges)
			})
		},
	}
	o.register(cmd.Flags())
	cmd.Flags().StringVar(&key, "from", "", "only ranges that hold keys from here on")
	cmd.Flags().StringVar(&end, "to", "", "and below this key")
	cmd.Flags().BoolVar(&req.CountKeys, "count", false, "count the live keys, which reads them all")
	cmd.Flags().BoolVar(&req.UserOnly, "user", false, "leave out the system range")
	return cmd
}

func newRangeShowCommand() *cobra.Command {
	var (
		o     adminOptions
		byKey string
		count bool
	)
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one range with all its replicas, by its id or a key in it",
		Example: `  pontoon range show 3
  pontoon range show --holding /registry/pods/default/web`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: noFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := pontoonpb.RangeShowRequest{Key: []byte(byKey), CountKeys: count}
			if (len(args) == 1) == (byKey != "") {
				return &usageError{fmt.Errorf("name a range by its id or a key in it with --holding; pontoon range list has the ids")}
			}
			if len(args) == 1 {
				id, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil || id == 0 {
					return &usageError{fmt.Errorf("%q is not a range's id; pontoon range list has them", args[0])}
				}
				req.RangeId = id
			}
			return o.withAdmin(cmd.Context(), func(ctx context.Context, a *admin) error {
				resp, err := a.RangeShow(ctx, &req)
				if err != nil {
					return err
				}
				a.learnNames(ctx)
				if o.output == "json" {
					return writeJSON(cmd.OutOrStdout(), a.rangeJSON(resp.Range))
				}
				printWarnings(cmd.ErrOrStderr(), resp.Errors)
				return a.printRange(cmd.OutOrStdout(), resp.Range)
			})
		},
	}
	o.register(cmd.Flags())
	cmd.Flags().StringVar(&byKey, "holding", "", "show the range that holds this key")
	cmd.Flags().BoolVar(&count, "count", false, "count the live keys, which reads them all")
	return cmd
}

// printRanges prints one line for each range.
func (a *admin) printRanges(w io.Writer, ranges []*pontoonpb.RangeInfo) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "RANGE\tFROM\tTO\tLEADER\tREPLICAS\tSIZE\tKEYS\tAPPLIED\tRESOLVED\tWRITES\tREADS")
	for _, r := range ranges {
		d := r.GetRange()
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\n", d.GetId(), ids.KeyString(d.GetStart()),
			endText(d), a.node(r.Leader), a.replicaNodes(d), sizeText(r.SizeBytes), keysText(r.Keys),
			r.AppliedRevision, r.ResolvedRevision, r.GetLoad().GetWrites(), r.GetLoad().GetReads())
	}
	return tw.Flush()
}

// endText prints a span's end; "max" is the end of the space.
func endText(d *pontoonpb.Descriptor) string {
	if start, end := d.GetStart(), d.GetEnd(); len(start) > 0 && len(end) > 0 && start[0] == end[0] {
		return ids.KeyString(end)
	}
	return "max"
}

func (a *admin) replicaNodes(d *pontoonpb.Descriptor) string {
	var names []string
	for _, r := range d.GetReplicas() {
		name := a.node(r.Node)
		if r.Learner {
			name += "(learner)"
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

// printRange prints a range's facts, then a line for each replica.
func (a *admin) printRange(w io.Writer, r *pontoonpb.RangeInfo) error {
	d, load := r.GetRange(), r.GetLoad()
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(tw, "Range\t%d\n", d.GetId())
	fmt.Fprintf(tw, "Span\tfrom %s to %s\n", ids.KeyString(d.GetStart()), endText(d))
	fmt.Fprintf(tw, "Generation\t%d\n", d.GetGeneration())
	fmt.Fprintf(tw, "Leader\t%s, term %d\n", a.node(r.Leader), r.Term)
	fmt.Fprintf(tw, "Size\t%s, keys %s\n", sizeText(r.SizeBytes), keysText(r.Keys))
	fmt.Fprintf(tw, "Revisions\tapplied %d, resolved %d, history from %d\n", r.AppliedRevision, r.ResolvedRevision, r.GcFloor)
	fmt.Fprintf(tw, "Load\t%d writes (%s), %d reads (%s) since the replicas were opened\n", load.GetWrites(),
		sizeText(uint64(load.GetWriteBytes())), load.GetReads(), sizeText(uint64(load.GetReadBytes())))
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	fmt.Fprintln(tw, "REPLICA\tNODE\tLEADER IT KNOWS\tTERM\tCOMMIT\tAPPLIED\tLAST\tREVISION\tSIZE\tASLEEP")
	for _, p := range r.Replicas {
		fmt.Fprintf(tw, "%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%v\n", p.Replica, a.node(p.Node), a.node(p.Leader), p.Term,
			p.CommitIndex, p.AppliedIndex, p.LastIndex, p.AppliedRevision, sizeText(p.SizeBytes), p.Asleep)
	}
	return tw.Flush()
}

// rangeJSON is the JSON form of a range. Bounds come twice: for people, and exactly (base64 of the user's key without
// its space byte; the end of a space is null).
type rangeJSON struct {
	ID               uint64        `json:"id"`
	Space            string        `json:"space"`
	From             string        `json:"from"`
	To               string        `json:"to"`
	FromKey          []byte        `json:"fromKey"`
	ToKey            []byte        `json:"toKey"`
	Generation       uint64        `json:"generation"`
	Leader           string        `json:"leader"`
	Term             uint64        `json:"term"`
	SizeBytes        uint64        `json:"sizeBytes"`
	Keys             *int64        `json:"keys,omitempty"` // absent if not counted
	AppliedRevision  int64         `json:"appliedRevision"`
	ResolvedRevision int64         `json:"resolvedRevision"`
	GCFloor          int64         `json:"gcFloor"`
	Writes           int64         `json:"writes"`
	Reads            int64         `json:"reads"`
	WriteBytes       int64         `json:"writeBytes"`
	ReadBytes        int64         `json:"readBytes"`
	Replicas         []replicaJSON `json:"replicas"`
}

type replicaJSON struct {
	Replica         uint64 `json:"replica"`
	Node            string `json:"node"`
	NodeID          string `json:"nodeId"` // hexadecimal, as etcdctl prints it
	Learner         bool   `json:"learner,omitempty"`
	Answered        bool   `json:"answered"` // the rest is there only if so
	Leader          string `json:"leader,omitempty"`
	Term            uint64 `json:"term,omitempty"`
	Commit          uint64 `json:"commit,omitempty"`
	Applied         uint64 `json:"applied,omitempty"`
	Last            uint64 `json:"last,omitempty"`
	AppliedRevision int64  `json:"appliedRevision,omitempty"`
	Asleep          bool   `json:"asleep,omitempty"`
}

func (a *admin) rangesJSON(resp *pontoonpb.RangeListResponse) any {
	out := struct {
		ClusterID string      `json:"clusterId"`
		Revision  int64       `json:"revision"`
		Ranges    []rangeJSON `json:"ranges"`
		Errors    []string    `json:"errors,omitempty"`
	}{ClusterID: fmt.Sprintf("%x", resp.ClusterId), Revision: resp.Revision, Ranges: []rangeJSON{}, Errors: resp.Errors}
	for _, r := range resp.Ranges {
		out.Ranges = append(out.Ranges, a.rangeJSON(r))
	}
	return out
}

func (a *admin) rangeJSON(r *pontoonpb.RangeInfo) rangeJSON {
	d, load := r.GetRange(), r.GetLoad()
	out := rangeJSON{
		ID: d.GetId(), Space: "user", From: ids.KeyString(d.GetStart()), To: endText(d),
		Generation: d.GetGeneration(), Leader: a.node(r.Leader), Term: r.Term, SizeBytes: r.SizeBytes,
		AppliedRevision: r.AppliedRevision, ResolvedRevision: r.ResolvedRevision, GCFloor: r.GcFloor,
		Writes: load.GetWrites(), Reads: load.GetReads(), WriteBytes: load.GetWriteBytes(), ReadBytes: load.GetReadBytes(),
	}
	if start := d.GetStart(); len(start) > 0 {
		out.FromKey = start[1:]
		if start[0] == ids.SpaceSystem {
			out.Space = "system"
		}
		if end := d.GetEnd(); len(end) > 0 && end[0] == start[0] {
			out.ToKey = end[1:]
		}
	}
	if r.Keys >= 0 {
		out.Keys = &r.Keys
	}
	for _, rd := range d.GetReplicas() {
		rj := replicaJSON{Replica: rd.Replica, Node: a.node(rd.Node), NodeID: fmt.Sprintf("%x", rd.Node), Learner: rd.Learner}
		for _, p := range r.Replicas {
			if p.Replica == rd.Replica {
				rj.Answered, rj.Leader, rj.Term, rj.Asleep = true, a.node(p.Leader), p.Term, p.Asleep
				rj.Commit, rj.Applied, rj.Last, rj.AppliedRevision = p.CommitIndex, p.AppliedIndex, p.LastIndex, p.AppliedRevision
			}
		}
		out.Replicas = append(out.Replicas, rj)
	}
	return out
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func printWarnings(w io.Writer, errs []string) {
	for _, e := range errs {
		fmt.Fprintf(w, "warning: %s\n", e)
	}
}

// sizeText prints a size in the unit that suits it.
func sizeText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < 4 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}

func keysText(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}
