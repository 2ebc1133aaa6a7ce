package xds

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/translate"
)

// collection is what one fleet of Envoys is served, and the streams of that fleet.
type collection struct {
	name   string
	server *Server

	publishing sync.Mutex // one Publish at a time; taken before mu, held while encoding
	quarantine quarantine

	mu        sync.Mutex        // everything below
	open      bool              // published at least once; until then streams are silent
	removed   bool              // no longer configured: no new streams
	*view                       // what every proxy gets, but for the canaries of a trial
	newest    uint64            // seq of the newest change to any view
	trial     *trial            // nil: there is none
	strays    map[*stream]*view // former canaries that have not answered everything
	streams   map[*stream]struct{}
	published time.Time
	publishes uint64
	// offered is when what is offered until the first publish was written; zero: nothing is.
	offered  time.Time
	accepted uint64 // see Accepted: seq when the last proxy that had everything went
	// before is the collection of the same name that was removed earlier and may
	// still have streams. They are asked to come again once this one has content.
	before *collection
}

// view is all of a collection as some of its streams get it.
type view struct {
	seq    uint64 // of the newest change to it
	tables [translate.NumKinds]table
	vault  vault
}

// table is the resources of one kind and what changed in it.
type table struct {
	live map[string]item
	log  []change // additions and changes, ascending; at most the newest of each name counts
	last uint64   // seq of the newest addition or change

	gone     map[string]tomb // removed, but perhaps still at some proxy
	goneLog  []change
	lastGone uint64

	sum    uint64            // of the live entries: the table's version
	frames map[uint64]*frame // by cursor: everything since; valid for this publish
	full   *frame            // everything; the same
}

type item struct {
	*entry
	mod uint64 // seq of the publish that brought this version
}

type tomb struct {
	*entry
	seq uint64
}

type change struct {
	seq  uint64
	name string
	at   time.Time // only in goneLog
}

func newCollection(name string, s *Server) *collection {
	k := &collection{name: name, server: s, streams: make(map[*stream]struct{}), view: &view{vault: newVault()}, strays: make(map[*stream]*view)}
	for kind := range k.tables {
		t := &k.tables[kind]
		t.live, t.gone, t.frames = make(map[string]item), make(map[string]tomb), make(map[uint64]*frame)
	}
	k.quarantine.init()
	return k
}

// edit is an encoded change; entry nil: gone.
type edit struct {
	kind  translate.Kind
	name  string
	entry *entry
}

// encodeAll turns a delta into edits, or says what is wrong with it.
func encodeAll(changes []translate.Change) ([]edit, error) {
	edits := make([]edit, 0, len(changes))
	for _, c := range changes {
		if c.Kind >= translate.NumKinds {
			return nil, fmt.Errorf("resource %q is of the unknown kind %d", c.Name, c.Kind)
		}
		if c.Name == "" {
			return nil, fmt.Errorf("one of the %s has no name", c.Kind)
		}
		var e *entry
		if r := c.Resource; r != nil {
			if r.Kind != c.Kind || r.Name != c.Name {
				return nil, fmt.Errorf("the change of %s %q holds %s %q", c.Kind, c.Name, r.Kind, r.Name)
			}
			var err error
			if e, err = encode(c.Kind, c.Name, r); err != nil {
				return nil, fmt.Errorf("%s %q: %w", c.Kind, c.Name, err)
			}
		}
		edits = append(edits, edit{c.Kind, c.Name, e})
	}
	if len(edits) > 1 {
		type key struct {
			kind translate.Kind
			name string
		}
		seen := make(map[key]struct{}, len(edits))
		for _, e := range edits {
			if _, twice := seen[key{e.kind, e.name}]; twice {
				return nil, fmt.Errorf("%s %q is in the delta twice", e.kind, e.name)
			}
			seen[key{e.kind, e.name}] = struct{}{}
		}
	}
	return edits, nil
}

// publish applies the edits as one and lets every stream go on. idle are the secrets among
// them that are not served, because nothing refers to them.
func (k *collection) publish(edits []edit, now time.Time) (idle []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.published = now
	k.publishes++
	if k.open && k.stage(edits, now) {
		return nil
	}
	opened := !k.open
	k.open = true
	changed, idle := k.applyOpen(edits, now)
	if !changed && !opened {
		return idle
	}
	k.pumpAll(now)
	for b := k.before; b != nil; b = b.before {
		b.endStreams(errMoved)
	}
	k.before = nil
	return idle
}

// pumpAll lets every stream go on after a change.
func (k *collection) pumpAll(now time.Time) {
	k.trim(now)
	for st := range k.streams {
		st.pump(now)
	}
	k.conclude(now)
}

// apply edits a view and says whether anything in it is different now. Bytes that are the
// same as before are no change. idle are secrets that are not served, because nothing
// refers to them. Seqs are unique among the views of a collection, so that a stream's
// cursors are good in whichever it is moved to: what they do not cover is sent.
func (k *collection) apply(v *view, edits []edit, now time.Time) (changed bool, idle []string) {
	edits, idle = v.vault.admit(edits)
	seq := k.newest + 1
	changed = v.seq == 0 // the first publish counts even if it is empty
	for _, e := range edits {
		t := &v.tables[e.kind]
		old, had := t.live[e.name]
		switch {
		case e.entry != nil && had && old.version == e.entry.version && old.eds == e.entry.eds,
			e.entry == nil && !had:
			continue
		case e.entry != nil:
			if had && old.acked {
				k.quarantine.good[e.kind].Add(old.name, old.entry)
			}
			e.entry.name = nameOf(old, had, e.name)
			t.live[e.entry.name] = item{e.entry, seq}
			t.log = append(t.log, change{seq: seq, name: e.entry.name})
			t.last = seq
			t.sum += e.entry.sum
			delete(t.gone, e.name)
		default:
			delete(t.live, e.name)
			k.quarantine.good[e.kind].Remove(e.name)
			if len(k.streams) > 0 {
				t.gone[old.name] = tomb{old.entry, seq}
				t.goneLog = append(t.goneLog, change{seq: seq, name: old.name, at: now})
				t.lastGone = seq
			}
		}
		if had {
			t.sum -= old.sum
		}
		clear(t.frames)
		t.full = nil
		changed = true
	}
	if changed {
		v.seq, k.newest = seq, seq
	}
	return changed, idle
}

// nameOf keeps one string per name for as long as a name lives.
func nameOf(old item, had bool, name string) string {
	if had {
		return old.name
	}
	return name
}

// trim keeps the logs as long as the tables are large, however long they have been
// written and however slow a stream is; and what was removed no longer than twice the
// grace time.
func (k *collection) trim(now time.Time) {
	for _, v := range k.views() {
		k.trimView(v, now)
	}
}

func (k *collection) trimView(v *view, now time.Time) {
	for kind := range v.tables {
		t := &v.tables[kind]
		sent, retired := v.seq, v.seq
		for st := range k.streams {
			if st.view != v {
				continue
			}
			if s := &st.subs[kind]; s.active && !s.first {
				sent, retired = min(sent, s.add), min(retired, s.rem)
			} else if cds := &st.subs[translate.Cluster]; translate.Kind(kind) == translate.Endpoints && cds.active && !cds.first {
				retired = min(retired, cds.rem) // it is going to ask for them
			}
		}
		t.log = dropUntil(t.log, sent)
		if len(t.log) > 2*len(t.live)+64 {
			t.log = slices.Clone(slices.DeleteFunc(t.log, func(c change) bool { return t.live[c.name].mod != c.seq }))
		}
		for _, c := range t.goneLog {
			if c.seq > retired {
				break
			}
			if t.gone[c.name].seq == c.seq {
				delete(t.gone, c.name)
			}
		}
		t.goneLog = dropUntil(t.goneLog, retired)
		if len(t.goneLog) > 2*len(t.gone)+64 {
			t.goneLog = slices.Clone(slices.DeleteFunc(t.goneLog, func(c change) bool { return t.gone[c.name].seq != c.seq }))
		}
		if len(t.goneLog) > 0 && now.Sub(t.goneLog[0].at) > 2*k.server.grace {
			// Grace has long passed and some stream still takes no removals. It may come
			// again: what it must drop is then found out from what it says it has.
			for st := range k.streams {
				if s := &st.subs[kind]; st.view == v && s.active && !s.first && s.rem < t.goneLog[0].seq {
					st.end(errStuck)
				}
			}
		}
	}
}

func dropUntil(log []change, seq uint64) []change {
	n := logAfter(log, seq)
	switch {
	case n == 0:
		return log
	case n == len(log) && cap(log) <= 64:
		clear(log)
		return log[:0]
	default:
		return slices.Clone(log[n:])
	}
}

// logAfter is the index of the first change after seq.
func logAfter(log []change, seq uint64) int {
	n, _ := slices.BinarySearchFunc(log, seq, func(c change, seq uint64) int {
		if c.seq <= seq {
			return -1
		}
		return 1
	})
	return n
}

// since is everything of a kind that changed after the cursor, as one shared frame.
func (t *table) since(cursor uint64) *frame {
	if f := t.frames[cursor]; f != nil {
		return f
	}
	var entries []*entry
	for _, c := range t.log[logAfter(t.log, cursor):] {
		if it, ok := t.live[c.name]; ok && it.mod == c.seq {
			entries = append(entries, it.entry)
		}
	}
	f := newSharedFrame(entries)
	t.frames[cursor] = f
	return f
}

// everything is all of a kind, sorted by name, as one shared frame.
func (t *table) everything() *frame {
	if t.full == nil {
		entries := make([]*entry, 0, len(t.live))
		for _, it := range t.live {
			entries = append(entries, it.entry)
		}
		slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.name, b.name) })
		t.full = newSharedFrame(entries)
	}
	return t.full
}

// version is the table's, the same in every replica that serves the same resources.
func (t *table) version() string { return fmt.Sprintf("%016x", t.sum) }

// attach adds a stream; it is refused when the collection has been removed meanwhile.
func (k *collection) attach(st *stream) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.removed {
		return false
	}
	k.streams[st], st.view = struct{}{}, k.view
	return true
}

// detach forgets a stream and what was kept for it alone.
func (k *collection) detach(st *stream) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if st.hasAll() {
		k.accepted = k.seq
	}
	st.closed = true
	st.stopTimer()
	if _, ok := k.streams[st]; !ok {
		return
	}
	delete(k.streams, st)
	delete(k.strays, st)
	k.vanished(st, k.server.now())
	k.trim(k.server.now())
	if len(k.streams) == 0 {
		for kind := range k.tables {
			clear(k.tables[kind].frames)
			k.tables[kind].full = nil
		}
	}
}

func (k *collection) endStreams(why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for st := range k.streams {
		st.end(why)
	}
}

// intern replaces names by the collection's own strings, so that a stream that names
// ten thousand resources does not hold ten thousand strings of its own.
func (k *collection) intern(kind translate.Kind, names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := &k.tables[kind]
	for i, name := range names {
		if it, ok := t.live[name]; ok {
			names[i] = it.name
		}
	}
}
