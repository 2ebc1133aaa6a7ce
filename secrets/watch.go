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
	o Options

	mu       sync.Mutex
	cfg      *config.Config
	declared map[string]string // files of secrets that stack files make
	again    chan struct{}     // something else is to be read

	reading sync.Mutex // held by whoever reads
	reader  *reader
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
	// Log takes what cannot be read, once for each text; nil: nobody.
	Log *slog.Logger
}

// NewWatch makes a watch for a configuration. Nothing is read before Now and Run.
func NewWatch(cfg *config.Config, o Options) *Watch {
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
	return &Watch{o: o, cfg: cfg, declared: map[string]string{}, again: make(chan struct{}, 1), reader: newReader(o.Settle)}
}

// Reconfigure replaces the configuration.
func (w *Watch) Reconfigure(cfg *config.Config) {
	w.mu.Lock()
	w.cfg = cfg
	w.mu.Unlock()
	w.look()
}

// Declare notes the files of secrets that stack files make; pictures of a Swarm have
// none. It reports whether they are others than before, and Now has others too.
func (w *Watch) Declare(p *watcher.Picture) bool {
	if p == nil {
		return false
	}
	files := declaredBy(p)
	w.mu.Lock()
	changed := !maps.Equal(files, w.declared)
	w.declared = files
	w.mu.Unlock()
	if changed {
		w.look()
	}
	return changed
}

func (w *Watch) look() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// Now reads what is there now.
func (w *Watch) Now() *Material {
	m, _, _ := w.read()
	return m
}

// Run tells what is there, and then every change of it, until ctx ends. emit is never
// called concurrently.
func (w *Watch) Run(ctx context.Context, emit func(*Material)) {
	n := newNotices()
	defer n.close()
	var last *Material
	said := map[string]bool{}
	for {
		every := w.o.Every
		if n.follow(w.directories()) { // before reading: what changes meanwhile is told
			every *= 10
		}
		m, errs, waiting := w.read()
		if waiting {
			every = w.o.Settle
		}
		now := map[string]bool{}
		for _, err := range errs {
			if now[err.Error()] = true; !said[err.Error()] {
				w.o.Log.Warn("a file of a collection cannot be used", "error", err)
			}
		}
		said = now
		if last == nil || !m.Equal(last) {
			last = m
			emit(m)
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
	case <-w.again:
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

func (w *Watch) read() (*Material, []error, bool) {
	w.reading.Lock()
	defer w.reading.Unlock()
	w.mu.Lock()
	cfg, declared := w.cfg, w.declared
	w.mu.Unlock()
	return w.reader.read(cfg, w.o.Mounted, declared)
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
	for _, file := range w.declared {
		dirs[filepath.Dir(file)] = true
	}
	return dirs
}

// notices is what the system tells of changes in directories.
type notices struct {
	fs     *fsnotify.Watcher // nil: not possible here
	events <-chan fsnotify.Event
	errors <-chan error
	dirs   map[string]bool
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
	n.dirs = map[string]bool{}
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

func (n *notices) close() {
	if n.fs != nil {
		_ = n.fs.Close()
	}
}
