// Package router is the front door: the etcd v3 services over gRPC and JSON, and the way of a request to its ranges.
//
// Who waits for whom:
//
//	client ─► interceptor ─► kvServer ─► Put, DeleteRange, Txn: one range's leader      (write.go)
//	                            │           local: Ranges.Write     remote: Sender, CallRange
//	                            │
//	                            └──────► Range: a claim per range, then local reads     (read.go)
//	                                        claims: one call in flight per peer         (confirm.go)
//	                                        no replica here: CallRange to the leader's node
//
// Every mutation is sent to one place at a time, and again only after proof that it had no effect (route.go). A read
// takes a claim (V, i) that its leader made after the read arrived, waits until the local replica applied i, and reads
// at the least V of its ranges.
//
// # What the node assembly plugs in
//
//   - Config and Deps of New: Ranges is *rangegroup.Host as it is; Sender wraps the transport (Call* constants to
//     transport.Method*, NotSent is errors.Is(err, transport.ErrNotSent)); Directory, Cluster and Store are small
//     adapters over the placement client and the engine.
//   - Handlers of the transport: MethodRange → Host.HandleRange(rt.ServeRead); MethodConfirm → Host.HandleConfirm;
//     MethodNode → rt.HandleNode.
//   - NewServer(ServerConfig, rt) makes the client-facing server; Serve is called once per client listener and
//     ServeHTTP once per metrics or HTTP-only listener. Close the server before the router, and the router before the
//     range host.
//
// Where to start reading: router.go (Router, headers), then write.go and read.go.
package router
