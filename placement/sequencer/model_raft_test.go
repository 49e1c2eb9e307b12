package sequencer

// A raft small enough for the model: elections, replication and commit are single steps that keep raft's promises.

type rentry struct {
	term uint64
	cmd  any
}

type replica struct {
	node, group    int
	term           uint64
	lead           bool
	own            int // log length just after the own first entry
	log            []rentry
	commit, applid int
	match          [3]int
	l              *lead // of a data range
}

type group struct {
	id        int
	reps      [3]*replica
	committed []rentry
}

// elect makes node n leader with the vote of node o.
func (w *world) elect(g *group, n, o int) bool {
	r, v := g.reps[n], g.reps[o]
	if n == o || !w.talk(n, o) {
		return false
	}
	lt := func(r *replica) (uint64, int) {
		if len(r.log) == 0 {
			return 0, 0
		}
		return r.log[len(r.log)-1].term, len(r.log)
	}
	rt, rl := lt(r)
	vt, vl := lt(v)
	if rt < vt || rt == vt && rl < vl {
		return false
	}
	term := max(r.term, v.term) + 1
	w.setTerm(v, term)
	w.setTerm(r, term)
	w.tr("g%d: n%d leads in term %d", g.id, n, term)
	r.lead, r.match = true, [3]int{}
	w.becameLeader(r)
	w.append(r, nil)
	r.own = len(r.log)
	return true
}

func (w *world) setTerm(r *replica, term uint64) {
	if term <= r.term {
		return
	}
	r.term = term
	if r.lead {
		r.lead = false
		w.stoppedLeading(r)
	}
	if r.group == 0 {
		w.nodes[r.node].m.Changed(false, term)
	}
}

func (w *world) append(r *replica, cmd any) {
	r.log = append(r.log[:len(r.log):len(r.log)], rentry{r.term, cmd})
	r.match[r.node] = len(r.log)
}

// replicate brings follower f up to leader l and moves the commit index.
func (w *world) replicate(g *group, n, o int) bool {
	l, f := g.reps[n], g.reps[o]
	if n == o || !l.lead || !w.talk(n, o) {
		return false
	}
	if f.term > l.term {
		w.setTerm(l, f.term)
		return true
	}
	w.setTerm(f, l.term)
	f.log = append([]rentry(nil), l.log...)
	l.match[o] = len(f.log)
	best := 0
	for i, m := range l.match {
		if i != n {
			best = max(best, min(m, l.match[n]))
		}
	}
	if best > l.commit && l.log[best-1].term == l.term {
		l.commit = best
		w.committed(g, l)
	}
	f.commit = max(f.commit, min(l.commit, len(f.log)))
	return true
}

func (w *world) committed(g *group, l *replica) {
	for i := len(g.committed); i < l.commit; i++ {
		g.committed = append(g.committed, l.log[i])
		if p, ok := l.log[i].cmd.(put); ok {
			w.checkCommit(g, i+1, p)
		}
	}
	for _, e := range l.log[:l.commit] {
		if p, ok := e.cmd.(put); ok && !p.op.done && e.term == l.term {
			w.ack(p)
		}
	}
}

func (w *world) apply(r *replica) bool {
	if r.applid >= r.commit || !w.up(r.node) {
		return false
	}
	e := r.log[r.applid]
	r.applid++
	if r.group == 0 {
		n := w.nodes[r.node]
		var lease *Lease
		if c, ok := e.cmd.(Command); ok {
			n.state.Apply(c)
			lease = c.Lease
		}
		n.m.Applied(w.local(r.node), e.term, lease, n.state, Fresh{Floor: -1})
	}
	return true
}
