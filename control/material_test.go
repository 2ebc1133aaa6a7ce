package control

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// What is on disk is one more input: there at the first build, and structure when it changes.
func TestMaterialIsAnInput(t *testing.T) {
	dir := t.TempDir()
	cfg := config.ForCollections(nil)
	cfg.Collections["default"].Certificates.Directories = []string{dir}
	cfg.Collections["default"].Networks = []string{"edge"}
	read := func(users string) *secrets.Material {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o600))
		m, errs := secrets.Read(cfg, "", nil)
		require.Empty(t, errs)
		return m
	}
	const password = ":{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"
	alice, bob := read("alice"+password), read("bob"+password)

	synctest.Test(t, func(t *testing.T) {
		c, b := running(t, cfg)
		s := newSwarm("a", "b")
		s.p.Services["a"].Labels["com.docker.lb.basic_auth"] = "users"
		c.Material(alice)
		c.Update(s.update(watcher.Changes{All: true}))
		synctest.Wait()
		require.Empty(t, c.Status().Problems, "the first build has it")
		b.take()

		start := time.Now() // a structural build has just ended
		c.Material(bob)
		c.Material(alice)
		c.Material(bob) // only the newest counts
		s.task("a", 60)
		c.Update(s.update(watcher.Changes{Tasks: set("a")}))
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{"put endpoints a:8080"}, changed(b.take()), "tasks do not wait for it")
		time.Sleep(time.Second)
		synctest.Wait()
		ps := b.take()
		require.Equal(t, []string{"put routes http"}, changed(ps), "and nothing else is sent")
		require.Equal(t, 100*time.Millisecond, ps[0].at.Sub(start))

		c.Material(nil)
		synctest.Wait()
		require.Contains(t, changed(b.take()), "put routes http")
		require.Len(t, c.Status().Problems, 1)
		require.Contains(t, c.Status().Problems[0].Reason, "there is no secret, config or file called users")

		c.Material(alice)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, c.Status().Problems)
	})
}

// Whatever the loop looks at first: what is on disk was told before the picture or the
// configuration that needs it, and is there when that is built.
func TestMaterialIsThereWhenItIsNeeded(t *testing.T) {
	cfg := config.ForCollections(nil)
	users := secrets.Item{Kind: secrets.File, Name: "users", Data: secrets.Hide([]byte("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"))}
	c := New(cfg, &board{}, DefaultPace, slog.New(slog.DiscardHandler))
	l := &loop{Control: c, builder: translate.NewBuilder(), published: map[string]bool{}, cfg: cfg}
	s := newSwarm("a")
	s.p.Services["a"].Labels["com.docker.lb.basic_auth"] = "users"
	c.Material(secrets.Of(map[string][]secrets.Item{"default": {users}}))
	l.update(s.update(watcher.Changes{All: true}))
	l.build()
	for _, p := range l.builder.Problems() {
		require.NotContains(t, p.Label, "basic_auth", p.Reason)
	}
}
