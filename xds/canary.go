package xds

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/translate"
)

// A change of more than endpoints goes to one proxy of the collection first, the canary.
// When that has acknowledged everything the others get it. What it rejects is tried with
// one more proxy, and if that rejects it too it is taken back (quarantine.go), so that the
// others never see it. A canary that vanishes hands on to another. All of it is bounded by
// Options.Canary: then the others get it without, so that a hung proxy stops nobody.
//
// Changed and new endpoints never wait, nor does another content of a secret: a proxy that
// does not take it keeps what it has. Where there is one proxy alone, or none that is up
// to date, there is no trial.

// trial is a change that the canaries have and the others do not yet.
type trial struct {
	since    time.Time
	pending  map[translate.Ref]edit // the difference between the canaries' views and the collection's
	canaries map[*stream]*view      // each with a view of its own
	asked    map[string]bool        // node IDs of those that are or were canaries
	// askAnother: a canary rejects something, and one proxy alone does not decide.
	askAnother bool
	late       bool // the time is over, and what canaries reject is being taken back
	timer      *time.Timer
}

// Trial is a change that is being tried.
type Trial struct {
	Collection string
	Since      time.Time
	// Canaries are the node IDs of the proxies that have it, sorted; Changes how many
	// resources it has.
	Canaries []string
	Changes  int
}

// Trials lists the changes that are being tried, sorted by collection.
func (s *Server) Trials() (out []Trial) {
	for _, k := range s.all() {
		k.mu.Lock()
		if tr := k.trial; tr != nil {
			t := Trial{Collection: k.name, Since: tr.since, Changes: len(tr.pending)}
			for st := range tr.canaries {
				t.Canaries = append(t.Canaries, st.proxy.nodeID)
			}
			slices.Sort(t.Canaries)
			out = append(out, t)
		}
		k.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Trial) int { return cmp.Compare(a.Collection, b.Collection) })
	return out
}

// stage begins a trial of the edits, or adds them to the one that is under way. It returns
// false if they must go to everybody at once.
func (k *collection) stage(edits []edit, now time.Time) bool {
	if k.server.canary < 0 || k.trial == nil && len(k.streams) < 2 {
		return false
	}
	var direct, rest []edit
	for _, e := range edits {
		switch {
		case e.kind == translate.Endpoints && e.entry != nil,
			e.kind == translate.Secret && e.entry != nil && k.vault.published[e.name] != nil && k.differs(e):
			direct = append(direct, e)
		case k.differs(e):
			rest = append(rest, e)
		}
	}
	tr := k.trial
	var first *stream
	if tr == nil {
		if len(rest) == 0 {
			return false
		}
		if first = k.choose(nil); first == nil {
			return false
		}
		tr = &trial{since: now, pending: map[translate.Ref]edit{}, canaries: map[*stream]*view{}, asked: map[string]bool{}}
		k.trial = tr
		tr.timer = time.AfterFunc(k.server.canary, func() { k.timeUp(tr) })
	}
	for _, e := range direct {
		delete(tr.pending, translate.Ref{Kind: e.kind, Name: e.name}) // was to be removed, and is back
	}
	for _, e := range rest {
		tr.pending[translate.Ref{Kind: e.kind, Name: e.name}] = e
	}
	k.applyOpen(direct, now)
	for _, v := range tr.canaries {
		k.apply(v, slices.Concat(direct, rest), now)
	}
	if first != nil {
		k.enlist(first)
	}
	k.pumpAll(now)
	return true
}

// differs says whether an edit is one, compared with what is served or about to be.
func (k *collection) differs(e edit) bool {
	is := k.tables[e.kind].live[e.name].entry
	if e.kind == translate.Secret {
		is = k.vault.published[e.name]
	}
	if k.trial != nil {
		if p, tried := k.trial.pending[translate.Ref{Kind: e.kind, Name: e.name}]; tried {
			is = p.entry
		}
	}
	if is == nil || e.entry == nil {
		return is != e.entry
	}
	return is.version != e.entry.version || is.eds != e.entry.eds || !slices.Equal(is.secrets, e.entry.secrets)
}

// choose picks a proxy to try something with: of those that are up to date and were not
// asked before, the one that has been connected longest. nil: there is none.
func (k *collection) choose(asked map[string]bool) (best *stream) {
	for st := range k.streams {
		if st.view != k.view || asked[st.proxy.nodeID] || st.ctx.Err() != nil || !st.current() {
			continue
		}
		if best == nil || st.since.Before(best.since) || st.since.Equal(best.since) && st.proxy.nodeID < best.proxy.nodeID {
			best = st
		}
	}
	return best
}

// enlist makes a stream a canary; somebody must pump it.
func (k *collection) enlist(st *stream) {
	tr := k.trial
	v := k.view.clone()
	tr.canaries[st], tr.asked[st.proxy.nodeID], st.view = v, true, v
	k.apply(v, tr.edits(), k.server.now())
}

// edits are what is tried, in order.
func (tr *trial) edits() []edit {
	return slices.SortedFunc(maps.Values(tr.pending), func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
}

// conclude ends a trial when a canary has acknowledged everything, and lets another proxy
// try what one rejects. It is called whenever a stream may have got further.
func (k *collection) conclude(now time.Time) {
	for st := range k.strays {
		if st.answered() {
			k.rejoin(st)
		}
	}
	tr := k.trial
	if tr == nil {
		return
	}
	if tr.askAnother {
		tr.askAnother = false
		if len(tr.canaries) < 2 {
			if st := k.choose(tr.asked); st != nil {
				k.enlist(st)
				st.pump(now)
			}
		}
	}
	for st := range tr.canaries {
		if st.current() {
			k.release("accepted", now)
			return
		}
	}
}

// vanished hands a trial on when a canary has gone.
func (k *collection) vanished(st *stream, now time.Time) {
	tr := k.trial
	if tr == nil || tr.canaries[st] == nil {
		return
	}
	delete(tr.canaries, st)
	if len(tr.canaries) == 0 {
		next := k.choose(tr.asked)
		if next == nil {
			k.release("vanished", now)
			return
		}
		k.enlist(next)
		next.pump(now)
	}
	k.conclude(now)
}

// timeUp is the bound. What canaries reject is taken back although nobody else could be
// asked; everything else goes to all, and everything does when that takes as long again.
func (k *collection) timeUp(tr *trial) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.trial != tr {
		return
	}
	if !tr.late {
		tr.late = true
		if k.rejudge() {
			tr.timer.Reset(k.server.canary)
			return
		}
	}
	now := k.server.now()
	k.server.log.Warn("a canary has not acknowledged a change in time: the other proxies get it now",
		"collection", k.name, "after", now.Sub(tr.since), "changes", len(tr.pending))
	k.release("timeout", now)
}

// rejudge takes back what canaries reject, and says whether there is anything like that.
func (k *collection) rejudge() (found bool) {
	for st := range k.trial.canaries {
		for i := range st.subs {
			kind, s := translate.Kind(i), &st.subs[i]
			for name := range s.doubts {
				it, ok := st.view.tables[kind].live[name]
				if !ok || !s.bad(it.entry) {
					continue
				}
				if n, guilty := k.convicted(kind, it.entry); guilty {
					found = true
					go k.takeBack(translate.Ref{Kind: kind, Name: name}, it.entry, verdict{n, s.nack.Message})
				}
			}
		}
	}
	return found
}

// release gives everybody what was tried. A canary is sent nothing again: until it has
// answered what it was sent it goes on with its own view, which is the same from now on.
func (k *collection) release(outcome string, now time.Time) {
	tr := k.trial
	k.trial = nil
	tr.timer.Stop()
	k.server.metrics.trials.WithLabelValues(k.name, outcome).Inc()
	k.applyOpen(tr.edits(), now)
	for st, v := range tr.canaries {
		if len(k.strays) >= maxStrays {
			st.end(errStuck) // when it comes again it says what it has
		}
		k.strays[st] = v
	}
	k.pumpAll(now)
}

// maxStrays bounds the views that are kept for former canaries.
const maxStrays = 4

// rejoin ends a former canary's own view.
func (k *collection) rejoin(st *stream) {
	delete(k.strays, st)
	st.view = k.view
	for i := range st.subs {
		if s := &st.subs[i]; s.active {
			s.add, s.rem = k.seq, k.seq
		}
	}
}

// applyOpen applies edits to what everybody gets.
func (k *collection) applyOpen(edits []edit, now time.Time) (changed bool, idle []string) {
	for _, v := range k.strays {
		k.apply(v, edits, now)
	}
	return k.apply(k.view, edits, now)
}

// answered says that the proxy was sent everything and has acknowledged or rejected it.
func (st *stream) answered() bool {
	for i := range st.subs {
		s := &st.subs[i]
		if s.active && (len(s.inflight) > 0 || st.due(translate.Kind(i)) || s.rem < st.view.tables[i].lastGone || len(s.late) > 0) {
			return false
		}
	}
	return true
}

// correct applies edits to everything that is served or tried: of what is tried they
// become a part.
func (k *collection) correct(edits []edit, now time.Time) {
	everywhere := edits
	if tr := k.trial; tr != nil {
		everywhere = nil
		for _, e := range edits {
			ref := translate.Ref{Kind: e.kind, Name: e.name}
			if _, tried := tr.pending[ref]; tried {
				tr.pending[ref] = e
			} else {
				everywhere = append(everywhere, e)
			}
		}
		for _, v := range tr.canaries {
			k.apply(v, edits, now)
		}
	}
	k.applyOpen(everywhere, now)
	k.pumpAll(now)
}

// views are all that streams may have; the newest, with all that was published, is last.
func (k *collection) views() []*view {
	all := append([]*view{k.view}, slices.Collect(maps.Values(k.strays))...)
	if k.trial != nil {
		for _, v := range k.trial.canaries {
			all = append(all, v)
		}
	}
	return all
}

// clone is a view that goes its own way from here. A stream's cursors are as good in it.
func (v *view) clone() *view {
	c := &view{seq: v.seq, vault: v.vault.clone()}
	for kind := range v.tables {
		t := v.tables[kind]
		t.live, t.log, t.gone, t.goneLog = maps.Clone(t.live), slices.Clone(t.log), maps.Clone(t.gone), slices.Clone(t.goneLog)
		t.frames = make(map[uint64]*frame)
		c.tables[kind] = t
	}
	return c
}
