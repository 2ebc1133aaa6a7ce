package filewatch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write makes a file with this content.
func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
	return file
}

// Where no more directories can be watched, files are looked at now and then.
func TestWatchSeesChangesWithoutNotifications(t *testing.T) {
	file := write(t, "one")
	w := New(5*time.Millisecond, 5*time.Millisecond)
	w.Close()
	w.fs = nil
	w.Reset([]string{file})
	changed := make(chan bool)
	go func() { changed <- w.Wait(t.Context()) }()
	require.NoError(t, os.WriteFile(file, []byte("longer"), 0o644))
	select {
	case c := <-changed:
		require.True(t, c)
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the change was not seen")
	}
}

// A save in several writes is read when it is done.
func TestWatchWaitsUntilTheFileIsQuiet(t *testing.T) {
	const settle = 150 * time.Millisecond
	file := write(t, "a")
	w := New(settle, time.Second)
	defer w.Close()
	w.Reset([]string{file})
	changed := make(chan time.Time)
	go func() {
		w.Wait(t.Context())
		changed <- time.Now()
	}()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer f.Close()
	var end time.Time
	last, quiet := time.Now(), time.Duration(0) // quiet is the longest time without a write
	for range 20 {
		_, err = f.WriteString("more")
		require.NoError(t, err)
		now := time.Now()
		quiet, last = max(quiet, now.Sub(last)), now
		select {
		case end = <-changed: // only if this test was held up for so long
		case <-time.After(settle / 10):
			continue
		}
		break
	}
	if end.IsZero() {
		end = <-changed
	}
	require.GreaterOrEqual(t, max(quiet, end.Sub(last)), settle-settle/10)
}

// An editor saves by renaming a new file over the old one.
func TestWatchSeesAFileReplaced(t *testing.T) {
	file := write(t, "one")
	w := New(5*time.Millisecond, time.Minute)
	defer w.Close()
	w.Reset([]string{file})
	changed := make(chan bool)
	go func() { changed <- w.Wait(t.Context()) }()
	require.NoError(t, os.WriteFile(file+".new", []byte("two"), 0o644))
	require.NoError(t, os.Rename(file+".new", file))
	select {
	case c := <-changed:
		require.True(t, c)
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the change was not seen")
	}
}
