package translate

import (
	"fmt"
	"maps"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// changed shows deltas: "collection kind name", with "-" before what is gone.
func changed(ds []Delta) []string {
	out := []string{}
	for _, d := range ds {
		for _, c := range d.Changes {
			minus := ""
			if c.Resource == nil {
				minus = "-"
			}
			out = append(out, fmt.Sprintf("%s%s %s %s", minus, d.Collection, c.Kind, c.Name))
		}
	}
	return out
}

// edit gives the world as a new picture, to be changed by f.
func (w *world) edit(f func(p *watcher.Picture)) *watcher.Picture {
	p := *w.Picture
	p.Services, p.Tasks, p.Nodes, p.Networks = maps.Clone(p.Services), maps.Clone(p.Tasks), maps.Clone(p.Nodes), maps.Clone(p.Networks)
	f(&p)
	return &p
}

func ids(s ...*watcher.Service) map[string]struct{} {
	out := map[string]struct{}{}
	for _, x := range s {
		out[x.ID] = struct{}{}
	}
	return out
}

func relabelled(s *watcher.Service, key, value string) *watcher.Service {
	c := *s
	c.Version++
	c.Labels = maps.Clone(s.Labels)
	c.Labels["com.docker.lb."+key] = value
	return &c
}

func TestFirstBuildIsComplete(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "a.test", "port": "80"})
	ds := NewBuilder().Build(Input{Picture: w.Picture, Config: testConfig()}, watcher.Changes{})
	require.Equal(t, []string{
		"dev clusters x_web:80", "dev endpoints x_web:80", "dev extensions jwt", "dev extensions rate_limit", "dev listeners http", "dev routes http",
		"prod extensions jwt", "prod extensions rate_limit", "prod listeners http", "prod routes http",
	}, changed(ds))
}

func TestWhatAChangeTouches(t *testing.T) {
	w, cfg := newWorld(), testConfig()
	web := w.service("x_web", map[string]string{"hosts": "a.test", "port": "80"}, stack("x"))
	canary := w.service("x_canary", map[string]string{"hosts": "a.test", "port": "80"}, stack("x"))
	other := w.service("y_web", map[string]string{"hosts": "b.test", "port": "80"}, stack("y"))
	lone := w.service("z_web", map[string]string{"hosts": "c.test", "port": "80"}, stack("z"), scaled(1))
	all := watcher.Changes{Services: ids(web, canary, other, lone), Tasks: ids(web, canary, other, lone), Nodes: true, Shared: true}

	for name, c := range map[string]struct {
		edit    func(*watcher.Picture)
		changes watcher.Changes
		want    []string
	}{
		"nothing":                            {func(*watcher.Picture) {}, watcher.Changes{}, []string{}},
		"nothing, said to be everything":     {func(*watcher.Picture) {}, watcher.Changes{All: true}, []string{}},
		"nothing, said to be each thing":     {func(*watcher.Picture) {}, all, []string{}},
		"a task":                             {func(p *watcher.Picture) { p.Tasks[web.ID] = p.Tasks[web.ID][:1] }, watcher.Changes{Tasks: ids(web)}, []string{"dev endpoints x_web:80"}},
		"the last task of one that is alone": {func(p *watcher.Picture) { delete(p.Tasks, lone.ID) }, watcher.Changes{Tasks: ids(lone)}, []string{"dev endpoints z_web:80"}},
		"the last task of a sharer":          {func(p *watcher.Picture) { delete(p.Tasks, canary.ID) }, watcher.Changes{Tasks: ids(canary)}, []string{"dev endpoints x_canary:80", "dev routes http"}},
		"replicas of a sharer": {func(p *watcher.Picture) {
			s := *canary
			s.Replicas++
			p.Services[s.ID] = &s
		}, watcher.Changes{Services: ids(canary)}, []string{"dev routes http"}},
		"replicas of one that is alone": {func(p *watcher.Picture) {
			s := *lone
			s.Replicas++
			p.Services[s.ID] = &s
		}, watcher.Changes{Services: ids(lone)}, []string{}},
		"a node": {func(p *watcher.Picture) { p.Nodes["n1"] = &watcher.Node{ID: "n1", Hostname: "alpha", Down: true} }, watcher.Changes{Nodes: true},
			[]string{"dev endpoints x_canary:80", "dev endpoints x_web:80", "dev endpoints y_web:80"}},
		"a network":         {func(p *watcher.Picture) { p.Networks["new"] = &watcher.Network{ID: "new", Name: "new"} }, watcher.Changes{Shared: true}, []string{}},
		"a label":           {func(p *watcher.Picture) { p.Services[other.ID] = relabelled(other, "context_root", "/b") }, watcher.Changes{Services: ids(other)}, []string{"dev routes http"}},
		"an upstream label": {func(p *watcher.Picture) { p.Services[other.ID] = relabelled(other, "connect_timeout", "3s") }, watcher.Changes{Services: ids(other)}, []string{"dev clusters y_web:80"}},
		"a port": {func(p *watcher.Picture) { p.Services[other.ID] = relabelled(other, "port", "81") }, watcher.Changes{Services: ids(other)},
			[]string{"-dev clusters y_web:80", "dev clusters y_web:81", "-dev endpoints y_web:80", "dev endpoints y_web:81", "dev routes http"}},
		"another collection": {func(p *watcher.Picture) { p.Services[other.ID] = relabelled(other, "service_cluster", "prod") }, watcher.Changes{Services: ids(other)},
			[]string{"-dev clusters y_web:80", "-dev endpoints y_web:80", "dev routes http", "prod clusters y_web:80", "prod endpoints y_web:80", "prod routes http"}},
		"gone": {func(p *watcher.Picture) { delete(p.Services, other.ID); delete(p.Tasks, other.ID) }, watcher.Changes{Services: ids(other), Tasks: ids(other)},
			[]string{"-dev clusters y_web:80", "-dev endpoints y_web:80", "dev routes http"}},
		"a host lost": {func(p *watcher.Picture) { p.Services[other.ID] = relabelled(other, "hosts", "a.test") }, watcher.Changes{Services: ids(other)},
			[]string{"-dev clusters y_web:80", "-dev endpoints y_web:80", "dev routes http"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := Build(Input{Picture: w.Picture, Config: cfg})
			before := b.Resources("dev")
			p := w.edit(c.edit)
			require.Equal(t, c.want, changed(b.Build(Input{Picture: p, Config: cfg}, c.changes)))
			requireClosed(t, b, cfg)
			for k, m := range b.Resources("dev") {
				for n, r := range m {
					if old := before[k][n]; old != nil && string(old.Body) == string(r.Body) {
						require.Same(t, old, r, "%s %s is the same, and yet a new resource", Kind(k), n)
					}
				}
			}
			require.Empty(t, b.Build(Input{Picture: p, Config: cfg}, all), "all is said to be changed, and nothing is")
		})
	}
}

// A host whose routes are untouched is not encoded again.
func TestALabelChangeRebuildsItsHostsAlone(t *testing.T) {
	w, cfg := newWorld(), testConfig()
	w.service("x_web", map[string]string{"hosts": "a.test", "port": "80"}, stack("x"))
	other := w.service("y_web", map[string]string{"hosts": "b.test", "port": "80"}, stack("y"))
	b := Build(Input{Picture: w.Picture, Config: cfg})
	before := tableOf(b.Resources("dev"))
	b.Build(Input{Picture: w.edit(func(p *watcher.Picture) { p.Services[other.ID] = relabelled(other, "context_root", "/b") }), Config: cfg}, watcher.Changes{Services: ids(other)})
	after := tableOf(b.Resources("dev"))
	require.Same(t, before["a.test"], after["a.test"])
	require.NotSame(t, before["b.test"], after["b.test"])
}

func TestAnotherConfiguration(t *testing.T) {
	w, cfg := newWorld(), testConfig()
	w.service("x_web", map[string]string{"hosts": "a.test", "port": "80"}, stack("x"))
	b := Build(Input{Picture: w.Picture, Config: cfg})

	same := testConfig()
	require.Empty(t, b.Build(Input{Picture: w.Picture, Config: same}, watcher.Changes{}))

	moved := testConfig()
	moved.Collections["dev"].HTTPPort = 8080
	delete(moved.Collections, "prod")
	require.Equal(t, []string{"dev listeners http"}, changed(b.Build(Input{Picture: w.Picture, Config: moved}, watcher.Changes{})))
	require.Nil(t, b.Resources("prod")[Listener], "forgotten")

	again := testConfig()
	again.Collections["dev"].HTTPPort = 0
	require.Equal(t, []string{"-dev listeners http", "prod extensions jwt", "prod extensions rate_limit", "prod listeners http", "prod routes http"}, changed(b.Build(Input{Picture: w.Picture, Config: again}, watcher.Changes{})))
}

// Nothing that a service says is in a listener.
func TestListenerDependsOnConfigurationAlone(t *testing.T) {
	c := &config.Collection{Name: "dev", Default: true, Bind: "10.1.2.3", HTTPPort: 8080, AccessLog: true, ShareHosts: "owner"}
	cfg := &config.Config{LabelPrefixes: []string{"lb"}, Collections: map[string]*config.Collection{"dev": c}}
	empty := Build(Input{Picture: newWorld().Picture, Config: cfg}).Resources("dev")[Listener]["http"]
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "a.test", "default_backend": "true", "port": "80", "timeout": "3s"})
	b := w.build(t, cfg)
	l := b.Resources("dev")[Listener]["http"]
	require.Equal(t, empty.Body, l.Body)
	require.Len(t, b.Resources("dev")[Listener], 1, "no https without certificates")

	msg := l.Message.(*listenerv3.Listener)
	require.Equal(t, "10.1.2.3", msg.Address.GetSocketAddress().Address)
	require.EqualValues(t, 8080, msg.Address.GetSocketAddress().GetPortValue())
	hcm := new(hcmv3.HttpConnectionManager)
	require.NoError(t, msg.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(hcm))
	require.True(t, hcm.NormalizePath.Value)
	require.True(t, hcm.MergeSlashes)
	require.Len(t, hcm.AccessLog, 1)
}

func TestHostsAreInOrderAndTheLastIsAll(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "z.test,*,a.test,*.a.test,m.test", "port": "80"})
	b := w.build(t, testConfig())
	require.Equal(t, []string{"*.a.test", "a.test", "m.test", "z.test", "*"}, hostsOf(b, "dev"))
	rc := b.Resources("dev")[Routes]["http"].Message.(*routev3.RouteConfiguration)
	require.True(t, rc.IgnorePortInHostMatching)
}

func TestServices(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "a.test,b.test", "port": "80",
		"bad.hosts": "c.test", "bad.port": "y", "shut.hosts": "d.test", "shut.port": "80", "shut.basic_auth": "z"}, stack("x"))
	w.service("y_web", map[string]string{"hosts": "b.test,e.test", "port": "80"}, stack("y"))
	w.service("nowhere", map[string]string{"hosts": "b.test", "service_cluster": "moon"})
	w.service("db", nil)
	b := w.build(t, testConfig())
	require.Equal(t, []ServiceView{
		{Name: "nowhere"},
		{Name: "x_web", Collection: "dev", Endpoints: 2, Routes: []RouteView{
			{Name: "x_web", Hosts: []string{"a.test", "b.test"}, Path: "/", Cluster: "x_web:80", State: Live},
			{Name: "x_web/bad", Hosts: []string{"c.test"}, Path: "/", State: Broken},
			{Name: "x_web/shut", Hosts: []string{"d.test"}, Path: "/", State: Closed},
		}},
		{Name: "y_web", Collection: "dev", Endpoints: 2, Routes: []RouteView{
			{Name: "y_web", Hosts: []string{"e.test"}, Lost: []string{"b.test"}, Path: "/", Cluster: "y_web:80", State: Live},
		}},
	}, b.Services())
	require.Equal(t, []string{"/* -> 503 guard_unavailable"}, routeLines(b, "dev", "d.test"))
}

func TestEscaping(t *testing.T) {
	require.Equal(t, "100%% %%REQ(x)%%", formatLiteral("100% %REQ(x)%"))
	for _, bad := range []string{"", "a", "/a?b", "/a#b", "/a b", "/a\n", "/\xff"} {
		require.Error(t, pathLiteral(bad), "%q", bad)
	}
	for _, good := range []string{"/", "/a", "/a/b", "/%20", "/ü"} {
		require.NoError(t, pathLiteral(good))
	}
	for _, bad := range []string{"", "*.", "**", "a b", "a*", "A", "a/b", "\xff", "ü"} {
		require.Error(t, domainLiteral(bad), "%q", bad)
	}
	for _, good := range []string{"*", "*.a", "a.b", "xn--a-b", "localhost", "10.0.0.1", "[::1]"} {
		require.NoError(t, domainLiteral(good))
	}
	require.Error(t, nameLiteral("a\x00"))
	require.Error(t, nameLiteral("\xff"))
}
