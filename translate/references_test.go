package translate

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

func shows(ports ...uint32) serviceOption {
	return func(s *watcher.Service) {
		for _, p := range ports {
			s.Ports = append(s.Ports, watcher.Port{Protocol: "tcp", Target: p})
		}
	}
}

func mirrorOf(b *Builder, host string) string {
	for _, vh := range b.Resources("dev")[Routes][httpTable].Message.(*routev3.RouteConfiguration).VirtualHosts {
		if vh.Name != host {
			continue
		}
		if m := vh.Routes[0].GetRoute().GetRequestMirrorPolicies(); len(m) > 0 {
			return m[0].Cluster
		}
	}
	return ""
}

func TestAServiceIsReferredToByName(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other map[string]string // labels
		opts  []serviceOption
		want  string // cluster
		told  string
	}{
		{name: "of the own stack, the only published port", opts: []serviceOption{stack("a"), shows(9000)}, want: "a_shadow:9000"},
		{name: "by its own label", other: map[string]string{"port": "81"}, opts: []serviceOption{stack("a"), shows(9000)}, want: "a_shadow:81"},
		{name: "its own route's cluster", other: map[string]string{"hosts": "s.test", "port": "82"}, opts: []serviceOption{stack("a")}, want: "a_shadow:82"},
		{name: "no port", opts: []serviceOption{stack("a")}, told: "does not say which port is meant"},
		{name: "several ports", opts: []serviceOption{stack("a"), shows(1, 2)}, told: "does not say which port is meant"},
		{name: "of another collection", other: map[string]string{"port": "81", "service_cluster": "prod"}, opts: []serviceOption{stack("a")}, told: "belongs to collection prod"},
		{name: "of no collection", other: map[string]string{"port": "81", "service_cluster": "moon"}, opts: []serviceOption{stack("a")}, told: "is in no collection"},
		{name: "a job", opts: []serviceOption{stack("a"), shows(1), func(s *watcher.Service) { s.Mode = watcher.ReplicatedJob }}, told: "is a job"},
		{name: "with a bad network", other: map[string]string{"port": "81", "network": "gone", "service_cluster": "dev"}, opts: []serviceOption{stack("a")}, told: "cannot be reached"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "mirror": "shadow"}, stack("a"))
			w.service("a_shadow", tt.other, tt.opts...)
			b := w.build(t, testConfig())
			require.Equal(t, tt.want, mirrorOf(b, "a.test"))
			if tt.told != "" {
				requireProblem(t, b, "a_web", labels.Warning, tt.told)
				return
			}
			require.Empty(t, problemsOf(b, "a_web"))
			require.Len(t, b.Resources("dev")[Endpoints][tt.want].Message.(*endpointv3.ClusterLoadAssignment).Endpoints, 2)
		})
	}
	t.Run("as it is written, where the stack has none", func(t *testing.T) {
		w := newWorld()
		w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "mirror": "shadow"}, stack("a"))
		w.service("shadow", nil, shows(9000))
		require.Equal(t, "shadow:9000", mirrorOf(w.build(t, testConfig()), "a.test"))
	})
	t.Run("a protocol of its own", func(t *testing.T) {
		w := newWorld()
		w.service("a_web", map[string]string{"hosts": "a.test", "port": "80"}, stack("a"))
		w.service("a_auth", map[string]string{"hosts": "auth.test", "port": "9000"}, stack("a"))
		b := w.build(t, testConfig())
		web := b.services["s0001"]
		plain, err := web.refer("mirror", "auth", 9000, "")
		require.NoError(t, err)
		require.Equal(t, "a_auth:9000", plain.name)
		h2, err := web.refer("ext_auth", "auth", 9000, h2c)
		require.NoError(t, err)
		require.Equal(t, "a_auth:9000+h2c", h2.name)
		require.Equal(t, h2c, h2.settings.protocol)
	})
}

// Who refers to a service is built again when it comes, changes and goes, and
// leaves nothing behind.
func TestReferencesFollowTheService(t *testing.T) {
	w := newWorld()
	w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "mirror": "shadow,50", "failover": "shadow"}, stack("a"))
	second := w.service("a_too", map[string]string{"hosts": "b.test", "port": "80", "mirror": "shadow"}, stack("a"))
	b := w.build(t, testConfig())
	cfg := b.cfg
	picture := func() *watcher.Picture {
		p := *b.picture
		p.Services, p.Tasks = map[string]*watcher.Service{}, map[string][]*watcher.Task{}
		for id, s := range w.Services {
			p.Services[id] = s
		}
		for id, ts := range w.Tasks {
			p.Tasks[id] = ts
		}
		return &p
	}
	ejected := func() uint32 {
		return b.Resources("dev")[Cluster]["a_web:80"].Message.(*clusterv3.Cluster).OutlierDetection.MaxEjectionPercent.Value
	}
	priorities := func() []uint32 {
		var out []uint32
		for _, l := range b.Resources("dev")[Endpoints]["a_web:80"].Message.(*endpointv3.ClusterLoadAssignment).Endpoints {
			out = append(out, l.Priority)
		}
		return out
	}
	build := func(ids ...string) {
		t.Helper()
		ch := watcher.Changes{Services: map[string]struct{}{}, Tasks: map[string]struct{}{}}
		for _, id := range ids {
			ch.Services[id], ch.Tasks[id] = struct{}{}, struct{}{}
		}
		b.Build(Input{Picture: picture(), Config: cfg}, ch)
		requireClosed(t, b, cfg)
		require.Equal(t, everything(Build(Input{Picture: picture(), Config: cfg}), cfg), everything(b, cfg))
	}
	require.Empty(t, mirrorOf(b, "a.test"))
	require.EqualValues(t, 50, ejected())

	shadow := w.service("a_shadow", nil, stack("a"), shows(9000))
	build(shadow.ID)
	require.Equal(t, "a_shadow:9000", mirrorOf(b, "a.test"))
	require.Equal(t, "a_shadow:9000", mirrorOf(b, "b.test"))
	require.EqualValues(t, 100, ejected())
	require.Equal(t, []uint32{0, 0, 2, 2}, priorities())

	w.Tasks[shadow.ID] = w.Tasks[shadow.ID][:1]
	b.Build(Input{Picture: picture(), Config: cfg}, watcher.Changes{Tasks: map[string]struct{}{shadow.ID: {}}})
	require.Equal(t, []uint32{0, 0, 2}, priorities(), "its tasks are followed")

	changed := *shadow
	changed.Version++
	changed.Ports = []watcher.Port{{Protocol: "tcp", Target: 9001}}
	w.Services[shadow.ID] = &changed
	build(shadow.ID)
	require.Equal(t, "a_shadow:9001", mirrorOf(b, "a.test"))
	require.NotContains(t, names(b, "dev", Cluster), "a_shadow:9000")

	delete(w.Services, second.ID)
	delete(w.Tasks, second.ID)
	build(second.ID)
	require.Equal(t, "a_shadow:9001", mirrorOf(b, "a.test"), "one less refers to it")

	delete(w.Services, shadow.ID)
	delete(w.Tasks, shadow.ID)
	build(shadow.ID)
	require.Empty(t, mirrorOf(b, "a.test"))
	require.EqualValues(t, 50, ejected())
	require.Empty(t, b.referred)
	require.Equal(t, []string{"a_web:80"}, names(b, "dev", Cluster))
}

// A route that sends nothing on names nobody who gets copies of it.
func TestNoCopiesOfNothing(t *testing.T) {
	w := newWorld()
	w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "weight": "0", "mirror": "shadow"}, stack("a"))
	w.service("a_shadow", map[string]string{"hosts": "b.test", "port": "80", "rewrite_regex": "("}, stack("a"))
	b := w.build(t, testConfig())
	require.Empty(t, names(b, "dev", Cluster))
}

func TestReferencesInACircle(t *testing.T) {
	w := newWorld()
	w.service("a_x", map[string]string{"hosts": "x.test", "port": "80", "failover": "y", "mirror": "y"}, stack("a"))
	w.service("a_y", map[string]string{"hosts": "y.test", "port": "80", "failover": "x", "mirror": "x"}, stack("a"))
	w.service("a_z", map[string]string{"hosts": "z.test", "port": "80", "failover": "z"}, stack("a"))
	b := w.build(t, testConfig())
	require.Equal(t, "a_y:80", mirrorOf(b, "x.test"))
	require.Equal(t, "a_x:80", mirrorOf(b, "y.test"))
	requireProblem(t, b, "a_z", labels.Warning, "cannot stand in for itself")
}
