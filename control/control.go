package control

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// Publisher takes what a build changed. xds.Server is one.
type Publisher interface {
	// SetCollections names the collections that exist; it is called before
	// anything of them is published.
	SetCollections(names []string)
	// Publish hands over what changed in one collection. The first call for a
	// collection, even with no changes, says that its content is complete.
	Publish(d translate.Delta) error
}

// Control is the loop between the inputs and the publisher.
type Control struct {
	log  *slog.Logger
	pub  Publisher
	pace Pace

	updates chan watcher.Update
	configs chan *config.Config
	disk    chan *secrets.Material
	queries chan func(*translate.Builder)
	done    chan struct{} // closed when Run has returned

	metrics   *metrics
	status    statusBoard
	observers []func(Step)
	wanted    func(*watcher.Picture, []secrets.Want) // see OnWanted; nil: nobody
	wantedCA  func()                                 // see OnWantedLocalCA; nil: nobody
	issuers   func([]string)                         // see OnWantedIssuers; nil: nobody
	held      func()                                 // see OnHeld; nil: nobody
}

// New makes a control loop for a first configuration. Nothing happens before Run.
func New(cfg *config.Config, pub Publisher, pace Pace, log *slog.Logger) *Control {
	c := &Control{
		log: log, pub: pub, pace: pace,
		updates: make(chan watcher.Update),
		configs: make(chan *config.Config, 1),
		disk:    make(chan *secrets.Material, 1),
		queries: make(chan func(*translate.Builder)),
		done:    make(chan struct{}),
		metrics: newMetrics(),
	}
	c.configs <- cfg
	return c
}

// Update hands over one step of the source; it is the emit of watcher.Source.Run.
// It waits while a build is under way: a source that tells faster than Waggle
// translates is slowed down, and its steps are merged at the next build.
func (c *Control) Update(u watcher.Update) {
	select {
	case c.updates <- u:
	case <-c.done:
	}
}

// Reconfigure replaces the configuration; everything is translated anew.
func (c *Control) Reconfigure(cfg *config.Config) { replace(c.configs, cfg, c.done) }

// Material replaces what collections have on disk.
func (c *Control) Material(m *secrets.Material) { replace(c.disk, m, c.done) }

// replace puts v into a channel with room for one.
func replace[T any](ch chan T, v T, done <-chan struct{}) {
	for {
		select {
		case ch <- v:
			return
		case <-done:
			return
		default:
		}
		select { // an older one still waits: the newer one takes its place
		case <-ch:
		default:
		}
	}
}

// ErrStopped is what Query returns after the loop has ended.
var ErrStopped = errors.New("the control loop has stopped")

// Query runs f with what the last build made, between two builds. f must not keep
// anything of the builder that it did not copy.
func (c *Control) Query(ctx context.Context, f func(*translate.Builder)) error {
	ran := make(chan struct{})
	select {
	case c.queries <- func(b *translate.Builder) { defer close(ran); f(b) }:
		<-ran
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return ErrStopped
	}
}

// loop is the state that Run's goroutine owns; nobody else touches it.
type loop struct {
	*Control
	builder *translate.Builder
	cfg     *config.Config
	newCfg  bool
	// material is what is on disk, builtOn what the builder knows of it.
	material, builtOn *secrets.Material

	latest *watcher.Picture // newest picture, nil before the first complete list
	built  *watcher.Picture // what the builder knows
	// structure holds changes that the builder has not seen and that may touch
	// routes; tasks those that touch endpoints only.
	structure, tasks watcher.Changes

	lastStructure, lastTasks time.Time       // when a build of each kind ended
	published                map[string]bool // collections whose content was handed over
	holdUntil                time.Time       // see hold
	guard                    shrinkGuard     // stands before the publisher
}

// Run is the loop. Only one of these can happen at a time:
//
//  1. the source tells something: a picture, or that it cannot read;
//  2. the operator's configuration changes;
//  3. what collections have on disk changes;
//  4. the hold-off after the last build ends while changes are pending: build and publish;
//  5. somebody asks what was built;
//  6. ctx ends, and with it the loop.
func (c *Control) Run(ctx context.Context) error {
	defer close(c.done)
	l := &loop{Control: c, builder: translate.NewBuilder(), published: map[string]bool{}}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		if wait, pending := l.wait(); pending {
			if wait <= 0 {
				l.build()
				continue
			}
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case u := <-c.updates:
			l.update(u)
		case cfg := <-c.configs:
			l.cfg, l.newCfg = cfg, true
			l.status.configured(cfg)
			c.pub.SetCollections(slices.Sorted(maps.Keys(cfg.Collections)))
			l.tell(Step{At: time.Now(), Kind: ConfigStep})
		case m := <-c.disk:
			l.onDisk(m)
		case <-due:
		case ask := <-c.queries:
			ask(l.builder)
		case <-ctx.Done():
			return nil
		}
	}
}

// onDisk takes what is on disk.
func (l *loop) onDisk(m *secrets.Material) {
	l.material = m
	l.structure.Merge(watcher.Changes{Shared: true})
}

// catchUp takes what is on disk, if that was told: what came before the source or the
// operator told theirs is there when that is built.
func (l *loop) catchUp() {
	select {
	case m := <-l.disk:
		l.onDisk(m)
	default:
	}
}

// update takes one step of the source.
func (l *loop) update(u watcher.Update) {
	was := l.status.source(u)
	if (u.Err == nil) != (was == nil) || u.Err != nil && u.Err.Error() != was.Error() {
		l.tell(Step{At: time.Now(), Kind: SourceStep, Err: u.Err})
	}
	switch {
	case u.Err != nil && was == nil:
		l.log.Warn("not everything that runs can be read; what cannot stays as it was", "error", u.Err)
	case u.Err == nil && was != nil:
		l.log.Info("everything that runs can be read again", "was", was)
	}
	if u.Picture == nil {
		return // nothing complete yet
	}
	l.latest = u.Picture
	l.tasks.Merge(watcher.Changes{Tasks: u.Changes.Tasks})
	if u.Changes.Structure() {
		l.structure.Merge(u.Changes)
	}
	l.listed(u.Full, !u.Changes.Empty())
}

// wait says how long the pending changes must still be gathered; false if there are none to build.
func (l *loop) wait() (time.Duration, bool) {
	if l.latest == nil || l.cfg == nil {
		return 0, false
	}
	if l.built == nil {
		return l.hold(), true
	}
	if l.newCfg {
		return 0, true
	}
	wait, pending := time.Duration(0), false
	if l.structure.Structure() {
		wait, pending = time.Until(l.lastStructure.Add(l.pace.structure(len(l.latest.Services)))), true
	}
	if !l.tasks.Empty() {
		t := time.Until(l.lastTasks.Add(l.pace.Tasks))
		if !pending || t < wait {
			wait, pending = t, true
		}
	}
	return wait, pending
}

// build translates what is pending and publishes it. While structural changes
// still have to wait, tasks do not wait for them: they are built on the structure
// that the proxies have.
func (l *loop) build() {
	start := time.Now()
	l.catchUp()
	whole := l.newCfg || l.built == nil || l.structure.Structure() && !start.Before(l.lastStructure.Add(l.pace.structure(len(l.latest.Services))))
	picture, material, changes := l.latest, l.material, l.tasks
	switch {
	case whole && (l.newCfg || l.built == nil):
		changes = watcher.Changes{All: true}
	case whole:
		changes.Merge(l.structure)
	default:
		material = l.builtOn
		onOld := *l.built
		onOld.Tasks = l.latest.Tasks
		picture = &onOld
		// The structural build to come must look at these tasks again: their service may be new in it.
		if l.structure.Structure() {
			l.structure.Merge(l.tasks)
		}
	}
	o := occasion{now: start, open: picture.Static || picture.Loopback, meant: l.newCfg, current: whole || !l.structure.Structure()}
	deltas := l.builder.Build(translate.Input{Picture: picture, Config: l.cfg, Material: material}, changes)
	l.built, l.builtOn, l.tasks = picture, material, watcher.Changes{}
	if whole {
		l.structure, l.newCfg = watcher.Changes{}, false
		deltas = l.settle(picture, deltas)
	}
	translated := time.Since(start)
	l.finish(start, translated, whole, picture, l.guarded(deltas, o))
}

// finish publishes what was built of a picture, and tells of it.
func (l *loop) finish(start time.Time, translated time.Duration, whole bool, picture *watcher.Picture, deltas []translate.Delta) {
	l.publish(deltas)
	end := time.Now()
	l.lastTasks = end
	kind := "endpoints"
	if whole {
		l.lastStructure, kind = end, "structure"
	}
	l.metrics.built(kind, translated, end.Sub(start))
	if problems := l.builder.Problems(); l.status.built(end, picture, problems) {
		l.metrics.problems(problems)
	}
	l.tell(Step{At: end, Kind: BuildStep, Structure: whole, Changed: sizes(deltas)})
	if len(deltas) > 0 {
		l.log.Debug("published", "kind", kind, "collections", len(deltas), "took", end.Sub(start))
	}
}

// publish hands deltas over, and an empty one for each collection that has
// nothing to say yet: that nothing is in it is an answer too.
func (l *loop) publish(deltas []translate.Delta) {
	hand := func(d translate.Delta) {
		if err := l.pub.Publish(d); err != nil {
			l.log.Error("a collection could not be published; its proxies keep what they have", "collection", d.Collection, "error", err)
			return
		}
		l.published[d.Collection] = true
	}
	for _, d := range deltas {
		hand(d)
	}
	for _, name := range slices.Sorted(maps.Keys(l.cfg.Collections)) {
		if !l.published[name] {
			hand(translate.Delta{Collection: name})
		}
	}
	maps.DeleteFunc(l.published, func(name string, _ bool) bool { return l.cfg.Collections[name] == nil })
}
