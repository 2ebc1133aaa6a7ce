package control

import (
	"sync"
	"time"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// Status is what the loop can say of itself at any moment.
type Status struct {
	// Ready is set once the first complete picture is published, and stays.
	Ready bool
	// SourceError says why the source cannot read what runs; nil while it can.
	SourceError error
	// Via says where the tasks of the picture in force come from, and Fallback why they do
	// not come by push although they may (watcher.Update).
	Via      string
	Fallback error
	// ConfigError says why the operator's newest configuration is not in force; nil when it is.
	ConfigError error
	// LastRead is when the picture in force was last known to be right; zero before the first one.
	LastRead time.Time
	// LastBuild is when the last build was published; zero before the first one.
	LastBuild time.Time
	// Builds counts the builds published; as long as it stays, Query finds the same.
	Builds uint64
	// Held are changes that are not published yet, because they take too much away for one
	// look at what runs. Read only.
	Held []Held
	// Problems of the services of the last build, sorted. Read only.
	Problems []translate.Problem
	// Config is the configuration in force and Picture what the last build was made
	// of; nil before there are any. Read only.
	Config  *config.Config
	Picture *watcher.Picture
}

// Status tells how things stand. It never waits for a build.
func (c *Control) Status() Status { return c.status.Status() }

// Misconfigured notes that the operator's newest configuration cannot be used and why;
// the one before stays in force. Reconfigure takes the note away.
func (c *Control) Misconfigured(err error) {
	c.status.misconfigured(err)
	c.tell(Step{At: time.Now(), Kind: ConfigStep, Err: err})
}

// statusBoard is the one piece of the loop that others may read at any time.
type statusBoard struct {
	mu sync.Mutex
	s  Status
}

func (b *statusBoard) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s
}

// source notes a step of the source and returns the error that was in force before it.
func (b *statusBoard) source(u watcher.Update) (was error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, b.s.SourceError = b.s.SourceError, u.Err
	b.s.Via, b.s.Fallback = u.Via, u.Fallback
	if u.Err == nil {
		b.s.LastRead = u.At
	}
	return was
}

// built notes a published build, and reports whether the problems may be others than before.
func (b *statusBoard) built(at time.Time, p *watcher.Picture, problems []translate.Problem) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s.Ready, b.s.LastBuild, b.s.Picture = true, at, p
	b.s.Builds++
	if same(problems, b.s.Problems) {
		return false
	}
	b.s.Problems = problems
	return true
}

// holds notes what is held back.
func (b *statusBoard) holds(h []Held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s.Held = h
}

// same reports whether a and b are the very same list: the builder makes a new
// one whenever a problem comes, goes or changes, and never edits one that it gave away.
func same(a, b []translate.Problem) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func (b *statusBoard) misconfigured(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s.ConfigError = err
}

// configured notes the configuration in force.
func (b *statusBoard) configured(cfg *config.Config) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.s.Config, b.s.ConfigError = cfg, nil
}
