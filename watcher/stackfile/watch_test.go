package stackfile

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// watching runs a source and gives its updates: the next one that is as wanted. A
// file may be read while a test writes it, so there may be others before.
func watching(t *testing.T, s *Source) (until func(what string, ok func(watcher.Update) bool) watcher.Update) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	updates, ended := make(chan watcher.Update, 100), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func(u watcher.Update) { updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	var last *watcher.Picture
	return func(what string, ok func(watcher.Update) bool) watcher.Update {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case u := <-updates:
				if u.Err != nil {
					require.Same(t, last, u.Picture, "the last good one stays")
					require.False(t, u.At.IsZero())
				}
				require.Equal(t, watcher.Diff(last, u.Picture), u.Changes)
				if last = u.Picture; ok(u) {
					return u
				}
			case <-deadline:
				require.FailNow(t, "it did not come to this", what)
			}
		}
	}
}

func labelled(v string) func(watcher.Update) bool {
	return func(u watcher.Update) bool { return u.Err == nil && u.Picture.Services["app_web"].Labels["v"] == v }
}

func failing(with string) func(watcher.Update) bool {
	return func(u watcher.Update) bool { return u.Err != nil && strings.Contains(u.Err.Error(), with) }
}

func service(image string) string {
	return "services:\n  web:\n    image: x\n    deploy: {labels: {v: '" + image + "'}}\n    configs: [c]\nconfigs: {c: {file: c.txt}}\n"
}

func TestSourceFollowsTheFile(t *testing.T) {
	dir, files := write(t, "app.yml", service("1"), "c.txt", "one")
	s := NewSource(Options{Files: files[:1]})
	s.Settle = 10 * time.Millisecond
	require.Equal(t, "stackfile", s.Name())
	until := watching(t, s)

	first := until("the first picture", labelled("1"))
	require.True(t, first.Changes.All)
	require.True(t, first.Full)
	require.True(t, first.Picture.Static)

	t.Run("written in place", func(t *testing.T) {
		require.NoError(t, os.WriteFile(files[0], []byte(service("2")), 0o644))
		u := until("the new label", labelled("2"))
		require.Equal(t, watcher.Changes{Services: map[string]struct{}{"app_web": {}}}, u.Changes)
		require.Same(t, first.Picture.Configs["app_c"], u.Picture.Configs["app_c"], "what did not change is shared")
	})
	t.Run("saved by rename, as editors do", func(t *testing.T) {
		tmp := filepath.Join(dir, ".app.yml.swp")
		require.NoError(t, os.WriteFile(tmp, []byte(service("3")), 0o644))
		require.NoError(t, os.Rename(tmp, files[0]))
		until("the new label", labelled("3"))
	})
	t.Run("a file that it names", func(t *testing.T) {
		require.NoError(t, os.WriteFile(files[1], []byte("two"), 0o644))
		u := until("the new data", func(u watcher.Update) bool { return string(u.Picture.Configs["app_c"].Data) == "two" })
		require.Equal(t, watcher.Changes{Shared: true}, u.Changes)
	})
	t.Run("broken, then gone, then good again", func(t *testing.T) {
		require.NoError(t, os.WriteFile(files[0], []byte("services: {\n"), 0o644))
		until("an error", failing("app.yml:1: is not valid YAML"))
		require.NoError(t, os.Remove(files[0]))
		until("another error", failing("no such file"))
		require.NoError(t, os.WriteFile(files[0], []byte(service("3")+"x-y: 1\n"), 0o644))
		until("all well again", labelled("3"))
	})
	t.Run("with findings", func(t *testing.T) {
		require.Empty(t, s.Findings())
		require.NoError(t, os.WriteFile(files[0], []byte(strings.Replace(service("4"), "c.txt", "d.txt", 1)), 0o644))
		until("no config", func(u watcher.Update) bool { return u.Err == nil && u.Picture.Configs["app_c"] == nil })
		require.Len(t, s.Findings(), 1)
	})
}

func TestSourceEndsWhereTheFirstReadFails(t *testing.T) {
	dir := t.TempDir()
	err := NewSource(Options{Files: []string{filepath.Join(dir, "none.yml")}}).Run(t.Context(), func(watcher.Update) { t.Error("an update") })
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestSourceReadsStdinOnce(t *testing.T) {
	_, files := write(t, "app.yml", "services: {web: {image: x}}\n")
	s := NewSource(Options{Files: []string{"-", files[0]}, Stack: "s", Stdin: strings.NewReader("services: {in: {image: x}}\n")})
	s.Settle = 10 * time.Millisecond
	until := watching(t, s)
	until("both", func(u watcher.Update) bool { return len(u.Picture.Services) == 2 })
	require.NoError(t, os.WriteFile(files[0], []byte("services: {web: {image: x}, more: {image: x}}\n"), 0o644))
	until("one more", func(u watcher.Update) bool { return len(u.Picture.Services) == 3 })
}
