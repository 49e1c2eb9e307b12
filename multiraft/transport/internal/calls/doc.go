// Package calls keeps the calls that a transport has accepted and not yet finished: it decides how each one ends, and
// that it ends exactly once. Both transports are built on it, so that ErrNotSent and ErrLost mean the same in both.
//
//	queued ──Take──► sent ──Answer──► answered
//	  │                │
//	  │                └──Fail──────► ErrLost        handed to a stream that broke: the outcome is unknown
//	  └──────Fail──► ErrNotSent                      never handed to a stream
//	  (both) ──context's end──► the context's error
//
// Start with Table.
package calls
