package secrets

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// reader reads files again and again. It reads only what may be another than before,
// and does not believe what is just being written.
type reader struct {
	// settle is how long a file must have been as it is before it counts, and how
	// long it must be gone before it is. 0: everything is taken as it is.
	settle time.Duration
	now    func() time.Time

	maxBytes, maxFiles int

	known   map[located]*file
	fresh   map[located]*file // of the round under way
	own     []fs.FileInfo     // of the control plane itself, never read
	local   local             // the development authority, neither
	waiting bool
	// dirs are those of the round before, reading those of the round under way. In one
	// that was not read before everything is taken as it is.
	dirs, reading map[string]bool
	// inside are directories in those that were read in the round before, or are in
	// the round under way.
	inside, found map[string]bool

	examiner *examiner
	next     time.Time // when the material is another although no file is
}

// located is where a file is: a directory that somebody named, and the path in it,
// which may not lead out of it.
type located struct{ dir, path string }

// file is what is known of one file.
type file struct {
	data Bytes     // nothing where there is none that can be used
	err  error     // why there is none, or why it is not what is there now
	at   time.Time // when data was read
	// how it was last seen to look, and since when it is seen so: by the reader's
	// clock, because that of a file may be another machine's
	stamp fs.FileInfo
	since time.Time
	// since when it is not there although it was; zero where it is
	gone time.Time
}

// patience is how many times settle an empty file may still become something, and for
// how long a file that looks the same is read again: quick changes may share a time.
const patience = 20

func newReader(settle time.Duration) *reader {
	return &reader{settle: settle, now: time.Now, maxBytes: maxBytes, maxFiles: maxFiles, known: map[located]*file{}, examiner: newExaminer()}
}

func (r *reader) begin(own []fs.FileInfo) {
	r.fresh, r.reading, r.found, r.own, r.waiting = map[located]*file{}, map[string]bool{}, map[string]bool{}, own, false
	r.examiner.begin()
}

// end forgets files that nobody asked for any more.
func (r *reader) end() (waiting bool) {
	r.known, r.dirs, r.inside, r.fresh, r.reading, r.found = r.fresh, r.reading, r.found, nil, nil, nil
	r.examiner.end()
	return r.waiting
}

// directory reads the files of a directory and of those in it, by their path in it.
func (r *reader) directory(dir string) (map[string]*file, error) {
	dir = filepath.Clean(dir)
	r.reading[dir] = true
	listed, inside, err := list(dir, r.maxFiles)
	for _, d := range inside {
		r.found[filepath.Join(dir, d)] = true
	}
	paths := map[string]bool{}
	for _, path := range listed {
		paths[path] = true
	}
	for at := range r.known { // what was there, and may be there again in a moment
		if at.dir == dir {
			paths[at.path] = true
		}
	}
	files := make(map[string]*file, len(paths))
	root, openErr := os.OpenRoot(dir)
	if openErr == nil {
		defer root.Close()
	}
	for path := range paths {
		f := r.file(root, openErr, located{dir, path})
		if !f.data.any() && f.err != nil && isGone(f.err) {
			continue // gone since it was listed
		}
		files[path] = f
	}
	return files, err
}

// one reads one file of a directory.
func (r *reader) one(dir, name string) *file {
	if !filepath.IsLocal(name) || filepath.Base(name) != name {
		return &file{err: fmt.Errorf("%q is not the name of a file", name)}
	}
	root, err := os.OpenRoot(dir)
	if err == nil {
		defer root.Close()
	}
	return r.file(root, err, located{filepath.Clean(dir), name})
}

// file gives what is to be used of a file of a directory that root opened, or could
// not for a reason.
func (r *reader) file(root *os.Root, rootErr error, at located) *file {
	if f := r.fresh[at]; f != nil {
		return f // of another collection too
	}
	before := r.known[at]
	if before == nil {
		before = &file{}
	}
	r.reading[at.dir] = true
	f := r.look(before, root, rootErr, at.path, !r.dirs[at.dir])
	if f.data.any() || f.err == nil || !isGone(f.err) {
		r.fresh[at] = f
	}
	return f
}

// look says what a file is now, where it was before until now. first: nothing is known
// of its directory.
func (r *reader) look(before *file, root *os.Root, rootErr error, name string, first bool) *file {
	// keep goes on with what was read before.
	keep := func(why error) *file {
		f := *before
		f.err, f.gone = why, time.Time{}
		return &f
	}
	st, err := fs.FileInfo(nil), rootErr
	if err == nil {
		st, err = root.Stat(name)
	}
	now := r.now()
	switch {
	case err != nil && isGone(err):
		if !before.data.any() || r.settle == 0 {
			return &file{err: fs.ErrNotExist}
		}
		f := keep(nil) // perhaps it is just being replaced
		if f.gone = before.gone; f.gone.IsZero() {
			f.gone = now
		}
		if now.Sub(f.gone) >= r.settle {
			return &file{err: fs.ErrNotExist}
		}
		r.waiting = true
		return f
	case err != nil && passing(err) && before.data.any():
		return keep(reason(err))
	case err != nil:
		return &file{err: reason(err)}
	}
	if err := r.refuse(st); err != nil {
		return &file{err: err}
	}
	since := before.since
	if before.stamp == nil || !same(before.stamp, st) {
		since = now
	}
	// wait goes on with what was read before until the file has settled.
	wait := func() *file {
		r.waiting = true
		f := keep(nil)
		f.stamp, f.since = st, since
		return f
	}
	age := now.Sub(since)
	switch {
	case before.data.any() && before.err == nil && before.at.Sub(since) > patience*r.settle:
		return keep(nil)
	case !first && (age < r.settle || st.Size() == 0 && age < patience*r.settle):
		return wait()
	}
	data, err := r.content(root, name, st)
	switch {
	case errors.Is(err, errChanged):
		return wait()
	case err != nil && passing(err) && before.data.any():
		return keep(reason(err))
	case err == nil && len(data) == 0:
		err = errEmpty
	}
	f := &file{err: reason(err), at: now, stamp: st, since: since}
	if err != nil {
		return f
	}
	r.waiting = r.waiting || age < patience*r.settle
	if f.data = Hide(data); before.data.any() && before.data.Equal(f.data) {
		f.data = before.data // one content, quick to compare
	}
	return f
}

// refuse says why a file is never read.
func (r *reader) refuse(st fs.FileInfo) error {
	switch {
	case !st.Mode().IsRegular():
		return errors.New("is not a regular file")
	case slices.ContainsFunc(r.own, func(o fs.FileInfo) bool { return os.SameFile(o, st) }):
		return errors.New("belongs to the control plane itself and is never used for a collection")
	case st.Size() > maxFile:
		return fmt.Errorf("has %d bytes, and at most %d are read", st.Size(), maxFile)
	}
	return nil
}

// content reads a file that looked like seen. A link may lead within the directory, as
// those of mounted volumes do, and nowhere else.
func (r *reader) content(root *os.Root, name string, seen fs.FileInfo) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold anybody up
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !same(seen, st) {
		return nil, errChanged
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if st, err = f.Stat(); err == nil && (!same(seen, st) || st.Size() != int64(len(data))) {
		err = errChanged
	}
	return data, err
}

var (
	errChanged = errors.New("changes while it is read")
	errEmpty   = errors.New("is empty")
)

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// isGone reports whether there is no such file.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// passing reports whether an error is about reading, and may pass, and not about what
// the file is.
func passing(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && !isGone(err) && errno != syscall.ELOOP && errno != syscall.ENOTDIR
}

// reason is an error of a file without what was done to it.
func reason(err error) error {
	pe, ok := errors.AsType[*fs.PathError](err)
	switch {
	case !ok:
		return err
	case pe.Err.Error() == "path escapes from parent": // os.Root has no error to compare with
		return errors.New("is a link that leads out of its directory: name a directory that holds what it leads to as well")
	}
	return pe.Err
}
