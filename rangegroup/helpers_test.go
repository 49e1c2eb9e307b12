package rangegroup

import (
	"time"

	"go.uber.org/zap"
)

var (
	noLog    = zap.NewNop()
	zeroTime time.Time
)

func now() time.Time { return time.Now() }
