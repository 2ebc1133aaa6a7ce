package stackfile

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/waggle-lb/waggle/watcher"
)

// Source watches stack files: a saved change is the next picture, a save that
// cannot be read keeps the last one and says why.
type Source struct {
	options Options
	// Settle is how long the files must be quiet before they are read again, so
	// that a save is read whole. 0 means 100 ms.
	Settle time.Duration
	// Poll is how often files are looked at where the system does not tell of
	// changes. 0 means 1 s.
	Poll time.Duration

	mu       sync.Mutex
	findings []Finding
}

// NewSource makes a source of stack files. Stdin is read once.
func NewSource(o Options) *Source { return &Source{options: o} }

// Name is "stackfile".
func (*Source) Name() string { return "stackfile" }

// Findings says what is wrong with the files as they were last read, whether or
// not that became a picture. It is up to date when an update is emitted.
func (s *Source) Findings() []Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.findings)
}

// Run reads the files and then reads them again whenever one of them changes, or
// one that they name. A file that cannot be read at the start ends it.
func (s *Source) Run(ctx context.Context, emit func(watcher.Update)) error {
	o := s.options
	if slices.Contains(o.Files, "-") && o.Stdin != nil {
		all, err := io.ReadAll(io.LimitReader(o.Stdin, maxFile+1))
		if err != nil {
			return fmt.Errorf("reading stdin: %w", err)
		}
		o.Stdin = bytes.NewReader(all)
		s.options.Stdin = o.Stdin
	}
	w := newWatch(cmp.Or(s.Settle, 100*time.Millisecond), cmp.Or(s.Poll, time.Second))
	defer w.close()

	var last *watcher.Picture
	var lastErr error
	at := time.Now()
	for {
		w.reset(o.Files)
		p, files, err := s.load(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && last == nil {
			return err
		}
		w.also(files)
		switch {
		case err != nil:
			if lastErr == nil || lastErr.Error() != err.Error() {
				emit(watcher.Update{Picture: last, Err: err, At: at})
			}
		default:
			next, changes := watcher.Share(last, p)
			at = time.Now()
			if last == nil || lastErr != nil || !changes.Empty() {
				emit(watcher.Update{Picture: next, Changes: changes, Full: true, At: at})
			}
			last = next
		}
		lastErr = err
		if !w.wait(ctx) {
			return nil
		}
	}
}

// load reads the files and gives the further files that they name.
func (s *Source) load(ctx context.Context) (*watcher.Picture, []string, error) {
	o := s.options
	if r, ok := o.Stdin.(*bytes.Reader); ok {
		r.Seek(0, io.SeekStart)
	}
	p, findings, files, err := load(ctx, o)
	s.mu.Lock()
	s.findings = findings
	s.mu.Unlock()
	return p, files, err
}

// watch waits for changes of files. It watches their directories, because editors
// save by renaming a new file over the old one; where that is not possible it looks
// at the files every now and then.
type watch struct {
	settle, poll time.Duration
	fs           *fsnotify.Watcher // nil: not possible here
	dirs         map[string]bool   // being watched
	files        []string
	seen         map[string]stamp
}

// stamp changes when a file's content does.
type stamp struct {
	exists bool
	mod    time.Time
	size   int64
	file   os.FileInfo
}

func newWatch(settle, poll time.Duration) *watch {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		fs = nil
	}
	return &watch{settle: settle, poll: poll, fs: fs, dirs: map[string]bool{}}
}

func (w *watch) close() {
	if w.fs != nil {
		w.fs.Close()
	}
}

// reset forgets all files but these, and notes how they look now: call it before
// they are read, so that a change during the reading is seen.
func (w *watch) reset(files []string) {
	w.files, w.seen = nil, map[string]stamp{}
	w.also(files)
}

// also adds files to those that are watched.
func (w *watch) also(files []string) {
	for _, f := range files {
		if f == "-" || slices.Contains(w.files, f) {
			continue
		}
		w.files = append(w.files, f)
		w.seen[f] = look(f)
		if dir := filepath.Dir(f); w.fs != nil && !w.dirs[dir] {
			if err := w.fs.Add(dir); err != nil {
				w.fs.Close()
				w.fs = nil // no more watches, or no such directory: look instead
				continue
			}
			w.dirs[dir] = true
		}
	}
}

func look(file string) stamp {
	st, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{exists: true, mod: st.ModTime(), size: st.Size(), file: st}
}

func (s stamp) equal(t stamp) bool {
	return s.exists == t.exists && s.mod.Equal(t.mod) && s.size == t.size && (!s.exists || os.SameFile(s.file, t.file))
}

func (w *watch) changed() bool {
	return slices.ContainsFunc(w.files, func(f string) bool { return !w.seen[f].equal(look(f)) })
}

// wait returns true when a file has changed and is quiet again, false when ctx ends.
func (w *watch) wait(ctx context.Context) bool {
	var events <-chan fsnotify.Event
	var errs <-chan error
	every := w.poll
	if w.fs != nil {
		events, errs = w.fs.Events, w.fs.Errors
		every = 10 * w.poll // in case an event is lost, or the directory itself was replaced
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !w.changed() {
		select {
		case <-ctx.Done():
			return false
		case <-events:
		case <-errs:
		case <-tick.C:
		}
	}
	// Changed: wait until it looks the same for a while, but not for ever.
	until := time.Now().Add(20 * w.settle)
	for before := w.look(); time.Now().Before(until); {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(w.settle):
		}
		now := w.look()
		if slices.EqualFunc(before, now, stamp.equal) {
			break
		}
		before = now
	}
	return true
}

func (w *watch) look() []stamp {
	stamps := make([]stamp, len(w.files))
	for i, f := range w.files {
		stamps[i] = look(f)
	}
	return stamps
}
