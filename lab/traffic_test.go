package lab

import (
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// TestTraffic is what an example of the label language cannot say about which
// traffic a route takes: it takes many requests, a task that fails, or another start.
func TestTraffic(t *testing.T) {
	d := &destination{bench: benchFor(t, config.ForCollections(nil))}
	d.deploy(t, map[string]map[string]string{
		"reads": {"methods": "GET,POST"}, "puts": {"methods": "PUT,POST", "retry_methods": "PUT,DELETE"}, "gets": {"methods": "GET"},
		"beta": {"match_header.X-Beta": "*"}, "exact": {"path": "/a,/b"},
		"beta-a:3": {"hosts": "shared.test", "match_header.X-Beta": "yes"}, "beta-b:1": {"hosts": "shared.test", "match_header.X-Beta": "yes"},
		"rest-a": {"hosts": "shared.test", "weight": "75"}, "rest-b": {"hosts": "shared.test", "weight": "25"},
	})
	t.Run("what may be sent twice, among the methods that a route takes", func(t *testing.T) {
		beta := http.Header{"X-Beta": {"yes"}}
		for _, tt := range []struct {
			method, host, path string
			header             http.Header
			status, attempts   int
			reason             string
		}{
			{"GET", "reads", "/?reset", nil, 503, 3, "unreachable"},
			{"POST", "reads", "/?reset", nil, 503, 1, "unreachable"},
			{"HEAD", "reads", "/?reset", nil, 404, 0, "no_route"}, // safe, but not taken
			{"PUT", "puts", "/?reset", nil, 503, 3, "unreachable"},
			{"POST", "puts", "/?reset", nil, 503, 1, "unreachable"},
			{"DELETE", "puts", "/?reset", nil, 404, 0, "no_route"},
			{"GET", "gets", "/?reset", nil, 503, 3, "unreachable"},
			{"POST", "gets", "/", nil, 404, 0, "no_route"},
			{"GET", "beta", "/?reset", beta, 503, 3, "unreachable"},
			{"POST", "beta", "/?reset", beta, 503, 1, "unreachable"},
			{"GET", "beta", "/", nil, 404, 0, "no_route"},
			{"GET", "exact", "/b?reset", nil, 503, 3, "unreachable"},
			{"POST", "exact", "/b?reset", nil, 503, 1, "unreachable"},
			{"GET", "exact", "/b/", nil, 404, 0, "no_route"},
		} {
			before := d.seen(t, tt.host)
			a := d.ask(t, tt.method, tt.host, tt.path, tt.header)
			say := fmt.Sprintf("%s %s%s: %v", tt.method, tt.host, tt.path, a.Header)
			require.Equal(t, tt.status, a.StatusCode, say)
			require.Equal(t, tt.reason, a.Header.Get("X-Waggle-Reason"), say)
			require.Equal(t, tt.attempts, d.seen(t, tt.host)-before, say)
		}
	})
	t.Run("shares of those who ask for the same", func(t *testing.T) {
		for header, want := range map[string]map[string]float64{"yes": {"beta-a": 0.75, "beta-b": 0.25}, "": {"rest-a": 0.75, "rest-b": 0.25}} {
			const n = 400
			got := map[string]int{}
			for range n {
				got[d.works(t, "GET", "shared", "/", http.Header{"X-Beta": {header}}).Header.Get("X-Waggle-Service")]++
			}
			require.Len(t, got, len(want), "%v", got)
			for service, share := range want {
				require.InDelta(t, share, float64(got[service])/n, 0.11, "%v", got) // five standard deviations
			}
		}
	})
}

// Whose a host is does not change because of who comes first, comes back, or starts again.
func TestOwnersStay(t *testing.T) {
	stacks := map[string]map[string]string{
		"old_web": {}, "old_moved": {"hosts": "elsewhere.test", "redirects": "moved.test,https://new.test"},
		"new_web": {}, "new_more": {"context_root": "/more"}, "new_moved": {"hosts": "moved.test", "context_root": "/mine"},
	}
	service := func(name string) *watcher.Service {
		s := &watcher.Service{
			ID: name, Name: name, Mode: watcher.Replicated, Replicas: 1, CreatedAt: time.Unix(1000, 0), Ports: []watcher.Port{{Protocol: "tcp", Target: 80}},
			Labels: map[string]string{watcher.StackLabel: name[:3], "lb.hosts": "contended.test", "lb.port": "80"},
		}
		if name[:3] == "new" {
			s.CreatedAt = time.Unix(2000, 0)
		}
		for k, v := range stacks[name] {
			s.Labels["lb."+k] = v
		}
		return s
	}
	picture := func(names ...string) *watcher.Picture {
		p := &watcher.Picture{Services: map[string]*watcher.Service{}}
		for _, n := range names {
			p.Services[n] = service(n)
		}
		return p
	}
	owned := func(t *testing.T, b *bench) {
		t.Helper()
		b.check(t, at("contended.test"), ok("old_web"))
		b.check(t, at("contended.test", "/more"), ok("new_more"))
		b.check(t, at("moved.test", "/mine"), moved(302, "https://new.test/mine"))
	}
	all := picture("new_web", "new_more", "new_moved", "old_web", "old_moved")

	b := benchFor(t, config.ForCollections(nil))
	b.apply(t, picture("new_web", "new_more", "new_moved"))
	b.check(t, at("contended.test"), ok("new_web"))
	b.check(t, at("moved.test", "/mine"), ok("new_moved"))
	b.apply(t, &watcher.Picture{Services: maps.Clone(all.Services)})
	owned(t, b)
	b.apply(t, picture("old_web", "old_moved"))
	b.check(t, at("contended.test", "/more"), ok("old_web"))
	b.apply(t, &watcher.Picture{Services: maps.Clone(all.Services)})
	owned(t, b)

	again := benchFor(t, config.ForCollections(nil)) // told all at once
	again.apply(t, &watcher.Picture{Services: maps.Clone(all.Services)})
	owned(t, again)
	for _, loser := range []string{"new_web", "new_moved"} {
		for _, bench := range []*bench{b, again} {
			said := 0
			for _, p := range bench.built().Problems() {
				if p.Service == loser && p.Winner != "" || p.Winner == p.Service && p.Service[:3] == "old" {
					said++
				}
			}
			require.GreaterOrEqual(t, said, 2, "both sides are told: %+v", bench.built().Problems())
		}
	}
}
