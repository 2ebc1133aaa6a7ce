package engine

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// wants is what must be read again.
type wants struct {
	all      bool                // everything
	services bool                // every service
	ids      map[string]struct{} // these services

	nodes, networks, configs, secrets bool
}

func (w wants) empty() bool {
	return !w.all && !w.services && len(w.ids) == 0 && !w.nodes && !w.networks && !w.configs && !w.secrets
}

// maxIDs is how many services are asked for by name; above it all are listed.
const maxIDs = 50

// dirt gathers what must be read again, between those who find out and the one who reads.
type dirt struct {
	mu    sync.Mutex
	wants wants
	wake  chan struct{} // capacity 1: wants is not empty
}

func newDirt() *dirt { return &dirt{wake: make(chan struct{}, 1)} }

func (d *dirt) add(w wants) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := &d.wants
	v.all = v.all || w.all
	v.services = v.services || w.services
	v.nodes = v.nodes || w.nodes
	v.networks = v.networks || w.networks
	v.configs = v.configs || w.configs
	v.secrets = v.secrets || w.secrets
	if !v.services && len(w.ids) > 0 {
		if v.ids == nil {
			v.ids = map[string]struct{}{}
		}
		maps.Copy(v.ids, w.ids)
		if len(v.ids) > maxIDs {
			v.services, v.ids = true, nil
		}
	}
	if !v.empty() {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

func (d *dirt) take() wants {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.wants
	d.wants = wants{}
	return w
}

// followEvents keeps a stream of the Swarm's events open. Every time one has been
// opened, or could not be, everything is read anew: what happened in between, no
// stream has told. So a list always follows the opening, never the other way round.
func (r *run) followEvents(ctx context.Context) {
	pause := r.newBackoff()
	for ctx.Err() == nil {
		opened := time.Now()
		err := r.stream(ctx, func() {
			r.dirt.add(wants{all: true})
			r.tell(ctx, report{part: eventsPart})
		})
		if time.Since(opened) > r.Timing.BackoffMax {
			pause.reset()
		}
		if err != nil {
			r.dirt.add(wants{all: true})
			if !r.tell(ctx, report{part: eventsPart, err: err}) {
				return
			}
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// stream reads events until the stream ends. It returns an error only where none
// could be opened: streams end now and then (proxies cut them), and are opened again.
func (r *run) stream(ctx context.Context, opened func()) error {
	f := filters.NewArgs(filters.Arg("scope", "swarm"))
	for _, kind := range []events.Type{events.ServiceEventType, events.NodeEventType, events.NetworkEventType, events.ConfigEventType, events.SecretEventType} {
		f.Add("type", string(kind))
	}
	return follow(ctx, r.conn, f, opened, r.event)
}

// event is the part of Docker's events.Message that counts.
type event struct {
	Type  events.Type
	Actor struct{ ID string }
}

// event notes what an event makes worth reading again. What it says of the thing
// itself is not used: events may be lost, doubled or late, and a read never is.
func (r *run) event(e event) {
	switch e.Type {
	case events.ServiceEventType:
		if e.Actor.ID == "" {
			r.dirt.add(wants{services: true})
		} else {
			r.dirt.add(wants{ids: map[string]struct{}{e.Actor.ID: {}}})
		}
		r.hurry()
	case events.NodeEventType:
		r.dirt.add(wants{nodes: true})
		r.hurry()
	case events.NetworkEventType:
		r.dirt.add(wants{networks: true})
	case events.ConfigEventType:
		r.dirt.add(wants{configs: true})
	case events.SecretEventType:
		r.dirt.add(wants{secrets: true})
	}
}

// backoff is the pause between failures: doubled each time, with jitter.
type backoff struct {
	Timing
	next time.Duration
}

func (r *run) newBackoff() *backoff { return &backoff{Timing: r.Timing} }

func (b *backoff) reset() { b.next = 0 }

// pause is between half and all of the current step, which doubles.
func (b *backoff) pause() time.Duration {
	step := max(b.BackoffMin, min(b.next, b.BackoffMax))
	b.next = 2 * step
	return step/2 + time.Duration(b.Jitter()*float64(step/2))
}

// wait pauses; false when ctx ends.
func (b *backoff) wait(ctx context.Context) bool { return sleep(ctx, b.pause()) }

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
