package translate

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
)

func TestWhoseHostIsIt(t *testing.T) {
	type svc struct {
		name, stack string
		labels      map[string]string
	}
	for name, c := range map[string]struct {
		services []svc // oldest first
		config   func(*config.Collection)
		want     []string          // routes of a.test
		lost     map[string]string // service -> winner
	}{
		"the oldest claim wins": {
			services: []svc{{"x_web", "x", nil}, {"y_web", "y", nil}},
			want:     []string{"/* -> x_web:80"}, lost: map[string]string{"y_web": "x_web"},
		},
		"a stack shares and orders its host": {
			services: []svc{{"x_web", "x", nil}, {"x_api", "x", map[string]string{"context_root": "/api"}}},
			want:     []string{"/api -> x_api:80", "/* -> x_web:80"},
		},
		"others may add a root": {
			services: []svc{{"x_web", "x", nil}, {"y_api", "y", map[string]string{"context_root": "/api"}}},
			want:     []string{"/api -> y_api:80", "/* -> x_web:80"},
		},
		"but not one that is taken": {
			services: []svc{{"x_web", "x", nil}, {"x_api", "x", map[string]string{"context_root": "/api"}}, {"y_api", "y", map[string]string{"context_root": "/api"}}},
			want:     []string{"/api -> x_api:80", "/* -> x_web:80"}, lost: map[string]string{"y_api": "x_api"},
		},
		"nor share it among themselves": {
			services: []svc{{"x_web", "x", nil}, {"y_api", "y", map[string]string{"context_root": "/api"}}, {"z_api", "z", map[string]string{"context_root": "/api"}}, {"y_api2", "y", map[string]string{"context_root": "/api"}}},
			want:     []string{"/api -> y_api:80=2 y_api2:80=2", "/* -> x_web:80"}, lost: map[string]string{"z_api": "y_api"},
		},
		"the owner takes back what it claims later": {
			services: []svc{{"x_web", "x", nil}, {"y_api", "y", map[string]string{"context_root": "/api"}}, {"x_api", "x", map[string]string{"context_root": "/api"}}},
			want:     []string{"/api -> x_api:80", "/* -> x_web:80"}, lost: map[string]string{"y_api": "x_api"},
		},
		"the root too may be added": {
			services: []svc{{"x_api", "x", map[string]string{"context_root": "/api"}}, {"y_web", "y", nil}},
			want:     []string{"/api -> x_api:80", "/* -> y_web:80"},
		},
		"services without a stack are one owner": {
			services: []svc{{"web", "", nil}, {"web2", "", nil}},
			want:     []string{"/* -> web:80=2 web2:80=2"},
		},
		"unless their access labels say otherwise": {
			services: []svc{{"web", "", map[string]string{labels.AccessLabel: "/a"}}, {"web2", "", map[string]string{labels.AccessLabel: "/b"}}, {"web3", "", nil}},
			want:     []string{"/* -> web:80"}, lost: map[string]string{"web2": "web", "web3": "web"},
		},
		"a stack is the owner whatever the access label": {
			services: []svc{{"x_a", "x", map[string]string{labels.AccessLabel: "/a"}}, {"x_b", "x", map[string]string{labels.AccessLabel: "/b"}}},
			want:     []string{"/* -> x_a:80=2 x_b:80=2"},
		},
		"share_hosts: any": {
			services: []svc{{"x_web", "x", nil}, {"y_web", "y", nil}},
			config:   func(c *config.Collection) { c.ShareHosts = "any" },
			want:     []string{"/* -> x_web:80=2 y_web:80=2"},
		},
		"host_owners fixes it": {
			services: []svc{{"x_web", "x", nil}, {"y_web", "y", nil}},
			config:   func(c *config.Collection) { c.HostOwners = map[string][]string{"a.test": {"y"}} },
			want:     []string{"/* -> y_web:80"}, lost: map[string]string{"x_web": "y_web"},
		},
		"host_owners by wildcard, the closest holds": {
			services: []svc{{"x_web", "x", nil}, {"y_web", "y", nil}},
			config: func(c *config.Collection) {
				c.HostOwners = map[string][]string{"*": {"x"}, "*.test": {"y"}, "*.a.test": {"x"}}
			},
			want: []string{"/* -> y_web:80"}, lost: map[string]string{"x_web": "y_web"},
		},
		"a reserved host of which nothing is claimed": {
			services: []svc{{"x_web", "x", nil}, {"x_api", "x", map[string]string{"context_root": "/api"}}},
			config:   func(c *config.Collection) { c.HostOwners = map[string][]string{"a.test": {"y"}} },
			want:     nil, lost: map[string]string{"x_web": "", "x_api": ""},
		},
		"a broken claim is a claim": {
			services: []svc{{"x_web", "x", map[string]string{"port": "none"}}, {"y_web", "y", nil}},
			want:     []string{"/* -> 503 not_built"}, lost: map[string]string{"y_web": "x_web"},
		},
		"but not against one that works": {
			services: []svc{{"x_web", "x", map[string]string{"port": "none"}}, {"x_web2", "x", nil}},
			want:     []string{"/* -> x_web2:80"},
		},
		"a bad root holds the rest of the host": {
			services: []svc{{"x_web", "x", map[string]string{"context_root": "no slash"}}, {"x_api", "x", map[string]string{"context_root": "/api"}}},
			want:     []string{"/api -> x_api:80", "/* -> 503 not_built"},
		},
		"and nothing that another route takes": {
			services: []svc{{"x_web", "x", map[string]string{"context_root": "no slash"}}, {"x_all", "x", nil}},
			want:     []string{"/* -> x_all:80"},
		},
		"a bad root of a stranger is nothing": {
			services: []svc{{"x_web", "x", map[string]string{"context_root": "/a"}}, {"y_web", "y", map[string]string{"context_root": "no slash"}}},
			want:     []string{"/a -> x_web:80"},
		},
		"other guards than the oldest": {
			services: []svc{{"x_web", "x", map[string]string{"basic_auth": "users"}}, {"x_open", "x", nil}},
			want:     []string{"/* -> 503 guard_unavailable"}, lost: map[string]string{"x_open": "x_web"},
		},
		"a guard that comes later does not close": {
			services: []svc{{"x_open", "x", nil}, {"x_web", "x", map[string]string{"basic_auth": "users"}}},
			want:     []string{"/* -> x_open:80"}, lost: map[string]string{"x_web": "x_open"},
		},
		"two routes of one service": {
			services: []svc{{"x_web", "x", map[string]string{"two.hosts": "a.test", "two.port": "81"}}},
			want:     []string{"/* -> x_web:80"}, lost: map[string]string{"x_web": "x_web"},
		},
		"a rewrite is not shared with none": {
			services: []svc{{"x_a", "x", map[string]string{"context_root": "/r", "context_root_rewrite": "true"}}, {"x_b", "x", map[string]string{"context_root": "/r"}}},
			want:     []string{"=/r -> MOVED_PERMANENTLY /r/", "/r/* -> rewrite / x_a:80"}, lost: map[string]string{"x_b": "x_a"},
		},
		"nor behind a broken one": {
			services: []svc{{"x_bad", "x", map[string]string{"context_root": "/r", "port": "y"}}, {"x_a", "x", map[string]string{"context_root": "/r", "context_root_rewrite": "true"}}, {"x_b", "x", map[string]string{"context_root": "/r"}}},
			want:     []string{"=/r -> MOVED_PERMANENTLY /r/", "/r/* -> rewrite / x_a:80"}, lost: map[string]string{"x_b": "x_a"},
		},
		"a root is taken whatever else the owner asks for there": {
			services: []svc{{"x_web", "x", map[string]string{"context_root": "/api", "priority": "-1"}}, {"y_api", "y", map[string]string{"context_root": "/api"}}},
			want:     []string{"/api -> x_web:80"}, lost: map[string]string{"y_api": "x_web"},
		},
		"others set no priority": {
			services: []svc{{"x_web", "x", nil}, {"y_api", "y", map[string]string{"context_root": "/api", "priority": "1"}}},
			want:     []string{"/* -> x_web:80"}, lost: map[string]string{"y_api": "x_web"},
		},
		"nor exact paths": {
			services: []svc{{"x_web", "x", nil}, {"y_api", "y", map[string]string{"path": "/pay"}}},
			want:     []string{"/* -> x_web:80"}, lost: map[string]string{"y_api": "x_web"},
		},
		"nor redirects of all the host": {
			services: []svc{{"x_web", "x", map[string]string{"context_root": "/x"}}, {"y_api", "y", map[string]string{"hosts": "b.test", "redirects": "a.test,https://b.test"}}},
			want:     []string{"/x -> x_web:80"}, lost: map[string]string{"y_api": "x_web"},
		},
		"a redirect of the owner leads all of the host elsewhere": {
			services: []svc{{"x_web", "x", nil}, {"x_api", "x", map[string]string{"context_root": "/api"}}, {"x_moved", "x", map[string]string{"hosts": "b.test", "redirects": "a.test,https://a.test"}}, {"y_api", "y", map[string]string{"context_root": "/y"}}},
			want:     []string{"/* -> FOUND "}, lost: map[string]string{"x_web": "x_moved", "x_api": "x_moved", "y_api": "x_moved"},
		},
		"the oldest of its redirects": {
			services: []svc{{"x_a", "x", map[string]string{"hosts": "b.test", "redirects": "a.test,https://a.test"}}, {"x_b", "x", map[string]string{"hosts": "b.test", "redirects": "a.test,https://c.test"}}, {"x_c", "x", map[string]string{"hosts": "b.test", "redirects": "a.test,https://a.test"}}},
			want:     []string{"/* -> FOUND "}, lost: map[string]string{"x_b": "x_a"},
		},
		"but not one that is not built": {
			services: []svc{{"x_bad", "x", map[string]string{"port": "none", "redirects": "a.test,https://c.test"}}, {"x_web", "x", nil}},
			want:     []string{"/* -> x_web:80"},
		},
		"longest root first": {
			services: []svc{{"x_a", "x", map[string]string{"context_root": "/b"}}, {"x_b", "x", map[string]string{"context_root": "/b/c/d"}}, {"x_c", "x", map[string]string{"context_root": "/b/c"}}, {"x_d", "x", nil}},
			want:     []string{"/b/c/d -> x_b:80", "/b/c -> x_c:80", "/b -> x_a:80", "/* -> x_d:80"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			if c.config != nil {
				c.config(cfg.Collections["dev"])
			}
			w := newWorld()
			for _, s := range c.services {
				lbls := map[string]string{"hosts": "a.test", "port": "80"}
				for k, v := range s.labels {
					lbls[k] = v
				}
				var opts []serviceOption
				if s.stack != "" {
					opts = append(opts, stack(s.stack))
				}
				w.service(s.name, lbls, opts...)
			}
			b := w.build(t, cfg)
			require.Equal(t, c.want, routeLines(b, "dev", "a.test"))
			lost, yielded := map[string]string{}, map[string]string{}
			for _, p := range b.Problems() {
				if p.Severity == labels.Error && (p.Winner != "" || slices.Contains([]string{"x_web", "x_api"}, p.Service) && contains(p.Reason, "host_owners")) {
					lost[p.Service] = p.Winner
				}
				switch {
				case p.Severity != labels.Info || p.Winner == "" || p.Winner == p.Service: // the winner is told too
				case contains(p.Reason, "on plain HTTP all of a.test leads to"):
					yielded[p.Service] = p.Winner
				default:
					require.Fail(t, "who is told this?", "%+v", p)
				}
			}
			if c.lost == nil {
				c.lost = map[string]string{}
			}
			all := maps.Clone(lost)
			maps.Copy(all, yielded)
			require.Equal(t, c.lost, all, "%+v", b.Problems())
			for loser, winner := range lost {
				if yielded[loser] == "" && winner != "" && winner != loser {
					requireProblem(t, b, winner, labels.Info, loser+" also claims this")
				}
			}
		})
	}
}

func TestDefaultBackend(t *testing.T) {
	w := newWorld()
	w.service("x_all", map[string]string{"default_backend": "true", "port": "80"}, stack("x"))
	w.service("x_more", map[string]string{"default_backend": "true", "port": "80"}, stack("x"))
	w.service("x_star", map[string]string{"hosts": "*", "port": "80"}, stack("x"))
	w.service("x_app", map[string]string{"hosts": "*", "port": "80", "context_root": "/app"}, stack("x"))
	b := w.build(t, testConfig())
	require.Equal(t, []string{"/app -> x_app:80", "/* -> x_all:80"}, routeLines(b, "dev", "*"))
	for _, loser := range []string{"x_more", "x_star"} {
		require.Equal(t, "x_all", requireProblem(t, b, loser, labels.Error, "never shared").Winner)
	}
	require.Equal(t, []string{"x_all:80", "x_app:80"}, names(b, "dev", Cluster), "who lost everything has no cluster")

	for _, v := range b.Services() {
		want := Live
		if v.Name == "x_more" || v.Name == "x_star" {
			want = Lost
		}
		require.Equal(t, want, v.Routes[0].State, v.Name)
	}
}

// One route that says both is one claim.
func TestDefaultBackendAndEveryHost(t *testing.T) {
	w := newWorld()
	w.service("x_all", map[string]string{"default_backend": "true", "hosts": "*,a.test", "port": "80"}, stack("x"))
	b := w.build(t, testConfig())
	require.Empty(t, b.Problems())
	require.Equal(t, []string{"/* -> x_all:80"}, routeLines(b, "dev", "*"))
	require.Equal(t, []string{"/* -> x_all:80"}, routeLines(b, "dev", "a.test"))
}

// Of whatever services say: who does not own a host has added a context root there
// that the owner does not ask for, and nothing else; and of what is lost, both sides
// are told.
func TestStrangersAddRootsAlone(t *testing.T) {
	added, lost := 0, 0
	for seed := range uint64(400) {
		s := newSwarm(9000 + seed)
		for _, c := range s.cfg.Collections {
			c.ShareHosts, c.HostOwners = "owner", nil
		}
		b := Build(s.input())
		told := func(service string, severity labels.Severity, winner string) bool {
			return slices.ContainsFunc(b.Problems(), func(p Problem) bool {
				return p.Service == service && p.Severity == severity && p.Winner == winner
			})
		}
		for _, c := range b.collections {
			for _, h := range c.hosts {
				owner := ownerOf(h.claims[0].route.svc)
				for _, cl := range h.claims {
					name := cl.route.svc.spec.Name
					switch stranger := ownerOf(cl.route.svc) != owner; {
					case stranger && cl.lost && !cl.route.vague && !cl.hidden:
						lost++
						i := slices.IndexFunc(b.Problems(), func(p Problem) bool {
							return p.Service == name && p.Severity == labels.Error && p.Winner != "" && p.Value == cl.value()
						})
						require.GreaterOrEqual(t, i, 0, "seed %d: %s is not told of %s", seed, name, cl.value())
						if winner := b.Problems()[i].Winner; winner != name {
							require.True(t, told(winner, labels.Info, winner), "seed %d: %s is not told of %s", seed, winner, cl.value())
						}
					case stranger && !cl.lost:
						added++
						require.True(t, cl.on.rootOnly() && cl.redirect == nil, "seed %d: %s has %s", seed, name, cl.value())
						for _, own := range h.claims {
							if ownerOf(own.route.svc) == owner && !own.route.vague {
								require.True(t, own.redirect == nil || own.route.broken || h.tls.served(), "seed %d: %s has %s", seed, name, cl.value())
								require.False(t, own.on.kind == prefixPath && own.on.path == cl.on.path, "seed %d: %s has %s", seed, name, cl.value())
							}
						}
					}
				}
			}
		}
	}
	require.Greater(t, added, 40)
	require.Greater(t, lost, 100)
}
