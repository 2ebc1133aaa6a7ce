package xds

import (
	"cmp"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/waggle-lb/waggle/translate"
)

// A resource that proxies reject is taken back: all proxies of the collection are served
// the version that was last accepted, or nothing where there is none, until other bytes
// are published. Proxies that run keep the old version by themselves; this is for those
// that start, and so that nothing is sent again and again. Of route tables only the
// virtual hosts that are different from the accepted table are taken back (hosts.go).
//
// The rule, so that one odd proxy does not decide for all: a version goes into quarantine
// when it is rejected, by itself, by at least two proxies, or by the only one that is
// connected, and by more proxies than accept it. A proxy that merely disagrees with the
// others is on its own: it keeps what it had, and its status says so.
//
// What is taken back may refer to what the rejected version no longer needed. That is
// served on, too, until the quarantine ends.

// accepted is how many replaced versions of each kind are remembered: the last accepted
// one of a name, for as long as a newer one may turn out to be bad.
const accepted = 256

// quarantine is what a collection does not serve although it is published.
type quarantine struct {
	// good is guarded by the collection's lock.
	good [translate.NumKinds]*simplelru.LRU[string, *entry]

	// What follows is changed by whoever holds both collection.publishing and mu; either
	// is enough to read it.
	mu   sync.Mutex
	held map[translate.Ref]*hold
	kept map[translate.Ref]struct{} // removed, but what is served in place of something refers to them
}

// hold is one resource in quarantine. It is immutable.
type hold struct {
	published *entry                  // and rejected
	serving   string                  // version; "" if nothing is served
	hosts     map[string]substitution // of a route table: by virtual host; nil: all of the resource
	needs     []translate.Ref         // what is served instead refers to
	since     time.Time
	verdict
}

// verdict is why.
type verdict struct {
	proxies int    // that reject it
	message string // of one of them, without anything secret
}

func (q *quarantine) init() {
	for kind := range q.good {
		q.good[kind], _ = simplelru.NewLRU[string, *entry](accepted, nil) // fails for sizes below 1
	}
	q.held, q.kept = map[translate.Ref]*hold{}, map[translate.Ref]struct{}{}
}

// Quarantined is a resource, or a part of one, that is published and not served, because
// proxies reject it.
type Quarantined struct {
	Collection string
	Kind       translate.Kind
	Name       string
	// Hosts are the virtual hosts of a route table that are concerned; the rest of the
	// table is served. Empty: all of the resource.
	Hosts []string
	// Closed are those of Hosts that answer 503: what is new about them is who may pass,
	// and the old version would let others in.
	Closed []string
	// Rejected is the version that is not served, Serving the one that is; "" if none.
	Rejected, Serving string
	Since             time.Time
	// Proxies is how many rejected it, Message the reason of one of them, without anything
	// that could be secret.
	Proxies int
	Message string
}

// Quarantine lists what is in quarantine, sorted by collection, kind and name.
func (s *Server) Quarantine() []Quarantined {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Quarantined
	for _, k := range s.collections {
		k.quarantine.mu.Lock()
		for ref, h := range k.quarantine.held {
			out = append(out, h.describe(k.name, ref))
		}
		k.quarantine.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Quarantined) int {
		return cmp.Or(cmp.Compare(a.Collection, b.Collection), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func (h *hold) describe(collection string, ref translate.Ref) Quarantined {
	q := Quarantined{
		Collection: collection, Kind: ref.Kind, Name: ref.Name, Rejected: h.published.version, Serving: h.serving,
		Since: h.since, Proxies: h.proxies, Message: h.message,
	}
	for name, s := range h.hosts {
		q.Hosts = append(q.Hosts, name)
		if s.closed {
			q.Closed = append(q.Closed, name)
		}
	}
	slices.Sort(q.Hosts)
	slices.Sort(q.Closed)
	return q
}

// judge looks at a version that a proxy has rejected when it came by itself, and takes it
// back if the rule says so; that happens behind the caller, who holds the lock.
func (k *collection) judge(kind translate.Kind, e *entry, message string) {
	n, guilty := k.convicted(kind, e)
	switch {
	case guilty:
		go k.takeBack(translate.Ref{Kind: kind, Name: e.name}, e, verdict{n, message})
	case k.trial != nil && n > 0:
		k.trial.askAnother = true
	}
}

// convicted is the rule: see above.
func (k *collection) convicted(kind translate.Kind, e *entry) (rejects int, guilty bool) {
	accepts, enough := 0, min(2, len(k.streams))
	if k.trial != nil && k.trial.late {
		enough = 1 // nobody else could be asked in time
	}
	for st := range k.streams {
		it, ok := st.view.tables[kind].live[e.name]
		if !ok || it.version != e.version {
			continue
		}
		switch st.opinion(kind, it) {
		case rejecting:
			rejects++
		case accepting:
			accepts++
		}
	}
	return rejects, rejects >= enough && rejects > accepts
}

type opinion uint8

const (
	silent opinion = iota
	accepting
	rejecting
)

// opinion is what a proxy has said of a version that is served.
func (st *stream) opinion(kind translate.Kind, it item) opinion {
	s := &st.subs[kind]
	if s.bad(it.entry) {
		return rejecting
	}
	_, doubted := s.doubts[it.name]
	_, wanted := s.want[it.name]
	if !s.active || !s.open || s.first || s.add < it.mod || doubted || wanted || !s.subscribed(it.name) {
		return silent
	}
	for _, r := range s.inflight {
		if r.frame != nil && slices.Contains(r.frame.entries, it.entry) {
			return silent
		}
	}
	return accepting
}

// takeBack puts what was last accepted in the place of a version that is served.
func (k *collection) takeBack(ref translate.Ref, bad *entry, v verdict) {
	defer func() {
		if p := recover(); p != nil { // the rejected version stays, as without quarantine
			_ = k.server.panicked(p, debug.Stack())
		}
	}()
	k.publishing.Lock()
	defer k.publishing.Unlock()
	k.mu.Lock()
	_, guilty := k.convicted(ref.Kind, bad)
	good, _ := k.quarantine.good[ref.Kind].Peek(ref.Name)
	k.mu.Unlock()
	if !guilty || good != nil && good.version == bad.version {
		return // something else has been published, it has been taken back, or there is nothing better
	}
	now := k.server.now()
	q := &k.quarantine
	h := &hold{published: bad, since: now, verdict: v}
	instead := good
	if ref.Kind == translate.Routes {
		if good == nil {
			k.server.log.Warn("a route table is rejected, and none was accepted before: it stays", "collection", k.name, "table", ref.Name)
			return
		}
		var before map[string]substitution
		if old := q.held[ref]; old != nil {
			h.published, before = old.published, old.hosts
		}
		var err error
		if instead, h.hosts, err = substitute(good, h.published, before); err != nil {
			k.server.log.Error("a rejected route table cannot be repaired: it stays", "collection", k.name, "table", ref.Name, "error", err)
			return
		}
	}
	switch {
	case h.hosts != nil:
		h.needs = mentioned(good.refs, h.hosts)
	case good != nil:
		h.needs = good.refs
	}
	if instead != nil {
		h.serving = instead.version
	}
	revived := k.departed(h.needs)
	q.mu.Lock()
	q.held[ref] = h
	for _, e := range revived {
		q.kept[translate.Ref{Kind: e.kind, Name: e.name}] = struct{}{}
	}
	q.mu.Unlock()
	k.mu.Lock()
	k.correct(append(revived, edit{ref.Kind, ref.Name, instead}), now)
	if good != nil { // and not what one proxy may have accepted meanwhile
		q.good[ref.Kind].Add(ref.Name, good)
	}
	k.mu.Unlock()
	d := h.describe(k.name, ref)
	k.server.log.Warn("in quarantine: proxies reject it, and what they accepted before is served until other bytes are published",
		"collection", k.name, "kind", ref.Kind.String(), "name", ref.Name, "hosts", summarize(d.Hosts), "closed", summarize(d.Closed),
		"proxies", v.proxies, "reason", v.message)
}

// departed are those of some resources that were removed and may still be at proxies, as
// edits that bring them back.
func (k *collection) departed(refs []translate.Ref) (back []edit) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for ref := range needed(refs) {
		for _, v := range k.views() {
			t := &v.tables[ref.Kind]
			if g, ok := t.gone[ref.Name]; ok && t.live[ref.Name].entry == nil {
				back = append(back, edit{ref.Kind, ref.Name, g.entry})
				break
			}
		}
	}
	return back
}

// needed are resources and what they cannot be without: clusters their endpoints.
func needed(refs []translate.Ref) map[translate.Ref]struct{} {
	all := make(map[translate.Ref]struct{}, 2*len(refs))
	for _, ref := range refs {
		all[ref] = struct{}{}
		if ref.Kind == translate.Cluster {
			all[translate.Ref{Kind: translate.Endpoints, Name: ref.Name}] = struct{}{}
		}
	}
	return all
}

// pass turns edits of what is published into edits of what is to be served. The caller
// holds collection.publishing.
func (k *collection) pass(edits []edit) []edit {
	q := &k.quarantine
	if len(q.held) == 0 {
		return edits
	}
	held, kept := maps.Clone(q.held), maps.Clone(q.kept)
	var out []edit
	for _, e := range edits { // first what ends a quarantine, then what must stay for the others
		ref := translate.Ref{Kind: e.kind, Name: e.name}
		h := held[ref]
		switch {
		case h == nil:
			out = append(out, e)
		case e.entry == nil:
			delete(held, ref)
			out = append(out, e)
		case h.hosts != nil:
			patched, hosts, err := patch(e.entry, h)
			if err != nil {
				k.server.log.Error("a route table in quarantine cannot be repaired: it is served as it is", "collection", k.name, "table", e.name, "error", err)
			}
			if len(hosts) == 0 {
				delete(held, ref)
				out = append(out, e)
				break
			}
			again := *h
			again.hosts, again.published, again.serving, again.needs = hosts, e.entry, patched.version, mentioned(h.needs, hosts)
			held[ref] = &again
			out = append(out, edit{e.kind, e.name, patched})
		case h.published.version != e.entry.version:
			delete(held, ref)
			out = append(out, e)
		}
	}
	needs := map[translate.Ref]struct{}{}
	for _, h := range held {
		for ref := range needed(h.needs) {
			needs[ref] = struct{}{}
		}
	}
	out = slices.DeleteFunc(out, func(e edit) bool {
		ref := translate.Ref{Kind: e.kind, Name: e.name}
		delete(kept, ref)
		if _, stays := needs[ref]; e.entry != nil || !stays || held[ref] != nil {
			return false
		}
		kept[ref] = struct{}{}
		return true
	})
	for ref := range kept {
		if _, stays := needs[ref]; !stays {
			delete(kept, ref)
			out = append(out, edit{kind: ref.Kind, name: ref.Name})
		}
	}
	for ref := range q.held {
		if held[ref] == nil {
			k.server.log.Info("out of quarantine: other bytes are published", "collection", k.name, "kind", ref.Kind.String(), "name", ref.Name)
		}
	}
	q.mu.Lock()
	q.held, q.kept = held, kept
	q.mu.Unlock()
	return out
}
