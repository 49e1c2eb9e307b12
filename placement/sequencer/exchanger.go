package sequencer

import (
	"time"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// flightMax is how many exchanges a node has under way: with two a new one starts every half round trip.
const flightMax = 2

// pendingMax bounds the joins that wait for an exchange; the lanes of a node's ranges stay far below.
const pendingMax = 1 << 17

// Exchanger is the client half of the protocol, one per node. Its driver
//
//  1. calls Open to begin a session and carries the request to the sequencer,
//  2. calls Join for what comes, and Next, until it returns false, for the requests to send, in order,
//  3. calls Receive for each answer, in any order, and Close when the connection or the node's patience broke,
//  4. after each of these takes the results with Take and delivers them in that order, one at a time.
//
// Not safe for concurrent use.
type Exchanger struct {
	node        ids.NodeID
	incarnation uint64
	rules       rules

	n       uint64 // of the newest session
	known   uint64 // the newest epoch learnt
	current ids.Revision
	fresh   Fresh

	session *clientSession // nil between sessions
	// registered is what was sent for each range last, standings what the sequencer of the epoch known said against it.
	// Standings only rise within an epoch.
	registered map[ids.RangeID]held
	standings  map[ids.RangeID]Standing

	pending []waiting
	out     []Delivery
	free    []*exchange

	old []*clientSession // (rules.keepOldSessions)
}

// clientSession is a session as the node sees it.
type clientSession struct {
	id     SessionID
	epoch  uint64 // 0 until the opening request is answered
	seq    uint64 // of the last exchange sent
	ack    uint64 // of the last answer processed
	flight []*exchange
	pacing time.Duration
}

// held is a registration that was sent.
type held struct {
	session, epoch, term uint64
	generation           ids.Generation
}

type waiting struct {
	Join
	since time.Duration
}

// exchange is a request under way and who is in it.
type exchange struct {
	seq      uint64
	wanted   int64
	joins    []Join
	answered bool
	answer   Answer
}

// Delivery is a result to hand to who joined.
type Delivery struct {
	Done   func(Result)
	Result Result
}

// NewExchanger returns the exchanger of a process of a node.
func NewExchanger(node ids.NodeID, incarnation uint64) *Exchanger {
	return &Exchanger{node: node, incarnation: incarnation, fresh: Fresh{Floor: -1},
		registered: map[ids.RangeID]held{}, standings: map[ids.RangeID]Standing{}}
}

// Known returns the newest epoch learnt. A proof of leadership counts for an epoch if it begins after that.
func (x *Exchanger) Known() uint64 { return x.known }

// Current returns the greatest current seen. Revisions given out from now on are greater.
func (x *Exchanger) Current() ids.Revision { return x.current }

// Fresh returns what the newest answer carried.
func (x *Exchanger) Fresh() Fresh { return x.fresh }

// Session returns the session's number and epoch; ready is false until it is open.
func (x *Exchanger) Session() (n, epoch uint64, ready bool) {
	if x.session == nil {
		return x.n, 0, false
	}
	return x.n, x.session.epoch, x.session.epoch != 0
}

// Pending returns how many joins wait to be sent, InFlight how many exchanges are under way.
func (x *Exchanger) Pending() int { return len(x.pending) }

// InFlight returns how many exchanges are under way.
func (x *Exchanger) InFlight() int {
	if x.session == nil {
		return 0
	}
	return len(x.session.flight)
}

// Pacing is the least time that the sequencer wants between two exchanges of this node.
func (x *Exchanger) Pacing() time.Duration {
	if x.session == nil {
		return 0
	}
	return x.session.pacing
}

// Join adds a join to the next exchange.
func (x *Exchanger) Join(now time.Duration, j Join) {
	if x.rules.rideInFlight && j.Want == 0 && x.InFlight() > 0 {
		e := x.session.flight[len(x.session.flight)-1]
		e.joins = append(e.joins, j)
		return
	}
	if len(x.pending) >= pendingMax {
		x.fail(j, ErrNoSequencer)
		return
	}
	x.pending = append(x.pending, waiting{j, now})
}

// Open closes the session there is and returns the request that opens the next. What waits without having been sent
// goes on waiting.
func (x *Exchanger) Open() Request {
	x.Close()
	x.n++
	x.session = &clientSession{id: SessionID{x.node, x.incarnation, x.n}}
	return Request{Session: x.session.id}
}

// Close ends the session: everybody in an exchange under way gets ErrSessionLost, and whatever still arrives for it is
// dropped.
func (x *Exchanger) Close() {
	s := x.session
	if s == nil {
		return
	}
	x.session = nil
	if x.rules.keepOldSessions {
		x.old = append(x.old, s)
		return
	}
	for _, e := range s.flight {
		for _, j := range e.joins {
			x.fail(j, ErrSessionLost)
		}
	}
}

// Expire fails what has waited for a session since before the given time.
func (x *Exchanger) Expire(before time.Duration, err error) {
	n := 0
	for n < len(x.pending) && x.pending[n].since < before {
		x.fail(x.pending[n].Join, err)
		n++
	}
	x.pending = x.pending[:copy(x.pending, x.pending[n:])]
}

func (x *Exchanger) fail(j Join, err error) {
	x.out = append(x.out, Delivery{j.Done, Result{Err: err, Session: x.n, Current: x.current, Floor: x.fresh.Floor}})
}

// Next returns the next request to send, if there is something to ask and room for it. An idle node calls it with
// keepAlive now and then, to learn of the sequencer's end and of what is fresh.
func (x *Exchanger) Next(keepAlive bool) (Request, bool) {
	s := x.session
	if s == nil || s.epoch == 0 || len(s.flight) >= flightMax || len(x.pending) == 0 && !keepAlive {
		return Request{}, false
	}
	e := x.newExchange(s.seq + 1)
	req := Request{Session: s.id, Seq: e.seq, Epoch: s.epoch, Ack: s.ack}
	for i := range x.pending {
		w := &x.pending[i]
		if err := x.admit(s, &w.Join, &req); err != nil {
			x.fail(w.Join, err)
			continue
		}
		e.joins = append(e.joins, w.Join)
		e.wanted += int64(w.Want)
	}
	clear(x.pending)
	x.pending = x.pending[:0]
	if len(e.joins) == 0 && !keepAlive {
		x.recycle(e)
		return Request{}, false
	}
	s.seq = e.seq
	s.flight = append(s.flight, e)
	req.Wanted = e.wanted
	return req, true
}

// admit decides whether a join may go into the request, and adds its range's registration if this session has not sent
// it yet.
func (x *Exchanger) admit(s *clientSession, j *Join, req *Request) error {
	if j.Range == 0 || x.rules.noRegistration {
		return nil
	}
	if err := x.standing(j); err != nil {
		return err
	}
	h := x.registered[j.Range]
	sameEpoch := h.epoch == s.epoch
	switch {
	case sameEpoch && h.term > j.Term:
		return ErrSuperseded // by ourselves
	case (h.session == s.id.N || x.rules.noReRegister && sameEpoch) && h.term == j.Term && h.generation >= j.Generation:
		return nil
	case j.Proven < s.epoch && !(sameEpoch && h.term == j.Term) && !x.rules.noProof:
		return ErrNeedProof
	}
	req.Registrations = append(req.Registrations, Registration{Range: j.Range, Term: j.Term, Generation: j.Generation,
		Parent: j.Parent, ParentGeneration: j.ParentGeneration})
	x.registered[j.Range] = held{session: s.id.N, epoch: s.epoch, term: j.Term, generation: j.Generation}
	return nil
}

// standing says whether what the sequencer has told forbids the join.
func (x *Exchanger) standing(j *Join) error {
	st, ok := x.standings[j.Range]
	switch {
	case !ok || x.rules.ignoreStandings:
		return nil
	case j.Term < st.Term:
		return ErrSuperseded
	case j.Generation < st.Generation:
		return ErrBehind
	}
	return nil
}

// Receive takes the answer to request seq of session n. It reports whether the session goes on.
func (x *Exchanger) Receive(n, seq uint64, a Answer) bool {
	s := x.find(n)
	switch {
	case s == nil:
		return true // of a session that is over: dropped
	case a.Refusal != Served:
		x.Close()
		return false
	case seq == 0:
		return x.opened(s, a)
	case a.Epoch != s.epoch:
		x.Close()
		return false
	}
	for _, e := range s.flight {
		if e.seq == seq && !e.answered {
			e.answered, e.answer = true, a
		}
	}
	x.processAnswered(s)
	return true
}

func (x *Exchanger) find(n uint64) *clientSession {
	if x.session != nil && x.session.id.N == n {
		return x.session
	}
	for _, s := range x.old {
		if s.id.N == n {
			return s
		}
	}
	return nil
}

// opened learns the epoch. Only from now on may range leaders prove themselves for it.
func (x *Exchanger) opened(s *clientSession, a Answer) bool {
	switch {
	case s.epoch != 0:
		return true // a second answer to the same request
	case a.Epoch < x.known || a.Epoch == 0:
		x.Close()
		return false
	case a.Epoch > x.known:
		x.known = a.Epoch
		clear(x.standings)
		clear(x.registered)
	}
	s.epoch = a.Epoch
	x.note(s, a)
	return true
}

// processAnswered processes answers in order, as far as they have come.
func (x *Exchanger) processAnswered(s *clientSession) {
	for i := 0; i < len(s.flight); {
		e := s.flight[i]
		if !e.answered {
			if x.rules.anyAnswerOrder {
				i++
				continue
			}
			return
		}
		s.flight = append(s.flight[:i], s.flight[i+1:]...)
		x.process(s, e)
		x.recycle(e)
	}
}

// process delivers one answer: what it says against registrations, then the revisions, then the confirmations. So who
// confirms finds the revisions of this answer, and of all before, in its range's set of those in flight.
func (x *Exchanger) process(s *clientSession, e *exchange) {
	x.note(s, e.answer)
	s.ack = e.seq
	if x.rules.currentAfter {
		x.confirm(s, e)
	}
	first := e.answer.Current + 1
	if x.rules.currentAfter {
		first -= ids.Revision(e.wanted)
	}
	for i := range e.joins {
		j := &e.joins[i]
		if j.Want > 0 {
			x.deliver(s, j, e.answer.Current, first)
			first += ids.Revision(j.Want)
		}
	}
	if !x.rules.currentAfter {
		x.confirm(s, e)
	}
	if x.rules.dropStandings {
		clear(x.standings)
	}
}

func (x *Exchanger) confirm(s *clientSession, e *exchange) {
	for i := range e.joins {
		if j := &e.joins[i]; j.Want == 0 {
			x.deliver(s, j, e.answer.Current, 0)
		}
	}
}

// deliver hands a join its result. The answer counts for its range if nothing stands against the registration: that
// went out with this exchange or with an earlier one of the session.
func (x *Exchanger) deliver(s *clientSession, j *Join, current, first ids.Revision) {
	if err := x.standing(j); err != nil && j.Range != 0 {
		x.fail(*j, err)
		return
	}
	x.out = append(x.out, Delivery{j.Done, Result{Session: s.id.N, Current: current, First: first, Floor: x.fresh.Floor}})
}

// note takes what an answer says to the node as a whole.
func (x *Exchanger) note(s *clientSession, a Answer) {
	x.current = max(x.current, a.Current)
	x.fresh.Floor = max(x.fresh.Floor, a.Fresh.Floor)
	x.fresh.AuthRevision = max(x.fresh.AuthRevision, a.Fresh.AuthRevision)
	x.fresh.SettingsVersion = max(x.fresh.SettingsVersion, a.Fresh.SettingsVersion)
	s.pacing = a.Pacing
	for _, st := range a.Standings {
		old := x.standings[st.Range]
		x.standings[st.Range] = Standing{st.Range, max(st.Term, old.Term), max(st.Generation, old.Generation)}
	}
}

// Take moves the results that are to be delivered to buf.
func (x *Exchanger) Take(buf []Delivery) []Delivery {
	buf = append(buf, x.out...)
	clear(x.out)
	x.out = x.out[:0]
	return buf
}

func (x *Exchanger) newExchange(seq uint64) *exchange {
	if n := len(x.free); n > 0 {
		e := x.free[n-1]
		x.free = x.free[:n-1]
		e.seq = seq
		return e
	}
	return &exchange{seq: seq}
}

func (x *Exchanger) recycle(e *exchange) {
	clear(e.joins)
	*e = exchange{joins: e.joins[:0]}
	if len(x.free) < flightMax+1 {
		x.free = append(x.free, e)
	}
}
