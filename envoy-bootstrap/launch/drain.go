package launch

import (
	"context"
	"log/slog"
	"syscall"
	"time"
)

// stopWithin is how long an Envoy may take to end after SIGTERM, which needs some 10 ms:
// a kill is for one that hangs.
const stopWithin = time.Second

// pollEvery is how often a draining Envoy is asked what it still has under way.
const pollEvery = 100 * time.Millisecond

// drain ends an Envoy so that no request is lost: who checks it leaves first, then
// its connections are closed between requests, then nobody new is let in, and only
// when nothing is under way, or the time is over, it is stopped.
type drain struct {
	child        *child
	admin        *admin
	total, delay time.Duration
	log          *slog.Logger
}

// run returns when Envoy has ended, or was killed. The end of hurry cuts every wait short.
func (d drain) run(hurry context.Context) {
	if d.total > 0 {
		ctx, cancel := context.WithTimeout(hurry, d.total-min(d.total/4, stopWithin))
		d.empty(ctx)
		cancel()
	}
	d.child.signal(syscall.SIGTERM)
	timer := time.NewTimer(stopWithin)
	defer timer.Stop()
	select {
	case <-d.child.ended:
	case <-timer.C:
		d.log.Warn("Envoy did not end after SIGTERM: killing it")
		d.child.signal(syscall.SIGKILL)
	}
}

// empty waits until Envoy has nothing under way, until ctx ends at the latest.
func (d drain) empty(ctx context.Context) {
	// This makes /ready answer 503, and Envoy say "connection: close" in every answer.
	if err := d.admin.do(ctx, "/healthcheck/fail"); err != nil {
		if ctx.Err() == nil {
			d.log.Warn("the drain is left out", "because", err)
		}
		return
	}
	d.pause(ctx, d.delay)
	// The same for listeners that do not go by the health check. Envoy goes on letting
	// clients in: who does not check readiness is better served than refused, as long
	// as there is time.
	d.tell(ctx, "/drain_listeners?graceful&skip_exit")
	left, _ := ctx.Deadline()
	doors, cancel := context.WithDeadline(ctx, left.Add(-min(time.Until(left)/4, 3*time.Second)))
	defer cancel()
	d.until(doors, func(o open) bool { return o.connections == 0 })
	// Then nobody new: a refused client asks another proxy, one that is cut in the
	// middle cannot know whether it may. Idle connections are waited for no longer.
	d.tell(ctx, "/drain_listeners")
	o, enough := d.until(ctx, func(o open) bool { return o.requests == 0 && o.raw == 0 })
	if !enough {
		d.log.Warn("the time for the drain is over: what is still under way is cut", "requests", o.requests, "connections", o.connections)
		return
	}
	d.log.Info("drained", "idle", o.connections)
}

// until asks what is under way until it is little enough, and gives the last answer.
func (d drain) until(ctx context.Context, enough func(open) bool) (now open, ok bool) {
	for {
		if got, err := d.admin.open(ctx); err == nil {
			now = got
			if enough(now) {
				return now, true
			}
		}
		if !d.pause(ctx, pollEvery) {
			return now, false
		}
	}
}

// tell has Envoy do something; the drain goes on if it does not.
func (d drain) tell(ctx context.Context, what string) {
	if ctx.Err() != nil {
		return
	}
	if err := d.admin.do(ctx, what); err != nil && ctx.Err() == nil {
		d.log.Warn("a step of the drain failed", "because", err)
	}
}

// pause waits; it is false if the drain is over before.
func (d drain) pause(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-d.child.ended:
	}
	return false
}
