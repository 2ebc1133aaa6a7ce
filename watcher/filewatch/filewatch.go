// Package filewatch waits for files to change: stack files, the operator's file.
package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch waits for changes of files. It watches their directories, because editors
// save by renaming a new file over the old one; where that is not possible it looks
// at the files every now and then.
type Watch struct {
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

// New makes a watch of no file yet. settle is how long files must be quiet before a
// change counts, so that a save is read whole; poll is how often they are looked at
// where the system does not tell of changes.
func New(settle, poll time.Duration) *Watch {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		fs = nil
	}
	return &Watch{settle: settle, poll: poll, fs: fs, dirs: map[string]bool{}}
}

// Close ends the watch.
func (w *Watch) Close() {
	if w.fs != nil {
		w.fs.Close()
	}
}

// Reset forgets all files but these, and notes how they look now: call it before
// they are read, so that a change during the reading is seen.
func (w *Watch) Reset(files []string) {
	w.files, w.seen = nil, map[string]stamp{}
	w.Also(files)
}

// Also adds files to those that are watched.
func (w *Watch) Also(files []string) {
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

func (w *Watch) changed() bool {
	return slices.ContainsFunc(w.files, func(f string) bool { return !w.seen[f].equal(look(f)) })
}

// Wait returns true when a file has changed and is quiet again, false when ctx ends.
func (w *Watch) Wait(ctx context.Context) bool {
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

func (w *Watch) look() []stamp {
	stamps := make([]stamp, len(w.files))
	for i, f := range w.files {
		stamps[i] = look(f)
	}
	return stamps
}
