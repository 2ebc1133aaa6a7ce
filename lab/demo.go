package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/waggle-lb/waggle/lab/load"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

//go:embed demo/*.yml
var demoFiles embed.FS

// environments are the demo's collections.
var environments = []string{"dev", "test", "prod"}

// demoStacks are the files that are deployed once per environment.
var demoStacks = []string{"shop", "blog"}

// demoPicture deploys every stack to every environment, as
// `ENV=dev docker stack deploy -c shop.yml shop-dev` would.
func demoPicture(ctx context.Context, dir string) (*watcher.Picture, error) {
	all := &watcher.Picture{Services: map[string]*watcher.Service{}}
	for _, stack := range demoStacks {
		content, err := demoFiles.ReadFile("demo/" + stack + ".yml")
		if err != nil {
			return nil, fmt.Errorf("read the demo: %w", err)
		}
		file := filepath.Join(dir, stack+".yml")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return nil, fmt.Errorf("write the demo's stack file: %w", err)
		}
		for _, env := range environments {
			p, findings, err := stackfile.Load(ctx, stackfile.Options{
				Files: []string{file}, Stack: stack + "-" + env, Env: map[string]string{"ENV": env},
			})
			if err != nil {
				return nil, fmt.Errorf("read the demo: %w", err)
			}
			if len(findings) > 0 {
				return nil, fmt.Errorf("read the demo: %s", findings[0])
			}
			base := len(all.Services)
			for _, id := range slices.Sorted(maps.Keys(p.Services)) {
				s := *p.Services[id]
				s.Order += base // files loaded later are younger
				all.Services[s.ID] = &s
			}
		}
	}
	return all, nil
}

// names of the demo's services.
func web(env string) string    { return "shop-" + env + "_web" }
func canary(env string) string { return "shop-" + env + "_web-canary" }
func api(env string) string    { return "shop-" + env + "_api" }
func blog(env string) string   { return "blog-" + env + "_blog" }
func wiki(env string) string   { return "wiki-" + env + "_wiki" }

// wikiSpec is a service that is there, but of which no label speaks yet.
func wikiSpec(env string) *watcher.Service {
	return &watcher.Service{
		ID: wiki(env), Name: wiki(env), Version: 1, Order: 100, Mode: watcher.Replicated, Replicas: 2,
		Labels: map[string]string{watcher.StackLabel: "wiki-" + env},
		Expose: []uint32{3000},
	}
}

// pirateSpec is another team's service, whose label claims the shop's host; its
// second route is its own good right.
func pirateSpec(env string) *watcher.Service {
	return &watcher.Service{
		ID: "pirate_web", Name: "pirate_web", Version: 1, Order: 200, Mode: watcher.Replicated, Replicas: 1,
		Labels: map[string]string{
			watcher.StackLabel:   "pirate",
			"lb.service_cluster": env,
			"lb.hosts":           "shop." + env + ".localhost",
			"lb.port":            "80",
			"lb.own.hosts":       "pirate." + env + ".localhost",
			"lb.own.port":        "80",
		},
	}
}

// demoLoad asks every service of the demo in one collection, rate times a second, and
// the shop's over TLS, too.
func demoLoad(env string, a addresses, ca *secrets.LocalCA, rate float64) []load.Target {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Root())
	target := func(name string, at address, host, path string, share float64, services ...string) load.Target {
		t := load.Target{
			Name: env + " " + name, URL: "http://" + at.String() + path, Host: fmt.Sprintf("%s.%s.localhost:%d", host, env, at.port),
			Rate: rate * share, Timeout: loadTimeout, MaxInFlight: 3000, Expect: load.Service(services...),
		}
		if at == a.https {
			t.URL, t.TLS = "https://"+at.String()+path, &tls.Config{RootCAs: roots}
		}
		return t
	}
	return []load.Target{
		target("web", a.http, "shop", "/", 0.35, web(env), canary(env)),
		target("web over TLS", a.https, "shop", "/", 0.15, web(env), canary(env)),
		target("api", a.http, "shop", "/api/items", 0.25, api(env)),
		target("blog", a.http, "blog", "/", 0.25, blog(env)),
	}
}
