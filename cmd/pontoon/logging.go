package main

import (
	"fmt"
	"slices"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/logutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logOptions are etcd's log flags.
type logOptions struct {
	level, format string
	outputs       []string
}

func (o *logOptions) register(fs *pflag.FlagSet) {
	o.level, o.format, o.outputs = "info", "json", []string{"default"}
	fs.StringVar(&o.level, "log-level", o.level, "debug, info, warn, error, panic or fatal")
	fs.StringVar(&o.format, "log-format", o.format, "json or console")
	fs.Var(listValue{&o.outputs}, "log-outputs", "stderr (also called default), stdout, and names of files")
}

// logger builds the process's logger; lines look like etcd's, so that what reads etcd's logs reads these.
func (o *logOptions) logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(o.level)
	if err != nil {
		return nil, fmt.Errorf("--log-level: %q is none; use debug, info, warn, error, panic or fatal", o.level)
	}
	if o.format != "json" && o.format != "console" {
		return nil, fmt.Errorf("--log-format: %q is none; use json or console", o.format)
	}
	cfg := logutil.DefaultZapLoggerConfig
	cfg.Level = zap.NewAtomicLevelAt(level)
	cfg.Encoding = o.format
	cfg.OutputPaths = nil
	for _, out := range o.outputs {
		if out == "default" || out == "systemd/journal" { // the journal collects stderr
			out = "stderr"
		}
		if !slices.Contains(cfg.OutputPaths, out) {
			cfg.OutputPaths = append(cfg.OutputPaths, out)
		}
	}
	cfg.ErrorOutputPaths = []string{"stderr"}
	lg, err := cfg.Build()
	if err != nil {
		return nil, fmt.Errorf("--log-outputs: %w; name stderr, stdout or a file that can be written", err)
	}
	return lg, nil
}
