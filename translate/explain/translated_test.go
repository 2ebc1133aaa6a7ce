package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
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
func randomTable(t *testing.T, r *rand.Rand) translate.Resources {
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
	return s.resources(t)
}

// Whoever asks where a request goes must be told who stands before it.
func TestGuardsAreNamed(t *testing.T) {
	s := newSwarm()
	s.add("shop", "web", 1, map[string]string{"hosts": "a.example.com", "port": "80", "deny_ips": "10.0.0.0/8", "max_body_size": "1m"})
	a, err := Explain(s.resources(t), Request{Collection: "default", URL: "http://a.example.com/"}, nil)
	require.NoError(t, err)
	require.Contains(t, a.Because, "before that the request must pass addresses, body_size")
}
