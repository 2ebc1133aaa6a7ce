package xds

import (
	"runtime/debug"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/translate"
)

// maxInflight is how many unacknowledged responses of one kind a stream may have. More
// than one is the exception: only when an acknowledgement takes longer than the gate.
const maxInflight = 16

// pump sends what may be sent now: after every publish, every request and when a time is
// over. Additions go in the order of the kinds.
//
//   - A kind with an unacknowledged response waits for it, but no longer than the gate.
//     Meanwhile its changes pile up in the log and later go as one.
//   - Clusters, endpoints, secrets and extensions wait for nothing else.
//   - Listeners and routes are sent when everything of the kinds before them has been
//     sent, the clusters are acknowledged and their endpoints have followed. The first
//     of these is never waived: a route must not overtake its cluster. The other two
//     end with the gate.
//
// The watch of a kind is closed for the moment in which the server changes the
// subscription; the kinds that depend on it wait until it is open again, which pumps.
func (st *stream) pump(now time.Time) {
	k := st.k
	if st.closed || !k.open && !st.takesOffer(now) {
		return
	}
	defer func() {
		if p := recover(); p != nil { // costs this stream, not the fleet
			st.end(st.server.panicked(p, debug.Stack()))
		}
	}()
	gate := st.server.gate
	if st.resuming && now.Sub(st.since) > st.server.grace {
		st.resuming = false // what it has not asked for by now it does not have
	}
	var wake deadline
	expired := !st.heldSince.IsZero() && now.Sub(st.heldSince) >= gate
	unsent, held := false, false
	for i := range st.subs {
		kind := translate.Kind(i)
		s := &st.subs[kind]
		if !s.active {
			continue
		}
		if !s.open {
			unsent = true
			continue
		}
		if !st.due(kind) {
			s.dueSince = time.Time{}
			continue
		}
		if s.dueSince.IsZero() {
			s.dueSince = now
		}
		if kind >= translate.Listener && (unsent || !expired && !st.clustersReady()) {
			held, unsent = true, true
			continue
		}
		if free, at := st.free(s, expired, now); !free {
			wake.by(at)
			unsent = true
			continue
		}
		if !st.sendAdditions(kind, now) {
			unsent = true // in parts: more is to come
		}
	}
	switch {
	case !held:
		st.heldSince = time.Time{}
	case st.heldSince.IsZero() || expired:
		st.heldSince = now
	}
	if held {
		wake.by(st.heldSince.Add(gate))
	}
	if expired {
		st.waive()
	}
	st.retire(now, &wake)
	st.wakeAt(wake, now)
}

// due says that something of the kind may have to be sent. It costs nothing.
func (st *stream) due(kind translate.Kind) bool {
	s, t := &st.subs[kind], &st.view.tables[kind]
	return s.first || s.add < t.last || len(s.want) > 0 || len(s.retry) > 0 || len(s.absent) > 0 ||
		kind == translate.Listener && (s.rem < t.lastGone || len(s.late) > 0)
}

// free says that another response of this kind may go out, or when to look again.
func (st *stream) free(s *sub, expired bool, now time.Time) (bool, time.Time) {
	gate := st.server.gate
	switch {
	case len(s.inflight) >= maxInflight || len(st.out) == cap(st.out):
		return false, now.Add(gate)
	case len(s.inflight) > 0 && !expired && now.Sub(s.sentAt) < gate:
		return false, s.sentAt.Add(gate)
	}
	return true, time.Time{}
}

// clustersReady says that the proxy has warmed every cluster it was sent, so far as
// anybody can see: the clusters are acknowledged and all their endpoints were sent.
func (st *stream) clustersReady() bool {
	s := &st.subs[translate.Cluster]
	if !s.active {
		return st.noCDS
	}
	for _, r := range s.inflight {
		if !r.waived {
			return false
		}
	}
	return len(s.retry) == 0 && !st.awaitAll && len(st.awaited) == 0
}

// waive lets later listeners and routes no longer wait for what these waited for.
func (st *stream) waive() {
	s := &st.subs[translate.Cluster]
	for _, r := range s.inflight {
		r.waived = true
	}
	st.noCDS = !s.active
	st.awaited, st.awaitAll = nil, false
}

// sendAdditions sends what is due of a kind, if that is anything for this proxy. It
// returns false if it sent only a part of it.
func (st *stream) sendAdditions(kind translate.Kind, now time.Time) bool {
	s, t := &st.subs[kind], &st.view.tables[kind]
	s.mark()
	if len(s.want) > 0 {
		s.settled = 0 // see settled
	}
	others := s.first || s.add < t.last || len(s.want) > 0 || len(s.absent) > 0
	if len(s.retry) > 0 && !(s.retried && others) {
		if f := st.nextPart(kind); f != nil {
			s.retried = true
			st.send(kind, f, nil, now)
			st.follow(kind, f)
			return false
		}
	}
	s.retried = false
	answer := s.first && s.wide // a wildcard is answered even when there is nothing
	var f *frame
	if s.first {
		f = st.firstAnswer(kind, now)
	} else {
		f = st.changes(kind)
	}
	removed := s.absent
	s.absent = nil
	switch {
	case kind != translate.Listener:
		if !s.first && (s.rem < t.lastGone || len(s.late) > 0) {
			// So that a steady flow of additions does not keep removals back.
			removed = append(removed, st.takeRipe(kind, now, &deadline{})...)
		}
	default:
		// Nothing depends on a listener, and Envoy drops before it adds: a listener
		// that takes over another's address must come with its removal.
		removed = append(removed, st.leaving(kind, st.view.seq)...)
		if len(s.late) > 0 {
			s.settled = min(s.settled, s.lateSeq-1)
		}
		for name := range s.late {
			if _, back := t.live[name]; !back {
				removed = append(removed, name)
			}
		}
		s.late = nil
		s.rem = st.view.seq
	}
	s.first = false
	s.add = st.view.seq
	if f = without(f, removed); len(f.entries) > 0 || len(removed) > 0 || answer {
		st.send(kind, f, removed, now)
		st.follow(kind, f)
	} else if s.dueSince = (time.Time{}); s.clean() {
		s.sent = t.version()
		s.acked = s.sent
	}
	return len(s.retry) == 0 && len(s.want) == 0
}

// firstAnswer is everything of the kind that the proxy asked for and has not, and finds
// out what it has and the collection has not. That is removed in its time; but endpoints
// that are not there any more are called so at once, which takes nothing from a proxy (it
// keeps them as long as their cluster) and answers a cluster that is waiting for them.
func (st *stream) firstAnswer(kind translate.Kind, now time.Time) *frame {
	s, t := &st.subs[kind], &st.view.tables[kind]
	if s.add == 0 {
		s.rem = st.view.seq
		if cds := &st.subs[translate.Cluster]; kind == translate.Endpoints && cds.active {
			s.rem = cds.rem // the endpoints of clusters that this proxy still has
		}
	}
	names := s.watch.SubscribedResources()
	var stale []string
	for name := range s.known {
		if _, ok := t.live[name]; !ok && kind != translate.Endpoints {
			stale = append(stale, name)
		}
	}
	if len(stale) > 0 {
		s.missed(stale, st.view.seq, now)
	}
	for name := range names {
		if _, ok := t.live[name]; ok {
			continue
		}
		if _, has := s.known[name]; has && kind != translate.Endpoints {
			continue
		}
		if _, ok := st.retained(kind, name); !ok {
			s.absent = append(s.absent, name)
			if kind == translate.Endpoints {
				delete(st.awaited, name)
			}
		}
	}
	if kind == translate.Endpoints {
		st.sweepOrphans(names, now)
		if st.awaitAll {
			st.awaitAll = false
			for name, it := range st.view.tables[translate.Cluster].live {
				if _, asked := names[name]; it.eds && !asked {
					st.await(name)
				}
			}
		}
	}
	has := func(e *entry) bool {
		if v, ok := s.known[e.name]; !ok || v != e.version {
			return false
		}
		e.acked = true // on another stream
		_, wanted := s.want[e.name]
		return !wanted
	}
	var f *frame
	if s.wide {
		f = subset(t.everything(), func(e *entry) bool { return !has(e) })
	} else {
		all := len(names) >= len(t.live)
		var entries []*entry
		for name := range names {
			e, ok := st.lookup(kind, name)
			if ok && !has(e) {
				entries = append(entries, e)
			}
		}
		if all && len(entries) == len(t.live) && len(entries) > 1 && st.allLive(kind, entries) {
			f = t.everything()
		} else {
			f = newFrame(entries)
		}
	}
	clear(s.known)
	s.known, s.want = nil, nil
	return f
}

func (st *stream) allLive(kind translate.Kind, entries []*entry) bool {
	t := &st.view.tables[kind]
	for _, e := range entries {
		if t.live[e.name].entry != e {
			return false
		}
	}
	return true
}

// changes is what changed since the cursor and what was asked for, of what the proxy
// subscribes to. Secrets come one at a time: Envoy does not say which of several it
// rejects, and takes some of the others or none.
func (st *stream) changes(kind translate.Kind) *frame {
	s, t := &st.subs[kind], &st.view.tables[kind]
	f := &frame{}
	if s.add < t.last {
		f = subset(t.since(s.add), func(e *entry) bool {
			if _, asked := s.want[e.name]; asked {
				return false // comes below
			}
			return s.subscribed(e.name) && !s.bad(e)
		})
	}
	if len(s.want) > 0 {
		entries := slices.Clone(f.entries)
		for _, name := range sortedKeys(s.want) {
			e, ok := st.lookup(kind, name)
			switch {
			case ok && s.subscribed(name):
				entries = append(entries, e)
			case !ok && s.subscribed(name):
				s.absent = append(s.absent, name)
				if kind == translate.Endpoints {
					delete(st.awaited, name)
				}
			}
		}
		s.want = nil
		f = newFrame(entries)
	}
	if kind == translate.Secret && len(f.entries) > 1 {
		for _, e := range f.entries[1:] {
			s.wants(e.name)
		}
		f = newFrame(f.entries[:1])
	}
	return f
}

// subset is the frame without the entries that are not kept; the frame itself if all are.
func subset(f *frame, keep func(*entry) bool) *frame {
	for i, e := range f.entries {
		if keep(e) {
			continue
		}
		entries := slices.Clone(f.entries[:i])
		for _, e := range f.entries[i+1:] {
			if keep(e) {
				entries = append(entries, e)
			}
		}
		return newFrame(entries)
	}
	return f
}

// without is the frame without what is taken in the same response: what is on its way out
// may be asked for in the moment in which its removal is due.
func without(f *frame, removed []string) *frame {
	if len(f.entries) == 0 || len(removed) == 0 {
		return f
	}
	taken := make(map[string]struct{}, len(removed))
	for _, name := range removed {
		taken[name] = struct{}{}
	}
	return subset(f, func(e *entry) bool { _, both := taken[e.name]; return !both })
}

// nextPart is the next part of a rejected response that is still worth trying.
func (st *stream) nextPart(kind translate.Kind) *frame {
	s, t := &st.subs[kind], &st.view.tables[kind]
	for len(s.retry) > 0 {
		names := s.retry[0]
		s.retry[0] = nil
		s.retry = s.retry[1:]
		var entries []*entry
		for _, name := range names {
			if it, ok := t.live[name]; ok && s.subscribed(name) && !s.bad(it.entry) {
				entries = append(entries, it.entry)
			}
		}
		if len(entries) > 0 {
			return newFrame(entries)
		}
	}
	s.retry = nil
	return nil
}

// follow notes what must come after resources that have just been sent: the endpoints of
// clusters. A changed cluster warms again and does not ask again; a new one will ask.
func (st *stream) follow(kind translate.Kind, f *frame) {
	switch kind {
	case translate.Endpoints:
		if len(st.awaited) > 0 {
			for _, e := range f.entries {
				delete(st.awaited, e.name)
			}
		}
	case translate.Cluster:
		eds := &st.subs[translate.Endpoints]
		for _, e := range f.entries {
			switch {
			case !e.eds:
				delete(st.awaited, e.name)
			case !eds.active && !st.resuming:
				st.awaitAll = true
			case len(eds.doubts) > 0 && st.rejectsEndpoints(e.name):
				// It keeps what it has; nobody asked to try these again.
			default:
				st.await(e.name)
				eds.wants(e.name)
			}
		}
	}
}

func (st *stream) rejectsEndpoints(name string) bool {
	it, ok := st.view.tables[translate.Endpoints].live[name]
	return ok && st.subs[translate.Endpoints].bad(it.entry)
}

func (st *stream) await(name string) {
	if st.awaited == nil {
		st.awaited = make(map[string]struct{})
	}
	st.awaited[name] = struct{}{}
}

// lookup is what a proxy gets for a name: what is live, or what it may still need.
func (st *stream) lookup(kind translate.Kind, name string) (*entry, bool) {
	if it, ok := st.view.tables[kind].live[name]; ok {
		return it.entry, true
	}
	return st.retained(kind, name)
}
