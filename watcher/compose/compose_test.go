package compose

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
	"github.com/waggle-lb/waggle/watcher/watchtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick are options for a fake daemon: everything a hundred times as fast, and no
// list but those that something asks for.
func quick(f *fake) Options {
	return Options{
		Host: "unix://" + f.socket,
		Timing: Timing{
			FullList: time.Hour, Confirm: 10 * time.Millisecond, Settle: 5 * time.Millisecond, Survive: time.Hour,
			Timeout: 5 * time.Second, BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		},
	}
}

// watch is a running source.
type watch struct{ *watchtest.Watch }

func start(t *testing.T, o Options) watch {
	t.Helper()
	return watch{watchtest.Start(t, New(o))}
}

// tasks waits until a service has these, as "id:ready" and the like.
func (w watch) tasks(service string, want ...string) watcher.Update {
	return w.Until(service+" has "+strings.Join(want, " "), func(u watcher.Update) bool {
		return u.Picture != nil && u.Picture.Services[service] != nil && slices.Equal(watchtest.Tasks(u.Picture, service), want)
	})
}

func TestTheFirstUpdateIsEverything(t *testing.T) {
	f := startFake(t)
	f.network("shop_default", "172.20.0.1")
	c := composed("shop", "web", 1, "com.docker.lb.hosts", "shop.localhost", "com.docker.stack.namespace", "somebody-else")
	c.networks = map[string]string{"shop_default": "172.20.0.2", "bridge": "172.17.0.2"}
	c.bindings = map[string]any{"8080/tcp": []any{map[string]any{"HostIp": "", "HostPort": "8081"}}, "53/udp": []any{map[string]any{}}, "9/tcp": []any{}}
	c.ports = []map[string]any{
		{"IP": "0.0.0.0", "PrivatePort": 8080, "PublicPort": 8081, "Type": "tcp"},
		{"IP": "::", "PrivatePort": 8080, "PublicPort": 8081, "Type": "tcp"},
		{"IP": "127.0.0.1", "PrivatePort": 9000, "PublicPort": 9000, "Type": "tcp"}, // nobody else can get there
		{"PrivatePort": 9090, "Type": "tcp"},
	}
	c.exposed = []string{"9090/tcp", "53/udp", "8080/tcp"}
	f.run(c)
	f.run(composed("shop", "web", 2, "com.docker.lb.hosts", "shop.localhost"))
	f.run(fakeContainer{id: "0123456789abcdef", name: "alone", labels: map[string]string{"lb.hosts": "alone.localhost", "com.docker.stack.namespace": "shop"}, networks: map[string]string{"bridge": "172.17.0.9"}})

	u := start(t, quick(f)).Until("the first picture", func(u watcher.Update) bool { return u.Picture != nil })
	require.True(t, u.Full)
	require.True(t, u.Changes.All)
	want := &watcher.Picture{
		Services: map[string]*watcher.Service{
			"shop/web": {
				ID: "shop/web", Name: "shop_web", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 1000, time.UTC),
				Labels: map[string]string{
					projectLabel: "shop", serviceLabel: "web", numberLabel: "2", oneoffLabel: "False",
					"com.docker.lb.hosts": "shop.localhost", watcher.StackLabel: "shop",
				},
				Mode: watcher.Replicated, Replicas: 2, EndpointMode: "dnsrr", Plain: true, Networks: []string{"net-bridge"},
			},
			"/alone": {
				ID: "/alone", Name: "alone", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 3000, time.UTC),
				Labels: map[string]string{"lb.hosts": "alone.localhost"},
				Mode:   watcher.Replicated, Replicas: 1, EndpointMode: "dnsrr", Plain: true, Networks: []string{"net-bridge"},
			},
		},
		Tasks: map[string][]*watcher.Task{
			"shop/web": {
				{
					ID: "shop-web-1", ServiceID: "shop/web", NodeID: "engine-1", Slot: 1, State: watcher.Running, Desired: watcher.Running,
					Addresses: []watcher.Address{{Network: "net-bridge", Addr: netip.MustParseAddr("172.17.0.2")}, {Network: "net-shop_default", Addr: netip.MustParseAddr("172.20.0.2")}},
					Ports:     []watcher.HostPort{{Protocol: "tcp", Target: 8080, Published: 8081}},
				},
				{
					ID: "shop-web-2", ServiceID: "shop/web", NodeID: "engine-1", Slot: 2, State: watcher.Running, Desired: watcher.Running,
					Addresses: []watcher.Address{{Network: "net-bridge", Addr: netip.MustParseAddr("172.17.0.3")}},
				},
			},
			"/alone": {{
				ID: "0123456789abcdef", ServiceID: "/alone", NodeID: "engine-1", Slot: 1, State: watcher.Running, Desired: watcher.Running,
				Addresses: []watcher.Address{{Network: "net-bridge", Addr: netip.MustParseAddr("172.17.0.9")}},
			}},
		},
		Nodes: map[string]*watcher.Node{"engine-1": {ID: "engine-1", Hostname: "laptop", Addr: netip.MustParseAddr("172.17.0.1")}},
		Networks: map[string]*watcher.Network{
			"net-bridge": {ID: "net-bridge", Name: "bridge"}, "net-host": {ID: "net-host", Name: "host"},
			"net-shop_default": {ID: "net-shop_default", Name: "shop_default"},
		},
		Configs: map[string]*watcher.Config{}, Secrets: map[string]*watcher.Secret{},
	}
	addresses := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, u.Picture, addresses, cmpopts.IgnoreFields(watcher.Service{}, "Version")); d != "" {
		t.Fatal(d)
	}
}

// What is published and exposed is what the newest container was made with, running or not.
func TestPorts(t *testing.T) {
	f := startFake(t)
	c := composed("shop", "web", 1)
	c.state = "exited"
	c.bindings = map[string]any{"8080/tcp": []any{map[string]any{"HostPort": "8081"}}, "53/udp": []any{map[string]any{}}, "9/tcp": []any{}}
	c.exposed = []string{"9090/tcp", "53/udp", "8080/tcp"}
	f.run(c)
	u := start(t, quick(f)).tasks("shop/web")
	s := u.Picture.Services["shop/web"]
	require.Equal(t, []watcher.Port{{Protocol: "udp", Target: 53, HostMode: true}, {Protocol: "tcp", Target: 8080, Published: 8081, HostMode: true}}, s.Ports)
	require.Equal(t, []uint32{8080, 9090}, s.Expose)
	require.Zero(t, s.Replicas, "a stopped service is still one, with no replicas")
}

func TestWhichContainersCount(t *testing.T) {
	f := startFake(t)
	f.run(composed("shop", "web", 1))
	f.run(composed("blog", "web", 1))
	oneoff := composed("shop", "web", 7, oneoffLabel, "True")
	f.run(oneoff)
	f.run(fakeContainer{id: "task", labels: map[string]string{"com.docker.swarm.task.id": "t"}})
	f.run(fakeContainer{id: "alone"})

	names := func(o Options) (ids []string) {
		for id := range start(t, o).Until("a picture", func(u watcher.Update) bool { return u.Picture != nil }).Picture.Services {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids
	}
	o := quick(f)
	require.Equal(t, []string{"/alone", "blog/web", "shop/web"}, names(o))
	o.Projects = []string{"shop"}
	require.Equal(t, []string{"shop/web"}, names(o))
}

func TestStates(t *testing.T) {
	for _, tt := range []struct {
		state, health string
		want          []string
		replicas      uint64
	}{
		{"running", "", []string{"shop-web-1:ready"}, 1},
		{"running", "healthy", []string{"shop-web-1:ready"}, 1},
		{"running", "health: starting", []string{"shop-web-1:coming"}, 1},
		{"running", "unhealthy", []string{"shop-web-1:coming"}, 1},
		{"created", "", []string{"shop-web-1:coming"}, 1},
		{"restarting", "", []string{"shop-web-1:coming"}, 1},
		{"paused", "", []string{"shop-web-1:coming"}, 1},
		{"removing", "", nil, 0},
		{"exited", "", nil, 0},
		{"dead", "", nil, 0},
		{"of a later Docker", "", nil, 0},
	} {
		t.Run(tt.state+" "+tt.health, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			c := composed("shop", "web", 1)
			c.state, c.health = tt.state, tt.health
			f.run(c)
			u := start(t, quick(f)).tasks("shop/web", tt.want...)
			require.Equal(t, tt.replicas, u.Picture.Services["shop/web"].Replicas)
		})
	}
}

// The signal that stops a container takes it out before any list can say so.
func TestTheStopSignalMakesATaskLeave(t *testing.T) {
	f := startFake(t)
	f.run(composed("shop", "web", 1))
	f.run(composed("shop", "web", 2))
	w := start(t, quick(f))
	before := w.tasks("shop/web", "shop-web-1:ready", "shop-web-2:ready")

	f.put("/containers/json", fakedocker.Hang) // no list can help
	f.kill("shop-web-1", syscall.SIGHUP)       // means something else
	f.kill("shop-web-1", syscall.SIGTERM)
	u := w.tasks("shop/web", "shop-web-1:leaving", "shop-web-2:ready")
	require.False(t, u.Full, "an event is no list")
	require.Equal(t, map[string]struct{}{"shop/web": {}}, u.Changes.Tasks)
	require.False(t, u.Changes.Structure(), "only endpoints change")
	require.Same(t, before.Picture.Services["shop/web"], u.Picture.Services["shop/web"])
	f.event(events.ActionDie, "shop-web-1", nil)
	w.tasks("shop/web", "shop-web-2:ready")
	f.put("/containers/json", nil)
}

// While a container is stopping, lists say that it runs: it stays out.
func TestLeavingOutlivesLists(t *testing.T) {
	f := startFake(t)
	f.run(composed("shop", "web", 1))
	w := start(t, quick(f))
	w.tasks("shop/web", "shop-web-1:ready")
	f.kill("shop-web-1", syscall.SIGTERM)
	w.tasks("shop/web", "shop-web-1:leaving")
	w.Until("a list since", func(u watcher.Update) bool { return u.Full })
	require.Equal(t, []string{"shop-web-1:leaving"}, watchtest.Tasks(w.Last.Picture, "shop/web"))
	f.end("shop-web-1")
	u := w.Until("no replica is left", func(u watcher.Update) bool { return u.Picture.Services["shop/web"].Replicas == 0 })
	require.Empty(t, watchtest.Tasks(u.Picture, "shop/web"))
	f.start("shop-web-1") // docker restart
	w.tasks("shop/web", "shop-web-1:ready")
	f.kill("shop-web-1", syscall.SIGTERM)
	f.end("shop-web-1")
	f.remove("shop-web-1")
	w.Until("the service is gone", func(u watcher.Update) bool { return len(u.Picture.Services) == 0 })
	w.Until("a second list confirms it", func(u watcher.Update) bool { return u.Full && u.Changes.Empty() })
}

func TestAContainerMayNameItsStopSignal(t *testing.T) {
	for _, tt := range []struct {
		stop   string
		signal syscall.Signal
	}{{"SIGQUIT", syscall.SIGQUIT}, {"3", syscall.SIGQUIT}, {"quit", syscall.SIGQUIT}, {"SIGQUIT", syscall.SIGTERM}, {"nonsense", syscall.SIGTERM}, {"", syscall.SIGKILL}} {
		t.Run(tt.stop+" "+tt.signal.String(), func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			c := composed("shop", "web", 1)
			c.stop = tt.stop
			f.run(c)
			w := start(t, quick(f))
			w.tasks("shop/web", "shop-web-1:ready")
			f.kill("shop-web-1", tt.signal)
			w.tasks("shop/web", "shop-web-1:leaving")
		})
	}
}

// A program that takes its stop signal for something else is not left out for ever.
func TestWhoSurvivesComesBack(t *testing.T) {
	f := startFake(t)
	c := composed("shop", "web", 1)
	c.grace = new(int) // none at all
	f.run(c)
	o := quick(f)
	o.Timing.Survive = 50 * time.Millisecond
	w := start(t, o)
	w.tasks("shop/web", "shop-web-1:ready")
	f.kill("shop-web-1", syscall.SIGTERM)
	w.tasks("shop/web", "shop-web-1:leaving")
	w.tasks("shop/web", "shop-web-1:ready")
}

func TestScalingAndHealthFollowEvents(t *testing.T) {
	f := startFake(t)
	c := composed("shop", "web", 1)
	c.health = "health: starting"
	f.run(c)
	w := start(t, quick(f))
	w.tasks("shop/web", "shop-web-1:coming")
	f.change("shop-web-1", func(c *fakeContainer) { c.health = "healthy" })
	f.event("health_status: healthy", "shop-web-1", nil)
	w.tasks("shop/web", "shop-web-1:ready")
	f.run(composed("shop", "web", 10))
	u := w.tasks("shop/web", "shop-web-1:ready", "shop-web-10:ready")
	require.EqualValues(t, 2, u.Picture.Services["shop/web"].Replicas)
	require.Equal(t, 1, f.times("/containers/shop-web-1/json"), "what is fixed is read once")
}

// The newest container says what is wanted, the oldest how old the service is.
func TestANewContainerBringsNewLabels(t *testing.T) {
	f := startFake(t)
	f.run(composed("shop", "web", 1, "lb.hosts", "old"))
	w := start(t, quick(f))
	old := w.tasks("shop/web", "shop-web-1:ready").Picture.Services["shop/web"]
	f.run(composed("shop", "web", 2, "lb.hosts", "new"))
	u := w.Until("the new label", func(u watcher.Update) bool { return u.Picture.Services["shop/web"].Labels["lb.hosts"] == "new" })
	s := u.Picture.Services["shop/web"]
	require.Equal(t, old.CreatedAt, s.CreatedAt)
	require.NotEqual(t, old.Version, s.Version)
	f.remove("shop-web-1")
	u = w.tasks("shop/web", "shop-web-2:ready")
	require.True(t, u.Picture.Services["shop/web"].CreatedAt.After(old.CreatedAt))
}

func TestNetworkOfAnother(t *testing.T) {
	f := startFake(t)
	f.run(composed("shop", "web", 1))
	side := composed("shop", "side", 1)
	side.mode, side.networks = "container:shop-web-1", nil
	f.run(side)
	lost := composed("shop", "lost", 1)
	lost.mode, lost.networks = "container:nobody", nil
	f.run(lost)
	host := composed("shop", "host", 1)
	host.mode, host.networks = "host", map[string]string{"host": ""}
	f.run(host)
	p := start(t, quick(f)).tasks("shop/host", "shop-host-1:ready").Picture
	require.Equal(t, p.Tasks["shop/web"][0].Addresses, p.Tasks["shop/side"][0].Addresses)
	require.Equal(t, []string{"net-bridge"}, p.Services["shop/side"].Networks)
	require.Empty(t, p.Tasks["shop/lost"][0].Addresses)
	require.True(t, p.Tasks["shop/host"][0].HostNetwork)
	require.Empty(t, p.Tasks["shop/host"][0].Addresses)
	require.Equal(t, []string{"net-host"}, p.Services["shop/host"].Networks)
}

// Names that mean the same full name are services of their own all the same.
func TestIdentitiesNeverMeet(t *testing.T) {
	f := startFake(t)
	f.run(composed("a_b", "c", 1))
	f.run(composed("a", "b_c", 1))
	f.run(fakeContainer{id: "x", name: "a_b_c"})
	p := start(t, quick(f)).tasks("a/b_c", "a-b_c-1:ready").Picture
	require.Len(t, p.Services, 3)
	for _, s := range p.Services {
		require.Equal(t, "a_b_c", s.Name)
	}
}

// Every way in which a list can fail leaves the last picture, says so, and passes.
func TestAFailedListIsNeverAPicture(t *testing.T) {
	tests := []struct {
		name string
		bad  fakedocker.Middleware
		says string
	}{
		{"500", fakedocker.Refuse(500, "on fire"), "on fire"},
		{"truncated", fakedocker.Truncate, ""},
		{"empty", fakedocker.Say(""), ""},
		{"not JSON", fakedocker.Say("<html>"), "broke off in the middle"},
		{"without an ID", fakedocker.Say(`[{}]`), "without an ID"},
		{"hanging", fakedocker.Hang, "did not answer within"},
		{"forbidden", fakedocker.Refuse(403, "Forbidden"), "/_ping, /events, /containers and /networks"},
	}
	for _, tt := range tests {
		for _, path := range []string{"/containers/json", "/networks"} {
			t.Run(tt.name+path, func(t *testing.T) {
				t.Parallel()
				f := startFake(t)
				f.run(composed("shop", "web", 1))
				o := quick(f)
				if tt.name == "hanging" {
					o.Timing.Timeout = 200 * time.Millisecond
				}
				w := start(t, o)
				good := w.tasks("shop/web", "shop-web-1:ready")
				f.put(path, tt.bad)
				f.run(composed("shop", "web", 2))
				u := w.Until("an error", func(u watcher.Update) bool { return u.Err != nil && strings.Contains(u.Err.Error(), tt.says) })
				require.Contains(t, u.Err.Error(), f.socket)
				require.Same(t, good.Picture.Services["shop/web"], u.Picture.Services["shop/web"])
				f.put(path, nil)
				u = w.tasks("shop/web", "shop-web-1:ready", "shop-web-2:ready")
				w.Until("all is well", func(u watcher.Update) bool { return u.Err == nil })
			})
		}
	}
}

// A container that is gone between the list and the look at it is gone, and nothing fails.
func TestAContainerMayVanishMeanwhile(t *testing.T) {
	f := startFake(t)
	f.run(composed("shop", "web", 1))
	f.run(composed("shop", "web", 2))
	f.put("/containers/shop-web-2/json", fakedocker.Refuse(404, "No such container: shop-web-2"))
	u := start(t, quick(f)).tasks("shop/web", "shop-web-1:ready")
	require.NoError(t, u.Err)
}

// What happened while no stream was open is listed when one is again.
func TestEventsMayBreakOff(t *testing.T) {
	f := startFake(t)
	f.run(composed("shop", "web", 1))
	w := start(t, quick(f))
	w.tasks("shop/web", "shop-web-1:ready")
	f.put("/events", fakedocker.Refuse(500, "no events today"))
	f.cutEvents()
	w.Until("it says so", func(u watcher.Update) bool { return u.Err != nil && strings.Contains(u.Err.Error(), "no events today") })
	f.run(composed("shop", "web", 2))
	w.tasks("shop/web", "shop-web-1:ready", "shop-web-2:ready")
	f.put("/events", nil)
	w.Until("all is well", func(u watcher.Update) bool { return u.Err == nil })
}

// Without /info all works but the engine's name.
func TestInfoMayBeForbidden(t *testing.T) {
	f := startFake(t)
	f.put("/info", fakedocker.Refuse(403, "Forbidden"))
	f.run(composed("shop", "web", 1))
	w := start(t, quick(f))
	u := w.tasks("shop/web", "shop-web-1:ready")
	require.NoError(t, u.Err)
	require.Equal(t, "engine", u.Picture.Tasks["shop/web"][0].NodeID)
	f.run(composed("shop", "web", 2))
	w.tasks("shop/web", "shop-web-1:ready", "shop-web-2:ready")
	require.Equal(t, 1, f.times("/info"))
}

func TestWherePublishedPortsAre(t *testing.T) {
	for _, tt := range []struct{ host, gateway, subnet, want string }{
		{"unix:///x", "172.17.0.1", "172.17.0.0/16", "172.17.0.1"},
		{"unix:///x", "", "172.17.0.0/16", "172.17.0.1"},
		{"unix:///x", "", "", "invalid IP"},
		{"tcp://192.0.2.7:2375", "172.17.0.1", "", "192.0.2.7"},
		{"tcp://127.0.0.1:2375", "172.17.0.1", "", "172.17.0.1"},
		{"tcp://docker.example.com:2375", "172.17.0.1", "", "172.17.0.1"},
	} {
		f := startFake(t)
		f.network("bridge", tt.gateway)
		n := f.networks["net-bridge"]
		if tt.subnet != "" {
			n.IPAM.Config = append(n.IPAM.Config, network.IPAMConfig{Subnet: tt.subnet})
		}
		f.networks["net-bridge"] = n
		require.Equal(t, tt.want, (&reader{Options: Options{Host: tt.host}}).address(f.networks).String(), "%+v", tt)
	}
}

func TestCheck(t *testing.T) {
	f := startFake(t)
	require.NoError(t, New(quick(f)).Check(t.Context()))
	o := quick(f)
	o.Host = "unix:///nowhere/docker.sock"
	require.ErrorContains(t, New(o).Check(t.Context()), "the socket does not exist")
	o.Host = "carrier pigeon"
	require.ErrorContains(t, New(o).Check(t.Context()), "is no address")
	require.ErrorContains(t, New(o).Run(t.Context(), func(watcher.Update) {}), "is no address")
}
