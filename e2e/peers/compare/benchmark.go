package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pontoon-kv/pontoon/e2e/proc"
)

// result is what a workload measured. cpu is the processor time of all three nodes for one request.
type result struct {
	perSecond float64
	mean, p99 time.Duration
	cpu       time.Duration
}

// run runs the benchmark against all endpoints of a cluster.
func (w workload) run(bin string, c *proc.Cluster) (result, error) {
	var hosts []string
	for _, e := range c.Endpoints() {
		hosts = append(hosts, strings.TrimPrefix(e, "http://"))
	}
	args := append(append([]string{}, w.args...), "--endpoints="+strings.Join(hosts, ","), "--total="+strconv.Itoa(w.total), "--precise")
	before, err := cpu(c)
	if err != nil {
		return result{}, err
	}
	out, err := exec.Command(bin, args...).CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("benchmark %s: %w\n%s", strings.Join(args, " "), err, tail(string(out)))
	}
	after, err := cpu(c)
	if err != nil {
		return result{}, err
	}
	r, err := parse(string(out))
	r.cpu = ((after - before) / time.Duration(w.total)).Round(100 * time.Nanosecond)
	return r, err
}

func cpu(c *proc.Cluster) (sum time.Duration, err error) {
	for _, n := range c.Nodes {
		used, err := n.CPU()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

var (
	perSecondLine = regexp.MustCompile(`Requests/sec:\s*([0-9.e+-]+)`)
	meanLine      = regexp.MustCompile(`Average:\s*([0-9.e+-]+) secs`)
	p99Line       = regexp.MustCompile(`99% in ([0-9.e+-]+) secs`)
	errorLines    = regexp.MustCompile(`(?s)Error distribution:\s*\n(.*)`)
)

// parse reads the report that the benchmark prints. Requests that failed are an error: they would make it look fast.
func parse(out string) (r result, err error) {
	if m := errorLines.FindStringSubmatch(out); m != nil && strings.TrimSpace(m[1]) != "" {
		return r, fmt.Errorf("requests failed: %s", tail(m[1]))
	}
	number := func(re *regexp.Regexp) float64 {
		m := re.FindStringSubmatch(out)
		if m == nil {
			err = fmt.Errorf("the benchmark's report has no line like %v:\n%s", re, tail(out))
			return 0
		}
		f, ferr := strconv.ParseFloat(m[1], 64)
		if ferr != nil {
			err = ferr
		}
		return f
	}
	seconds := func(f float64) time.Duration {
		return time.Duration(f * float64(time.Second)).Round(10 * time.Microsecond)
	}
	r.perSecond, r.mean, r.p99 = number(perSecondLine), seconds(number(meanLine)), seconds(number(p99Line))
	return r, err
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
