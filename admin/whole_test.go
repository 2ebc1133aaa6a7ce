package admin

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/explain"
	"github.com/waggle-lb/waggle/translate/render"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/xds"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

// plane is a whole control plane in this process, fed by hand.
type plane struct {
	loop   *control.Control
	server *xds.Server
	api    *API
	xds    string
	http   *httptest.Server
}

func newPlane(t *testing.T, cfg *config.Config, name string) *plane {
	t.Helper()
	p := &plane{server: xds.New(xds.Options{Guard: identity.Insecure()})}
	p.loop = control.New(cfg, p.server, control.DefaultPace, slog.New(slog.DiscardHandler))
	p.api = NewAPI(APIOptions{
		Loop: p.loop, Server: p.server, Source: func() string { return "hand" }, Look: 10 * time.Millisecond,
		Facts: Facts{Replica: name, Started: time.Now()},
	})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.xds = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- p.loop.Run(ctx) }()
	go func() { ended <- p.server.Serve(ctx, lis) }()
	p.http = httptest.NewServer(handler(p.api, ""))
	t.Cleanup(func() {
		p.http.CloseClientConnections()
		p.http.Close()
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, <-ended)
	})
	return p
}

// connect runs a proxy until the test, or the returned function, ends it.
func (p *plane) connect(t *testing.T, c *envoylike.Client) (disconnect func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, p.xds) }()
	done := false
	stop := func() {
		if !done {
			done = true
			cancel()
			<-ended
		}
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits until the API says what is wanted.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, 20*time.Second, 10*time.Millisecond, what)
}

// What the API says is what a proxy has: resources, generation, endpoints, explanation.
func TestWhole(t *testing.T) {
	p := newPlane(t, twoCollections(), "r1")
	h := handler(p.api, "")
	events := listen(t, p.http.URL)
	next(t, events, api.EventStatus)
	require.False(t, get[api.Status](t, h, "/api/v1/status").Ready)

	picture := shop()
	p.loop.Update(watcher.Update{Picture: picture, Changes: watcher.Changes{All: true}, Full: true, At: time.Now()})
	eventually(t, "ready", func() bool { return get[api.Status](t, h, "/api/v1/status").Ready })
	var build api.BuildEvent
	until(t, events, api.EventBuild).read(t, &build)
	require.Equal(t, "structure", build.Kind)
	require.Positive(t, build.Collections["prod"])

	proxy := envoylike.New(envoylike.Options{Node: "prod/task1"})
	disconnect := p.connect(t, proxy)
	eventually(t, "the proxy has everything", func() bool {
		ps := get[api.Proxies](t, h, "/api/v1/proxies").Proxies
		return len(ps) == 1 && ps[0].Current && len(ps[0].Kinds) == 5
	})
	var came api.ProxyEvent
	next(t, events, api.EventProxyConnected).read(t, &came)
	require.Equal(t, "prod/task1", came.NodeID)

	prod := get[api.Collection](t, h, "/api/v1/collections/prod")
	require.Equal(t, api.ProxyCounts{Connected: 1, Current: 1}, prod.Proxies)
	same(t, h, proxy)

	require.Equal(t, "shop_api", get[explain.Answer](t, h, "/api/v1/explain?url=http://shop.example.com/api").Service)

	// A task leaves: another generation, and again what is told is what is served.
	left := *picture
	left.Tasks = map[string][]*watcher.Task{}
	for id, ts := range picture.Tasks {
		left.Tasks[id] = ts
	}
	left.Tasks["id-shop_web"] = left.Tasks["id-shop_web"][:1]
	p.loop.Update(watcher.Update{Picture: &left, Changes: watcher.Changes{Tasks: map[string]struct{}{"id-shop_web": {}}}, At: time.Now()})
	eventually(t, "another generation", func() bool {
		now := get[api.Collection](t, h, "/api/v1/collections/prod")
		return now.Generation != prod.Generation && now.Proxies.Current == 1 && now.Resources["endpoints"] == prod.Resources["endpoints"]
	})
	require.Len(t, get[api.ServiceDetail](t, h, "/api/v1/services/shop_web").Endpoints, 1)
	same(t, h, proxy)

	disconnect()
	eventually(t, "the proxy has gone", func() bool { return len(get[api.Proxies](t, h, "/api/v1/proxies").Proxies) == 0 })
}

// A rejection is told, without what could be secret in it.
func TestWholeRejection(t *testing.T) {
	p := newPlane(t, twoCollections(), "r1")
	h := handler(p.api, "")
	p.loop.Update(watcher.Update{Picture: shop(), Changes: watcher.Changes{All: true}, Full: true, At: time.Now()})
	events := listen(t, p.http.URL)
	p.connect(t, envoylike.New(envoylike.Options{Node: "prod/task1", Reject: func(k translate.Kind, name, _ string) string {
		if k == translate.Routes {
			return `bad: inline_string: "-----BEGIN PRIVATE KEY----- hunter2"`
		}
		return ""
	}}))
	eventually(t, "the rejection is told", func() bool {
		ps := get[api.Proxies](t, h, "/api/v1/proxies?collection=prod").Proxies
		return len(ps) == 1 && ps[0].Rejecting()
	})
	got := get[api.Proxies](t, h, "/api/v1/proxies").Proxies[0]
	require.False(t, got.Current)
	require.Equal(t, "routes", got.LastNACK.Kind)
	require.Equal(t, []string{"http"}, got.LastNACK.Resources)
	require.Contains(t, got.LastNACK.Message, "withheld")
	require.Equal(t, 1, get[api.Collection](t, h, "/api/v1/collections/prod").Proxies.Rejecting)
	require.NotContains(t, request(t, h, "/api/v1/proxies").Body.String(), "hunter2")
	require.NotContains(t, until(t, events, api.EventProxyRejected).data, "hunter2")
}

// same checks that what the API shows of prod is what the proxy has.
func same(t *testing.T, h http.Handler, proxy *envoylike.Client) {
	t.Helper()
	told := get[map[string]map[string]json.RawMessage](t, h, "/api/v1/collections/prod/resources")
	counts := get[api.Collection](t, h, "/api/v1/collections/prod").Resources
	for kind, versions := range proxy.State() {
		require.Equal(t, len(versions), counts[kind.String()], kind)
		for name := range versions {
			has, err := proxy.Resource(kind, name).UnmarshalNew()
			require.NoError(t, err)
			shown, err := render.Resource(has) // what is sensitive is taken out
			require.NoError(t, err)
			raw, err := json.Marshal(shown)
			require.NoError(t, err)
			require.JSONEq(t, string(raw), string(told[kind.String()][name]), "%s %s", kind, name)
			delete(told[kind.String()], name)
		}
	}
	for kind, rest := range told {
		require.Empty(t, rest, "the proxy does not have these %s", kind)
	}
}
