package explain

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// swarm is a picture in the making, of services on one network and node.
type swarm struct{ *watcher.Picture }

func newSwarm() swarm {
	return swarm{&watcher.Picture{
		Services: map[string]*watcher.Service{},
		Tasks:    map[string][]*watcher.Task{},
		Nodes:    map[string]*watcher.Node{"n1": {ID: "n1", Hostname: "alpha"}},
		Networks: map[string]*watcher.Network{"edge": {ID: "edge", Name: "edge"}},
	}}
}

// add adds a service, younger than those before, with as many tasks as it has replicas.
func (s swarm) add(stack, name string, replicas int, labels map[string]string) {
	id := fmt.Sprintf("s%02d", len(s.Services))
	service := &watcher.Service{
		ID: id, Name: stack + "_" + name, Version: 1, CreatedAt: time.Unix(int64(len(s.Services)), 0), Mode: watcher.Replicated,
		Replicas: uint64(replicas), Networks: []string{"edge"}, Labels: map[string]string{watcher.StackLabel: stack},
	}
	for k, v := range labels {
		service.Labels["com.docker.lb."+k] = v
	}
	s.Services[id] = service
	for slot := 1; slot <= replicas; slot++ {
		s.Tasks[id] = append(s.Tasks[id], &watcher.Task{
			ID: fmt.Sprintf("%s-%d", id, slot), ServiceID: id, NodeID: "n1", Slot: slot, State: watcher.Running, Desired: watcher.Running,
			Addresses: []watcher.Address{{Network: "edge", Addr: netip.AddrFrom4([4]byte{10, 0, byte(len(s.Services)), byte(slot)})}},
		})
	}
}

// resources is what the swarm's labels become in collection default.
func (s swarm) resources(t *testing.T) translate.Resources {
	t.Helper()
	b := translate.Build(translate.Input{Picture: s.Picture, Config: config.ForCollections(nil)})
	res := b.Resources("default")
	require.NotEmpty(t, res[translate.Routes])
	return res
}

// translated is a table with a bit of everything: shared hosts, wildcards,
// rewriting, a bad label, a service without tasks.
func translated(t *testing.T) translate.Resources {
	s := newSwarm()
	s.add("shop", "web", 2, map[string]string{"hosts": "shop.example.com", "port": "80"})
	s.add("shop", "web-canary", 1, map[string]string{"hosts": "shop.example.com", "port": "80"})
	s.add("shop", "api", 3, map[string]string{"hosts": "shop.example.com,api.example.com", "port": "8080", "context_root": "/api"})
	s.add("shop", "api-v1", 1, map[string]string{"hosts": "shop.example.com", "port": "8080", "context_root": "/api/v1", "retries": "0"})
	s.add("shop", "app", 1, map[string]string{"hosts": "shop.example.com", "port": "80", "context_root": "/app", "context_root_rewrite": "true"})
	s.add("shop", "wild", 1, map[string]string{"hosts": "*.apps.example.com", "port": "80"})
	s.add("shop", "wilder", 1, map[string]string{"hosts": "*.b.apps.example.com", "port": "80"})
	s.add("shop", "bad", 1, map[string]string{"hosts": "bad.example.com", "port": "eighty"})
	s.add("shop", "idle", 0, map[string]string{"hosts": "idle.example.com", "port": "80"})
	return s.resources(t)
}

// Hosts and path segments that random tables and requests are made of.
var (
	randomHosts    = []string{"a.test", "b.test", "x.a.test", "y.x.a.test", "*.a.test", "*.x.a.test", "*.test"}
	randomSegments = []string{"api", "v1", "app", "a"}
)

// randomTable has services of two stacks that claim what they like.
func randomTable(t *testing.T, r *rand.Rand) translate.Resources { return randomSwarm(r).resources(t) }

func randomSwarm(r *rand.Rand) swarm {
	s := newSwarm()
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for i := range 4 + r.IntN(10) {
		labels := map[string]string{
			"hosts":        pick(randomHosts...) + "," + pick(randomHosts...),
			"port":         pick("80", "80", "80", "8080", "eighty"),
			"context_root": pick("/", "/", "/api", "/api/v1", "/app", "/a", "/api/"),
		}
		for _, k := range []struct {
			key    string
			values []string
		}{
			{"context_root_rewrite", []string{"", "", "true"}},
			{"weight", []string{"", "", "0", "1", "50"}},
			{"retries", []string{"", "", "0"}},
			{"ssl_only", []string{"", "", "", "", "", "ture", "true"}},
			{"path", []string{"", "", "", "/api/v1", "/app,/a"}},
			{"path_regex", []string{"", "", "", "/a.*", "/api/v[0-9]"}},
			{"methods", []string{"", "", "", "GET", "POST,GET", "DELETE"}},
			{"match_header.X-Beta", []string{"", "", "", "yes", "!yes", "*", "!*", "~y.*", "!~n.*"}},
			{"match_header.X-Forwarded-For", []string{"", "", "", "", "", "*", "!*"}},
			{"match_header.X-Envoy-Retry-On", []string{"", "", "", "", "", "*", "!*"}},
			{"match_header.Host", []string{"", "", "", "", "", "~.*[.]x[.].*", "!A.TEST"}},
			{"match_query.v", []string{"", "", "", "1", "*", "!*", "~2.*"}},
			{"priority", []string{"", "", "1", "-1"}},
			{"redirect", []string{"", "", "", "", "https://b.test", "https://b.test:444/x?y=1"}},
			{"respond", []string{"", "", "", "", "418,tea"}},
			{"redirects", []string{"", "", "", "", "a.test,https://b.test/base"}},
			{"connect_timeout", []string{"", "1s"}},
			{"default_backend", []string{"", "", "", "true"}},
		} {
			if v := pick(k.values...); v != "" {
				labels[k.key] = v
			}
		}
		s.add(pick("one", "two"), fmt.Sprintf("web%d", i), r.IntN(4), labels)
	}
	return s
}

// Why one route stands before another is said in the words of the labels.
func TestTheOrderIsExplained(t *testing.T) {
	s := newSwarm()
	add := func(name string, labels map[string]string) {
		labels["hosts"], labels["port"] = "a.test", "80"
		s.add("x", name, 1, labels)
	}
	add("all", map[string]string{})
	add("app", map[string]string{"context_root": "/app", "context_root_rewrite": "true"})
	add("gets", map[string]string{"context_root": "/app", "methods": "GET"})
	add("beta", map[string]string{"context_root": "/app", "match_header.X-Beta": "*", "match_query.q": "1"})
	add("yes", map[string]string{"context_root": "/app", "match_header.X-Beta": "yes"})
	add("expr", map[string]string{"path_regex": "/app/v[0-9]"})
	add("exact", map[string]string{"path": "/app/v1"})
	add("first", map[string]string{"context_root": "/app/v2", "priority": "5"})
	res := s.resources(t)
	for _, c := range []struct {
		path   string
		beta   string
		winner string
		why    string
		lost   map[string]string
	}{
		{path: "/app/x", winner: "x_gets", why: "context_root /app comes first of 3 matches", lost: map[string]string{
			"x_all": "context_root / matches too, but /app is longer", "x_app": "context_root /app matches too, but x_gets asks for more (methods)", "x_beta": "header x-beta is missing",
		}},
		{path: "/app", winner: "x_gets", why: "context_root /app comes first of 3 matches", lost: map[string]string{
			"x_app": "path /app matches too, but x_gets asks for more (methods)",
		}},
		{path: "/app?q=1", beta: "yes", winner: "x_beta", why: "context_root /app comes first of 5 matches", lost: map[string]string{
			"x_gets": "context_root /app matches too, but x_beta asks for more (header x-beta, query parameter q)",
		}},
		{path: "/app", beta: "yes", winner: "x_gets", why: "context_root /app comes first of 4 matches", lost: map[string]string{
			"x_yes": "context_root /app matches too, but x_gets is older, or has a higher priority",
		}},
		{path: "/app/v1", winner: "x_exact", why: "path /app/v1 comes first of 5 matches", lost: map[string]string{
			"x_expr": "path_regex /app/v[0-9] matches too, but path /app/v1 is more exact",
		}},
		{path: "/app/v2", winner: "x_first", why: "context_root /app/v2 comes first of 5 matches", lost: map[string]string{
			"x_expr": "path_regex /app/v[0-9] matches too, but x_first has a higher priority", "x_all": "context_root / matches too, but /app/v2 is longer",
		}},
		{path: "/x", winner: "x_all", why: "context_root / takes every path", lost: map[string]string{"x_exact": "path /x is not /app/v1"}},
	} {
		header := http.Header{}
		if c.beta != "" {
			header.Set("X-Beta", c.beta)
		}
		a, err := Explain(res, Request{Collection: "default", URL: "http://a.test" + c.path, Header: header}, nil)
		require.NoError(t, err)
		require.Equal(t, c.winner, a.Service, c.path)
		require.Contains(t, a.Because, c.why, c.path)
		reasons := map[string]string{}
		for _, l := range a.Lost {
			reasons[l.Route] = l.Reason
		}
		for route, reason := range c.lost {
			require.Equal(t, reason, reasons[route], "%s %s", c.path, route)
		}
	}
}

// Priorities are not in the table: that one is higher is said only where it is.
func TestHigherPrioritiesAreHigher(t *testing.T) {
	said := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 11))
		s := randomSwarm(r)
		for _, service := range s.Services { // most routes should live, on one host
			l := service.Labels
			l[watcher.StackLabel], l["com.docker.lb.hosts"], l["com.docker.lb.port"] = "one", "a.test", "80"
			for _, key := range []string{"ssl_only", "redirects", "default_backend"} {
				delete(l, "com.docker.lb."+key)
			}
			if l["com.docker.lb.context_root"] != "/" {
				delete(l, "com.docker.lb.path")
				delete(l, "com.docker.lb.path_regex")
			}
		}
		res := s.resources(t)
		priority := map[string]string{}
		for _, service := range s.Services {
			priority[service.Name] = service.Labels["com.docker.lb.priority"]
		}
		rank := map[string]int{"-1": 0, "": 1, "1": 2}
		lastResorts := map[string]bool{} // of which it is not known what they take: behind all others
		table, err := routeTable(res, "http")
		require.NoError(t, err)
		for _, vh := range table.GetVirtualHosts() {
			for _, route := range vh.GetRoutes() {
				reason := reasonOf(route.GetResponseHeadersToAdd())
				lastResorts[route.GetName()] = lastResorts[route.GetName()] || reason == "not_built" || reason == "guard_unavailable"
			}
		}
		ask := asker{rand: r, hosts: []string{"a.test"}, segments: randomSegments}
		for range 60 {
			q := ask.request()
			a, err := Explain(res, Request{Collection: "default", Method: q.method, URL: "http://" + q.host + q.path, Header: q.header}, nil)
			require.NoError(t, err)
			winner, _, _ := strings.Cut(a.Route, "#")
			for _, l := range a.Lost {
				mine, theirs := rank[priority[l.Route]], rank[priority[winner]]
				switch {
				case strings.HasSuffix(l.Reason, "but "+winner+" has a higher priority"):
					said++
					require.Greater(t, theirs, mine, "seed %d: %+v", seed, a)
				case strings.Contains(l.Reason, " matches too, but ") && !lastResorts[l.Route]:
					require.GreaterOrEqual(t, theirs, mine, "seed %d: %+v", seed, a)
				}
			}
		}
	}
	require.Greater(t, said, 50)
}

// Whoever asks where a request goes must be told who stands before it.
func TestGuardsAreNamed(t *testing.T) {
	s := newSwarm()
	s.add("shop", "web", 1, map[string]string{"hosts": "a.example.com", "port": "80", "deny_ips": "10.0.0.0/8", "max_body_size": "1m"})
	a, err := Explain(s.resources(t), Request{Collection: "default", URL: "http://a.example.com/"}, nil)
	require.NoError(t, err)
	require.Contains(t, a.Because, "before that the request must pass addresses, body_size")
}
