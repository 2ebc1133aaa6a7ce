package secrets

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// followed is a running Watch, and how to ask for what it told last.
func followed(t *testing.T, cfg *config.Config) (w *Watch, content func(collection, name string) string) {
	t.Helper()
	w = NewWatch(cfg, Options{Mounted: t.TempDir(), Every: 5 * time.Millisecond, Settle: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var last *Material
	var wg sync.WaitGroup
	wg.Go(func() {
		w.Run(ctx, func(m *Material) {
			mu.Lock()
			defer mu.Unlock()
			last = m
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w, func(collection, name string) string {
		mu.Lock()
		defer mu.Unlock()
		i, err := Find(&watcher.Picture{}, last, collection, "", name)
		if err != nil {
			return err.Error()
		}
		return string(i.Data.Reveal())
	}
}

func TestWatchFollowsFiles(t *testing.T) {
	cfg, dev, prod := two(t)
	write(t, dev, "users", "one")
	w, content := followed(t, cfg)
	becomes := func(collection, name, want string) {
		t.Helper()
		require.Eventually(t, func() bool { return content(collection, name) == want }, 10*time.Second, 2*time.Millisecond, "%s: %s", name, content(collection, name))
	}
	gone := "there is no secret, config or file called users"
	becomes("dev", "users", "one")
	require.Equal(t, gone, content("prod", "users"))

	write(t, dev, ".new", "two") // as editors and certbot save
	require.NoError(t, os.Rename(filepath.Join(dev, ".new"), filepath.Join(dev, "users")))
	becomes("dev", "users", "two")

	require.NoError(t, os.Remove(filepath.Join(dev, "users")))
	becomes("dev", "users", gone)

	for _, version := range []string{"v1", "v2"} { // as mounted volumes change
		require.NoError(t, os.Mkdir(filepath.Join(dev, ".."+version), 0o700))
		write(t, filepath.Join(dev, ".."+version), "users", version)
	}
	require.NoError(t, os.Symlink("..v1", filepath.Join(dev, "..data")))
	require.NoError(t, os.Symlink("..data/users", filepath.Join(dev, "users")))
	becomes("dev", "users", "v1")
	require.NoError(t, os.Symlink("..v2", filepath.Join(dev, "..next")))
	require.NoError(t, os.Rename(filepath.Join(dev, "..next"), filepath.Join(dev, "..data")))
	becomes("dev", "users", "v2")

	write(t, prod, "users", "prod's")
	becomes("prod", "users", "prod's")
	next := config.ForCollections([]string{"dev"})
	w.Reconfigure(next)
	becomes("prod", "users", gone)

	declared := write(t, t.TempDir(), "file", "of a stack file")
	w.Declare(&watcher.Picture{Secrets: map[string]*watcher.Secret{"users": {Name: "users", File: declared}}})
	becomes("dev", "users", "of a stack file")
	w.Declare(&watcher.Picture{})
	becomes("dev", "users", gone)
}
