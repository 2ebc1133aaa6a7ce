package swarmkit

import (
	"maps"
	"slices"

	"github.com/moby/swarmkit/v2/api"

	"github.com/waggle-lb/waggle/watcher"
)

// book is what is known of tasks: for each the newest version that was seen, in
// whichever order lists, events and repeated events came.
type book struct {
	tasks     map[string]entry           // that matter, by ID
	byService map[string][]*watcher.Task // the same, sorted; lists are replaced, never changed

	// past and older keep the versions of tasks that do not matter (any more), so that
	// late news of them is known to be late: past since the last check began, older
	// since the one before it.
	past, older map[string]gone

	listed uint64 // the newest version in the list that the book began with: it has everything up to there
	newest uint64 // the newest version of all: nothing up to there is missing
	check  int    // number of the check that began last
}

// entry is a task that matters.
type entry struct {
	task    *watcher.Task
	version uint64
	check   int // book.check when it changed
}

// gone is a task that does not matter.
type gone struct {
	version uint64
	removed bool // from the store; else it has failed, ended or is not released yet
}

func newBook() *book {
	return &book{tasks: map[string]entry{}, byService: map[string][]*watcher.Task{}, past: map[string]gone{}, older: map[string]gone{}}
}

// version is where a stream can be taken up again; nil before the first list.
//
// Of a manager that is not the leader, messages have no version (swarmkit,
// MemoryStore.ApplyStoreActions). A task's own version is always there. It is the
// store's from before the transaction that wrote it, so at worst that one is told twice.
func (b *book) version() *api.Version {
	if b.newest == 0 {
		return nil
	}
	return &api.Version{Index: b.newest}
}

// tasksByService is a map for the receiver to keep.
func (b *book) tasksByService() map[string][]*watcher.Task { return maps.Clone(b.byService) }

// reset forgets everything and notes a complete list.
func (b *book) reset(list []*api.Task) {
	*b = *newBook()
	for _, t := range list {
		b.newest = max(b.newest, t.Meta.Version.Index)
		if task := convert(t); task != nil {
			b.tasks[t.ID] = entry{task: task, version: t.Meta.Version.Index}
			b.byService[task.ServiceID] = append(b.byService[task.ServiceID], task)
		} else {
			b.past[t.ID] = gone{version: t.Meta.Version.Index}
		}
	}
	b.listed = b.newest
	for _, ts := range b.byService {
		watcher.SortTasks(ts)
	}
}

// message notes one transaction, and reports whether a task that matters changed.
func (b *book) message(m *api.WatchMessage) (changed bool) {
	if m.Version != nil {
		b.newest = max(b.newest, m.Version.Index)
	}
	for _, e := range m.Events {
		t := e.Object.GetTask()
		if t == nil || t.ID == "" {
			continue // nothing else was asked for
		}
		changed = b.event(e.Action, t) || changed
	}
	return changed
}

// event notes one event. Of two versions the higher one counts; of the same version
// (one transaction may write a task twice) the later one.
func (b *book) event(action api.WatchActionKind, t *api.Task) (changed bool) {
	version := t.Meta.Version.Index
	b.newest = max(b.newest, version)
	known, matters := b.tasks[t.ID]
	if action == api.WatchActionKindRemove {
		// Final, and its version is the one that was last written before.
		b.past[t.ID] = gone{version: max(version, known.version), removed: true}
		return matters && b.drop(known)
	}
	if matters && version < known.version {
		return false
	}
	switch g, ok := b.lookBack(t.ID); {
	case ok && (version < g.version || version == g.version && g.removed):
		return false
	case !ok && !matters && version <= b.listed:
		return false // what a list that is newer did not show
	}
	task := convert(t)
	if task == nil {
		b.past[t.ID] = gone{version: version}
		return matters && b.drop(known)
	}
	delete(b.past, t.ID)
	delete(b.older, t.ID)
	if matters && known.task.SameAs(task) {
		b.tasks[t.ID] = entry{known.task, version, known.check}
		return false
	}
	b.tasks[t.ID] = entry{task, version, b.check}
	list := slices.DeleteFunc(slices.Clone(b.byService[task.ServiceID]), func(o *watcher.Task) bool { return o.ID == task.ID })
	at, _ := slices.BinarySearchFunc(list, task, watcher.CompareTasks)
	b.byService[task.ServiceID] = slices.Insert(list, at, task)
	return true
}

func (b *book) drop(e entry) bool {
	id, service := e.task.ID, e.task.ServiceID
	delete(b.tasks, id)
	rest := slices.DeleteFunc(slices.Clone(b.byService[service]), func(o *watcher.Task) bool { return o.ID == id })
	if len(rest) == 0 {
		delete(b.byService, service)
	} else {
		b.byService[service] = rest
	}
	return true
}

func (b *book) lookBack(id string) (gone, bool) {
	g, ok := b.past[id]
	if !ok {
		g, ok = b.older[id]
	}
	return g, ok
}

// checkBegins is called before a list is asked for that the book is compared with.
func (b *book) checkBegins() {
	b.check++
	b.past, b.older = map[string]gone{}, b.past
}

// debt is what a list knew and the book did not.
type debt struct {
	reach map[string]uint64 // tasks by ID, and the version that must be reached
	leave map[string]uint64 // tasks that the list has not got in the version that the book has
}

// compare says what is owed after a list of what is wanted or to be removed. The
// list is the leader's, so where it differs, it is newer.
func (b *book) compare(list []*api.Task) *debt {
	d := &debt{reach: map[string]uint64{}, leave: map[string]uint64{}}
	there := make(map[string]struct{}, len(list))
	for _, t := range list {
		there[t.ID] = struct{}{}
		if convert(t) != nil {
			d.reach[t.ID] = t.Meta.Version.Index
		}
	}
	for id, e := range b.tasks {
		// What changed after the list was asked for may be newer than the list.
		if _, ok := there[id]; !ok && e.check < b.check && e.task.Desired != watcher.Shutdown {
			d.leave[id] = e.version
		}
	}
	return d
}

// settle takes out of the debt what has come, and reports whether nothing is left.
func (b *book) settle(d *debt) bool {
	maps.DeleteFunc(d.reach, func(id string, version uint64) bool {
		if e, ok := b.tasks[id]; ok && e.version >= version {
			return true
		}
		g, ok := b.lookBack(id)
		return ok && (g.removed || g.version >= version)
	})
	maps.DeleteFunc(d.leave, func(id string, version uint64) bool {
		e, ok := b.tasks[id]
		return !ok || e.version > version
	})
	return len(d.reach) == 0 && len(d.leave) == 0
}
