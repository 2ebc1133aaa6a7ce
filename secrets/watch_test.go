package secrets

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets/ca"
	"github.com/waggle-lb/waggle/watcher"
)

// followed is a running Watch, and how to ask for what it told last.
func followed(t *testing.T, cfg *config.Config, o Options) (w *Watch, content func(collection, name string) string) {
	t.Helper()
	o.Mounted = t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var last *Material
	w = NewWatch(cfg, o, func(m *Material) {
		mu.Lock()
		defer mu.Unlock()
		last = m
	})
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
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
	w, content := followed(t, cfg, Options{Every: 5 * time.Millisecond, Settle: 5 * time.Millisecond})
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
	// What somebody else says is known at once, and followed.
	next := config.ForCollections([]string{"dev"})
	w.Reconfigure(next)
	require.Equal(t, gone, content("prod", "users"))

	declared := write(t, t.TempDir(), "file", "of a stack file")
	w.Declare(&watcher.Picture{Secrets: map[string]*watcher.Secret{"users": {Name: "users", File: declared}}})
	require.Equal(t, "of a stack file", content("dev", "users"))
	write(t, filepath.Dir(declared), "file", "saved")
	becomes("dev", "users", "saved")
	w.Declare(nil)
	require.Equal(t, "saved", content("dev", "users"), "no picture says nothing")
	w.Declare(&watcher.Picture{})
	require.Equal(t, gone, content("dev", "users"))
}

// Where the system tells of changes nobody has to look: the next look is hours away.
func TestWatchIsTold(t *testing.T) {
	cfg, dev, _ := two(t)
	// Old files, as far as one can tell: nothing about them has to be looked at again soon.
	old := func(name, content string) {
		t.Helper()
		hours := time.Now().Add(-time.Hour)
		require.NoError(t, os.Chtimes(write(t, dev, name, content), hours, hours))
	}
	old("users", "one")
	_, content := followed(t, cfg, Options{Every: time.Hour, Settle: 10 * time.Millisecond})
	becomes := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool { return content("dev", "users") == want }, 10*time.Second, 2*time.Millisecond)
	}
	becomes("one")
	for _, want := range []string{"two", "three"} {
		old(".new", want)
		require.NoError(t, os.Rename(filepath.Join(dev, ".new"), filepath.Join(dev, "users")))
		becomes(want)
	}
	require.NoError(t, os.Remove(filepath.Join(dev, "users")))
	becomes(absent)
	write(t, dev, "users", "in place")
	becomes("in place")
}

// A directory may come later, go, and be replaced by another.
func TestWatchFollowsDirectories(t *testing.T) {
	cfg, dev, _ := two(t)
	dir := filepath.Join(dev, "certs")
	cfg.Collections["dev"].Certificates.Directories = []string{dir}
	_, content := followed(t, cfg, Options{Every: 5 * time.Millisecond, Settle: 5 * time.Millisecond})
	becomes := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool { return content("dev", "users") == want }, 10*time.Second, 2*time.Millisecond, want)
	}
	becomes(absent)
	for _, n := range []string{"1", "2"} {
		next := filepath.Join(dev, "next"+n)
		require.NoError(t, os.Mkdir(next, 0o700))
		write(t, next, "users", n)
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Rename(next, dir))
		becomes(n)
	}
	require.NoError(t, os.RemoveAll(dir))
	becomes(absent)
}

// Whoever asks while a file is being written gets whole versions alone.
func TestNobodySeesHalfAFile(t *testing.T) {
	cfg, dev, _ := two(t)
	file := write(t, dev, "users", "0:whole")
	var seen []string // written by Run alone, read after it
	done := make(chan string, 100)
	w := NewWatch(cfg, Options{Mounted: t.TempDir(), Every: time.Millisecond, Settle: time.Second}, func(m *Material) {
		i, err := Find(&watcher.Picture{}, m, "dev", "", "users")
		if err != nil {
			seen = append(seen, err.Error())
			return
		}
		seen = append(seen, string(i.Data.Reveal()))
		done <- seen[len(seen)-1]
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	await := func(want string) {
		t.Helper()
		for limit := time.After(20 * time.Second); ; {
			select {
			case got := <-done:
				if got == want {
					return
				}
			case <-limit:
				t.Errorf("%q never came", want)
				return
			}
		}
	}
	await("0:whole")
	for _, n := range []string{"1", "2"} {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
		require.NoError(t, err)
		for _, part := range []string{n, ":", "who", "le"} { // each of them wakes the watch
			_, err = f.WriteString(part)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		await(n + ":whole")
	}
	cancel()
	wg.Wait()
	require.Equal(t, []string{"0:whole", "1:whole", "2:whole"}, seen)
}

// The material is another when a certificate ends, although no file is.
func TestWatchWakesAtDates(t *testing.T) {
	f := newForge(t)
	cfg, dir, _ := two(t)
	now := time.Now()
	cert := f.leaf(f.siteKey.Public(), func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(time.Second).Truncate(time.Second)
	})
	put(t, filepath.Join(dir, "site.pem"), cert+keyPEM(t, f.siteKey))
	hours := now.Add(-time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "site.pem"), hours, hours))
	seen := make(chan []NamedPair, 10)
	w := NewWatch(cfg, Options{Mounted: t.TempDir(), Every: time.Hour, Settle: time.Millisecond}, func(m *Material) { seen <- m.Certificates("dev") })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for limit := time.After(20 * time.Second); ; {
		select {
		case pairs := <-seen:
			require.Len(t, pairs, 1)
			if pairs[0].Err != nil {
				require.ErrorContains(t, pairs[0].Err, "ended on")
				return
			}
		case <-limit:
			t.Fatal("it never ended")
		}
	}
}

// Directories that come later are followed too, where the system tells of changes.
func TestWatchFollowsDirectoriesInDirectories(t *testing.T) {
	f := newForge(t)
	cfg, dir, _ := two(t)
	_, content := followed(t, cfg, Options{Every: time.Hour, Settle: 10 * time.Millisecond})
	becomes := func(name, want string) {
		t.Helper()
		require.Eventually(t, func() bool { return content("dev", name) == want }, 10*time.Second, 2*time.Millisecond)
	}
	becomes("site-tls.crt", "there is no secret, config or file called site-tls.crt")
	one, _ := f.site("site.example.com", "one")
	put(t, filepath.Join(dir, "site", "tls.crt"), one)
	becomes("site-tls.crt", one)
	two, _ := f.site("site.example.com", "two")
	put(t, filepath.Join(dir, "site", ".new"), two)
	require.NoError(t, os.Rename(filepath.Join(dir, "site", ".new"), filepath.Join(dir, "site", "tls.crt")))
	becomes("site-tls.crt", two)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "site")))
	becomes("site-tls.crt", "there is no secret, config or file called site-tls.crt")
}

// The development authority is made when it is wanted, and a mounted one holds.
func TestWatchHasTheLocalCA(t *testing.T) {
	cfg, _, _ := two(t)
	mounted, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	var last *Material
	var log bytes.Buffer
	o := Options{Mounted: mounted, State: state, Log: slog.New(slog.NewTextHandler(&log, nil))}
	w := NewWatch(cfg, o, func(m *Material) { last = m })
	w.Look()
	require.Nil(t, last.Local())
	require.NoDirExists(t, state, "nobody wants it")
	w.WantLocal()
	made := last.Local()
	require.NotNil(t, made)
	pair, err := made.Pair("app.example.com", last.At())
	require.NoError(t, err)
	require.Equal(t, []string{"app.example.com"}, pair.Names)
	w.Look()
	require.Same(t, made, last.Local())

	other := NewWatch(cfg, o, func(m *Material) { last = m })
	other.Look()
	require.True(t, made.Equal(last.Local()), "it is there after a restart")

	shared := filepath.Join(t.TempDir(), "shared")
	require.NoError(t, ca.InitLocal(shared, time.Now()))
	_, both, err := LocalFiles("", shared)
	require.NoError(t, err)
	put(t, filepath.Join(mounted, LocalSecret), string(both))
	w.Look()
	require.False(t, made.Equal(last.Local()))
	holds := last.Local()
	put(t, filepath.Join(mounted, LocalSecret), string(both[:200]))
	w.Look()
	require.True(t, holds.Equal(last.Local()), "a broken one changes nothing")
	require.Contains(t, log.String(), "the development authority (tls: local): the file waggle-local-ca")

	log.Reset()
	o.State, o.Mounted = filepath.Join(write(t, state, "file", "x"), "under"), t.TempDir()
	w = NewWatch(cfg, o, func(m *Material) { last = m })
	w.WantLocal()
	require.Nil(t, last.Local())
	require.Contains(t, log.String(), "make state_dir writable, or mount the secret waggle-local-ca")
}
