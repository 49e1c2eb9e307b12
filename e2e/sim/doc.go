// Package sim runs whole clusters in one test process: real nodes on a file system in memory that can crash, over a
// network in memory that can be cut, under the virtual time of testing/synctest.
//
//	synctest.Test(t, func(t *testing.T) {
//		c := sim.New(t, sim.Options{Nodes: 3, Splits: 4})
//		kv := c.Node(1).KV()
//		c.Kill(2)
//		…
//		c.Restart(2)
//	})
//
// Time passes only while everybody waits, so a minute of it costs what the work in it costs, and timeouts cost nothing.
// What is random comes from Options.Seed: the network's delays, the clocks' rates, how long a sync takes, what a power
// failure leaves behind, the workload and the faults. The scheduler of goroutines is not part of it: a seed repeats a
// run's plan, not each of its steps.
//
// Start with Cluster. What can be done to a node is in faults.go. Clients is a workload whose history package history
// judges; Nemesis does harm at random. A test of random faults is the three together:
//
//	clients := c.StartClients(sim.ClientOptions{})
//	c.Nemesis(30*time.Second, sim.AllFaults)
//	clients.Stop()
//	c.Verify(clients)
//
// The tests in this package take -sim.seed to repeat a run, -sim.seeds and -sim.duration for longer ones, and -sim.log to
// see what the nodes say:
//
//	go test ./e2e/sim -run TestFaults -sim.seeds=50 -sim.duration=2m
package sim
