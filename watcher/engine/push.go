package engine

import (
	"context"
	"time"

	"github.com/waggle-lb/waggle/watcher"
)

// Pusher tells tasks whenever one changes, without being asked.
type Pusher interface {
	// Check says in one sentence what stands in the way, and the way out; nil if nothing does.
	Check(context.Context) error

	// Follow tells tasks from a first complete list on, until ctx ends (then it
	// returns nil) or it can no more (then it says why, in one sentence with the way
	// out). It overcomes by itself only what takes less than a second.
	//
	// A number in questions asks whether what was told last is right: Follow then
	// lists all tasks, and once it has told everything that the list knows it tells
	// it as Confirmed.
	Follow(ctx context.Context, questions <-chan uint64, tell func(watcher.TaskUpdate) bool) error
}

func (o Options) pushOnly() bool { return o.Push != nil && o.PushOnly }

// followPush follows push, and again after pauses when it is lost.
func (r *run) followPush(ctx context.Context) {
	timing := r.Timing
	timing.BackoffMax = timing.PushRetry
	pause := &backoff{Timing: timing}
	for {
		began := time.Now()
		err := r.Push.Follow(ctx, r.questions, func(u watcher.TaskUpdate) bool {
			return r.tell(ctx, report{part: tasksPart, tasks: u.Tasks, full: u.Listed, confirmed: u.Confirmed})
		})
		if ctx.Err() != nil || !r.tell(ctx, report{part: pushPart, err: err}) {
			return
		}
		if time.Since(began) > timing.PushRetry {
			pause.reset()
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// place is where tasks come from. Of two that could tell them, one is believed at
// any time, and a switch never takes the picture back in time:
//
//   - from push to lists, at once when push is lost: a list is answered by the
//     Swarm's leader, which knows all that push has told;
//   - from lists to push in two steps, because push follows a copy of the leader's
//     store that may lag: the lists end, push is asked whether it is right, and it
//     is believed once it has everything that a list knew which was asked for after
//     the last one of ours. If that takes too long, lists go on.
type place struct {
	via      string // of l.tasks; "" before the first
	fallback error  // why push is not followed

	poller     int // number of the poller that is at work; 0: none
	numbered   int // number of the newest poller
	stopPoller context.CancelFunc

	question uint64    // the newest one
	turning  uint64    // the question whose answer makes push believed; 0: no switch is under way
	notYet   time.Time // a switch that took too long is not tried again before

	patience *time.Timer // ends the wait for push, at the start and while turning
	noticed  string      // what was logged last of why push does not work
}

// mark adds to an update where its tasks come from.
func (l *loop) mark(u watcher.Update) watcher.Update {
	if u.Picture != nil {
		u.Via = l.via
	}
	u.Fallback = l.fallback
	return u
}

// poll starts a poller, whose first list is made at once.
func (l *loop) poll() {
	ctx, cancel := context.WithCancel(l.ctx)
	l.numbered++
	l.poller, l.stopPoller = l.numbered, cancel
	number := l.poller
	l.pollers.Go(func() {
		defer cancel()
		l.followTasks(ctx, number)
	})
}

// endPoll ends the poller; what it still tells is not believed.
func (l *loop) endPoll() {
	if l.poller != 0 {
		l.stopPoller()
		l.poller = 0
	}
}

// ask asks push whether what it told is right, and returns the question's number.
func (l *loop) ask() uint64 {
	if l.Push == nil {
		return 0
	}
	l.question++
	select {
	case <-l.questions: // an older one that nobody has heard
	default:
	}
	l.questions <- l.question
	return l.question
}

// admits reports whether a report of tasks is believed, and does the switching that it brings about.
func (l *loop) admits(r report) bool {
	switch {
	case r.poller != 0:
		if r.poller != l.poller {
			return false
		}
		if r.err == nil {
			l.switched(watcher.ViaEngine)
		}
		return true
	case l.via != watcher.ViaEngine: // push from the start, or as before
	case l.turning == 0:
		if time.Now().Before(l.notYet) {
			return false
		}
		l.endPoll()
		l.turning = l.ask()
		l.patience.Reset(l.Timing.PushBack)
		return false
	case r.confirmed < l.turning:
		return false
	}
	l.endPoll()
	l.turning, l.fallback, l.noticed = 0, nil, ""
	l.patience.Stop()
	l.switched(watcher.ViaSwarmKit)
	return true
}

// switched notes where the tasks come from that are now believed.
func (l *loop) switched(via string) {
	if l.via == via {
		return
	}
	first := l.via == ""
	l.via = via
	l.metrics.switched(via, first)
	switch {
	case l.Push == nil:
	case via == watcher.ViaSwarmKit:
		l.Log.Info("tasks come by push from the control socket", "via", via)
	default:
		l.Log.Info("tasks are listed by the Engine API", "via", via, "every", l.PollInterval)
	}
}

// impatient is called when push has not told in time what it was waited for. Lists
// go on, and push is asked again later: its answer begins another switch.
func (l *loop) impatient() {
	switch {
	case l.via == watcher.ViaSwarmKit || l.pushOnly():
	case l.poller == 0:
		if l.turning != 0 {
			l.turning, l.notYet = 0, time.Now().Add(l.Timing.PushRetry)
			l.patience.Reset(l.Timing.PushRetry)
		}
		l.poll()
	default:
		l.ask()
	}
}

// pushLost goes over to lists.
func (l *loop) pushLost(err error) {
	l.metrics.lost.Inc()
	l.fallback, l.turning = err, 0
	l.patience.Stop()
	if text := err.Error(); text != l.noticed {
		l.noticed = text
		l.Log.Warn("tasks do not come by push from the control socket", "error", err)
	}
	switch {
	case l.pushOnly():
		l.errs[tasksPart] = err
		l.complain()
	case l.poller == 0:
		l.poll()
		if l.last != nil { // the news, before the first list
			u := watcher.Update{Picture: l.last, Err: l.failing(), At: l.good[tasksPart]}
			if u.Err != nil {
				u.At = l.since()
			}
			l.emit(l.mark(u))
		}
	}
}
