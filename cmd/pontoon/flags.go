package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The kinds of value that pflag lacks. Each writes straight into the field it was made for.

// urlsValue is a comma-separated list of URLs.
type urlsValue struct {
	flag string
	to   *[]url.URL
}

func (v urlsValue) Set(s string) (err error) {
	*v.to, err = node.ParseURLs(v.flag, s)
	return err
}

func (v urlsValue) Type() string { return "urls" }

func (v urlsValue) String() string {
	if v.to == nil {
		return ""
	}
	parts := make([]string, len(*v.to))
	for i := range *v.to {
		parts[i] = (*v.to)[i].String()
	}
	return strings.Join(parts, ",")
}

// millisValue is a number of milliseconds, as etcd writes its heartbeat and election times.
type millisValue struct{ to *time.Duration }

func (v millisValue) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not a number of milliseconds", s)
	}
	*v.to = time.Duration(n) * time.Millisecond
	return nil
}

func (v millisValue) Type() string { return "ms" }

func (v millisValue) String() string {
	if v.to == nil {
		return ""
	}
	return strconv.FormatInt(v.to.Milliseconds(), 10)
}

// listValue is a comma-separated list of words.
type listValue struct{ to *[]string }

func (v listValue) Set(s string) error {
	*v.to = nil
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*v.to = append(*v.to, part)
		}
	}
	return nil
}

func (v listValue) Type() string { return "list" }

func (v listValue) String() string {
	if v.to == nil {
		return ""
	}
	return strings.Join(*v.to, ",")
}

// splitsValue is where the user space is cut: a number of ranges, or the keys themselves.
type splitsValue struct{ to *[][]byte }

func (v splitsValue) Set(s string) (err error) {
	*v.to, err = parseSplits(s)
	return err
}

func (v splitsValue) Type() string { return "n|keys" }

func (v splitsValue) String() string {
	if v.to == nil {
		return ""
	}
	parts := make([]string, len(*v.to))
	for i, k := range *v.to {
		parts[i] = strings.Trim(strconv.Quote(string(k)), `"`)
	}
	return strings.Join(parts, ",")
}

// parseSplits reads a number n of ranges, which are then cut evenly by their keys' first two bytes, or a comma-separated
// list of keys; a key may hold Go's escapes (\x00, \u00e9).
func parseSplits(s string) ([][]byte, error) {
	if s == "" {
		return nil, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 20_000 {
			return nil, fmt.Errorf("%d ranges are out of the range of 1 to 20000", n)
		}
		keys := make([][]byte, 0, n-1)
		for i := 1; i < n; i++ {
			at := i << 16 / n
			keys = append(keys, []byte{byte(at >> 8), byte(at)})
		}
		return keys, nil
	}
	var keys [][]byte
	for _, part := range strings.Split(s, ",") {
		if strings.Contains(part, `\`) {
			unquoted, err := strconv.Unquote(`"` + part + `"`)
			if err != nil {
				return nil, fmt.Errorf("%q has an escape that is none", part)
			}
			part = unquoted
		}
		keys = append(keys, []byte(part))
	}
	return keys, nil
}

// inertValue remembers the value of a flag that means nothing here.
type inertValue struct{ text string }

func (v *inertValue) Set(s string) error { v.text = s; return nil }
func (v *inertValue) String() string     { return v.text }
func (v *inertValue) Type() string       { return "value" }

// nearestFlag returns the flag of c that is at most two edits away from name, or that name is the head of.
func nearestFlag(c *cobra.Command, name string) string {
	best, bestDist := "", 3
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if d := editDistance(f.Name, name); d < bestDist {
			best, bestDist = f.Name, d
		}
	})
	return best
}

// editDistance is Levenshtein's, over bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
