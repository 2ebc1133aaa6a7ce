package engine

import (
	"context"
	"maps"
	"time"

	"github.com/waggle-lb/waggle/watcher"
)

// loop puts the reports together; only Run's goroutine touches it.
type loop struct {
	*run
	ctx  context.Context // of Run
	emit func(watcher.Update)

	structure *structure // newest, nil before the first list
	assembled *structure // what last was made of
	tasks     map[string][]*watcher.Task
	last      *watcher.Picture

	errs [parts]error
	good [parts]time.Time // last success

	// Both are set when a complete list of that kind has come since the last
	// update that was Full.
	fullStructure, fullTasks bool

	place // where tasks come from

	asked map[string]bool // unknown services that were asked for since the last full list

	confirm    *time.Timer
	confirming bool
	confirmed  time.Time
}

// take handles one report: it becomes a picture, or the news that there is none.
func (l *loop) take(r report) {
	now := time.Now()
	if r.part == pushPart {
		l.pushLost(r.err)
		return
	}
	if r.part == tasksPart && !l.admits(r) {
		return
	}
	l.errs[r.part] = r.err
	if r.err == nil {
		l.good[r.part] = now
		switch r.part {
		case structurePart:
			l.structure = r.structure
			if r.full {
				l.fullStructure = true
				clear(l.asked)
			}
		case tasksPart:
			// What was listed before the newest change confirms nothing of it.
			l.tasks, l.fullTasks = r.tasks, r.full
		}
		if l.structure != nil && l.tasks != nil && r.part != eventsPart {
			l.update(now)
			return
		}
	}
	l.complain()
}

// update makes the next picture and emits it.
func (l *loop) update(now time.Time) {
	next, changes := l.assemble()
	full := l.fullStructure && l.fullTasks
	lost := l.last != nil && gone(l.last, next, changes)
	if full || lost { // what was listed before something went confirms nothing of that
		l.fullStructure, l.fullTasks = false, false
	}
	if lost {
		l.lookAgain(now)
	}
	if changes.Nodes || changes.All {
		down := map[string]bool{}
		for id, n := range next.Nodes {
			if n.Down {
				down[id] = true
			}
		}
		l.down.Store(&down)
	}
	if changes.Structure() {
		l.pace(next)
	}
	if len(changes.Tasks) > 0 || len(changes.Services) > 0 || changes.Nodes {
		l.hurry()
	}
	l.last = next
	// What could be read is told even where something else could not.
	u := l.mark(watcher.Update{Picture: next, Changes: changes, Full: full, Err: l.failing(), At: now})
	if u.Err != nil {
		u.At = l.since()
	}
	l.emit(u)
}

// lookAgain has everything listed once more: at once, unless that was done a moment ago.
func (l *loop) lookAgain(now time.Time) {
	if !l.confirming {
		l.confirming = true
		l.confirm.Reset(max(0, l.confirmed.Add(l.Timing.Confirm).Sub(now)))
	}
}

// complain emits the error that is in force, if one is.
func (l *loop) complain() {
	if err := l.failing(); err != nil {
		l.emit(l.mark(watcher.Update{Picture: l.last, Err: err, At: l.since()}))
	}
}

// since is when the picture was last right in everything.
func (l *loop) since() time.Time {
	// Without events the structure is as fresh as its last list.
	at := l.good[tasksPart]
	if l.errs[tasksPart] == nil || l.good[structurePart].Before(at) && (l.errs[structurePart] != nil || l.errs[eventsPart] != nil) {
		at = l.good[structurePart]
	}
	if l.last == nil {
		return time.Time{}
	}
	return at
}

func (l *loop) failing() error {
	for _, e := range l.errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// pace decides how often tasks are worth a list.
func (l *loop) pace(p *watcher.Picture) {
	interesting := false
	for _, s := range p.Services {
		if l.Interesting(s) {
			interesting = true
			break
		}
	}
	if l.interesting.Swap(interesting) != interesting {
		l.wakeTasks()
	}
}

// assemble makes a picture of the newest structure and tasks, shared with the last one.
func (l *loop) assemble() (*watcher.Picture, watcher.Changes) {
	p := &watcher.Picture{Tasks: make(map[string][]*watcher.Task, len(l.tasks))}
	shared := l.last != nil && l.structure == l.assembled
	if shared {
		p.Services, p.Nodes, p.Networks, p.Configs, p.Secrets = l.last.Services, l.last.Nodes, l.last.Networks, l.last.Configs, l.last.Secrets
	} else {
		s := l.structure
		p.Services, p.Nodes, p.Networks = maps.Clone(s.services), maps.Clone(s.nodes), maps.Clone(s.networks)
		p.Configs, p.Secrets = maps.Clone(s.configs), maps.Clone(s.secrets)
		l.assembled = s
	}
	for id, ts := range l.tasks {
		if l.structure.services[id] != nil {
			p.Tasks[id] = ts
		} else if !l.asked[id] && wanted(ts) {
			// A service that no event has told of (yet): ask for it, once.
			l.asked[id] = true
			l.dirt.add(wants{ids: map[string]struct{}{id: {}}})
		}
	}
	l.countGlobal(p, shared)
	return watcher.Share(l.last, p)
}

func wanted(ts []*watcher.Task) bool {
	for _, t := range ts {
		if t.Desired <= watcher.Running {
			return true
		}
	}
	return false
}

// countGlobal says of each global service on how many nodes it runs or should.
//
// The API could be asked (ServiceStatus.DesiredTasks), but swarmkit computes that
// from the same tasks, and no event tells when it changes. Nodes where a task is
// leaving count, so that a rolling update does not change the figure. shared says
// that p.Services belongs to the last picture too.
func (l *loop) countGlobal(p *watcher.Picture, shared bool) {
	for id := range l.structure.global {
		nodes := map[string]struct{}{}
		for _, t := range p.Tasks[id] {
			nodes[t.NodeID] = struct{}{}
		}
		s := p.Services[id]
		if s == nil || s.Replicas == uint64(len(nodes)) {
			continue
		}
		if shared {
			p.Services, shared = maps.Clone(p.Services), false
		}
		c := *s
		c.Replicas = uint64(len(nodes))
		p.Services[id] = &c
	}
}

// gone reports whether so much has left the picture that a second look is worth
// it: a service, its labels, its last ready task, or many tasks at once.
func gone(old, next *watcher.Picture, c watcher.Changes) bool {
	for id := range c.Services {
		o, n := old.Services[id], next.Services[id]
		if o != nil && (n == nil || !maps.Equal(o.Labels, n.Labels)) {
			return true
		}
	}
	lost := 0
	for id := range c.Tasks {
		before, after := ready(old.Tasks[id]), ready(next.Tasks[id])
		if before > 0 && after == 0 {
			return true
		}
		lost += max(0, before-after)
	}
	return lost >= 5
}

func ready(ts []*watcher.Task) (n int) {
	for _, t := range ts {
		if t.Ready() {
			n++
		}
	}
	return n
}
