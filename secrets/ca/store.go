package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// file is one to be written.
type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// store writes the files of dir/name in their order. A new directory appears with all
// of them at once; in one that is there already each file is replaced by rename, so
// that no reader ever sees half a file, and watchers notice.
func store(dir, name string, files []file) (rotated bool, err error) {
	home := filepath.Join(dir, name)
	switch info, err := os.Stat(home); {
	case err == nil && !info.IsDir():
		return false, fmt.Errorf("%s is there and not a directory", home)
	case err == nil:
		return true, replace(home, files...)
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	// No name of an identity begins with a dot.
	fresh, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(fresh) // not there any more if all went well
	if err := replace(fresh, files...); err != nil {
		return false, err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return false, err
	}
	if err := os.Rename(fresh, home); err != nil {
		return false, err
	}
	return false, syncDir(dir)
}

// replace puts files where others may be, each whole or not at all, in their order.
// The disk has all of them before the first takes its place.
func replace(dir string, files ...file) error {
	written := make([]string, 0, len(files))
	defer func() {
		for _, path := range written {
			_ = os.Remove(path) // not there any more if all went well
		}
	}()
	for _, f := range files {
		path, err := write(dir, f)
		if err != nil {
			return err
		}
		written = append(written, path)
	}
	for i, f := range files {
		if err := os.Rename(written[i], filepath.Join(dir, f.name)); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// write puts a file beside its place and gives its path.
func write(dir string, f file) (path string, err error) {
	w, err := os.CreateTemp(dir, ".new-"+f.name+"-") // 0600 until it is complete
	if err != nil {
		return "", err
	}
	_, err = w.Write(f.data)
	if err == nil {
		err = errors.Join(w.Chmod(f.mode), w.Sync())
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return "", errors.Join(err, os.Remove(w.Name()))
	}
	return w.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lock makes those who write to an authority take turns: two at once could leave one's
// key beside the other's certificate.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
	}
	return func() { _ = d.Close() }, nil // closing unlocks
}
