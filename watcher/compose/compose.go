// Package compose reads what runs from a plain Docker daemon, without a Swarm: the
// labels of containers are the service labels.
//
// Containers with the same com.docker.compose.project and com.docker.compose.service
// are one service, <project>_<service> of the stack <project>; any other container
// is a service of its own, by its name. Each container is a task: ready while it
// runs and its health check, if it has one, passes.
//
// A plain Docker gives no early warning. A Swarm lets 2–3 s pass between wanting a
// task gone and its SIGTERM; here the event that tells of the SIGTERM is the first
// that anybody hears, and a program that stops at once is gone some 40 ms later. The
// task leaves at that event, and the proxies try again what was refused: but, other
// than on a Swarm, it is not promised that no request is lost.
//
// Only GET requests are made, so a read-only socket proxy is enough that lets
// /_ping, /events, /containers, /networks and, for the engine's name, /info pass.
package compose

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine"
)

// Options say which Docker daemon to read, and how.
type Options struct {
	// Host is the daemon's address, "unix:///var/run/docker.sock" if empty.
	Host string
	// CertDir holds ca.pem, cert.pem and key.pem for a tcp:// host that speaks TLS;
	// empty: no TLS.
	CertDir string
	// Projects are the only Compose projects that count; none: all do, and
	// containers outside Compose too.
	Projects []string
	// Log takes what is worth saying once; nil: nobody.
	Log *slog.Logger
	// Timing is for tests.
	Timing Timing
}

// Timing holds the times that hardly anybody needs to change. Zero values mean the defaults.
type Timing struct {
	FullList   time.Duration  // between lists that no event asks for, ± a fifth: 10 s
	Confirm    time.Duration  // from a change to the list that confirms it: 1 s
	Settle     time.Duration  // how long events are gathered before a list: 30 ms
	Survive    time.Duration  // beyond its own grace period, until a container has survived its stop signal: 30 s
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
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &o.Timing
	set(&t.FullList, 10*time.Second)
	set(&t.Confirm, time.Second)
	set(&t.Settle, 30*time.Millisecond)
	set(&t.Survive, 30*time.Second)
	set(&t.Timeout, 10*time.Second)
	set(&t.BackoffMin, 200*time.Millisecond)
	set(&t.BackoffMax, 10*time.Second)
	if t.Jitter == nil {
		t.Jitter = rand.Float64
	}
	o.Projects = slices.Clone(o.Projects)
	return o
}

// Source is a watcher.Source on a plain Docker daemon.
type Source struct {
	options Options
}

// New makes a source; nothing is contacted before Run or Check.
func New(o Options) *Source { return &Source{options: o.withDefaults()} }

// Name is "compose".
func (*Source) Name() string { return "compose" }

// Check reads everything once and says in one sentence what stands in the way,
// and the way out; nil if nothing does.
func (s *Source) Check(ctx context.Context) error {
	daemon, err := s.connect()
	if err != nil {
		return err
	}
	defer daemon.Close()
	_, err = newReader(daemon, s.options).list(ctx)
	return err
}

func (s *Source) connect() (*engine.Daemon, error) {
	return engine.Connect(engine.Options{Host: s.options.Host, CertDir: s.options.CertDir, Timing: engine.Timing{Timeout: s.options.Timing.Timeout}},
		"/_ping, /events, /containers and /networks")
}

// run is what the readers and the loop of one Run share.
type run struct {
	Options
	daemon  *engine.Daemon
	reports chan report
	dirty   chan struct{} // capacity 1: everything is to be listed again
}

// Run tells what runs until ctx ends. It returns an error at once only where
// Options.Host or CertDir can never work.
func (s *Source) Run(ctx context.Context, emit func(watcher.Update)) error {
	daemon, err := s.connect()
	if err != nil {
		return err
	}
	defer daemon.Close()
	ctx, cancel := context.WithCancel(ctx)
	r := &run{Options: s.options, daemon: daemon, reports: make(chan report), dirty: make(chan struct{}, 1)}

	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.followEvents(ctx) })
	wg.Go(func() { r.followLists(ctx) })

	l := newLoop(r.Options, emit)
	defer l.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case rep := <-r.reports:
			l.take(rep)
		case <-l.survival.C:
			l.survived(time.Now())
		case <-l.confirm.C:
			l.confirming = false
			r.soil()
		}
	}
}

// soil asks for a new list.
func (r *run) soil() {
	select {
	case r.dirty <- struct{}{}:
	default:
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
