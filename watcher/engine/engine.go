// Package engine reads what runs from a Swarm manager through the Docker Engine API.
//
// Structure (services, nodes, networks, configs, names of secrets) is listed once
// and then kept up by events, with a full list now and then. Docker has no events
// for tasks: they come from one list of all services' tasks, asked for often
// enough that a task which Swarm wants gone is seen well before it stops (Swarm
// waits 2–3 s). Only GET requests are made, so a read-only socket proxy that lets
// /_ping, /events, /services, /tasks, /nodes, /networks, /configs and /secrets pass
// is enough; without the last two, names of configs and secrets are not known.
//
// Tasks may also be pushed by somebody else (Options.Push). Then they are not listed
// for as long as that works: see push.go.
package engine

import (
	"context"
	"log/slog"
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
	// Push tells tasks by itself, and they are listed only while it cannot; nil: they
	// are always listed.
	Push Pusher
	// PushOnly says that tasks are never listed: what Push cannot tell is an error.
	PushOnly bool
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

	PushFirst time.Duration // how long the first list of tasks waits for push: 1 s
	PushBack  time.Duration // how long a switch back to push may take to be confirmed: 500 ms
	PushRetry time.Duration // longest pause before push is tried again: 5 s
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
	set(&t.PushFirst, time.Second)
	set(&t.PushBack, 500*time.Millisecond)
	set(&t.PushRetry, 5*time.Second)
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
	metrics *metrics
	again   chan struct{} // see Confirm
}

// New makes a source; nothing is contacted before Run or Check.
func New(o Options) *Source {
	return &Source{options: o.withDefaults(), metrics: newMetrics(), again: make(chan struct{}, 1)}
}

// Confirm asks for a complete list soon, to confirm what was told. It returns at once.
func (s *Source) Confirm() {
	select {
	case s.again <- struct{}{}:
	default: // it is asked for
	}
}

// Name is "engine", "swarmkit" where tasks come by push alone, and "auto" where
// both are used; Update.Via says which of them is.
func (s *Source) Name() string {
	switch {
	case s.options.Push == nil:
		return watcher.ViaEngine
	case s.options.PushOnly:
		return watcher.ViaSwarmKit
	}
	return "auto"
}

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
	if s.options.pushOnly() {
		return s.options.Push.Check(ctx)
	}
	_, err = newTaskReader(conn, s.options).list(ctx, nil)
	return err
}

// The things that are read side by side, each at its own pace.
type part int

const (
	tasksPart part = iota
	structurePart
	eventsPart
	parts
	pushPart part = -1 // tells only that push is lost; where that is an error, it is one of tasksPart
)

// report is what one of the readers tells the loop.
type report struct {
	part part
	err  error

	structure *structure                 // of structurePart
	full      bool                       // structure or tasks were listed completely
	tasks     map[string][]*watcher.Task // of tasksPart, by service; a map of its own

	poller    int    // of tasksPart: which poller listed them; 0: they were pushed
	confirmed uint64 // of tasksPart: as in watcher.TaskUpdate
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
	questions   chan uint64                     // capacity 1: the newest question to push
	pollers     sync.WaitGroup
	metrics     *metrics
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
	r := &run{Options: s.options, conn: conn, reports: make(chan report), dirt: newDirt(), kick: make(chan struct{}, 1), questions: make(chan uint64, 1), metrics: s.metrics}
	r.interesting.Store(true)
	r.down.Store(&map[string]bool{})

	var wg sync.WaitGroup
	defer r.pollers.Wait()
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.followEvents(ctx) })
	wg.Go(func() { r.followStructure(ctx) })

	l := &loop{run: r, ctx: ctx, emit: emit, asked: map[string]bool{}, confirm: stopped(), place: place{patience: stopped()}}
	defer l.confirm.Stop()
	defer l.patience.Stop()
	if r.Push != nil {
		l.patience.Reset(r.Timing.PushFirst)
		wg.Go(func() { r.followPush(ctx) })
	} else {
		l.poll()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case rep := <-r.reports:
			l.take(rep)
		case <-l.confirm.C:
			l.confirming, l.confirmed = false, time.Now()
			r.dirt.add(wants{all: true})
			l.ask()
		case <-s.again:
			l.lookAgain(time.Now())
		case <-l.patience.C:
			l.impatient()
		}
	}
}

// stopped is a timer that somebody will set.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
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
