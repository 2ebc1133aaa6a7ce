package engine

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
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
// full list but those that something asks for.
func quick(d *fakedocker.Daemon) Options {
	return Options{
		Host: d.Host(), PollInterval: 10 * time.Millisecond,
		Timing: Timing{
			FastPoll: 5 * time.Millisecond, FastFor: 50 * time.Millisecond, SlowPoll: 20 * time.Millisecond,
			FullList: time.Hour, Confirm: 10 * time.Millisecond, Settle: 5 * time.Millisecond, Timeout: 5 * time.Second,
			BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		},
	}
}

func start(t *testing.T, o Options) *watchtest.Watch {
	t.Helper()
	return watchtest.Start(t, New(o))
}

func has(p *watcher.Picture, service string, want ...string) bool {
	return slices.Equal(watchtest.Tasks(p, service), want)
}

func TestTheFirstUpdateIsEverything(t *testing.T) {
	d := fakedocker.Start(t)
	four := uint64(4)
	d.PutService("web", func(s *swarm.Service) {
		s.Spec.Name = "shop_web"
		s.Spec.Labels = map[string]string{watcher.StackLabel: "shop", "com.docker.lb.port": "8080"}
		s.Spec.Mode.Replicated.Replicas = &four
		s.Spec.TaskTemplate.ContainerSpec.Labels = map[string]string{"in": "container"}
		s.Spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels.collection==dev"}}
		s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "net"}}
		s.Spec.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP, Ports: []swarm.PortConfig{
			{Protocol: "tcp", TargetPort: 8080, PublishMode: "ingress"},
			{Protocol: "udp", TargetPort: 9000, PublishedPort: 9000, PublishMode: "host"},
		}}
		s.Endpoint = swarm.Endpoint{
			Ports:      []swarm.PortConfig{{Protocol: "tcp", TargetPort: 8080, PublishedPort: 30001, PublishMode: "ingress"}},
			VirtualIPs: []swarm.EndpointVirtualIP{{NetworkID: "ingress", Addr: "10.0.0.5/24"}, {NetworkID: "net", Addr: "10.0.1.2/24"}},
		}
	})
	d.PutService("job", func(s *swarm.Service) {
		s.Spec.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}}
	})
	d.PutService("agent", func(s *swarm.Service) {
		s.Spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
		s.Spec.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR}
	})
	d.PutTask("web", "t2", func(x *swarm.Task) {
		x.Slot = 2
		x.NetworksAttachments = []swarm.NetworkAttachment{fakedocker.On("ingress", "10.0.0.7/24"), fakedocker.On("net", "10.0.1.14/24")}
		x.Status.PortStatus.Ports = []swarm.PortConfig{
			{Protocol: "udp", TargetPort: 9000, PublishedPort: 9000, PublishMode: "host"},
			{Protocol: "tcp", TargetPort: 8080, PublishedPort: 30001, PublishMode: "ingress"},
		}
	})
	d.PutTask("web", "t1", nil)
	d.PutTask("agent", "a1", func(x *swarm.Task) {
		x.Slot = 0
		x.NetworksAttachments = []swarm.NetworkAttachment{{Network: swarm.Network{ID: "h", Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: "host"}}}}}
	})
	d.PutTask("agent", "a2", func(x *swarm.Task) { x.Slot, x.NodeID = 0, "n2" })
	d.PutTask("job", "j1", func(x *swarm.Task) { x.JobIteration = &swarm.Version{} })
	d.PutNode("n2", func(n *swarm.Node) {
		n.Status.State, n.Status.Addr = swarm.NodeStateDown, "192.168.7.2"
		n.Spec.Labels = map[string]string{"collection": "dev"}
	})
	d.PutNetwork("net", func(n *network.Summary) { n.Name = "dev-edge"; n.Labels = map[string]string{"a": "b"} })
	d.PutNetwork("ingress", func(n *network.Summary) { n.Ingress = true })
	d.PutNetwork("bridge", func(n *network.Summary) { n.Scope = "local" })
	d.PutConfig("site", "hello")
	d.PutSecret("key")
	courier := map[string]string{watcher.CourierLabel: "c"} // what couriers make is in no picture
	d.PutService("courier", func(s *swarm.Service) {
		s.Spec.Mode, s.Spec.Labels = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}}, courier
	})
	d.PutSecretWith("order", "order", courier, nil, time.Time{})

	w := start(t, quick(d))
	u := w.Picture("the first picture", func(*watcher.Picture) bool { return true })
	require.True(t, u.Changes.All)
	require.True(t, u.Full)
	for _, s := range u.Picture.Services {
		require.NotZero(t, s.Version)
		require.False(t, s.CreatedAt.IsZero())
	}
	ignored := cmpopts.IgnoreFields(watcher.Service{}, "Version", "CreatedAt")
	addr := netip.MustParseAddr
	require.Empty(t, cmp.Diff(&watcher.Picture{
		Services: map[string]*watcher.Service{
			"web": {
				ID: "web", Name: "shop_web", Mode: watcher.Replicated, Replicas: 4, EndpointMode: "vip",
				Labels:          map[string]string{watcher.StackLabel: "shop", "com.docker.lb.port": "8080"},
				ContainerLabels: map[string]string{"in": "container"},
				Constraints:     []string{"node.labels.collection==dev"},
				Networks:        []string{"net"},
				Ports:           []watcher.Port{{Protocol: "tcp", Target: 8080, Published: 30001}, {Protocol: "udp", Target: 9000, Published: 9000, HostMode: true}},
				VIPs:            []watcher.VIP{{Network: "ingress", Addr: addr("10.0.0.5")}, {Network: "net", Addr: addr("10.0.1.2")}},
			},
			"job":   {ID: "job", Name: "job", Mode: watcher.ReplicatedJob, Replicas: 1, EndpointMode: "vip"},
			"agent": {ID: "agent", Name: "agent", Mode: watcher.Global, Replicas: 2, EndpointMode: "dnsrr"},
		},
		Tasks: map[string][]*watcher.Task{
			"web": {
				{ID: "t1", ServiceID: "web", NodeID: "n1", Slot: 1, State: watcher.Running, Desired: watcher.Running},
				{
					ID: "t2", ServiceID: "web", NodeID: "n1", Slot: 2, State: watcher.Running, Desired: watcher.Running,
					Addresses: []watcher.Address{{Network: "ingress", Addr: addr("10.0.0.7")}, {Network: "net", Addr: addr("10.0.1.14")}},
					Ports:     []watcher.HostPort{{Protocol: "udp", Target: 9000, Published: 9000}},
				},
			},
			"agent": {
				{ID: "a1", ServiceID: "agent", NodeID: "n1", State: watcher.Running, Desired: watcher.Running, HostNetwork: true},
				{ID: "a2", ServiceID: "agent", NodeID: "n2", State: watcher.Running, Desired: watcher.Running},
			},
		},
		Nodes: map[string]*watcher.Node{
			"n1": {ID: "n1", Hostname: "n1.example", Addr: addr("192.168.7.1")},
			"n2": {ID: "n2", Hostname: "n2.example", Addr: addr("192.168.7.2"), Down: true, Labels: map[string]string{"collection": "dev"}},
		},
		Networks: map[string]*watcher.Network{
			"net":     {ID: "net", Name: "dev-edge", Labels: map[string]string{"a": "b"}},
			"ingress": {ID: "ingress", Name: "ingress", Ingress: true},
		},
		Configs: map[string]*watcher.Config{"site": {ID: "site", Name: "site", Labels: map[string]string{"of": "site"}, Data: []byte("hello")}},
		Secrets: map[string]*watcher.Secret{"key": {ID: "key", Name: "key", Labels: map[string]string{"of": "key"}}},
	}, u.Picture, ignored, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})))
}

// Which tasks count at which moment of their life (swarm.md §3 and §5).
func TestTheLifeOfATask(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutTask("web", "old", nil)
	d.PutTask("web", "history", func(x *swarm.Task) {
		x.DesiredState, x.Status.State = swarm.TaskStateShutdown, swarm.TaskStateFailed
	})
	w := start(t, quick(d))
	w.Picture("one ready task, no history", func(p *watcher.Picture) bool { return has(p, "web", "old:ready") })

	// Stop-first: the new one is made before the old one is gone, and is not wanted yet.
	d.PutTask("web", "new", func(x *swarm.Task) {
		x.DesiredState, x.Status.State = swarm.TaskStateReady, swarm.TaskStatePreparing
	})
	d.Want("old", swarm.TaskStateShutdown)
	w.Picture("the old one is leaving", func(p *watcher.Picture) bool { return has(p, "web", "old:leaving") })
	d.Want("new", swarm.TaskStateRunning)
	w.Picture("the new one is wanted", func(p *watcher.Picture) bool { return has(p, "web", "new:coming", "old:leaving") })
	d.Observe("old", swarm.TaskStateShutdown)
	w.Picture("the old one has stopped", func(p *watcher.Picture) bool { return has(p, "web", "new:coming") })
	d.Observe("new", swarm.TaskStateStarting)
	d.Observe("new", swarm.TaskStateRunning)
	w.Picture("the new one is ready", func(p *watcher.Picture) bool { return has(p, "web", "new:ready") })

	// Scaled down: wanted removed, and then deleted.
	d.PutTask("web", "two", func(x *swarm.Task) { x.Slot = 2 })
	w.Picture("two", func(p *watcher.Picture) bool { return has(p, "web", "new:ready", "two:ready") })
	d.Want("two", swarm.TaskStateRemove)
	w.Picture("one of them leaving", func(p *watcher.Picture) bool { return has(p, "web", "new:ready", "two:leaving") })
	d.RemoveTask("two")
	w.Picture("and gone", func(p *watcher.Picture) bool { return has(p, "web", "new:ready") })

	// A crash: the state says it before anybody wants it gone.
	d.Observe("new", swarm.TaskStateFailed)
	w.Picture("nothing runs", func(p *watcher.Picture) bool { return has(p, "web") })
}

// A leaving task that Waggle finds when it starts is there too.
func TestLeavingTasksAreSeenAtTheStart(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutTask("web", "old", func(x *swarm.Task) { x.DesiredState = swarm.TaskStateShutdown })
	w := start(t, quick(d))
	w.Picture("a leaving task", func(p *watcher.Picture) bool { return has(p, "web", "old:leaving") })
	d.Observe("old", swarm.TaskStateShutdown)
	w.Picture("and gone", func(p *watcher.Picture) bool { return has(p, "web") })
}

// History is asked for once, and leaving tasks by their IDs: see taskReader.
func TestTaskListsCarryNoHistory(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	for i := range 70 {
		d.PutTask("web", fmt.Sprintf("t%02d", i), func(x *swarm.Task) { x.Slot = i })
	}
	w := start(t, quick(d))
	w.Picture("all of them", func(p *watcher.Picture) bool { return len(p.Tasks["web"]) == 70 })
	for i := range 70 {
		d.Want(fmt.Sprintf("t%02d", i), swarm.TaskStateShutdown)
	}
	w.Picture("all leaving", func(p *watcher.Picture) bool {
		return len(p.Tasks["web"]) == 70 && !slices.ContainsFunc(p.Tasks["web"], (*watcher.Task).Ready)
	})
	w.Stop()
	lists, byID := 0, 0
	for i, q := range d.Asked("/tasks") {
		f := q.Get("filters")
		switch {
		case i == 0:
			require.JSONEq(t, `{"desired-state":{"running":true,"remove":true,"shutdown":true}}`, f)
		case strings.Contains(f, `"id"`):
			byID++
			require.LessOrEqual(t, strings.Count(f, "true"), maxTaskIDs)
		default:
			lists++
			require.JSONEq(t, `{"desired-state":{"running":true,"remove":true}}`, f)
		}
	}
	require.Positive(t, lists)
	require.GreaterOrEqual(t, byID, 2, "seventy IDs are two requests")
}

// A lost node's tasks stay as they are (running, unwanted) for a day; nobody needs to ask for each of them every second.
func TestTasksOfALostNode(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutNode("n2", nil)
	d.PutTask("web", "a", nil)
	d.PutTask("web", "b", func(x *swarm.Task) { x.Slot, x.NodeID = 2, "n2" })
	w := start(t, quick(d))
	w.Picture("two", func(p *watcher.Picture) bool { return has(p, "web", "a:ready", "b:ready") })
	d.PutNode("n2", func(n *swarm.Node) { n.Status.State = swarm.NodeStateDown })
	w.Picture("the node down", func(p *watcher.Picture) bool { return p.Nodes["n2"].Down })
	d.Want("b", swarm.TaskStateShutdown)
	w.Picture("its task unwanted", func(p *watcher.Picture) bool { return has(p, "web", "a:ready", "b:leaving") })

	byID := func() (n int) {
		for _, q := range d.Asked("/tasks") {
			n += strings.Count(q.Get("filters"), `"id"`)
		}
		return n
	}
	n, lists := byID(), len(d.Asked("/tasks"))
	w.Until("some more lists", func(u watcher.Update) bool {
		return u.Err == nil && len(d.Asked("/tasks")) > lists+5 && has(u.Picture, "web", "a:ready", "b:leaving")
	})
	require.LessOrEqual(t, byID(), n+1)

	d.PutNode("n2", func(n *swarm.Node) { n.Status.State = swarm.NodeStateReady })
	d.Observe("b", swarm.TaskStateShutdown)
	w.Picture("back, and its task has stopped", func(p *watcher.Picture) bool { return !p.Nodes["n2"].Down && has(p, "web", "a:ready") })
}

func TestEventsMakeReadAgainWhatTheyName(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutNetwork("net", nil)
	w := start(t, quick(d))
	w.Picture("the first picture", func(p *watcher.Picture) bool { return p.Services["web"] != nil })
	require.Eventually(t, func() bool { return d.Streams() == 1 }, 10*time.Second, time.Millisecond)
	for _, q := range d.Asked("/events") {
		require.JSONEq(t, `{"scope":{"swarm":true},"type":{"service":true,"node":true,"network":true,"config":true,"secret":true}}`, q.Get("filters"))
	}
	tests := []struct {
		name   string
		change func()
		seen   func(p *watcher.Picture) bool
		want   watcher.Changes
	}{
		{"a label", func() {
			d.PutService("web", func(s *swarm.Service) { s.Spec.Labels = map[string]string{"lb.port": "80"} })
		},
			func(p *watcher.Picture) bool { return p.Services["web"].Labels["lb.port"] == "80" }, watcher.Changes{Services: set("web")}},
		{"a new service", func() { d.PutService("api", nil) }, func(p *watcher.Picture) bool { return p.Services["api"] != nil }, watcher.Changes{Services: set("api")}},
		{"a service gone", func() { d.RemoveService("api") }, func(p *watcher.Picture) bool { return p.Services["api"] == nil }, watcher.Changes{Services: set("api")}},
		{"a node", func() { d.PutNode("n2", nil) }, func(p *watcher.Picture) bool { return p.Nodes["n2"] != nil }, watcher.Changes{Nodes: true}},
		{"a network", func() { d.PutNetwork("more", nil) }, func(p *watcher.Picture) bool { return p.Networks["more"] != nil }, watcher.Changes{Shared: true}},
		{"a network gone", func() { d.RemoveNetwork("more") }, func(p *watcher.Picture) bool { return p.Networks["more"] == nil }, watcher.Changes{Shared: true}},
		{"a config", func() { d.PutConfig("c", "data") }, func(p *watcher.Picture) bool { return p.Configs["c"] != nil }, watcher.Changes{Shared: true}},
		{"a secret", func() { d.PutSecret("s") }, func(p *watcher.Picture) bool { return p.Secrets["s"] != nil }, watcher.Changes{Shared: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			was := w.Last.Picture
			tt.change()
			u := w.Picture(tt.name, tt.seen)
			require.Equal(t, tt.want, u.Changes)
			require.Same(t, was.Nodes["n1"], u.Picture.Nodes["n1"], "what did not change is shared")
		})
	}
}

// Events may be lost, doubled and late: a full list finds what they did not tell.
func TestEventsMayGoWrong(t *testing.T) {
	d := fakedocker.Start(t)
	o := quick(d)
	w := start(t, o)
	w.Picture("the first picture", func(p *watcher.Picture) bool { return true })
	require.Eventually(t, func() bool { return d.Streams() == 1 }, 10*time.Second, time.Millisecond)

	d.Deliver(func(m events.Message) []events.Message { return []events.Message{m, m, m} })
	d.PutService("doubled", nil)
	w.Picture("a doubled event", func(p *watcher.Picture) bool { return p.Services["doubled"] != nil })

	// Late and in the wrong order: what an event says of the past does not bring it back.
	var held []events.Message
	d.Deliver(func(m events.Message) []events.Message { held = append(held, m); return nil })
	d.PutService("late", nil)
	d.RemoveService("late")
	d.Deliver(func(m events.Message) []events.Message {
		slices.Reverse(held)
		return append(held, m)
	})
	d.PutService("last", nil)
	u := w.Picture("all three events", func(p *watcher.Picture) bool { return p.Services["last"] != nil })
	require.NotContains(t, u.Picture.Services, "late")

	d.Deliver(func(events.Message) []events.Message { return nil })
	d.PutService("lost", nil)
	d.PutTask("lost", "t", nil)
	w.Picture("a service that only its task tells of", func(p *watcher.Picture) bool { return p.Services["lost"] != nil })
	d.RemoveService("doubled")
	d.CutEvents()
	w.Picture("a full list after a cut", func(p *watcher.Picture) bool { return p.Services["doubled"] == nil })
}

func TestTheFullListFindsWhatNoEventTold(t *testing.T) {
	d := fakedocker.Start(t)
	d.Deliver(func(events.Message) []events.Message { return nil })
	o := quick(d)
	o.Timing.FullList = 30 * time.Millisecond
	w := start(t, o)
	w.Picture("the first picture", func(p *watcher.Picture) bool { return true })
	d.PutService("web", nil)
	w.Until("a full list with it", func(u watcher.Update) bool { return u.Full && u.Picture.Services["web"] != nil })
	w.Until("and another", func(u watcher.Update) bool { return u.Full && u.Changes.Empty() })
}

// What is gone is confirmed by a full list soon, not in half a minute.
func TestWhatIsGoneIsConfirmedSoon(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutService("api", nil)
	for i := range 8 {
		d.PutTask("web", fmt.Sprint(i), func(x *swarm.Task) { x.Slot = i })
	}
	w := start(t, quick(d))
	w.Picture("eight tasks", func(p *watcher.Picture) bool { return len(p.Tasks["web"]) == 8 })

	for i := range 6 {
		d.Want(fmt.Sprint(i), swarm.TaskStateRemove)
	}
	w.Until("two ready, twice", func(u watcher.Update) bool { return u.Full && ready(u.Picture.Tasks["web"]) == 2 })
	d.RemoveService("api")
	w.Until("the service gone, twice", func(u watcher.Update) bool { return u.Full && u.Picture.Services["api"] == nil })
	d.Want("6", swarm.TaskStateShutdown)
	d.Want("7", swarm.TaskStateShutdown)
	w.Until("nothing ready, twice", func(u watcher.Update) bool { return u.Full && ready(u.Picture.Tasks["web"]) == 0 })
}

// A global service has as many replicas as it has nodes, and an update does not change that.
func TestReplicasOfGlobalServices(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("agent", func(s *swarm.Service) { s.Spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}} })
	d.PutNode("n2", nil)
	d.PutTask("agent", "a", nil)
	w := start(t, quick(d))
	w.Picture("one", func(p *watcher.Picture) bool { return p.Services["agent"].Replicas == 1 })
	d.PutTask("agent", "b", func(x *swarm.Task) { x.NodeID, x.Status.State = "n2", swarm.TaskStatePreparing })
	u := w.Picture("two", func(p *watcher.Picture) bool { return p.Services["agent"].Replicas == 2 })
	require.Equal(t, watcher.Changes{Services: set("agent"), Tasks: set("agent")}, u.Changes)
	d.PutTask("agent", "a2", nil)
	d.Want("a", swarm.TaskStateShutdown)
	u = w.Picture("an update", func(p *watcher.Picture) bool { return slices.Contains(watchtest.Tasks(p, "agent"), "a:leaving") })
	require.EqualValues(t, 2, u.Picture.Services["agent"].Replicas)
}

func set(ids ...string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, id := range ids {
		m[id] = struct{}{}
	}
	return m
}

// Structure is listed after the events are open, never before: nothing falls in between.
func TestEventsAreOpenedBeforeTheFirstList(t *testing.T) {
	d := fakedocker.Start(t)
	release := make(chan struct{})
	d.Between("/events", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-release
			next.ServeHTTP(w, r)
		})
	})
	w := start(t, quick(d))
	require.Eventually(t, func() bool { return len(d.Asked("/tasks")) > 5 }, 10*time.Second, time.Millisecond)
	require.Empty(t, d.Asked("/services"))
	require.Empty(t, d.Asked("/nodes"))
	close(release)
	w.Picture("the first picture", func(*watcher.Picture) bool { return true })
	require.Len(t, d.Asked("/services"), 1)
}

// A stream that never begins is given up like any other request.
func TestEventsThatHang(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.Between("/events", fakedocker.Hang)
	o := quick(d)
	o.Timing.Timeout = 100 * time.Millisecond
	w := start(t, o)
	w.Fails("did not answer within 100ms when asked for /events")
	w.Picture("a picture all the same", func(p *watcher.Picture) bool { return p.Services["web"] != nil })
	d.Between("/events", nil)
	w.Until("all well again", func(u watcher.Update) bool { return u.Err == nil && d.Streams() == 1 })
}

// Random changes with random trouble: in the end the picture is what there is.
func TestThePictureConverges(t *testing.T) {
	d := fakedocker.Start(t)
	w := start(t, quick(d))
	drain := make(chan struct{})
	go func() {
		defer close(drain)
		for i := range 300 {
			id := fmt.Sprintf("s%d", i*7%11)
			switch i % 10 {
			case 0, 1, 2:
				d.PutService(id, func(s *swarm.Service) { s.Spec.Labels = map[string]string{"i": fmt.Sprint(i)} })
			case 3, 4:
				d.PutTask(id, id+"."+fmt.Sprint(i%5), nil)
			case 5:
				d.RemoveService(id)
			case 6:
				d.Deliver(func(m events.Message) []events.Message { return slices.Repeat([]events.Message{m}, i%3) })
			case 7:
				d.CutEvents()
			case 8:
				d.Between("/services", fakedocker.Truncate)
				d.Between("/tasks", fakedocker.Refuse(500, "no leader"))
			case 9:
				d.Between("/services", nil)
				d.Between("/tasks", nil)
				if i%50 == 49 {
					d.Down()
					d.Up()
				}
			}
		}
		d.Deliver(nil)
		d.PutService("end", nil)
		d.CutEvents()
	}()
	<-drain
	w.Until("a full picture at the end", func(u watcher.Update) bool { return u.Full && u.Picture.Services["end"] != nil })
	want, err := (&structureReader{Options: New(quick(d)).options, conn: connectionTo(t, d), forbidden: map[string]bool{}}).services(t.Context(), nil)
	require.NoError(t, err)
	w.Picture("the services that there are", func(p *watcher.Picture) bool {
		return watcher.Diff(&watcher.Picture{Services: want}, &watcher.Picture{Services: p.Services}).Empty()
	})
}

func connectionTo(t *testing.T, d *fakedocker.Daemon) *connection {
	c, err := newConnection(New(quick(d)).options)
	require.NoError(t, err)
	t.Cleanup(c.close)
	return c
}
