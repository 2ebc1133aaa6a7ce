package xds

import (
	"time"

	"github.com/waggle-lb/waggle/translate"
)

// retirement is the order of removals: a kind comes after all that may refer to it.
// Listeners are not here: nothing refers to them, so they go with their additions.
// Endpoints come last because Envoy drops them together with their cluster.
var retirement = [...]translate.Kind{
	translate.Listener, translate.Routes, translate.Extension, translate.Cluster, translate.Secret, translate.Endpoints,
}

// retire sends the removals whose time has come and that did not go with an addition.
func (st *stream) retire(now time.Time, wake *deadline) {
	for _, kind := range retirement[1:] {
		s, t := &st.subs[kind], &st.view.tables[kind]
		switch {
		case !s.active || s.first:
			continue
		case s.rem >= t.lastGone && len(s.late) == 0:
			s.rem = st.view.seq
			continue
		case !s.open:
			continue
		}
		if free, at := st.free(s, false, now); !free {
			wake.by(at)
			continue
		}
		s.mark()
		if names := st.takeRipe(kind, now, wake); len(names) > 0 {
			st.send(kind, nil, names, now)
		}
	}
}

// takeRipe is what may be removed of a kind now; it counts as sent from here on.
//
// What was removed by a publish stays at this proxy until the proxy has acknowledged the
// state of that publish for every kind that could refer to it: make before break. A proxy
// that does not acknowledge keeps it for the grace time, counted from the publish, so
// that one bad proxy cannot make us remember for ever. Even then nothing is removed before
// what left it has been sent.
func (st *stream) takeRipe(kind translate.Kind, now time.Time, wake *deadline) []string {
	s, t := &st.subs[kind], &st.view.tables[kind]
	grace, settled, sent := st.server.grace, st.settledBefore(kind), st.sentUntil()
	until := settled
	for _, c := range t.goneLog[logAfter(t.goneLog, s.rem):] {
		if c.seq <= until {
			continue
		}
		if at := c.at.Add(grace); c.seq > sent || at.After(now) {
			if c.seq <= sent {
				wake.by(at)
			}
			break
		}
		until = c.seq
	}
	names := st.leaving(kind, until)
	if len(s.late) > 0 {
		at := s.lateAt.Add(grace)
		if s.lateSeq <= settled || s.lateSeq <= sent && !at.After(now) {
			for name := range s.late {
				if _, back := t.live[name]; !back && s.subscribed(name) {
					names = append(names, name)
				}
			}
			s.settled = min(s.settled, s.lateSeq-1)
			s.late = nil
		} else if s.lateSeq <= sent {
			wake.by(at)
		}
	}
	if kind == translate.Cluster {
		for _, name := range names {
			delete(st.awaited, name)
		}
	}
	s.rem = max(s.rem, until)
	return names
}

// settledBefore is the seq up to which everything that may refer to a kind has been
// acknowledged.
func (st *stream) settledBefore(kind translate.Kind) uint64 {
	seq := st.view.seq
	for _, user := range retirement {
		if user == kind {
			break
		}
		seq = min(seq, st.settled(user))
	}
	return seq
}

// leaving is what was removed after the cursor and until a seq, of what this proxy asked
// for and what has not come back since.
func (st *stream) leaving(kind translate.Kind, until uint64) []string {
	s, t := &st.subs[kind], &st.view.tables[kind]
	if s.rem >= t.lastGone {
		return nil
	}
	var names []string
	for _, c := range t.goneLog[logAfter(t.goneLog, s.rem):] {
		if c.seq > until {
			break
		}
		if t.gone[c.name].seq == c.seq && s.subscribed(c.name) {
			names = append(names, c.name)
		}
	}
	return names
}

// settled is the seq up to which the proxy has acknowledged everything of a kind.
func (st *stream) settled(kind translate.Kind) uint64 {
	s, t := &st.subs[kind], &st.view.tables[kind]
	switch {
	case !s.active:
		if st.resuming && (kind == translate.Listener || kind == translate.Routes) {
			return 0 // it has some and has not said which
		}
		return st.view.seq
	case s.first, len(s.want) > 0:
		// A name that is asked for again may be there in any older version: the proxy left
		// it and took it up, and a response crossed that.
		return 0
	case !s.clean():
		return s.settled
	}
	seq := st.view.seq
	if s.add < t.last {
		seq = min(seq, s.add)
	}
	if s.rem < t.lastGone {
		seq = min(seq, s.rem)
	}
	if len(s.late) > 0 {
		seq = min(seq, s.lateSeq-1)
	}
	return seq
}

// sentUntil is the seq up to which all listeners and routes have been sent.
func (st *stream) sentUntil() uint64 {
	seq := st.view.seq
	for _, kind := range []translate.Kind{translate.Listener, translate.Routes} {
		s := &st.subs[kind]
		switch {
		case !s.active:
		case s.first, len(s.want) > 0:
			return 0
		case s.add < st.view.tables[kind].last || s.rem < st.view.tables[kind].lastGone && kind == translate.Listener:
			seq = min(seq, s.add)
		}
	}
	return seq
}

// retained is a resource that the collection no longer has, but whose removal this
// stream has not been sent: a cluster on its way out still gets its endpoints.
func (st *stream) retained(kind translate.Kind, name string) (*entry, bool) {
	g, ok := st.view.tables[kind].gone[name]
	if !ok || g.seq <= st.subs[kind].rem {
		return nil, false
	}
	return g.entry, true
}

// sweepOrphans finds clusters that a proxy has although it never acknowledged them: Envoy
// applies the good part of a response that it rejects, does not list that part when it
// connects again, but does ask for the endpoints. Without this they would stay for good.
func (st *stream) sweepOrphans(names map[string]struct{}, now time.Time) {
	cds := &st.subs[translate.Cluster]
	if !cds.active || !cds.wide || !st.resuming {
		return
	}
	clusters := st.view.tables[translate.Cluster].live
	var orphans []string
	for name := range names {
		if _, ok := clusters[name]; ok {
			continue
		}
		if _, leaving := st.retained(translate.Cluster, name); !leaving {
			orphans = append(orphans, name)
		}
	}
	if len(orphans) > 0 {
		cds.missed(orphans, st.view.seq, now)
	}
}

// deadline is the earliest of several times; zero: none.
type deadline struct{ at time.Time }

func (d *deadline) by(t time.Time) {
	if d.at.IsZero() || t.Before(d.at) {
		d.at = t
	}
}

// wakeAt pumps again at the deadline, if there is one.
func (st *stream) wakeAt(d deadline, now time.Time) {
	if d.at.IsZero() {
		st.stopTimer()
		return
	}
	wait := max(d.at.Sub(now), time.Millisecond)
	if st.timer == nil {
		st.timer = time.AfterFunc(wait, st.wake)
		return
	}
	st.timer.Reset(wait)
}

func (st *stream) wake() {
	st.k.mu.Lock()
	defer st.k.mu.Unlock()
	now := st.server.now()
	st.pump(now)
	st.k.conclude(now)
}

func (st *stream) stopTimer() {
	if st.timer != nil {
		st.timer.Stop()
	}
}
