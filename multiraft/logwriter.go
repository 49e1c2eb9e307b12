package multiraft

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// batchBytesMax bounds one batch of the log writer; what does not fit waits for the next.
	batchBytesMax = 16 << 20
	// backlogBytesMax bounds what waits for the disk: above it, appends from other nodes are dropped on arrival.
	backlogBytesMax = 64 << 20
)

// appendJob is what a group wants written to its log.
type appendJob struct {
	group    *Group
	hard     *raftpb.HardState // nil: not newer
	entries  []*raftpb.Entry
	prevLast uint64            // last index of the log before
	truncate storage.EntryID   // zero: nothing goes
	sync     bool              // responses wait for the disk
	install  *incomingSnapshot // replace the range by a snapshot, first
	// What to say when it is done.
	remote []parcel
	local  []*raftpb.Message
}

func (a *appendJob) bytes() (n int64) {
	for _, e := range a.entries {
		n += entryBytes(e)
	}
	return n + 64
}

// logWriter is the goroutine that writes the logs of all groups: whatever waits when it comes around becomes one batch
// with one sync.
type logWriter struct {
	host    *Host
	backlog atomic.Int64 // bytes of mu.jobs and of the batch being written
	mu      struct {
		sync.Mutex
		jobs    []appendJob
		blocked map[*Group][]appendJob // behind a snapshot that is being installed
		closed  bool
	}
	work sync.Cond // mu.jobs is not empty, or mu.closed
	out  *outbox   // belongs to the goroutine
	idle []appendJob
}

func newLogWriter(h *Host) *logWriter {
	w := &logWriter{host: h, out: newOutbox(h)}
	w.work.L = &w.mu.Mutex
	w.mu.blocked = make(map[*Group][]appendJob)
	return w
}

func (w *logWriter) add(a appendJob) {
	w.backlog.Add(a.bytes())
	w.mu.Lock()
	w.mu.jobs = append(w.mu.jobs, a)
	first := len(w.mu.jobs) == 1
	w.mu.Unlock()
	if first {
		w.work.Signal()
	}
}

func (w *logWriter) close() {
	w.mu.Lock()
	w.mu.closed = true
	w.mu.Unlock()
	w.work.Signal()
}

// run is the goroutine. It ends when the writer is closed and nothing waits.
func (w *logWriter) run() {
	for {
		jobs, ok := w.next()
		if !ok {
			return
		}
		w.write(jobs)
		clear(jobs)
		w.idle = jobs[:0]
	}
}

// next waits for jobs and takes them, in order: all of them, up to the bound on a batch or to a snapshot, which has to
// wait for what its group wrote before. ok is false at the end.
func (w *logWriter) next() (jobs []appendJob, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.mu.jobs) == 0 && !w.mu.closed {
		w.work.Wait()
	}
	jobs = w.idle[:0]
	var size int64
	taken := 0
	for i := range w.mu.jobs {
		a := &w.mu.jobs[i]
		if size > batchBytesMax {
			break
		}
		taken++
		if b, ok := w.mu.blocked[a.group]; ok {
			w.mu.blocked[a.group] = append(b, *a)
			continue
		}
		if a.install != nil {
			w.mu.blocked[a.group] = nil
		}
		size += a.bytes()
		jobs = append(jobs, *a)
	}
	rest := copy(w.mu.jobs, w.mu.jobs[taken:])
	clear(w.mu.jobs[rest:])
	w.mu.jobs = w.mu.jobs[:rest]
	return jobs, taken > 0 || !w.mu.closed
}

// write puts jobs into one batch, commits it and tells everybody.
func (w *logWriter) write(jobs []appendJob) {
	if len(jobs) == 0 {
		return
	}
	m := w.host.metrics
	b := w.host.cfg.Engine.NewBatch()
	defer b.Close()
	sync, entries := false, 0
	var size int64
	for i := range jobs {
		a := &jobs[i]
		size += a.bytes()
		if a.install != nil {
			continue
		}
		sync = sync || a.sync
		entries += len(a.entries)
		r := a.group.r
		if a.hard != nil {
			b.SetHardState(r, a.hard)
		}
		b.Append(r, a.entries, a.prevLast)
		if a.truncate != (storage.EntryID{}) {
			b.Truncate(r, a.truncate)
		}
	}
	start := time.Now()
	err := b.Commit(sync)
	if sync && err == nil {
		m.syncSeconds.Observe(time.Since(start).Seconds())
		m.syncGroups.Observe(float64(len(jobs)))
		m.syncEntries.Observe(float64(entries))
	}
	w.tell(jobs, err)
	w.backlog.Add(-size)
}

// tell delivers the responses: first to other nodes, who wait for them, then to our own groups.
func (w *logWriter) tell(jobs []appendJob, err error) {
	if err == nil {
		for i := range jobs {
			for _, p := range jobs[i].remote {
				w.out.add(p)
			}
		}
		w.out.flush()
	}
	for i := range jobs {
		a := &jobs[i]
		if a.install != nil && err == nil {
			a.install.install(a.hard) // completes the job when done
			continue
		}
		a.group.complete(completion{responses: a.local, err: err})
	}
}

// unblock lets a group's appends through again that came after a snapshot which is installed now.
func (w *logWriter) unblock(g *Group) {
	w.mu.Lock()
	held := w.mu.blocked[g]
	delete(w.mu.blocked, g)
	w.mu.jobs = append(held[:len(held):len(held)], w.mu.jobs...)
	w.mu.Unlock()
	w.work.Signal()
}

func (g *Group) complete(c completion) {
	g.inbox.addCompletion(c)
	g.raise(evInbox)
}
