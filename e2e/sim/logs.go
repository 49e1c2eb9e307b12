package sim

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Verbose makes clusters write what their nodes log to standard error, at this level. Tests set it from a flag.
var Verbose = zapcore.InvalidLevel

// linesMax is how much of the log is kept for a test that fails, printedMax how much of that is printed.
const (
	linesMax   = 20_000
	printedMax = 400
)

// logs collects what nodes say, with the time since the cluster began.
type logs struct {
	name  string
	start time.Time

	mu    sync.Mutex
	lines []string // guarded by mu: the newest
	total int      // guarded by mu
}

func newLogs(name string) *logs { return &logs{name: name, start: time.Now()} }

// logger is the logger of a node; 0 is the test itself.
func (l *logs) logger(i int) *zap.Logger {
	return zap.New(&logCore{logs: l, node: i, enc: zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "M"})})
}

func (l *logs) add(node int, level zapcore.Level, at time.Time, text string) {
	who := "test"
	if node > 0 {
		who = fmt.Sprintf("n%d", node)
	}
	line := fmt.Sprintf("%10.4f %-4s %-5s %s", at.Sub(l.start).Seconds(), who, level.CapitalString(), text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= 2*linesMax {
		l.lines = append(l.lines[:0], l.lines[linesMax:]...)
	}
	l.lines = append(l.lines, line)
	l.total++
	if Verbose != zapcore.InvalidLevel && level >= Verbose {
		fmt.Fprintln(os.Stderr, line)
	}
}

// finish gives a failed test the log: the end of it printed, all that is kept in a file.
func (l *logs) finish(t testing.TB) {
	if !t.Failed() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.CreateTemp("", "sim-*.log")
	if err == nil {
		_, err = f.WriteString(strings.Join(l.lines, "\n") + "\n")
		_ = f.Close()
		t.Logf("sim: the log of %s is in %s (%v)", l.name, f.Name(), err)
	}
	lines := l.lines[max(0, len(l.lines)-printedMax):]
	t.Logf("sim: the last %d of %d lines of the log:\n%s", len(lines), l.total, strings.Join(lines, "\n"))
}

// logCore is a zap core that adds to the logs.
type logCore struct {
	logs *logs
	node int
	enc  zapcore.Encoder
}

func (c *logCore) Enabled(l zapcore.Level) bool { return l >= zapcore.DebugLevel }

func (c *logCore) With(fields []zapcore.Field) zapcore.Core {
	enc := c.enc.Clone()
	for _, f := range fields {
		f.AddTo(enc)
	}
	return &logCore{logs: c.logs, node: c.node, enc: enc}
}

func (c *logCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

func (c *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	b, err := c.enc.EncodeEntry(e, fields)
	if err != nil {
		return err
	}
	c.logs.add(c.node, e.Level, e.Time, strings.TrimSpace(b.String()))
	b.Free()
	return nil
}

func (c *logCore) Sync() error { return nil }
