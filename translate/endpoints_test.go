package translate

import (
	"fmt"
	"net/netip"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// endpointLines shows the endpoints of a cluster: "address zone task", with
// " p1" behind those of priority 1.
func endpointLines(b *Builder, collection, cluster string) []string {
	out := []string{}
	for _, l := range b.Resources(collection)[Endpoints][cluster].Message.(*endpointv3.ClusterLoadAssignment).Endpoints {
		for _, e := range l.LbEndpoints {
			a := e.GetEndpoint().Address.GetSocketAddress()
			line := fmt.Sprintf("%s:%d %s %s", a.Address, a.GetPortValue(), l.Locality.GetZone(), e.Metadata.FilterMetadata[MetadataKey].Fields["task"].GetStringValue())
			if l.Priority > 0 {
				line += fmt.Sprint(" p", l.Priority)
			}
			out = append(out, line)
		}
	}
	return out
}

func TestWhichTasks(t *testing.T) {
	type task struct {
		node           string // n1 is up, n2 down
		state, desired watcher.TaskState
	}
	const run, stop = watcher.Running, watcher.Shutdown
	for name, c := range map[string]struct {
		tasks []task
		want  []string
		ready bool
	}{
		"running and wanted":            {[]task{{"n1", run, run}}, []string{"10.0.1.1:80 n1 t1"}, true},
		"not yet running":               {[]task{{"n1", watcher.Starting, run}}, []string{}, false},
		"READY is not ready":            {[]task{{"n1", watcher.ReadyToGo, watcher.ReadyToGo}}, []string{}, false},
		"leaving goes at once":          {[]task{{"n1", run, stop}, {"n1", run, run}}, []string{"10.0.1.2:80 n1 t2"}, true},
		"the last leaving one stays":    {[]task{{"n1", run, stop}, {"n1", watcher.Starting, run}}, []string{"10.0.1.1:80 n1 t1"}, false},
		"removed counts as leaving":     {[]task{{"n1", run, watcher.Remove}}, []string{"10.0.1.1:80 n1 t1"}, false},
		"ended":                         {[]task{{"n1", stop, stop}}, []string{}, false},
		"a node that is down":           {[]task{{"n2", run, run}, {"n1", run, run}}, []string{"10.0.1.2:80 n1 t2", "10.0.1.1:80 n2 t1 p1"}, true},
		"only a node that is down":      {[]task{{"n2", run, run}}, []string{"10.0.1.1:80 n2 t1"}, false},
		"leaving before a dead node":    {[]task{{"n2", run, run}, {"n1", run, stop}}, []string{"10.0.1.2:80 n1 t2", "10.0.1.1:80 n2 t1 p1"}, false},
		"left behind on a dead node":    {[]task{{"n2", run, stop}, {"n1", run, run}}, []string{"10.0.1.2:80 n1 t2"}, true},
		"nothing but that":              {[]task{{"n2", run, stop}}, []string{"10.0.1.1:80 n2 t1"}, false},
		"a node that nobody knows":      {[]task{{"n3", run, run}}, []string{"10.0.1.1:80 n3 t1"}, true},
		"sorted by node, then the slot": {[]task{{"n3", run, run}, {"n1", run, run}, {"n1", run, run}}, []string{"10.0.1.2:80 n1 t2", "10.0.1.3:80 n1 t3", "10.0.1.1:80 n3 t1"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.Nodes["n2"].Down = true
			s := w.service("web", map[string]string{"hosts": "a.test", "port": "80"}, scaled(0))
			for i, c := range c.tasks {
				x := w.task(s, i+1)
				x.ID, x.NodeID, x.State, x.Desired = fmt.Sprint("t", i+1), c.node, c.state, c.desired
			}
			b := w.build(t, testConfig())
			require.Equal(t, c.want, endpointLines(b, "dev", "web:80"))
			require.Equal(t, []string{"/* -> web:80"}, routeLines(b, "dev", "a.test"), "the route stays")
			require.Equal(t, c.ready, b.services[s.ID].backends[0].found.ready)
			require.Empty(t, b.Problems())
		})
	}
}

// While one task of the first priority is healthy, a node that is down gets nothing.
func TestNodeThatIsDownGetsNoShare(t *testing.T) {
	w := newWorld()
	w.service("web", map[string]string{"hosts": "a.test", "port": "80"})
	w.Nodes["n2"].Down = true
	b := w.build(t, testConfig())
	cla := b.Resources("dev")[Endpoints]["web:80"].Message.(*endpointv3.ClusterLoadAssignment)
	require.Len(t, cla.Endpoints, 2)
	require.EqualValues(t, overprovisioning, cla.Policy.OverprovisioningFactor.GetValue())
}

func TestEndpointSaysWhatItIs(t *testing.T) {
	w := newWorld()
	w.service("web", map[string]string{"hosts": "a.test", "port": "80"}, scaled(1))
	b := w.build(t, testConfig())
	l := b.Resources("dev")[Endpoints]["web:80"].Message.(*endpointv3.ClusterLoadAssignment).Endpoints[0]
	require.Equal(t, "n2", l.Locality.Zone)
	require.Equal(t, map[string]any{"node": "beta", "slot": 1.0, "task": "s0001-t1"}, l.LbEndpoints[0].Metadata.FilterMetadata["waggle"].AsMap())
}

func TestWhichAddress(t *testing.T) {
	const info, warning, bad = labels.Info, labels.Warning, labels.Error
	hostPort := func(s *watcher.Service) {
		s.Ports = append(s.Ports, watcher.Port{Protocol: "tcp", Target: 80, HostMode: true})
	}
	plainDocker := func(s *watcher.Service) { s.Plain = true }
	published := func(t *watcher.Task) {
		t.Ports = []watcher.HostPort{{Protocol: "udp", Target: 80, Published: 1}, {Protocol: "tcp", Target: 80, Published: 32768}}
	}
	for name, c := range map[string]struct {
		networks []string // of the collection
		labels   map[string]string
		on       []string // of the service
		options  []serviceOption
		task     func(*watcher.Task)
		world    func(*world)
		want     []string // nil: the route is not built
		severity labels.Severity
		reason   string
		hint     string
	}{
		"the collection's network":              {networks: []string{"dev-edge"}, on: []string{"other", "dev-edge"}, want: []string{"10.1.1.1:80"}},
		"in its order":                          {networks: []string{"gone", "other", "dev-edge"}, on: []string{"dev-edge", "other"}, want: []string{"10.1.1.1:80"}},
		"none in common":                        {networks: []string{"dev-edge"}, on: []string{"other"}, want: []string{}, severity: bad, reason: "no task has an address on a network of the proxies: dev-edge", hint: "docker service update --network-add dev-edge web; or publish the port: ports: [{target: 80, mode: host}]"},
		"none in common on a plain Docker":      {networks: []string{"dev-edge"}, on: []string{"other"}, options: []serviceOption{plainDocker}, want: []string{}, severity: bad, reason: "no task has an address on a network of the proxies: dev-edge", hint: "add dev-edge under `networks:` of the service; or publish the port: ports: [\"80\"]"},
		"vip on a plain Docker":                 {labels: map[string]string{"backend_mode": "vip"}, on: []string{"other"}, options: []serviceOption{plainDocker}, severity: bad, reason: "a plain Docker has no virtual addresses", hint: "write `task`"},
		"none in common, but a host port":       {networks: []string{"dev-edge"}, on: []string{"other"}, task: published, want: []string{"192.168.0.2:32768"}},
		"a common network before the host port": {networks: []string{"dev-edge"}, on: []string{"dev-edge"}, task: published, want: []string{"10.0.1.1:80"}},
		"nothing says which":                    {on: []string{"zeta", "other"}, want: []string{"10.1.1.1:80"}, severity: info, reason: "network other is taken"},
		"never ingress":                         {on: []string{"in"}, want: []string{}, severity: bad, reason: "ingress does not count"},
		"never ingress, though named":           {networks: []string{"ingress"}, on: []string{"in"}, want: []string{}, severity: bad, reason: "no task has an address"},

		"the fleet's networks": {on: []string{"other", "dev-edge"}, want: []string{"10.1.1.1:80"}, world: func(w *world) {
			w.service("envoy", map[string]string{FleetLabel: "dev"}, on("dev-edge"))
		}},
		"of the oldest of it first": {on: []string{"other", "dev-edge"}, want: []string{"10.1.1.1:80"}, world: func(w *world) {
			w.service("envoy", map[string]string{FleetLabel: "dev"}, on("dev-edge"))
			w.service("newcomer", map[string]string{FleetLabel: "dev"}, on("other"))
		}},
		"of this collection's fleet": {on: []string{"other"}, want: []string{"10.0.1.1:80"}, severity: info, reason: "network other is taken", world: func(w *world) {
			w.service("envoy", map[string]string{FleetLabel: "prod"}, on("dev-edge"))
		}},

		"label network":               {labels: map[string]string{"network": "zeta"}, on: []string{"other", "zeta"}, want: []string{"10.1.1.1:80"}},
		"of its own stack first":      {labels: map[string]string{"network": "other"}, options: []serviceOption{stack("x")}, on: []string{"other", "x_other"}, want: []string{"10.1.1.1:80"}},
		"that does not exist":         {labels: map[string]string{"network": "nowhere"}, on: []string{"other"}, severity: bad, reason: "no such network"},
		"that is called otherwise":    {labels: map[string]string{"network": "dev-egde"}, on: []string{"dev-edge"}, severity: bad, reason: "no such network", hint: "did you mean `dev-edge`?"},
		"that it is not on":           {labels: map[string]string{"network": "zeta"}, on: []string{"other"}, severity: bad, reason: "not on this network", hint: "docker service update --network-add zeta web"},
		"that is ingress":             {labels: map[string]string{"network": "ingress"}, on: []string{"other"}, severity: bad, reason: "no such network"},
		"that the proxies are not on": {labels: map[string]string{"network": "other"}, networks: []string{"dev-edge"}, on: []string{"other"}, severity: bad, reason: "proxies of collection dev are not on"},
		"that the fleet is not on": {labels: map[string]string{"network": "other"}, on: []string{"other"}, want: []string{"10.0.1.1:80"}, severity: warning, reason: "no proxy of collection dev", world: func(w *world) {
			w.service("envoy", map[string]string{FleetLabel: "dev"}, on("dev-edge"))
		}},

		"bridge":                     {labels: map[string]string{"network": "bridge"}, networks: []string{"dev-edge"}, on: []string{"dev-edge"}, options: []serviceOption{hostPort}, task: published, want: []string{"192.168.0.2:32768"}},
		"bridge without a host port": {labels: map[string]string{"network": "bridge"}, on: []string{"dev-edge"}, severity: bad, reason: "does not publish port 80 with mode: host"},
		"host":                       {labels: map[string]string{"backend_mode": "host"}, on: []string{"dev-edge"}, options: []serviceOption{hostPort}, task: published, want: []string{"192.168.0.2:32768"}},
		"host without a host port":   {labels: map[string]string{"backend_mode": "host"}, on: []string{"dev-edge"}, severity: bad, reason: "does not publish port 80 with mode: host"},
		"host, not yet published":    {labels: map[string]string{"backend_mode": "host"}, on: []string{"dev-edge"}, options: []serviceOption{hostPort}, want: []string{}, severity: bad, reason: "no task has port 80 published"},
		"host on a node without an address": {labels: map[string]string{"backend_mode": "host"}, on: []string{"dev-edge"}, options: []serviceOption{hostPort}, task: published, want: []string{}, severity: bad, reason: "no address is known of node n2", world: func(w *world) {
			w.Nodes["n2"].Addr = netip.Addr{}
		}},
		"host on a loopback node": {labels: map[string]string{"backend_mode": "host"}, on: []string{"dev-edge"}, options: []serviceOption{hostPort}, task: published, want: []string{}, severity: bad, reason: "loopback", world: func(w *world) {
			w.Nodes["n2"].Addr = netip.MustParseAddr("127.0.0.1")
		}},
		"the node's own network": {on: []string{"host"}, networks: []string{"dev-edge"}, task: func(t *watcher.Task) { t.HostNetwork, t.Addresses = true, nil }, want: []string{"192.168.0.2:80"}},

		"vip": {labels: map[string]string{"backend_mode": "vip"}, networks: []string{"dev-edge"}, on: []string{"other", "dev-edge"}, options: []serviceOption{func(s *watcher.Service) {
			s.VIPs = []watcher.VIP{{Network: "net-in", Addr: netip.MustParseAddr("10.255.0.9")}, {Network: "id-other", Addr: netip.MustParseAddr("10.0.0.9")}, {Network: "id-dev-edge", Addr: netip.MustParseAddr("10.1.0.9")}}
		}}, want: []string{"10.1.0.9:80"}},
		"vip elsewhere": {labels: map[string]string{"backend_mode": "vip"}, networks: []string{"dev-edge"}, on: []string{"other"}, options: []serviceOption{func(s *watcher.Service) {
			s.VIPs = []watcher.VIP{{Network: "id-other", Addr: netip.MustParseAddr("10.0.0.9")}}
		}}, want: []string{}, severity: bad, reason: "no virtual address on a network of the proxies"},
		"vip under dnsrr": {labels: map[string]string{"backend_mode": "vip"}, on: []string{"dev-edge"}, networks: []string{"dev-edge"}, options: []serviceOption{func(s *watcher.Service) { s.EndpointMode = "dnsrr" }}, severity: bad, reason: "dnsrr"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			for _, n := range []string{"other", "zeta", "x_other", "host"} {
				w.network(n)
			}
			w.Networks["id-in"] = w.Networks["net-in"]
			lbls := map[string]string{"hosts": "a.test", "port": "80"}
			for k, v := range c.labels {
				lbls[k] = v
			}
			s := w.service("web", lbls, append(c.options, on(c.on...), scaled(1))...)
			if c.task != nil {
				c.task(w.Tasks[s.ID][0])
			}
			if c.world != nil {
				c.world(w)
			}
			cfg := testConfig()
			cfg.Collections["dev"].Networks = c.networks
			b := w.build(t, cfg)
			if c.want == nil {
				require.Equal(t, []string{"/* -> 503 not_built"}, routeLines(b, "dev", "a.test"))
			} else {
				got := []string{}
				for _, l := range endpointLines(b, "dev", "web:80") {
					var addr string
					_, err := fmt.Sscan(l, &addr)
					require.NoError(t, err)
					got = append(got, addr)
				}
				require.Equal(t, c.want, got)
			}
			if c.reason == "" {
				require.Empty(t, b.Problems())
			} else {
				require.Contains(t, requireProblem(t, b, "web", c.severity, c.reason).Hint, c.hint)
			}
		})
	}
}

func TestRefusedAddresses(t *testing.T) {
	for _, addr := range []string{
		"127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "0.1.2.3", "169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0",
		"224.0.0.1", "ff02::1", "255.255.255.255", "fd00:ec2::254", "100.100.100.200", "192.0.0.192",
	} {
		require.NotEmpty(t, refused(netip.MustParseAddr(addr), false), addr)
		w := newWorld()
		s := w.service("web", map[string]string{"hosts": "a.test", "port": "80"}, scaled(1))
		for i := range w.Tasks[s.ID][0].Addresses {
			w.Tasks[s.ID][0].Addresses[i].Addr = netip.MustParseAddr(addr)
		}
		b := w.build(t, testConfig())
		require.Empty(t, endpointLines(b, "dev", "web:80"), addr)
		requireProblem(t, b, "web", labels.Error, "is refused")
	}
	require.NotEmpty(t, refused(netip.Addr{}, true))
	for _, addr := range []string{"10.0.0.1", "192.168.1.1", "fd00::1", "8.8.8.8", "2001:db8::1"} {
		require.Empty(t, refused(netip.MustParseAddr(addr), false), addr)
	}
	require.Empty(t, refused(netip.MustParseAddr("127.0.0.1"), true), "the lab")
	require.NotEmpty(t, refused(netip.MustParseAddr("169.254.169.254"), true))
}

func TestControlPlaneIsNoBackend(t *testing.T) {
	for port, taken := range map[string]bool{"18000": true, "19000": true, "18001": false} {
		w := newWorld()
		w.network("host")
		s := w.service("web", map[string]string{"hosts": "a.test", "port": port}, scaled(1), on("host"))
		w.Tasks[s.ID][0].HostNetwork, w.Tasks[s.ID][0].Addresses = true, nil
		b := w.build(t, testConfig())
		if taken {
			require.Empty(t, endpointLines(b, "dev", "web:"+port))
			requireProblem(t, b, "web", labels.Error, "control plane")
		} else {
			require.Len(t, endpointLines(b, "dev", "web:"+port), 1)
		}
	}
}

func TestStaticPicture(t *testing.T) {
	w := newWorld()
	w.Static = true
	w.network("other")
	w.service("web", map[string]string{"hosts": "a.test", "port": "80"}, scaled(3))
	w.service("lost", map[string]string{"hosts": "b.test", "port": "80"}, on("other"))
	w.service("agent", map[string]string{"hosts": "c.test", "port": "80", "backend_mode": "host"}, scaled(0), func(s *watcher.Service) {
		s.Mode, s.Ports = watcher.Global, []watcher.Port{{Protocol: "tcp", Target: 80, Published: 8080, HostMode: true}}
	})
	w.service("vip", map[string]string{"hosts": "d.test", "port": "80", "backend_mode": "vip"}, scaled(3))
	w.service("zero", map[string]string{"hosts": "e.test", "port": "80"}, scaled(0))
	w.service("many", map[string]string{"hosts": "f.test", "port": "80"}, scaled(1000))
	clear(w.Tasks)
	b := w.build(t, testConfig())
	require.Equal(t, []string{"192.0.2.1:80  web.1", "192.0.2.2:80  web.2", "192.0.2.3:80  web.3"}, endpointLines(b, "dev", "web:80"))
	require.Empty(t, endpointLines(b, "dev", "lost:80"))
	requireProblem(t, b, "lost", labels.Error, "no task has an address on a network of the proxies")
	require.Equal(t, []string{"192.0.2.1:8080  agent.1"}, endpointLines(b, "dev", "agent:80"))
	require.Equal(t, []string{"192.0.2.1:80  vip.1"}, endpointLines(b, "dev", "vip:80"))
	require.Empty(t, endpointLines(b, "dev", "zero:80"))
	require.Len(t, endpointLines(b, "dev", "many:80"), 254)
}

func TestLabPicture(t *testing.T) {
	w := newWorld()
	w.Loopback = true
	w.Nodes["n2"].Addr = netip.MustParseAddr("127.0.0.1")
	s := w.service("web", map[string]string{"hosts": "a.test", "port": "80", "backend_mode": "vip"}, scaled(1), on())
	w.Tasks[s.ID][0].Addresses = nil
	w.Tasks[s.ID][0].Ports = []watcher.HostPort{{Protocol: "tcp", Target: 80, Published: 40001}}
	cfg := testConfig()
	cfg.Collections["dev"] = &config.Collection{Name: "dev", Default: true, Bind: "127.0.0.1", HTTPPort: 8081, ShareHosts: "owner"}
	b := w.build(t, cfg)
	require.Equal(t, []string{"127.0.0.1:40001 n2 s0001-t1"}, endpointLines(b, "dev", "web:80"))
	requireProblem(t, b, "web", labels.Info, "behaves as task")
}

func TestAnotherServiceStandsIn(t *testing.T) {
	w := newWorld()
	web := w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "failover": "spare"}, stack("a"), scaled(1))
	spare := w.service("a_spare", nil, stack("a"), shows(9000), scaled(1))
	priorities := func() []uint32 {
		var out []uint32
		for _, e := range w.build(t, testConfig()).Resources("dev")[Endpoints]["a_web:80"].Message.(*endpointv3.ClusterLoadAssignment).Endpoints {
			out = append(out, e.Priority)
		}
		return out
	}
	require.Equal(t, []uint32{0, 2}, priorities())
	w.Tasks[web.ID][0].Desired = watcher.Shutdown
	require.Equal(t, []uint32{2}, priorities(), "a task that leaves need not hold out")
	w.Tasks[spare.ID][0].Desired = watcher.Shutdown
	require.Equal(t, []uint32{0, 2}, priorities(), "unless the other has none either")
	delete(w.Tasks, spare.ID)
	require.Equal(t, []uint32{0}, priorities())
	cla := w.build(t, testConfig()).Resources("dev")[Endpoints]["a_web:80"].Message.(*endpointv3.ClusterLoadAssignment)
	require.EqualValues(t, overprovisioning, cla.Policy.OverprovisioningFactor.Value, "one healthy task is enough")
}
