package secrets

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// A Docker secret's content may be a file of the collection under the secret's own name.
func TestASecretsContentMayBeAFile(t *testing.T) {
	cfg, dev, prod := two(t)
	write(t, dev, "shop_users", "dev's shop")
	write(t, dev, "users", "anybody's")
	write(t, prod, "shop_users", "prod's shop")
	m, errs := Read(cfg, "", nil)
	require.Empty(t, errs)
	p := &watcher.Picture{Secrets: map[string]*watcher.Secret{"shop_users": {Name: "shop_users"}}}
	for _, c := range []struct{ collection, stack, want string }{
		{"dev", "shop", "dev's shop"},
		{"prod", "shop", "prod's shop"},
		{"dev", "other", "anybody's"},
	} {
		i, err := Find(p, m, c.collection, c.stack, "users")
		require.NoError(t, err)
		require.Equal(t, c.want, string(i.Data.Reveal()), "%v", c)
	}
}

// What is there and cannot be used is said, with the way out.
func TestNotFoundSaysWhatIsThere(t *testing.T) {
	cfg, dev, _ := two(t)
	mounted := t.TempDir()
	write(t, mounted, "empty", "")
	write(t, dev, "void", "")
	cfg.Collections["dev"].Certificates.Secrets = []string{"empty", "unmounted"}
	m, errs := Read(cfg, mounted, nil)
	require.Len(t, errs, 3)
	p := &watcher.Picture{Secrets: map[string]*watcher.Secret{"empty": {}, "unmounted": {}, "other": {}}}
	for name, want := range map[string][2]string{
		"empty":     {"the secret empty cannot be used: is empty", "put the file right"},
		"unmounted": {"the secret unmounted exists, and its content was not given to the control plane", "docker service update --secret-add unmounted"},
		"other":     {"the secret other exists, and its content was not given to the control plane", "collections.dev.certificates.secrets"},
		"void":      {"the file void cannot be used: is empty", "put the file right"},
		"nothing":   {"there is no secret, config or file called nothing", "docker secret create"},
	} {
		_, err := Find(p, m, "dev", "", name)
		require.EqualError(t, err, want[0])
		var missing *NotFound
		require.True(t, errors.As(err, &missing))
		require.Contains(t, missing.Hint("dev"), want[1])
	}
}

// What a stack file gives to a secret is not the secret of a Swarm: it is read, or refused.
func TestAStackFilesSecretIsKnown(t *testing.T) {
	cfg, dev, _ := two(t)
	p := &watcher.Picture{Static: true, Secrets: map[string]*watcher.Secret{
		"s_users": {Name: "s_users", File: write(t, dev, "users", "one")},
		"s_void":  {Name: "s_void", File: write(t, dev, "void", "")},
		"s_gone":  {Name: "s_gone", File: filepath.Join(dev, "gone")},
		"far":     {Name: "far"},
	}}
	m, errs := OfFiles(cfg, p)
	require.NotEmpty(t, errs)
	i, err := Find(p, m, "prod", "s", "users")
	require.NoError(t, err)
	require.Equal(t, Item{Kind: Secret, Name: "s_users"}, Item{Kind: i.Kind, Name: i.Name})
	require.Equal(t, "one", string(i.Data.Reveal()))
	_, err = Find(p, m, "prod", "s", "void")
	require.EqualError(t, err, "the secret s_void cannot be used: is empty")
	_, err = Find(p, m, "prod", "s", "gone")
	require.EqualError(t, err, "the secret s_gone cannot be used: file does not exist")
	i, err = Find(p, m, "prod", "s", "far")
	require.NoError(t, err)
	require.True(t, i.Assumed, "what a file calls external is elsewhere")
}

// Whatever a label says, only what lies in the collection's own directory is found.
func FuzzFind(f *testing.F) {
	top := f.TempDir()
	dev := filepath.Join(top, "dev")
	require.NoError(f, os.MkdirAll(filepath.Join(dev, "sub"), 0o700))
	for path, content := range map[string]string{"outside": "bad", "dev/users": "good", "dev/sub/deep": "bad", "dev/.hidden": "bad", "dev/..data": "bad"} {
		require.NoError(f, os.WriteFile(filepath.Join(top, path), []byte(content), 0o600))
	}
	cfg, _, _ := twoIn(dev, filepath.Join(top, "none"))
	m, _ := Read(cfg, top, nil)
	p := &watcher.Picture{
		Configs: map[string]*watcher.Config{"users_c": {Data: []byte("good")}, "../outside": {Data: []byte("bad")}},
		Secrets: map[string]*watcher.Secret{"outside": {}, "sub/deep": {}},
	}
	for _, name := range []string{"users", "outside", "../outside", "sub/deep", ".hidden", "..data", "./users", "users/", "/etc/passwd", "..", ".", "", "a\x00b", `..\outside`, "c", "users\n"} {
		f.Add("dev", "", name)
		f.Add("prod", "users", name)
		f.Add("dev", "..", name)
	}
	f.Fuzz(func(t *testing.T, collection, stack, name string) {
		i, err := Find(p, m, collection, stack, name)
		if err != nil {
			require.True(t, i.Equal(Item{}))
			return
		}
		require.Equal(t, "good", string(i.Data.Reveal()))
		require.False(t, strings.ContainsAny(name, "/\\\x00"))
		require.True(t, i.Kind == Config || collection == "dev" && i.Kind == File, "another collection has nothing of it")
	})
}
