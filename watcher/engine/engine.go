// Package engine reads what runs from a Swarm manager through the Docker Engine API.
//
// Structure (services, nodes, networks, configs, names of secrets) is listed once
// and then kept up by events, with a full list now and then. Docker has no events
// for tasks: they come from one list of all services' tasks, asked for often
// enough that a task which Swarm wants gone is seen well before it stops (Swarm
// waits 2–3 s). Only GET requests are made, so a read-only socket proxy that lets
// /_ping, /events, /services, /tasks, /nodes, /networks, /configs and /secrets pass
// is enough; without the last two, names of configs and secrets are not known.
package engine

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-lb/waggle/watcher"
)

// Options say which Docker daemon to read, and how.
type Options struct {
	// Host is the daemon's address, "unix:///var/run/docker.sock" if empty.
	Host string
	// CertDir holds ca.pem, cert.pem and key.pem for a tcp:// host that speaks TLS;
	// empty: no TLS.
	CertDir string
	// PollInterval is the time from one list of tasks to the next; 0 means 1 s.
	PollInterval time.Duration
	// Interesting reports whether a service is published at all. While none is,
	// tasks are listed less often. nil: every one is.
	Interesting func(*watcher.Service) bool
	// Log takes what is worth saying once; nil: nobody.
	Log *slog.Logger
	// Timing is for tests.
	Timing Timing
}

// Timing holds the times that hardly anybody needs to change. Zero values mean the defaults.
type Timing struct {
	FastPoll   time.Duration  // between lists of tasks while something is going on: 250 ms
	FastFor    time.Duration  // how long after a change that is: 10 s
	SlowPoll   time.Duration  // between lists of tasks while no service is interesting: 5 s
	FullList   time.Duration  // between full lists of the structure, ± a fifth: 30 s
	Confirm    time.Duration  // least time between full lists because something is gone: 1 s
	Settle     time.Duration  // how long events are gathered before what they name is read: 50 ms
	Timeout    time.Duration  // after which a request is given up: 10 s
	BackoffMin time.Duration  // first pause after a failure: 200 ms
	BackoffMax time.Duration  // longest pause after failures: 10 s
	Jitter     func() float64 // in [0,1)
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	if o.Host == "" {
		o.Host = "unix:///var/run/docker.sock"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Interesting == nil {
		o.Interesting = func(*watcher.Service) bool { return true }
	}
	set(&o.PollInterval, time.Second)
	t := &o.Timing
	set(&t.FastPoll, 250*time.Millisecond)
	set(&t.FastFor, 10*time.Second)
	set(&t.SlowPoll, 5*time.Second)
	set(&t.FullList, 30*time.Second)
	set(&t.Confirm, time.Second)
	set(&t.Settle, 50*time.Millisecond)
	set(&t.Timeout, 10*time.Second)
	set(&t.BackoffMin, 200*time.Millisecond)
	set(&t.BackoffMax, 10*time.Second)
	t.FastPoll = min(t.FastPoll, o.PollInterval)
	t.SlowPoll = max(t.SlowPoll, o.PollInterval)
	if t.Jitter == nil {
		t.Jitter = rand.Float64
	}
	return o
}

// Source is a watcher.Source on the Engine API.
type Source struct {
	options Options
}

// New makes a source; nothing is contacted before Run or Check.
func New(o Options) *Source { return &Source{options: o.withDefaults()} }

// Name is "engine".
func (*Source) Name() string { return "engine" }

// Check reads everything once and says in one sentence what stands in the way,
// and the way out; nil if nothing does.
func (s *Source) Check(ctx context.Context) error {
	conn, err := newConnection(s.options)
	if err != nil {
		return err
	}
	defer conn.close()
	st := newStructureReader(conn, s.options)
	if err := st.refresh(ctx, wants{all: true}); err != nil {
		return err
	}
	_, err = newTaskReader(conn, s.options).list(ctx, nil)
	return err
}

// The three things that are read side by side, each at its own pace.
type part int

const (
	tasksPart part = iota
	structurePart
	eventsPart
	parts
)

// report is what one of the readers tells the loop.
type report struct {
	part part
	err  error

	structure *structure                 // of structurePart
	full      bool                       // structure was listed completely
	tasks     map[string][]*watcher.Task // of tasksPart, by service; a map of its own
}

// run is what the readers and the loop of one Run share.
type run struct {
	Options
	conn    *connection
	reports chan report
	dirt    *dirt // what events say must be read again

	fastUntil   atomic.Int64 // unix nanoseconds; until then tasks are listed fast
	interesting atomic.Bool
	down        atomic.Pointer[map[string]bool] // IDs of the nodes that are down
	kick        chan struct{}                   // capacity 1: the pace of tasks has changed
}

// Run tells what runs until ctx ends. It returns an error at once only where
// Options.Host or CertDir can never work.
func (s *Source) Run(ctx context.Context, emit func(watcher.Update)) error {
	conn, err := newConnection(s.options)
	if err != nil {
		return err
	}
	defer conn.close()
	ctx, cancel := context.WithCancel(ctx)
	r := &run{Options: s.options, conn: conn, reports: make(chan report), dirt: newDirt(), kick: make(chan struct{}, 1)}
	r.interesting.Store(true)
	r.down.Store(&map[string]bool{})

	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.followEvents(ctx) })
	wg.Go(func() { r.followStructure(ctx) })
	wg.Go(func() { r.followTasks(ctx) })

	l := &loop{run: r, emit: emit, asked: map[string]bool{}}
	l.confirm = time.NewTimer(time.Hour)
	l.confirm.Stop()
	defer l.confirm.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case rep := <-r.reports:
			l.take(rep)
		case <-l.confirm.C:
			l.confirming, l.confirmed = false, time.Now()
			r.dirt.add(wants{all: true})
		}
	}
}

// tell hands a report to the loop; false when Run ends.
func (r *run) tell(ctx context.Context, rep report) bool {
	select {
	case r.reports <- rep:
		return true
	case <-ctx.Done():
		return false
	}
}

// hurry makes tasks be listed fast for a while.
func (r *run) hurry() {
	r.fastUntil.Store(time.Now().Add(r.Timing.FastFor).UnixNano())
	r.wakeTasks()
}

func (r *run) wakeTasks() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// loop puts the reports together; only Run's goroutine touches it.
type loop struct {
	*run
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

	asked map[string]bool // unknown services that were asked for since the last full list

	confirm    *time.Timer
	confirming bool
	confirmed  time.Time
}

// take handles one report: it becomes a picture, or the news that there is none.
func (l *loop) take(r report) {
	now := time.Now()
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
			l.tasks, l.fullTasks = r.tasks, true
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
	if full {
		l.fullStructure, l.fullTasks = false, false
	}
	if l.last != nil && gone(l.last, next, changes) && !l.confirming {
		l.confirming = true
		l.confirm.Reset(max(0, l.confirmed.Add(l.Timing.Confirm).Sub(now)))
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
	if l.failing() == nil || !changes.Empty() || full {
		l.emit(watcher.Update{Picture: next, Changes: changes, Full: full, At: now})
	}
	// What could be read is told even where something else could not; the error
	// comes after it, so that it is what is seen.
	l.complain()
}

// complain emits the error that is in force, if one is.
func (l *loop) complain() {
	err := l.failing()
	if err == nil {
		return
	}
	// Without events the structure is as fresh as its last list.
	at := l.good[tasksPart]
	if l.errs[tasksPart] == nil || l.good[structurePart].Before(at) && (l.errs[structurePart] != nil || l.errs[eventsPart] != nil) {
		at = l.good[structurePart]
	}
	if l.last == nil {
		at = time.Time{}
	}
	l.emit(watcher.Update{Picture: l.last, Err: err, At: at})
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
