package translate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
)

// shelf is a collection's directory, and the secrets that were given to it.
type shelf struct {
	t        *testing.T
	cfg      *config.Config
	dir, run string
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, cfg: testConfig(), dir: t.TempDir(), run: t.TempDir()}
	s.cfg.Collections["dev"].Certificates = config.Certificates{Directories: []string{s.dir}, Secrets: []string{"red_users", "keys"}}
	return s
}

// put writes a file, or removes it where content is "".
func (s *shelf) put(dir, name, content string) {
	s.t.Helper()
	file := filepath.Join(dir, name)
	if content == "" {
		if err := os.Remove(file); err != nil {
			require.ErrorIs(s.t, err, os.ErrNotExist)
		}
		return
	}
	require.NoError(s.t, os.WriteFile(file, []byte(content), 0o600))
}

func (s *shelf) material() *secrets.Material {
	m, _ := secrets.Read(s.cfg, s.run, nil) // what was not given is told, and no matter here
	return m
}

const alice, bob = "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n", "bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"

// Whoever asked for a name, and had nothing, is built when it comes: by every way by
// which it can come, and nobody else is.
func TestWhatWasAskedForComes(t *testing.T) {
	sh := newShelf(t)
	w := newWorld()
	asks := w.service("red_web", map[string]string{"hosts": "a.test", "port": "80", "basic_auth": "users"}, stack("red"))
	other := w.service("blue_web", map[string]string{"hosts": "b.test", "port": "80", "basic_auth": "elsewhere"}, stack("blue"))
	plain := w.service("green_web", map[string]string{"hosts": "c.test", "port": "80"}, stack("green"))
	picture, material := w.Picture, sh.material()
	b := NewBuilder()
	b.Build(Input{Picture: picture, Config: sh.cfg, Material: material}, watcher.Changes{All: true})
	require.Equal(t, []secrets.Want{
		{Collection: "dev", Stack: "blue", Name: "elsewhere", Use: other.ID + "//basic_auth"}, {Collection: "dev", Stack: "red", Name: "users", Use: asks.ID + "//basic_auth"},
	}, b.Wanted())

	object := func(configs map[string]*watcher.Config, secrets ...string) {
		p := *picture
		p.Configs, p.Secrets = configs, map[string]*watcher.Secret{}
		for _, n := range secrets {
			p.Secrets[n] = &watcher.Secret{ID: n, Name: n}
		}
		picture = &p
	}
	for _, step := range []struct {
		what    string
		do      func()
		problem string // of the service that asks; "" where its guard is built
		builds  bool
	}{
		{"another file", func() { sh.put(sh.dir, "unasked", alice) }, "no secret, config or file called users", false},
		{"another config", func() { object(map[string]*watcher.Config{"blue_users": {Name: "blue_users", Data: []byte(alice)}}) }, "no secret, config or file called users", false},
		{"a file", func() { sh.put(sh.dir, "users", alice) }, "", true},
		{"a config of the name", func() { object(map[string]*watcher.Config{"users": {Name: "users", Data: []byte(bob)}}) }, "", true},
		{"the same again", func() { object(map[string]*watcher.Config{"users": {Name: "users", Data: []byte(bob)}}) }, "", false},
		{"the stack's own config", func() {
			object(map[string]*watcher.Config{"users": {Name: "users", Data: []byte(bob)}, "red_users": {Name: "red_users", Data: []byte(alice)}})
		}, "", true},
		{"the stack's own secret, not given", func() { object(nil, "red_users") }, "", true}, // the file holds
		{"the file goes", func() { sh.put(sh.dir, "users", "") }, "the secret red_users exists, and its content was not given", true},
		{"the secret is given", func() { sh.put(sh.run, "red_users", bob) }, "", true},
		{"the secret is another", func() { sh.put(sh.run, "red_users", alice+bob) }, "", true},
		{"the secret is nonsense", func() { sh.put(sh.run, "red_users", "x") }, "line 1 is not user:password", true},
		{"nothing is left", func() { sh.put(sh.run, "red_users", ""); object(nil) }, "no secret, config or file called users", true},
	} {
		t.Run(step.what, func(t *testing.T) {
			before := maps.Clone(b.services)
			step.do()
			material = sh.material()
			ds := b.Build(Input{Picture: picture, Config: sh.cfg, Material: material}, watcher.Changes{Shared: true})
			require.Equal(t, step.builds, before[asks.ID] != b.services[asks.ID])
			require.Same(t, before[other.ID], b.services[other.ID])
			require.Same(t, before[plain.ID], b.services[plain.ID])
			if !step.builds {
				require.Empty(t, ds)
			}
			var reasons []string
			for _, p := range b.Problems() {
				if p.Service == "red_web" {
					reasons = append(reasons, p.Reason)
				}
			}
			if step.problem == "" {
				require.Empty(t, reasons)
			} else {
				require.Len(t, reasons, 1)
				require.Contains(t, reasons[0], step.problem)
			}
			fresh := Build(Input{Picture: picture, Config: sh.cfg, Material: material})
			require.Empty(t, cmp.Diff(everything(fresh, sh.cfg), everything(b, sh.cfg)))
		})
	}
}

// Whatever comes, goes and changes by whatever way: incremental is as from nothing.
func TestMaterialLeavesNoTrace(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 11))
		sh := newShelf(t)
		w := newWorld()
		for i := range 12 {
			name := pick(r, "red", "blue")
			w.service(fmt.Sprintf("%s_%d", name, i), map[string]string{
				"hosts": fmt.Sprintf("h%d.test", r.IntN(8)), "port": "80", "service_cluster": pick(r, "dev", "dev", "prod"),
				"basic_auth": pick(r, "users", "users", "keys", "../users", ""), "api_keys": pick(r, "", "", "keys", "users"),
			}, stack(name))
		}
		content := func() string { return pick(r, "", "", alice, bob, "k1\n", "c:k2\n") }
		picture := w.Picture
		b := NewBuilder()
		b.Build(Input{Picture: picture, Config: sh.cfg, Material: sh.material()}, watcher.Changes{All: true})
		for step := range 30 {
			changes := watcher.Changes{}
			names := []string{"users", "keys", "red_users", "blue_users"}
			switch r.IntN(4) {
			case 0:
				p := *picture
				p.Configs, p.Secrets = map[string]*watcher.Config{}, map[string]*watcher.Secret{}
				for _, n := range names {
					if c := content(); c != "" {
						p.Configs[n] = &watcher.Config{Name: n, Data: []byte(c)}
					}
					if r.IntN(3) == 0 {
						p.Secrets[n] = &watcher.Secret{Name: n}
					}
				}
				picture, changes.Shared = &p, true
			case 1:
				sh.put(sh.run, pick(r, names...), content())
			case 2: // with something else
				p := *picture
				p.Services = maps.Clone(p.Services)
				for id, s := range p.Services {
					p.Services[id] = relabelled(s, "basic_auth", pick(r, "users", "keys", ""))
					changes.Services = map[string]struct{}{id: {}}
					break
				}
				picture = &p
				fallthrough
			default:
				sh.put(sh.dir, pick(r, names...), content())
			}
			in := Input{Picture: picture, Config: sh.cfg, Material: sh.material()}
			b.Build(in, changes)
			fresh := Build(in)
			if diff := cmp.Diff(everything(fresh, sh.cfg), everything(b, sh.cfg)); diff != "" {
				t.Fatalf("seed %d, step %d: incremental differs (-from nothing +incremental)\n%s", seed, step, diff)
			}
			require.Equal(t, fresh.Wanted(), b.Wanted())
		}
	}
}

// What cannot be read any more stays in use, and its services say so.
func TestWhatIsKeptIsTold(t *testing.T) {
	w, cfg := newWorld(), testConfig()
	w.service("red_web", map[string]string{"hosts": "a.test", "port": "80", "basic_auth": "users"}, stack("red"))
	users := secrets.Item{Kind: secrets.File, Name: "users", Data: secrets.Hide([]byte(alice))}
	b := Build(Input{Picture: w.Picture, Config: cfg, Material: secrets.Of(map[string][]secrets.Item{"dev": {users}})})
	require.Empty(t, b.Problems())
	before := everything(b, cfg)

	users.Kept = "permission denied"
	kept := secrets.Of(map[string][]secrets.Item{"dev": {users}})
	ds := b.Build(Input{Picture: w.Picture, Config: cfg, Material: kept}, watcher.Changes{})
	require.Empty(t, ds, "nothing is sent")
	require.Len(t, b.Problems(), 1)
	require.Equal(t, "the file users cannot be read any more and is used as it was: permission denied", b.Problems()[0].Reason)
	after := everything(b, cfg)
	for _, out := range []map[string]any{before, after} {
		delete(out, "problems")
		delete(out, "services")
	}
	require.Equal(t, before, after)
}

// 10 000 services whose guards name configs, and a config comes that nobody asked for.
func BenchmarkNobodyAsked(b *testing.B) {
	w, cfg := newWorld(), testConfig()
	w.Configs = map[string]*watcher.Config{"users": {Name: "users", Data: []byte(alice)}}
	for i := range 10_000 {
		w.service(fmt.Sprintf("s%d_web", i), map[string]string{"hosts": fmt.Sprintf("h%d.test", i), "port": "80", "basic_auth": "users"}, stack(fmt.Sprintf("s%d", i)))
	}
	builder := NewBuilder()
	builder.Build(Input{Picture: w.Picture, Config: cfg}, watcher.Changes{All: true})
	n := 0
	for b.Loop() {
		p := *w.Picture
		p.Configs = maps.Clone(p.Configs)
		n++
		p.Configs[fmt.Sprint("unasked", n)] = &watcher.Config{Data: []byte("x")}
		if ds := builder.Build(Input{Picture: &p, Config: cfg}, watcher.Changes{Shared: true}); len(ds) > 0 {
			b.Fatal("something was built")
		}
	}
}
