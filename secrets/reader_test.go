package secrets

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// round is a reader of one directory with a clock of its own: files change at real
// times, and are looked at so and so long after now.
type round struct {
	t   *testing.T
	r   *reader
	cfg *config.Config
	dir string
}

func newRound(t *testing.T) *round {
	cfg, dev, _ := two(t)
	return &round{t: t, r: newReader(time.Minute), cfg: cfg, dir: dev}
}

// look reads as if ahead had passed. It gives what is behind the name users ("" and
// an error where nothing is), and whether it must be looked at again soon.
func (r *round) look(ahead time.Duration) (Item, error, bool) {
	r.t.Helper()
	r.r.now = func() time.Time { return time.Now().Add(ahead) }
	m, _, waiting := r.r.read(r.cfg, "", nil)
	i, err := Find(&watcher.Picture{}, m, "dev", "", "users")
	return i, err, waiting
}

// is checks what is used.
func (r *round) is(ahead time.Duration, want string, waits bool) {
	r.t.Helper()
	i, err, waiting := r.look(ahead)
	require.NoError(r.t, err)
	require.Equal(r.t, want, string(i.Data.Reveal()))
	require.Equal(r.t, waits, waiting)
}

// none checks that nothing is used.
func (r *round) none(ahead time.Duration, reason string, waits bool) {
	r.t.Helper()
	_, err, waiting := r.look(ahead)
	require.EqualError(r.t, err, reason)
	require.Equal(r.t, waits, waiting)
}

const absent = "there is no secret, config or file called users"

func TestAFileIsNotBelievedWhileItIsWritten(t *testing.T) {
	r := newRound(t)
	write(t, r.dir, "users", "one")
	r.is(0, "one", true) // at the start nothing else could be used
	r.is(time.Hour, "one", false)

	write(t, r.dir, "users", "half")
	r.is(2*time.Hour, "one", true)
	r.is(2*time.Hour+50*time.Second, "one", true)
	write(t, r.dir, "users", "half and whole")
	r.is(2*time.Hour+70*time.Second, "one", true)
	r.is(2*time.Hour+129*time.Second, "one", true)
	r.is(2*time.Hour+131*time.Second, "half and whole", true) // soon again: times do not tell quick changes apart
	r.is(3*time.Hour, "half and whole", false)
}

// Two changes at one moment look like one.
func TestAQuickChangeIsSeen(t *testing.T) {
	r := newRound(t)
	moment := time.Now().Add(-time.Hour)
	for n, content := range []string{"one", "two"} {
		require.NoError(t, os.Chtimes(write(t, r.dir, "users", content), moment, moment))
		r.is(time.Duration(n)*2*time.Minute, content, true)
	}
	r.is(time.Hour, "two", false)
}

func TestANewFileWaitsUntilItIsWritten(t *testing.T) {
	r := newRound(t)
	r.none(0, absent, false)
	file := write(t, r.dir, "users", "new")
	r.none(time.Second, absent, true)
	r.is(62*time.Second, "new", true)

	// Another machine's clock says nothing.
	for n, wrong := range []time.Duration{-time.Hour, time.Hour} {
		at := time.Duration(n+1) * time.Hour
		write(t, r.dir, "users", "new and "+wrong.String())
		require.NoError(t, os.Chtimes(file, time.Now().Add(wrong), time.Now().Add(wrong)))
		_, err, waiting := r.look(at)
		require.NoError(t, err)
		require.True(t, waiting)
		r.is(at+61*time.Second, "new and "+wrong.String(), true)
		r.is(at+30*time.Minute, "new and "+wrong.String(), false)
	}
}

// Shells empty a file before they fill it.
func TestAnEmptyFileMayBecomeSomething(t *testing.T) {
	r := newRound(t)
	write(t, r.dir, "users", "one")
	r.is(0, "one", true)
	write(t, r.dir, "users", "")
	r.is(time.Hour, "one", true)
	r.is(time.Hour+5*time.Minute, "one", true)
	const empty = "the file users cannot be used: is empty"
	r.none(time.Hour+21*time.Minute, empty, false)
	r.none(time.Hour+22*time.Minute, empty, false)
	write(t, r.dir, "users", "two")
	r.none(2*time.Hour, absent, true)
	r.is(3*time.Hour, "two", false)
}

func TestAFileThatIsGoneIsGoneAWhileLater(t *testing.T) {
	r := newRound(t)
	file := write(t, r.dir, "users", "one")
	r.is(0, "one", true)
	require.NoError(t, os.Remove(file))
	r.is(time.Hour, "one", true)
	write(t, r.dir, "users", "replaced")
	r.is(time.Hour+time.Second, "one", true)
	r.is(2*time.Hour, "replaced", false)
	require.NoError(t, os.RemoveAll(r.dir))
	r.is(3*time.Hour, "replaced", true)
	r.none(3*time.Hour+61*time.Second, absent, false)
}

func TestAFileThatCannotBeReadIsUsedAsItWas(t *testing.T) {
	before := &file{data: Hide([]byte("one"))}
	r := newReader(time.Minute)
	for _, err := range []error{syscall.EACCES, syscall.EIO, syscall.EMFILE, &os.PathError{Op: "open", Path: "x", Err: syscall.ESTALE}} {
		f := r.look(before, nil, err, "users", false)
		require.Equal(t, "one", string(f.data.Reveal()))
		require.ErrorIs(t, err, f.err, "and it is told, without the path")
	}
	for _, err := range []error{syscall.ELOOP, syscall.ENOTDIR, fmt.Errorf("escapes")} {
		f := r.look(before, nil, err, "users", false)
		require.Empty(t, f.data.Reveal(), "%v says what the file is, and not that it cannot be read", err)
		require.Error(t, f.err)
	}
}

// A file that becomes one that is never read is no longer used as it was.
func TestAFileThatMayNotBeReadIsNotUsed(t *testing.T) {
	token := write(t, t.TempDir(), "token", "t")
	for reason, change := range map[string]func(file string) error{
		"is not a regular file":         func(file string) error { return syscall.Mkfifo(file, 0o600) },
		"is a link that leads out":      func(file string) error { return os.Symlink(token, file) },
		"has 1048577 bytes, and at":     func(file string) error { return os.WriteFile(file, make([]byte, maxFile+1), 0o600) },
		"too many levels of symbolic":   func(file string) error { return os.Symlink(filepath.Base(file), file) },
		"belongs to the control plane ": func(file string) error { return os.Link(token, file) },
	} {
		t.Run(reason, func(t *testing.T) {
			r := newRound(t)
			file := write(t, r.dir, "users", "one")
			r.cfg.Admin.TokenFile = token
			r.is(0, "one", true)
			require.NoError(t, os.Remove(file))
			require.NoError(t, change(file))
			_, err, _ := r.look(time.Second)
			require.ErrorContains(t, err, "the file users cannot be used: "+reason, "at once")
		})
	}
}

func TestWhatIsTheSameIsReadOnce(t *testing.T) {
	r := newRound(t)
	write(t, r.dir, "users", "one")
	first, _, _ := r.look(time.Hour)
	second, _, _ := r.look(2 * time.Hour)
	require.Same(t, &first.Data.Reveal()[0], &second.Data.Reveal()[0])
	write(t, r.dir, "users", "one") // touched
	third, _, _ := r.look(3 * time.Hour)
	require.Same(t, &first.Data.Reveal()[0], &third.Data.Reveal()[0], "read again, and the same")
}

func TestACollectionIsBounded(t *testing.T) {
	cfg, dev, prod := two(t)
	for i := range 5 {
		write(t, dev, fmt.Sprintf("f%d", i), strings.Repeat("x", 1024))
		write(t, prod, fmt.Sprintf("f%d", i), "x")
	}
	r := newReader(0)
	r.maxBytes, r.maxFiles = 4096, 4096
	m, errs, _ := r.read(cfg, "", nil)
	require.Len(t, errs, 1)
	require.ErrorContains(t, errs[0], "f4: the collection's material is larger than 4 KiB")
	_, err := Find(&watcher.Picture{}, m, "dev", "", "f4")
	require.ErrorContains(t, err, "larger than 4 KiB")
	for _, collection := range []string{"dev", "prod"} { // another has its own measure
		_, err = Find(&watcher.Picture{}, m, collection, "", "f3")
		require.NoError(t, err)
	}

	r = newReader(0)
	r.maxFiles = 3
	m, errs, _ = r.read(cfg, "", nil)
	require.Len(t, errs, 2)
	require.ErrorContains(t, errs[0], "more than 3 files")
	require.Len(t, m.shelves["dev"].files, 3)
}
