// Package launch is the entry point of a proxy's container: it writes the bootstrap,
// starts Envoy as its child, and turns the container's stop signal into a drain that
// loses no request. Envoy alone exits at once on SIGTERM, and images without a shell
// have nothing else that could wait for it.
package launch

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
)

// Defaults of the command; in Options zero means zero.
const (
	// DefaultDrain fits into the 10 s that Docker grants by default, and just so: a
	// service whose requests take longer needs more of both.
	DefaultDrain = 10 * time.Second
	// DefaultDrainDelay is two or three checks of a balancer.
	DefaultDrainDelay = 2 * time.Second
	// DefaultListenerDrain is Envoy's own: how long streams survive a changed listener.
	DefaultListenerDrain = 10 * time.Minute
)

// Options say what is started and how it ends.
type Options struct {
	// Bootstrap is what the proxy starts with. An empty node ID becomes
	// "<collection>/<host name>". Port 0 as admin address is an error: nobody would
	// find it, neither the drain nor the health check.
	Bootstrap bootstrap.Options
	// Binary is the path of Envoy; empty: Find.
	Binary string
	// Dir is where the bootstrap is written, and, where Bootstrap.TLS names no other
	// directory, its SDS files. It must exist. Empty: a private temporary directory that
	// is removed at the end.
	Dir string
	// Args are further flags of Envoy's. They take the place of those that Run would
	// give, but for the bootstrap file.
	Args []string
	// LogLevel is Envoy's; empty: warning.
	LogLevel string
	// Concurrency is the number of Envoy's worker threads; 0: as many as this process
	// may use CPUs, by its cgroup and affinity (at least 2 where there are 2).
	Concurrency int
	// ListenerDrain is how long connections of a listener that the control plane
	// changed or removed live on, in whole seconds. It does not bound Drain.
	ListenerDrain time.Duration
	// Drain is the longest time from the stop signal to the end of Envoy; 0: it is
	// stopped at once. The container's grace period must be longer.
	Drain time.Duration
	// DrainDelay is the part of Drain in which the proxy serves whoever comes, however
	// little that is, but says that it is not ready, so that balancers leave first.
	DrainDelay time.Duration
	// ReadyAddress is host:port of a small HTTP server that says to balancers whether
	// the proxy is ready; empty: there is none.
	ReadyAddress string
	// Signals bring SIGTERM, SIGINT and SIGQUIT, the first of which begins the drain,
	// the second ends it early, the third kills; others are handed on to Envoy. See Notify.
	Signals <-chan os.Signal
	// Stdout is Envoy's (access logs), Stderr gets a copy of what it logs; nil: this process's.
	Stdout, Stderr *os.File
	// Logger gets what the launcher itself has to say, one line per event; nil: nothing is logged.
	Logger *slog.Logger
}

// Notify subscribes to the signals that Run understands, until stop is called.
func Notify() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1)
	return c, func() { signal.Stop(c) }
}

// Run starts an Envoy and returns when it has ended: nil if it was told to, by a signal
// or the end of ctx (which is the same as one signal), *Ended if it ended by itself, and
// any other error if it could not be started or refused its bootstrap or flags.
func Run(ctx context.Context, o Options) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Drain < 0 || o.DrainDelay < 0 || o.DrainDelay > 0 && o.DrainDelay >= o.Drain {
		return fmt.Errorf("drain %v with a delay of %v: the delay is part of the drain and must be shorter", o.Drain, o.DrainDelay)
	}
	binary, err := Find(o.Binary)
	if err != nil {
		return err
	}
	dir, remove, err := directory(o.Dir)
	if err != nil {
		return err
	}
	defer remove()
	b, err := makeBootstrap(o.Bootstrap, dir)
	if err != nil {
		return err
	}
	page, err := adminOf(b.GetAdmin())
	if err != nil {
		return err
	}
	defer page.close()
	if err := page.free(ctx); err != nil {
		return err
	}
	file, err := write(dir, b, o.Bootstrap.TLS)
	if err != nil {
		return err
	}
	args, err := arguments(o, file)
	if err != nil {
		return err
	}
	ready := &readiness{admin: page}
	stopServing, err := ready.serve(o.ReadyAddress, o.Logger)
	if err != nil {
		return err
	}
	defer stopServing()
	c, err := start(binary, args, o.Stdout, o.Stderr)
	if err != nil {
		return fmt.Errorf("start Envoy: %w", err)
	}
	warn(o.Bootstrap.TLS, o.Logger)
	o.Logger.Info("Envoy is started", "collection", o.Bootstrap.Collection, "node", b.GetNode().GetId(), "pid", c.pid(), "admin", page.address)
	return supervise(ctx, o, c, page, ready)
}

// supervise waits for the end of a started Envoy, and brings it about when told to.
func supervise(ctx context.Context, o Options, c *child, page *admin, ready *readiness) error {
	var alive atomic.Bool
	var work sync.WaitGroup
	defer work.Wait()
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	work.Go(func() { watchStart(background, page, &alive, o.Logger) })

	hurry, hasten := context.WithCancel(background)
	defer hasten()
	stops := 0
	stop := func(why string) {
		switch stops++; stops {
		case 1:
			o.Logger.Info("stopping", "because", why, "drain", o.Drain)
			ready.drain()
			d := drain{child: c, admin: page, total: o.Drain, delay: o.DrainDelay, log: o.Logger}
			work.Go(func() { d.run(hurry) })
		case 2:
			o.Logger.Info("stopping without further waiting", "because", why)
			hasten()
		default:
			o.Logger.Warn("killing Envoy", "because", why)
			c.signal(syscall.SIGKILL)
		}
	}
	done := ctx.Done()
	for {
		select {
		case <-c.ended:
			end := c.end()
			switch {
			case stops > 0 && c.asTold(), end.Code == 0:
				o.Logger.Info("Envoy has ended")
				return nil
			case !alive.Load() && end.Signal == 0:
				return fmt.Errorf("Envoy does not start: %s", cmp.Or(end.LastWords, end.Error())) //nolint:staticcheck // a name
			}
			return end
		case s := <-o.Signals:
			switch s {
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
				stop(s.String())
			default:
				o.Logger.Info("handing a signal on to Envoy", "signal", s)
				c.signal(s)
			}
		case <-done:
			done = nil
			stop(context.Cause(ctx).Error())
		}
	}
}

// watchStart says when the proxy is alive and when it is ready, and what it waits for.
func watchStart(ctx context.Context, page *admin, alive *atomic.Bool, log *slog.Logger) {
	const patience = 15 * time.Second
	began, complained := time.Now(), false
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if !alive.Load() {
			_, err := page.alive(ctx)
			alive.Store(err == nil)
		}
		if alive.Load() {
			_, err := page.ready(ctx)
			switch {
			case err == nil:
				log.Info("the proxy is ready", "after", time.Since(began).Round(time.Millisecond))
				return
			case time.Since(began) > patience && !complained && ctx.Err() == nil:
				complained = true
				log.Warn("the proxy is not ready: it has not got its configuration from the control plane yet", "after", patience)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
