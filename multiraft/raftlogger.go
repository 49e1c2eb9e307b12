package multiraft

import (
	"fmt"

	"go.uber.org/zap"
)

// raftLogger passes raft's warnings on. What raft tells of each election of each group is left out, for there are
// thousands; Host counts them.
type raftLogger struct{ log *zap.SugaredLogger }

func (raftLogger) Debug(...any)                       {}
func (raftLogger) Debugf(string, ...any)              {}
func (raftLogger) Info(...any)                        {}
func (raftLogger) Infof(string, ...any)               {}
func (l raftLogger) Warning(v ...any)                 { l.log.Debug(v...) }
func (l raftLogger) Warningf(format string, v ...any) { l.log.Debugf(format, v...) }
func (l raftLogger) Error(v ...any)                   { l.log.Error(v...) }
func (l raftLogger) Errorf(format string, v ...any)   { l.log.Errorf(format, v...) }
func (raftLogger) Fatal(v ...any)                     { panic(fmt.Sprint(v...)) }
func (raftLogger) Fatalf(format string, v ...any)     { panic(fmt.Sprintf(format, v...)) }
func (raftLogger) Panic(v ...any)                     { panic(fmt.Sprint(v...)) }
func (raftLogger) Panicf(format string, v ...any)     { panic(fmt.Sprintf(format, v...)) }
