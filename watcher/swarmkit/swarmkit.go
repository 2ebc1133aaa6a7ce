// Package swarmkit follows tasks by push: the Watch API of SwarmKit, which every
// Swarm manager serves on its local control socket.
//
// It tells each change of a task as the manager's store takes it, 2–3 s before
// Swarm stops a container; nothing else of a Swarm does. The same socket can change
// the Swarm and tells secrets in clear to whoever watches them, so this package
// watches kind "task" and calls ListTasks, and nothing else; what it receives is
// turned into watcher.Task at once and never logged.
package swarmkit

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/moby/swarmkit/v2/api"

	"github.com/waggle-lb/waggle/watcher"
)

// DefaultSocket is where dockerd has its control socket.
const DefaultSocket = "/var/run/docker/swarm/control.sock"

// Options say which control socket to follow, and how.
type Options struct {
	// Socket is the path of the control socket; empty: DefaultSocket. In a container
	// its directory must be mounted: the socket is made anew when the node is promoted.
	Socket string
	// Log takes what is worth saying once; nil: nobody.
	Log *slog.Logger
	// Timing is for tests.
	Timing Timing
}

// Timing holds the times that hardly anybody needs to change. Zero values mean the defaults.
type Timing struct {
	Timeout time.Duration // after which an answer is given up: 3 s
	Check   time.Duration // from one check that the stream is alive and complete to the next: 5 s
	Lag     time.Duration // how far the stream may be behind a list: 2 s
	Grace   time.Duration // how long a cut stream is taken up again before it is given up: 500 ms
	Pause   time.Duration // between attempts to take it up: 50 ms
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &o.Timing
	set(&t.Timeout, 3*time.Second)
	set(&t.Check, 5*time.Second)
	set(&t.Lag, 2*time.Second)
	set(&t.Grace, 500*time.Millisecond)
	set(&t.Pause, 50*time.Millisecond)
	return o
}

// Tasks tells tasks by push. It keeps nothing from one Follow to the next.
type Tasks struct {
	Options
}

// New makes one; nothing is contacted before Follow or Check.
func New(o Options) *Tasks { return &Tasks{o.withDefaults()} }

// Check follows tasks up to the first list, and says in one sentence what stands in
// the way, and the way out; nil if nothing does.
func (t *Tasks) Check(ctx context.Context) error {
	s, err := t.open(ctx, nil, t.Timing.Timeout)
	if err != nil {
		return err
	}
	defer s.close()
	_, err = s.list(ctx, checked, t.Timing.Timeout)
	return err
}

// Follow tells tasks until ctx ends (then it returns nil) or the control socket
// cannot be followed any more (then it says why in one sentence, with the way out).
// tell is called by one goroutine, never after Follow has returned; it may block,
// and what changes meanwhile is told together. tell returns false when nobody
// listens any more.
//
// A number in questions asks whether what was told last is right: a list of all
// tasks is made then, and once everything that it knows has been told, TaskUpdate
// has the number as Confirmed. Such a list is also made every now and then, because
// a stream may go silent without ending (a manager that has lost the others).
//
// A stream that is cut is taken up again where it ended, without a word, for as long
// as Timing.Grace: dockerd cuts it now and then. Longer than that nobody should wait
// who has another way to learn of tasks.
func (t *Tasks) Follow(ctx context.Context, questions <-chan uint64, tell func(watcher.TaskUpdate) bool) error {
	b := newBook()
	resume, budget := false, t.Timing.Timeout
	var lost time.Time // when the last stream was cut
	for {
		began := time.Now()
		err := t.once(ctx, b, resume, budget, questions, tell)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		var c *cut
		switch wasCut := errors.As(err, &c); {
		case wasCut && time.Since(began) < t.Timing.Grace: // cut as soon as it had begun: no second chance
			return c.error
		case wasCut:
			lost, resume, err = time.Now(), true, c.error
		case lost.IsZero():
			return err
		default:
			resume = false // that may be what failed: the manager's log is compacted
		}
		if !sleep(ctx, t.Timing.Pause) {
			return nil
		}
		if budget = time.Until(lost.Add(t.Timing.Grace)); budget <= 0 {
			return err
		}
	}
}

// once follows one stream to its end; budget limits how long it takes to begin. Its
// error is a *cut where the stream had begun and the other side ended it.
func (t *Tasks) once(ctx context.Context, b *book, resume bool, budget time.Duration, questions <-chan uint64, tell func(watcher.TaskUpdate) bool) error {
	var from *api.Version
	if resume {
		from = b.version()
	}
	s, err := t.open(ctx, from, budget)
	if err != nil {
		return err
	}
	defer s.close()
	if from == nil {
		tasks, err := s.list(ctx, whole, budget)
		if err != nil {
			return err
		}
		b.reset(tasks)
	} else {
		t.Log.Info("the stream of the control socket was cut, and is taken up where it ended", "socket", t.Socket)
	}
	return s.follow(ctx, b, from != nil, questions, tell)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
