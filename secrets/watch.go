package secrets

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// Watch keeps reading what is on disk and tells of every change.
type Watch struct {
	o    Options
	emit func(*Material)

	mu       sync.Mutex
	cfg      *config.Config
	declared map[string]Origin // of secrets that stack files make
	others   chan struct{}     // cfg or declared are others than Run knows
	inside   map[string]bool   // directories in those of cfg
	makeCA   bool              // somebody wants a development authority

	looking sync.Mutex // held by whoever reads and tells
	reader  *reader
	last    *Material       // told
	said    map[string]bool // what could not be read
}

// Options of a Watch.
type Options struct {
	// Mounted is where Docker secrets are mounted; "": MountedSecrets.
	Mounted string
	// Settle is how long a file must stay as it is before it counts, so that it is not
	// used half-written; until then what it held before is used. 0: 100 ms.
	Settle time.Duration
	// Every is the time from one look to the next where the system does not tell of
	// changes; where it does, there is one in ten times as long. 0: 500 ms.
	Every time.Duration
	// State is the directory of the control plane itself, where its development
	// authority is kept, unless one is mounted as LocalSecret. "": only the latter.
	State string
	// Providers is what OpenID providers say, which is told with the material; nil:
	// they are not asked.
	Providers *Providers
	// Log takes what cannot be read, once for each text; nil: nobody.
	Log *slog.Logger
}

// NewWatch makes a watch for a configuration. emit gets what is there when it is
// looked at first, and then every change; it is never called concurrently. Nothing is
// read before Look or Run.
func NewWatch(cfg *config.Config, o Options, emit func(*Material)) *Watch {
	if o.Mounted == "" {
		o.Mounted = MountedSecrets
	}
	if o.Every <= 0 {
		o.Every = 500 * time.Millisecond
	}
	if o.Settle <= 0 {
		o.Settle = 100 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Watch{o: o, emit: emit, cfg: cfg, others: make(chan struct{}, 1), reader: newReader(o.Settle)}
}

// Reconfigure replaces the configuration. What it gives to collections is told before
// it returns, so that whoever takes the configuration next finds it.
func (w *Watch) Reconfigure(cfg *config.Config) {
	w.mu.Lock()
	w.cfg = cfg
	w.mu.Unlock()
	w.changed()
}

// Declare notes where the content of secrets is that stack files make; pictures of a Swarm have
// none. As with Reconfigure, what is in them is told before it returns.
func (w *Watch) Declare(p *watcher.Picture) {
	if p == nil {
		return
	}
	if w.o.Providers != nil {
		w.o.Providers.OnLoopback(p.Loopback)
	}
	made := declaredBy(p)
	w.mu.Lock()
	same := maps.Equal(made, w.declared)
	w.declared = made
	w.mu.Unlock()
	if !same {
		w.changed()
	}
}

// WantIssuers says which OpenID providers are wanted (Options.Providers). What is known
// of them, be it that they are being asked, is told before it returns.
func (w *Watch) WantIssuers(issuers []string) {
	if w.o.Providers != nil && w.o.Providers.Want(issuers) {
		w.Look()
	}
}

func (w *Watch) changed() {
	w.Look()
	select {
	case w.others <- struct{}{}: // Run follows other directories
	default:
	}
}

// Look reads what is there now and tells it if it is another. waiting is set where a
// file is just being written, and is to be looked at again soon.
func (w *Watch) Look() (waiting bool) {
	w.looking.Lock()
	defer w.looking.Unlock()
	w.mu.Lock()
	cfg, declared, makeCA := w.cfg, w.declared, w.makeCA
	w.mu.Unlock()
	localErr := w.reader.local.read(w.o.Mounted, w.o.State, makeCA, w.reader.now())
	m, errs, waiting := w.reader.read(cfg, w.o.Mounted, declared)
	if localErr != nil {
		errs = append(errs, localErr)
	}
	w.mu.Lock()
	w.inside = w.reader.inside
	w.mu.Unlock()
	now := map[string]bool{}
	for _, err := range errs {
		if now[err.Error()] = true; !w.said[err.Error()] {
			w.o.Log.Warn("a file is not used", "error", err)
		}
	}
	w.said = now
	if w.o.Providers != nil {
		m.providers = w.o.Providers.Answers()
	}
	if w.last == nil || !m.Equal(w.last) {
		w.last = m
		w.emit(m)
	}
	return waiting
}

// Run looks whenever something may have changed, until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	n := newNotices()
	defer n.close()
	if w.o.Providers != nil {
		var asking sync.WaitGroup
		defer asking.Wait()
		asking.Go(func() { w.o.Providers.Run(ctx, w.changed) })
	}
	for {
		every := w.o.Every
		if n.follow(w.directories()) { // before reading: what changes meanwhile is told
			every *= 10
		}
		if w.Look() || !n.follows(w.directories()) {
			every = w.o.Settle
		}
		if until := w.untilNext(); until < every {
			every = until
		}
		if !w.wait(ctx, n, every) {
			return
		}
	}
}

// wait waits until it is time to look again; false when ctx ends. Changes come in
// crowds: they are looked at together.
func (w *Watch) wait(ctx context.Context, n *notices, every time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-w.others:
		return true
	case <-time.After(every):
		return true
	case <-n.events:
	case <-n.errors:
	}
	crowd := time.NewTimer(w.o.Settle / 4)
	defer crowd.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-crowd.C:
			return true
		case <-n.events:
		case <-n.errors:
		}
	}
}

// untilNext is how long it takes until the material is another although no file is.
func (w *Watch) untilNext() time.Duration {
	w.looking.Lock()
	defer w.looking.Unlock()
	return max(w.reader.next.Sub(w.reader.now()), time.Millisecond)
}

// WantLocal says that somebody wants the development authority: it is made where there
// is none.
func (w *Watch) WantLocal() {
	w.mu.Lock()
	already := w.makeCA
	w.makeCA = true
	w.mu.Unlock()
	if !already {
		w.changed()
	}
}

// directories are those in which something may change.
func (w *Watch) directories() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	dirs := map[string]bool{}
	for _, c := range w.cfg.Collections {
		if len(c.Certificates.Secrets) > 0 {
			dirs[w.o.Mounted] = true
		}
		for _, d := range c.Certificates.Directories {
			dirs[d] = true
		}
	}
	for d := range w.inside {
		dirs[d] = true
	}
	for _, o := range w.declared {
		if o.File != "" {
			dirs[filepath.Dir(o.File)] = true
		}
	}
	return dirs
}

// notices is what the system tells of changes in directories.
type notices struct {
	fs     *fsnotify.Watcher // nil: not possible here
	events <-chan fsnotify.Event
	errors <-chan error
	dirs   map[string]bool
	asked  map[string]bool // dirs, and those that cannot be watched
}

func newNotices() *notices {
	n := &notices{dirs: map[string]bool{}}
	if fs, err := fsnotify.NewWatcher(); err == nil {
		n.fs, n.events, n.errors = fs, fs.Events, fs.Errors
	}
	return n
}

// follow watches these directories and no others. It reports whether all of them are
// watched: one that does not exist cannot be.
func (n *notices) follow(dirs map[string]bool) bool {
	if n.fs == nil {
		return false
	}
	for d := range n.dirs {
		if !dirs[d] {
			_ = n.fs.Remove(d) // an error says that it is gone
		}
	}
	n.dirs, n.asked = map[string]bool{}, dirs
	all := true
	for d := range dirs {
		if n.fs.Add(d) != nil { // again too: it may be another directory by now
			all = false
			continue
		}
		n.dirs[d] = true
	}
	return all
}

// follows reports whether these directories are watched, as far as that is possible.
func (n *notices) follows(dirs map[string]bool) bool {
	return n.fs == nil || maps.Equal(dirs, n.asked)
}

func (n *notices) close() {
	if n.fs != nil {
		_ = n.fs.Close()
	}
}
