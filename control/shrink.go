package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/translate"
)

// Size is how much of what runs a collection reaches.
type Size struct{ Hosts, Endpoints int }

// shrunk says whether so much is gone that one look at what runs is not enough: all hosts
// or all endpoints, or more than half of them and at least five.
func shrunk(was, is Size) bool {
	much := func(was, is int) bool { return was > 0 && is == 0 || was-is >= 5 && 2*is < was }
	return much(was.Hosts, is.Hosts) || much(was.Endpoints, is.Endpoints)
}

// Held is a change of a collection that is not published, because it would take too much
// away for one look at what runs.
type Held struct {
	Collection string
	Since      time.Time
	Was, Is    Size // what is published, and what was built
}

// Reason is a sentence for operators.
func (h Held) Reason() string {
	var lost []string
	for _, n := range []struct {
		was, is int
		what    string
	}{{h.Was.Hosts, h.Is.Hosts, "hosts"}, {h.Was.Endpoints, h.Is.Endpoints, "endpoints"}} {
		if n.is < n.was {
			lost = append(lost, fmt.Sprintf("%d of %d %s", n.was-n.is, n.was, n.what))
		}
	}
	return strings.Join(lost, " and ") + " would go: a second complete list of what runs must confirm it"
}

// OnHeld has f told that a change is held back until there is another complete list. It
// must be called before Run; f must return at once.
func (c *Control) OnHeld(f func()) { c.held = f }

// shrinkGuard keeps from the publisher what would take much away, until a second complete
// list of what runs says the same. What is held back of a collection is everything but
// endpoint sets that do not get smaller: those go out, so that running tasks are found.
type shrinkGuard struct {
	collections map[string]*tally
	lists       uint64 // complete lists so far
	// agreed: the newest complete list found what was known before, and nothing came since.
	agreed bool
}

// tally is what one collection was given.
type tally struct {
	given     Size
	endpoints map[string]int // addresses given, by cluster
	held      *held          // nil: nothing
}

// held is what was built since and is not given.
type held struct {
	delta translate.Delta
	is    Size // what was built
	since time.Time
	lists uint64 // shrinkGuard.lists when it was seen: a later one confirms it
}

// occasion is what a build was made of.
type occasion struct {
	now time.Time
	// open: nothing is guarded. meant: the operator changed the configuration, and what
	// goes by that is meant to go.
	open, meant bool
	// current: what was built is the newest picture, so that lists say something of it.
	current bool
}

// admit gives what is to be published now, and whether another list is needed for more.
func (g *shrinkGuard) admit(deltas []translate.Delta, hosts func(collection string) int, o occasion) (out []translate.Delta, ask bool) {
	built := map[string]translate.Delta{}
	for _, d := range deltas {
		built[d.Collection] = d
	}
	for name, t := range g.collections {
		if t.held != nil {
			d := translate.Delta{Collection: name}
			for _, both := range merged([]translate.Delta{t.held.delta}, []translate.Delta{built[name]}) {
				if both.Collection == name {
					d = both
				}
			}
			built[name] = d
		}
	}
	for _, name := range slices.Sorted(maps.Keys(built)) {
		t, d := g.collections[name], built[name]
		if t == nil {
			t = &tally{endpoints: map[string]int{}}
			if g.collections == nil {
				g.collections = map[string]*tally{}
			}
			g.collections[name] = t
		}
		is := Size{Hosts: hosts(name), Endpoints: t.given.Endpoints + t.difference(d)}
		was, since, lists := t.given, o.now, g.lists
		if h := t.held; h != nil {
			since, lists = h.since, h.lists
			if o.current && g.lists > h.lists { // confirmed, as far as it was seen then
				was, lists = h.is, g.lists
			}
		}
		if o.open || o.meant && t.held == nil || !shrunk(was, is) {
			t.take(d)
			t.given, t.held = is, nil
			if len(d.Changes) > 0 {
				out = append(out, d)
			}
			continue
		}
		ask = ask || t.held == nil || lists != t.held.lists
		now, later := t.split(d)
		t.take(now)
		t.held = &held{delta: later, is: is, since: since, lists: lists}
		if len(now.Changes) > 0 {
			out = append(out, now)
		}
	}
	return out, ask
}

// difference is how many more endpoints there are by a delta.
func (t *tally) difference(d translate.Delta) (n int) {
	for _, c := range d.Changes {
		if c.Kind == translate.Endpoints {
			n += c.Resource.Addresses() - t.endpoints[c.Name]
		}
	}
	return n
}

// take notes that a delta is given.
func (t *tally) take(d translate.Delta) {
	t.given.Endpoints += t.difference(d)
	for _, c := range d.Changes {
		switch {
		case c.Kind != translate.Endpoints:
		case c.Resource == nil:
			delete(t.endpoints, c.Name)
		default:
			t.endpoints[c.Name] = c.Resource.Addresses()
		}
	}
}

// split parts what can go out although the rest is held back.
func (t *tally) split(d translate.Delta) (now, later translate.Delta) {
	now.Collection, later.Collection = d.Collection, d.Collection
	for _, c := range d.Changes {
		had, known := t.endpoints[c.Name]
		if c.Kind == translate.Endpoints && c.Resource != nil && known && c.Resource.Addresses() >= had {
			now.Changes = append(now.Changes, c)
		} else {
			later.Changes = append(later.Changes, c)
		}
	}
	return now, later
}

// keep forgets collections that are configured no more.
func (g *shrinkGuard) keep(configured func(collection string) bool) {
	maps.DeleteFunc(g.collections, func(name string, _ *tally) bool { return !configured(name) })
}

// holding lists what is held back, by collection.
func (g *shrinkGuard) holding() (out []Held) {
	for _, name := range slices.Sorted(maps.Keys(g.collections)) {
		if t := g.collections[name]; t.held != nil {
			out = append(out, Held{Collection: name, Since: t.held.since, Was: t.given, Is: t.held.is})
		}
	}
	return out
}

// guarded gives what is to be published of what was built, and tells what is not.
func (l *loop) guarded(deltas []translate.Delta, o occasion) []translate.Delta {
	before := l.guard.holding()
	l.guard.keep(func(name string) bool { return l.cfg.Collections[name] != nil })
	o.open = o.open || o.current && l.guard.agreed
	out, ask := l.guard.admit(deltas, l.builder.Hosts, o)
	after := l.guard.holding()
	for _, h := range after {
		if !slices.ContainsFunc(before, func(b Held) bool { return b.Collection == h.Collection }) {
			l.log.Warn("a change is held back", "collection", h.Collection, "reason", h.Reason())
		}
	}
	for _, h := range before {
		if !slices.ContainsFunc(after, func(a Held) bool { return a.Collection == h.Collection }) {
			l.log.Info("a change is held back no more", "collection", h.Collection, "after", o.now.Sub(h.Since))
		}
	}
	l.status.holds(after)
	if ask && l.held != nil {
		l.held()
	}
	return out
}

// listed notes a step of the source, and publishes what it confirms. While something is
// still to be built that waits: it may bring back what was gone.
func (l *loop) listed(full, changed bool) {
	if changed {
		l.guard.agreed = false
	}
	if !full {
		return
	}
	l.guard.lists++
	l.guard.agreed = !changed
	if l.built == nil || l.newCfg || l.structure.Structure() || !l.tasks.Empty() || len(l.guard.holding()) == 0 {
		return
	}
	start := time.Now()
	l.finish(start, 0, true, l.built, l.guarded(nil, occasion{now: start, current: true}))
}
