package storage

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// pebbleLogger carries Pebble's own log to ours. Pebble calls Fatalf where it cannot go on and expects the process to
// end; here the engine is marked as failed, so that no later commit (and not the one that met the error) reports
// success, and the owner decides.
type pebbleLogger struct{ e *Engine }

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.e.log.Core().Enabled(zap.DebugLevel) {
		l.e.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.e.log.Warn(fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if cause, ok := a.(error); ok { // so that errors.Is finds ENOSPC
			err = fmt.Errorf("%v: %w", err, cause)
			break
		}
	}
	l.e.fail(err)
}

// eventListener logs what an operator can use. Failures of flushes and compactions are retried by Pebble; only detected
// corruption is final.
func (e *Engine) eventListener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			e.log.Error("background work of the engine failed; it will be tried again", zap.Error(err))
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			e.fail(&CorruptError{Dir: e.dir, Cause: fmt.Errorf("%s", i)})
		},
		DiskSlow: func(i pebble.DiskSlowInfo) {
			e.log.Warn("the disk is slow", zap.String("what", i.String()))
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			e.log.Warn("writes stall until compactions catch up", zap.String("reason", i.Reason))
		},
		WriteStallEnd: func() { e.log.Info("writes no longer stall") },
		LowDiskSpace: func(i pebble.LowDiskSpaceInfo) {
			e.log.Warn("little disk space is left", zap.String("what", i.String()))
		},
	}
}
