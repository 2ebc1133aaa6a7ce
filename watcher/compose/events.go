package compose

import (
	"context"
	"strconv"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// told are the actions that change a picture. The others, above all the exec_… of
// every health check, do not come this way.
var told = []events.Action{
	events.ActionCreate, events.ActionStart, events.ActionKill, events.ActionDie, events.ActionStop, events.ActionDestroy,
	events.ActionPause, events.ActionUnPause, events.ActionRename, events.ActionHealthStatus, // its "health_status: healthy" too
	events.ActionConnect, events.ActionDisconnect, events.ActionRemove,
}

// sign is what an event says of a container before any list can.
type sign struct {
	container string
	kind      signKind
	signal    syscall.Signal // of killed
	at        time.Time
}

type signKind int

const (
	killed  signKind = iota // a signal was sent
	ended                   // it runs no more
	started                 // it runs anew
)

// followEvents keeps a stream of events open. Every time one has been opened, or
// could not be, everything is listed anew: what happened in between, no stream has
// told. So a list always follows the opening, never the other way round.
func (r *run) followEvents(ctx context.Context) {
	f := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("type", string(events.NetworkEventType)))
	for _, action := range told {
		f.Add("event", string(action))
	}
	pause := backoff{Timing: r.Timing}
	for ctx.Err() == nil {
		opened := time.Now()
		err := r.daemon.Events(ctx, f, func() {
			r.soil()
			r.tell(ctx, report{part: eventsPart})
		}, func(m events.Message) {
			if s, ok := signOf(m, time.Now()); ok && !r.tell(ctx, report{part: signPart, sign: s}) {
				return
			}
			r.soil()
		})
		if time.Since(opened) > r.Timing.BackoffMax {
			pause.reset()
		}
		if err != nil {
			r.soil()
			if !r.tell(ctx, report{part: eventsPart, err: err}) {
				return
			}
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// signOf reads an event of a container; not ok where only a list can say what it means.
func signOf(m events.Message, now time.Time) (sign, bool) {
	s := sign{container: m.Actor.ID, at: now}
	if m.Type != events.ContainerEventType || s.container == "" {
		return s, false
	}
	switch m.Action {
	case events.ActionKill:
		n, err := strconv.Atoi(m.Actor.Attributes["signal"])
		s.kind, s.signal = killed, syscall.Signal(n)
		return s, err == nil
	case events.ActionDie:
		s.kind = ended
		return s, true
	case events.ActionStart:
		s.kind = started
		return s, true
	}
	return s, false
}

// backoff is the pause between failures: doubled each time, with jitter.
type backoff struct {
	Timing
	next time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// wait pauses between half and all of the current step, which doubles; false when ctx ends.
func (b *backoff) wait(ctx context.Context) bool {
	step := max(b.BackoffMin, min(b.next, b.BackoffMax))
	b.next = 2 * step
	return sleep(ctx, step/2+time.Duration(b.Jitter()*float64(step/2)))
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
