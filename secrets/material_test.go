package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hidden = "s3cr3t-content"

func TestBytesNeverShow(t *testing.T) {
	type holder struct {
		Item Item
		Data Bytes
		More *Bytes
	}
	b := Hide([]byte(hidden))
	h := holder{Item: Item{Kind: Secret, Name: "x", Data: b}, Data: b, More: &b}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%08b"} {
		for _, v := range []any{b, &b, h, &h, []Bytes{b}, map[string]Bytes{"k": b}} {
			require.NotContains(t, fmt.Sprintf(verb, v), hidden, verb)
			require.NotContains(t, fmt.Sprintf(verb, v), fmt.Sprintf("%x", hidden)[:12], verb)
		}
	}
	// fmt asks nobody about fields that are not exported.
	inside := &Material{shelves: map[string]shelf{"dev": {files: map[string]Item{"x": h.Item}}}, declared: map[string]Item{"x": h.Item}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, v := range []any{inside, *inside, struct{ data Bytes }{b}, struct{ items []Item }{[]Item{h.Item}}} {
			shown := fmt.Sprintf(verb, v)
			require.NotContains(t, shown, hidden, verb)
			require.NotContains(t, shown, fmt.Sprintf("%x", hidden)[:12], verb)
			require.NotContains(t, shown, fmt.Sprint([]byte(hidden))[1:12], verb)
			require.NotContains(t, shown, fmt.Sprintf("%#v", []byte(hidden))[7:20], verb)
		}
	}
	raw, err := json.Marshal(h)
	require.NoError(t, err)
	require.NotContains(t, string(raw), hidden)
	require.Contains(t, string(raw), Redacted)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("it", "data", b, "holder", h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("it", "data", b, "holder", h, "error", fmt.Errorf("with %v", b))
	require.NotContains(t, log.String(), hidden)
	require.Equal(t, hidden, string(b.Reveal()))
	require.Empty(t, Bytes{}.Reveal())
}

func TestBytesAreCompared(t *testing.T) {
	a, b, c := Hide([]byte("a")), Hide([]byte("a")), Hide([]byte("c"))
	require.True(t, a.Equal(b))
	require.Equal(t, a.Sum(), b.Sum())
	require.False(t, a.Equal(c))
	require.NotEqual(t, a.Sum(), c.Sum())
	require.True(t, Bytes{}.Equal(Hide(nil)))
	require.False(t, a.Equal(Bytes{}))
}

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

// two are the collections dev and prod, each with a directory.
func two(t *testing.T) (cfg *config.Config, dev, prod string) {
	t.Helper()
	return twoIn(t.TempDir(), t.TempDir())
}

func twoIn(dev, prod string) (*config.Config, string, string) {
	cfg := config.ForCollections([]string{"dev", "prod"})
	cfg.Collections["dev"].Certificates.Directories = []string{dev}
	cfg.Collections["prod"].Certificates.Directories = []string{prod}
	return cfg, dev, prod
}

func TestFind(t *testing.T) {
	cfg, dev, prod := two(t)
	mounted := t.TempDir()
	write(t, mounted, "given", "of the secret")
	write(t, mounted, "shop_both", "of the stack's secret")
	cfg.Collections["dev"].Certificates.Secrets = []string{"given", "shop_both"}
	write(t, dev, "users", "dev's file")
	write(t, dev, "config", "dev's file of a config's name")
	write(t, dev, "kept", "dev's file of a secret's name")
	write(t, prod, "users", "prod's file")
	write(t, prod, "only", "prod's")
	m, errs := Read(cfg, mounted, nil)
	require.Empty(t, errs)
	p := &watcher.Picture{
		Configs: map[string]*watcher.Config{
			"config":      {Name: "config", Data: []byte("the config")},
			"shop_config": {Name: "shop_config", Data: []byte("the stack's config")},
		},
		Secrets: map[string]*watcher.Secret{"given": {Name: "given"}, "kept": {Name: "kept"}, "shop_kept": {Name: "shop_kept"}, "far": {Name: "far"}, "shop_both": {Name: "shop_both"}},
	}
	for _, c := range []struct {
		collection, stack, name string
		kind                    Kind
		found, content, missing string
	}{
		{"dev", "", "users", File, "users", "dev's file", ""},
		{"prod", "", "users", File, "users", "prod's file", ""},
		{"prod", "shop", "users", File, "users", "prod's file", ""},
		{"dev", "", "only", "", "", "", "there is no secret, config or file called only"},
		{"none", "", "users", "", "", "", "there is no secret, config or file called users"},
		{"dev", "shop", "config", Config, "shop_config", "the stack's config", ""},
		{"dev", "other", "config", Config, "config", "the config", ""},
		{"dev", "", "given", Secret, "given", "of the secret", ""},
		{"dev", "shop", "both", Secret, "shop_both", "of the stack's secret", ""},
		{"prod", "", "given", "", "", "", "the secret given exists, and its content was not given to the control plane"},
		{"dev", "shop", "kept", File, "kept", "dev's file of a secret's name", ""},
		{"dev", "shop", "far", "", "", "", "the secret far exists, and its content was not given to the control plane"},
		{"dev", "", "../prod/only", "", "", "", "there is no secret, config or file called ../prod/only"},
		{"dev", "", "..", "", "", "", "there is no secret, config or file called .."},
		{"dev", "", "", "", "", "", "there is no secret, config or file called "},
	} {
		t.Run(c.collection+" "+c.stack+" "+c.name, func(t *testing.T) {
			i, err := Find(p, m, c.collection, c.stack, c.name)
			if c.missing != "" {
				require.EqualError(t, err, c.missing)
				var nf *NotFound
				require.True(t, errors.As(err, &nf))
				require.Contains(t, nf.Hint(c.collection), c.collection)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.kind, i.Kind)
			require.Equal(t, c.found, i.Name)
			require.Equal(t, c.content, string(i.Data.Reveal()))
		})
	}
	_, err := Find(p, nil, "dev", "", "users")
	require.Error(t, err)
	static := *p
	static.Static = true
	i, err := Find(&static, nil, "dev", "", "kept")
	require.NoError(t, err)
	require.True(t, i.Assumed)
}

func TestReadTakesNothingFromElsewhere(t *testing.T) {
	cfg, dev, _ := two(t)
	outside := t.TempDir()
	own := write(t, dev, "own.pem", "the control plane's own")
	cfg.XDS.TLS = &config.TLS{Key: own}
	token := write(t, outside, "token", "admin")
	cfg.Admin.TokenFile = token
	require.NoError(t, os.Symlink(token, filepath.Join(dev, "stolen")))
	require.NoError(t, os.Link(token, filepath.Join(dev, "linked")))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dev, "passwd")))
	require.NoError(t, os.Mkdir(filepath.Join(dev, "..data1"), 0o700))
	write(t, filepath.Join(dev, "..data1"), "real", "mounted volume")
	require.NoError(t, os.Symlink("..data1", filepath.Join(dev, "..data")))
	require.NoError(t, os.Symlink("..data/real", filepath.Join(dev, "real")))
	require.NoError(t, os.Mkdir(filepath.Join(dev, "directory"), 0o700))
	write(t, dev, ".hidden", "x")
	write(t, dev, "large", string(make([]byte, maxFile+1)))
	m, errs := Read(cfg, outside, nil)
	var told []string
	for _, err := range errs {
		told = append(told, err.Error())
	}
	require.Len(t, told, 5, "%q", told) // own.pem, stolen, linked, passwd, large
	p := &watcher.Picture{}
	for _, name := range []string{"own.pem", "stolen", "linked", "passwd", "directory", ".hidden", "large"} {
		_, err := Find(p, m, "dev", "", name)
		require.Error(t, err, name)
	}
	i, err := Find(p, m, "dev", "", "real")
	require.NoError(t, err)
	require.Equal(t, "mounted volume", string(i.Data.Reveal()))

	cfg.Collections["dev"].Certificates.Directories = []string{filepath.Join(outside, "gone")}
	cfg.Collections["dev"].Certificates.Secrets = []string{"absent", "../token"}
	_, errs = Read(cfg, outside, nil)
	require.Len(t, errs, 3)
	require.ErrorContains(t, errs[0], "collections.dev.certificates.secrets: absent")
	require.ErrorContains(t, errs[0], "docker service update --secret-add absent")
}
