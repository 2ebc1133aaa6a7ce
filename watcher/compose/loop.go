package compose

import (
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/watcher"
)

// The things that are read side by side.
type part int

const (
	listPart part = iota
	eventsPart
	parts
	signPart part = -1 // an event: it cannot fail
)

// report is what one of the readers tells the loop.
type report struct {
	part      part
	err       error
	inventory *inventory // of listPart
	sign      sign       // of signPart
}

// loop puts the reports together; only Run's goroutine touches it.
type loop struct {
	Options
	emit func(watcher.Update)

	inventory *inventory // newest, nil before the first
	last      *watcher.Picture
	errs      [parts]error
	listed    time.Time // last success

	leaving map[string]time.Time // until when containers are taken to stop, by ID
	ended   map[string]time.Time // when containers ended that no list has shown yet

	survival *time.Timer // of the first of leaving

	confirm    *time.Timer
	confirming bool
}

func newLoop(o Options, emit func(watcher.Update)) *loop {
	l := &loop{Options: o, emit: emit, leaving: map[string]time.Time{}, ended: map[string]time.Time{}}
	l.survival, l.confirm = time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	l.survival.Stop()
	l.confirm.Stop()
	return l
}

func (l *loop) stop() {
	l.survival.Stop()
	l.confirm.Stop()
}

// take handles one report: it becomes a picture, or the news that there is none.
func (l *loop) take(r report) {
	if r.part == signPart {
		if l.sign(r.sign) && l.inventory != nil {
			l.update(false)
		}
		return
	}
	l.errs[r.part] = r.err
	if r.err == nil && r.part == listPart {
		l.inventory, l.listed = r.inventory, time.Now()
		l.outdate()
		l.update(true)
		return
	}
	if err := l.failing(); err != nil {
		l.emit(watcher.Update{Picture: l.last, Err: err, At: l.listed})
	}
}

// sign notes what an event says; false where that changes nothing.
func (l *loop) sign(s sign) bool {
	switch s.kind {
	case started:
		_, left := l.leaving[s.container]
		_, ended := l.ended[s.container]
		delete(l.leaving, s.container)
		delete(l.ended, s.container)
		return left || ended
	case ended:
		l.ended[s.container] = s.at
		delete(l.leaving, s.container)
		return true
	}
	stop, grace := syscall.SIGTERM, defaultGrace
	if l.inventory != nil {
		if f := l.inventory.fixed[s.container]; f != nil {
			stop, grace = f.stopSignal, f.grace
		}
	}
	// Others, SIGHUP and the like, tell a program something else.
	if s.signal != stop && s.signal != syscall.SIGTERM && s.signal != syscall.SIGKILL {
		return false
	}
	if _, already := l.leaving[s.container]; already {
		return false // the second signal of docker stop does not make it later
	}
	l.leaving[s.container] = s.at.Add(grace + l.Timing.Survive)
	l.watchSurvival()
	return true
}

// outdate forgets what the newest list knows better.
func (l *loop) outdate() {
	there := make(map[string]bool, len(l.inventory.containers))
	for _, c := range l.inventory.containers {
		there[c.ID] = running(c)
	}
	for id, at := range l.ended {
		if at.Before(l.inventory.began) {
			delete(l.ended, id)
		}
	}
	for id := range l.leaving {
		if !there[id] {
			delete(l.leaving, id)
		}
	}
}

// survived takes containers back that still run long after they were told to stop.
func (l *loop) survived(now time.Time) {
	for id, until := range l.leaving {
		if !until.After(now) {
			delete(l.leaving, id)
		}
	}
	l.watchSurvival()
	if l.inventory != nil {
		l.update(false)
	}
}

func (l *loop) watchSurvival() {
	var first time.Time
	for _, until := range l.leaving {
		if first.IsZero() || until.Before(first) {
			first = until
		}
	}
	if first.IsZero() {
		l.survival.Stop()
		return
	}
	l.survival.Reset(max(0, time.Until(first)))
}

// update makes the next picture and emits it; full says that it was listed.
func (l *loop) update(full bool) {
	next, changes := watcher.Share(l.last, picture(l.inventory, l.leaving, l.ended))
	if !changes.Empty() && l.last != nil && !l.confirming {
		l.confirming = true
		l.confirm.Reset(l.Timing.Confirm)
	}
	l.last = next
	l.emit(watcher.Update{Picture: next, Changes: changes, Full: full, Err: l.failing(), At: l.listed})
}

func (l *loop) failing() error {
	for _, e := range l.errs {
		if e != nil {
			return e
		}
	}
	return nil
}
