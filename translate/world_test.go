package translate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// world is a picture under construction, with two nodes and a network per
// collection: dev-edge, prod-edge, and ingress.
type world struct {
	*watcher.Picture
	n int // services made so far: each is younger than the one before
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld() *world {
	w := &world{Picture: &watcher.Picture{
		Services: map[string]*watcher.Service{},
		Tasks:    map[string][]*watcher.Task{},
		Nodes: map[string]*watcher.Node{
			"n1": {ID: "n1", Hostname: "alpha", Addr: netip.MustParseAddr("192.168.0.1")},
			"n2": {ID: "n2", Hostname: "beta", Addr: netip.MustParseAddr("192.168.0.2")},
		},
		Networks: map[string]*watcher.Network{
			"net-in": {ID: "net-in", Name: "ingress", Ingress: true},
		},
	}}
	w.network("dev-edge")
	w.network("prod-edge")
	return w
}

func (w *world) network(name string) string {
	id := "id-" + name
	w.Networks[id] = &watcher.Network{ID: id, Name: name}
	return id
}

type serviceOption func(*watcher.Service)

// service adds a service on dev-edge with two ready tasks, younger than those before.
func (w *world) service(name string, lbls map[string]string, opts ...serviceOption) *watcher.Service {
	w.n++
	s := &watcher.Service{
		ID: fmt.Sprintf("s%04d", w.n), Name: name, Version: 1, CreatedAt: epoch.Add(time.Duration(w.n) * time.Minute),
		Labels: map[string]string{}, Mode: watcher.Replicated, Replicas: 2, Networks: []string{"id-dev-edge"}, EndpointMode: "vip",
	}
	for k, v := range lbls {
		if slices.Contains([]string{watcher.StackLabel, labels.AccessLabel, FleetLabel}, k) {
			s.Labels[k] = v
		} else {
			s.Labels["com.docker.lb."+k] = v
		}
	}
	for _, o := range opts {
		o(s)
	}
	w.Services[s.ID] = s
	for slot := 1; slot <= int(min(s.Replicas, 5)); slot++ {
		w.task(s, slot)
	}
	return s
}

// task adds a ready task with an address on each network of its service.
func (w *world) task(s *watcher.Service, slot int) *watcher.Task {
	t := &watcher.Task{
		ID: fmt.Sprintf("%s-t%d", s.ID, slot), ServiceID: s.ID, NodeID: []string{"n1", "n2"}[slot%2], Slot: slot,
		State: watcher.Running, Desired: watcher.Running,
	}
	t.Addresses = append(t.Addresses, watcher.Address{Network: "net-in", Addr: netip.AddrFrom4([4]byte{10, 255, byte(w.n), byte(slot)})})
	for i, id := range s.Networks {
		t.Addresses = append(t.Addresses, watcher.Address{Network: id, Addr: netip.AddrFrom4([4]byte{10, byte(i), byte(w.n), byte(slot)})})
	}
	w.Tasks[s.ID] = append(w.Tasks[s.ID], t)
	return t
}

func stack(name string) serviceOption {
	return func(s *watcher.Service) { s.Labels[watcher.StackLabel] = name }
}

func on(networks ...string) serviceOption {
	return func(s *watcher.Service) {
		s.Networks = nil
		for _, n := range networks {
			s.Networks = append(s.Networks, "id-"+n)
		}
	}
}

func scaled(n uint64) serviceOption { return func(s *watcher.Service) { s.Replicas = n } }

// testConfig has two collections, dev (the default) and prod.
func testConfig() *config.Config {
	return &config.Config{
		XDS: config.XDS{Address: ":18000"}, Admin: config.Admin{Address: "127.0.0.1:19000"},
		LabelPrefixes: []string{"com.docker.lb", "lb"},
		Collections: map[string]*config.Collection{
			"dev":  {Name: "dev", Default: true, Bind: "0.0.0.0", HTTPPort: 80, HTTPSPort: 443, HTTPSPublicPort: 443, ShareHosts: "owner", Networks: []string{"dev-edge"}},
			"prod": {Name: "prod", Bind: "0.0.0.0", HTTPPort: 80, HTTPSPort: 443, HTTPSPublicPort: 443, ShareHosts: "owner", Networks: []string{"prod-edge"}},
		},
	}
}

func (w *world) build(t *testing.T, cfg *config.Config) *Builder {
	t.Helper()
	b := Build(Input{Picture: w.Picture, Config: cfg})
	requireClosed(t, b, cfg)
	return b
}

// routeLines shows the routes of a host of a collection, one line each without
// the #safe twins: "match -> what".
func routeLines(b *Builder, collection, host string) []string {
	rc := b.Resources(collection)[Routes][httpTable].Message.(*routev3.RouteConfiguration)
	for _, vh := range rc.VirtualHosts {
		if vh.Name != host {
			continue
		}
		var out []string
		for _, r := range vh.Routes {
			if len(r.Match.Headers) == 0 {
				out = append(out, routeLine(r))
			}
		}
		return out
	}
	return nil
}

func routeLine(r *routev3.Route) string {
	var line string
	switch m := r.Match.PathSpecifier.(type) {
	case *routev3.RouteMatch_Prefix:
		line = m.Prefix + "*"
	case *routev3.RouteMatch_PathSeparatedPrefix:
		line = m.PathSeparatedPrefix
	case *routev3.RouteMatch_Path:
		line = "=" + m.Path
	}
	line += " -> "
	switch a := r.Action.(type) {
	case *routev3.Route_DirectResponse:
		return line + fmt.Sprintf("%d %s", a.DirectResponse.Status, r.ResponseHeadersToAdd[0].Header.Value)
	case *routev3.Route_Redirect:
		return line + fmt.Sprintf("%s %s", a.Redirect.ResponseCode, a.Redirect.GetPathRedirect())
	case *routev3.Route_Route:
		if a.Route.PrefixRewrite != "" {
			line += "rewrite " + a.Route.PrefixRewrite + " "
		}
		if c := a.Route.GetCluster(); c != "" {
			return line + c
		}
		for _, c := range a.Route.GetWeightedClusters().GetClusters() {
			line += fmt.Sprintf("%s=%d ", c.Name, c.Weight.GetValue())
		}
		return line[:len(line)-1]
	}
	return line
}

func hostsOf(b *Builder, collection string) []string {
	var out []string
	for _, vh := range b.Resources(collection)[Routes][httpTable].Message.(*routev3.RouteConfiguration).VirtualHosts {
		out = append(out, vh.Name)
	}
	return out
}

func names(b *Builder, collection string, k Kind) []string {
	return slices.Sorted(maps.Keys(b.Resources(collection)[k]))
}

// problemsOf gives those of one service, "severity label: reason" each.
func problemsOf(b *Builder, service string) []string {
	var out []string
	for _, p := range b.Problems() {
		if p.Service == service {
			out = append(out, fmt.Sprintf("%s %s: %s", p.Severity, p.Label, p.Reason))
		}
	}
	return out
}

func requireProblem(t *testing.T, b *Builder, service string, severity labels.Severity, reason string) Problem {
	t.Helper()
	for _, p := range b.Problems() {
		if p.Service == service && p.Severity == severity && len(p.Reason) >= len(reason) && contains(p.Reason, reason) {
			return p
		}
	}
	require.Failf(t, "no such problem", "%s of %s with %q; there are %q", severity, service, reason, problemsOf(b, service))
	return Problem{}
}
