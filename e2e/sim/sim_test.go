package sim

import (
	"flag"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"go.uber.org/zap/zapcore"
)

var (
	seedFlag     = flag.Uint64("sim.seed", 0, "repeat the run of this seed (0: random)")
	seedsFlag    = flag.Int("sim.seeds", 1, "how many runs of each random test")
	durationFlag = flag.Duration("sim.duration", 15*time.Second, "virtual time for which faults are injected in each run")
	logFlag      = flag.Bool("sim.log", false, "write the nodes' logs to standard error")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *logFlag {
		Verbose = zapcore.DebugLevel
	}
	os.Exit(m.Run())
}

// seeds runs a test once per seed, each in a bubble of its own.
func seeds(t *testing.T, f func(t *testing.T, seed uint64)) {
	for k := range *seedsFlag {
		seed := *seedFlag
		if seed == 0 {
			seed = rand.Uint64() >> 1
		} else {
			seed += uint64(k)
		}
		began := time.Now()
		synctest.Test(t, func(t *testing.T) { f(t, seed) })
		t.Logf("seed %d took %v", seed, time.Since(began))
		if t.Failed() {
			return
		}
	}
}

// TestDense: without faults nothing fails, and revisions rise by exactly one from 2 on.
func TestDense(t *testing.T) {
	for name, opt := range map[string]Options{
		"one node": {Nodes: 1}, "three nodes": {Nodes: 3}, "spread": {Nodes: 3, Policy: node.LeadersSpread},
	} {
		t.Run(name, func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				opt := opt
				opt.Seed = seed
				c := New(t, opt)
				w := c.StartClients(ClientOptions{})
				time.Sleep(3 * time.Second)
				t.Log(c.VerifyDense(w))
			})
		})
	}
}
