package secrets

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// Watch reads material again and again and tells of every change.
type Watch struct {
	o Options

	mu       sync.Mutex
	cfg      *config.Config
	declared map[string]string // files of secrets that stack files make
	again    chan struct{}     // something else is to be read
}

// Options of a Watch.
type Options struct {
	// Mounted is where Docker secrets are mounted; "": MountedSecrets.
	Mounted string
	// Every is the time from one look to the next, Settle how long what changed must
	// stay as it is before it counts, so that a file is not used half-written.
	// 0: 500 ms and 100 ms.
	Every, Settle time.Duration
	// Log takes what cannot be read, once for each text; nil: nobody.
	Log *slog.Logger
}

// NewWatch makes a watch for a configuration. Nothing is read before Run.
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
	return &Watch{o: o, cfg: cfg, declared: map[string]string{}, again: make(chan struct{}, 1)}
}

// Reconfigure replaces the configuration.
func (w *Watch) Reconfigure(cfg *config.Config) {
	w.mu.Lock()
	w.cfg = cfg
	w.mu.Unlock()
	w.look()
}

// Declare notes the files of secrets that stack files make; pictures of a Swarm have none.
func (w *Watch) Declare(p *watcher.Picture) {
	if p == nil {
		return
	}
	files := declaredBy(p)
	w.mu.Lock()
	changed := !maps.Equal(files, w.declared)
	w.declared = files
	w.mu.Unlock()
	if changed {
		w.look()
	}
}

func (w *Watch) look() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// Now reads what is there now.
func (w *Watch) Now() *Material {
	m, _ := w.read()
	return m
}

// Run tells what is there, and then every change of it, until ctx ends. emit is never
// called concurrently.
func (w *Watch) Run(ctx context.Context, emit func(*Material)) {
	var last *Material
	said := map[string]bool{}
	for {
		m, errs := w.read()
		if !m.Equal(last) && last != nil {
			if m, errs = w.settled(ctx, m); ctx.Err() != nil {
				return
			}
		}
		now := map[string]bool{}
		for _, err := range errs {
			if now[err.Error()] = true; !said[err.Error()] {
				w.o.Log.Warn("a file of a collection cannot be used", "error", err)
			}
		}
		said = now
		if !m.Equal(last) {
			last = m
			emit(m)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.again:
		case <-time.After(w.o.Every):
		}
	}
}

func (w *Watch) read() (*Material, []error) {
	w.mu.Lock()
	cfg, declared := w.cfg, w.declared
	w.mu.Unlock()
	return Read(cfg, w.o.Mounted, declared)
}

// settled reads until what was read last is read again, but not for ever.
func (w *Watch) settled(ctx context.Context, m *Material) (*Material, []error) {
	for range 20 {
		select {
		case <-ctx.Done():
			return m, nil
		case <-time.After(w.o.Settle):
		}
		again, errs := w.read()
		if again.Equal(m) {
			return again, errs
		}
		m = again
	}
	return w.read()
}
