package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/waggle-lb/waggle/translate"
)

// A control plane that starts while nobody can tell it what runs has nothing to publish.
// It may offer what proxies accepted before: to proxies that have nothing, because that is
// better than nothing. A proxy that reports resources has newer ones, or the same; it is
// sent nothing. The first Publish replaces what was offered: versions are hashes, so what
// is the same is not sent again.

// reportWithin is how long a proxy has to say what it has, before it is taken for one that
// has nothing: one that comes back asks for all kinds at once, in several messages.
const reportWithin = 500 * time.Millisecond

// Kept is a resource of a collection in the bytes that proxies get.
type Kept struct {
	translate.Resource        // Body, and no Message
	Version            string // the same for the same bytes
}

// Accepted is everything but secrets that a collection serves, if at least one proxy has
// acknowledged all of it, and nothing else has been published since. generation is the same
// for the same content. Nothing is returned if there is no such thing, or if it is the
// generation that the caller has.
func (s *Server) Accepted(collection, have string) (all []Kept, generation string) {
	k := s.collection(collection)
	if k == nil {
		return nil, have
	}
	entries, generation := k.acceptedEntries(have)
	for kind, es := range entries {
		slices.SortFunc(es, func(a, b *entry) int { return cmp.Compare(a.name, b.name) })
		for _, e := range es {
			all = append(all, Kept{translate.Resource{Kind: translate.Kind(kind), Name: e.name, Body: e.body(), EDS: e.eds, Refs: e.refs}, e.version})
		}
	}
	return all, generation
}

func (k *collection) acceptedEntries(have string) (entries [translate.NumKinds][]*entry, generation string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.open || k.trial != nil {
		return entries, have
	}
	var versions []string
	for kind := range k.tables {
		if translate.Kind(kind) != translate.Secret {
			versions = append(versions, k.tables[kind].version())
		}
	}
	generation = strings.Join(versions, ".")
	if generation == have || k.accepted != k.seq && !slices.ContainsFunc(slices.Collect(maps.Keys(k.streams)), (*stream).hasAll) {
		return entries, have
	}
	for kind := range k.tables {
		if translate.Kind(kind) == translate.Secret {
			continue
		}
		for _, it := range k.tables[kind].live {
			entries[kind] = append(entries[kind], it.entry)
		}
	}
	return entries, generation
}

// hasAll says that a proxy asked for what makes a working proxy, and has acknowledged all
// that is published.
func (st *stream) hasAll() bool {
	k := st.k
	if !k.open || k.trial != nil || st.view != k.view {
		return false
	}
	for _, kind := range []translate.Kind{translate.Cluster, translate.Listener, translate.Routes} {
		if !st.subs[kind].active && len(k.tables[kind].live) > 0 {
			return false
		}
	}
	return st.current()
}

// Offer gives proxies that have nothing something to go on with until the first Publish:
// what was accepted at some time. It returns false, and nothing happens, if something has
// been published or offered to the collection already. On an error nothing happens either.
func (s *Server) Offer(d translate.Delta, at time.Time) (bool, error) {
	k := s.collection(d.Collection)
	if k == nil {
		return false, fmt.Errorf("offering to collection %q: there is no such collection", d.Collection)
	}
	k.publishing.Lock()
	defer k.publishing.Unlock()
	edits, err := encodeAll(d.Changes)
	if err != nil {
		return false, fmt.Errorf("offering to collection %q: %w", d.Collection, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open || !k.offered.IsZero() {
		return false, nil
	}
	now := s.now()
	k.offered = at
	k.apply(k.view, edits, now)
	k.pumpAll(now)
	return true, nil
}

// Offered are the collections to which nothing has been published and something is offered,
// and of when that is.
func (s *Server) Offered() map[string]time.Time {
	out := map[string]time.Time{}
	for _, k := range s.all() {
		k.mu.Lock()
		if k.offering() {
			out[k.name] = k.offered
		}
		k.mu.Unlock()
	}
	return out
}

// Collections names those to which something has been published, and those that wait for
// it and are not offered anything either. Both are sorted.
func (s *Server) Collections() (published, waiting []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name, k := range s.collections {
		k.mu.Lock()
		switch {
		case k.open:
			published = append(published, name)
		case k.offered.IsZero():
			waiting = append(waiting, name)
		}
		k.mu.Unlock()
	}
	slices.Sort(published)
	slices.Sort(waiting)
	return published, waiting
}

func (k *collection) offering() bool { return !k.open && !k.removed && !k.offered.IsZero() }

// takesOffer says whether a stream is served although nothing has been published.
func (st *stream) takesOffer(now time.Time) bool {
	if !st.k.offering() || st.reports {
		return false
	}
	if at := st.since.Add(reportWithin); now.Before(at) {
		st.wakeAt(deadline{at}, now)
		return false
	}
	return true
}

// complete adds to the first edits that are published that everything else that was offered
// is gone. The caller holds k.publishing.
func (k *collection) complete(edits []edit) []edit {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.offering() {
		return edits
	}
	var stays [translate.NumKinds]map[string]struct{}
	for kind := range stays {
		stays[kind] = map[string]struct{}{}
	}
	for _, e := range edits {
		stays[e.kind][e.name] = struct{}{}
	}
	for kind := range k.tables {
		for name := range k.tables[kind].live {
			if _, ok := stays[kind][name]; !ok {
				edits = append(edits, edit{kind: translate.Kind(kind), name: name})
			}
		}
	}
	return edits
}

// body is the resource alone, in the entry's own bytes.
func (e *entry) body() []byte {
	b := e.wire
	for _, field := range []protowire.Number{fieldResponseResources, fieldResourceResource, fieldAnyValue} {
		b = within(b, field)
	}
	return b
}

// within is the content of the first field with this number.
func within(b []byte, field protowire.Number) []byte {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return nil
		}
		b = b[size:]
		if n == field && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b)
			return v
		}
		size = protowire.ConsumeFieldValue(n, typ, b)
		if size < 0 {
			return nil
		}
		b = b[size:]
	}
	return nil
}
