package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/explain"
	"github.com/waggle-lb/waggle/watcher"
)

func TestStatus(t *testing.T) {
	l := built(twoCollections(), shop())
	h := handler(newTestAPI(l, &server{}), "")
	read, build := epoch.Add(time.Minute), epoch.Add(2*time.Minute)
	want := api.Status{
		Replica: "r1", Version: "v1", Revision: "abc", Insecure: true, Started: epoch, Now: epoch.Add(3 * time.Minute),
		Ready: true, Source: api.Source{Name: "engine", LastRead: &read},
		Config: api.Config{Hash: twoCollections().Hash()}, Builds: 1, LastBuild: &build, Held: []api.Held{},
	}
	require.Equal(t, want, get[api.Status](t, h, "/api/v1/status"))

	l.change(func(s *control.Status) { s.Via, s.Fallback = "engine", fmt.Errorf("no control socket") })
	want.Source.Via, want.Source.Fallback = "engine", "no control socket"
	require.Equal(t, want, get[api.Status](t, h, "/api/v1/status"))

	l.change(func(s *control.Status) {
		s.SourceError, s.ConfigError = errDaemon, fmt.Errorf("waggle.yml:3: unknown key")
	})
	want.Source.Stale, want.Source.Error, want.Config.Error = true, errDaemon.Error(), "waggle.yml:3: unknown key"
	require.Equal(t, want, get[api.Status](t, h, "/api/v1/status"))

	l.change(func(s *control.Status) {
		s.Held = []control.Held{{Collection: "prod", Since: epoch, Was: control.Size{Hosts: 10, Endpoints: 20}, Is: control.Size{Hosts: 2, Endpoints: 20}}}
	})
	want.Held = []api.Held{{Collection: "prod", Since: epoch, Reason: "8 of 10 hosts would go: a second complete list of what runs must confirm it"}}
	require.Equal(t, want, get[api.Status](t, h, "/api/v1/status"))

	l.change(func(s *control.Status) { *s = control.Status{} })
	early := get[api.Status](t, h, "/api/v1/status")
	require.False(t, early.Ready)
	require.Contains(t, early.NotReady, "no complete picture")
	require.Nil(t, early.Source.LastRead)
	require.Zero(t, l.queries.Load(), "status never waits for a build")
}

func TestCollections(t *testing.T) {
	l := built(twoCollections(), shop())
	s := &server{proxies: fleet, snapshot: map[string]map[translate.Kind]map[string]string{
		"prod": {translate.Cluster: {"a": "1", "b": "2"}, translate.Routes: {"http": "3"}},
	}}
	h := handler(newTestAPI(l, s), "")
	got := get[api.Collections](t, h, "/api/v1/collections")
	require.Len(t, got.Collections, 2)
	dev, prod := got.Collections[0], got.Collections[1]
	require.Equal(t, "dev", dev.Name)
	require.False(t, dev.Published)
	require.Empty(t, dev.Generation)
	require.Equal(t, 1, dev.Services)
	require.Positive(t, dev.Problems.Error)

	require.Equal(t, "prod", prod.Name)
	require.True(t, prod.Default)
	require.True(t, prod.Published)
	require.Len(t, prod.Generation, 16)
	require.Equal(t, map[string]int{"clusters": 2, "endpoints": 0, "secrets": 0, "extensions": 0, "listeners": 0, "routes": 1}, prod.Resources)
	require.Equal(t, 3, prod.Services)
	require.Equal(t, api.ProxyCounts{Connected: 2, Current: 1, Rejecting: 1}, prod.Proxies)
	require.Equal(t, prod, get[api.Collection](t, h, "/api/v1/collections/prod"))
	require.Equal(t, 1, got.Nowhere.Services)

	total := 0
	for _, c := range []api.Counts{dev.Problems, prod.Problems, got.Nowhere.Problems} {
		total += c.Error + c.Warning + c.Info
	}
	require.Len(t, get[api.Problems](t, h, "/api/v1/problems").Problems, total)
	require.Contains(t, refused(t, h, 404, "/api/v1/collections/staging"), "there are dev, prod")
}

// The generation is the content's name: order, and what collection it is, do not matter.
func TestGeneration(t *testing.T) {
	a := map[translate.Kind]map[string]string{translate.Cluster: {"a": "1", "b": "2"}, translate.Routes: {"http": "3"}}
	b := map[translate.Kind]map[string]string{translate.Routes: {"http": "3"}, translate.Cluster: {"b": "2", "a": "1"}}
	require.Equal(t, summarize(a), summarize(b))
	for _, other := range []map[translate.Kind]map[string]string{
		{translate.Cluster: {"a": "2", "b": "1"}, translate.Routes: {"http": "3"}},
		{translate.Endpoints: {"a": "1", "b": "2"}, translate.Routes: {"http": "3"}},
		{translate.Cluster: {"a": "1", "b": "2"}},
		{},
	} {
		require.NotEqual(t, summarize(a).generation, summarize(other).generation)
	}
	require.Empty(t, summarize(nil).generation)
}

func TestServices(t *testing.T) {
	h := handler(newTestAPI(built(twoCollections(), shop()), &server{}), "")
	all := get[api.Services](t, h, "/api/v1/services").Services
	var names []string
	for _, s := range all {
		names = append(names, s.Collection+" "+s.Name)
	}
	require.Equal(t, []string{" lost", "dev typo", "prod shop_api", "prod shop_web", "prod thief"}, names)
	require.Len(t, get[api.Services](t, h, "/api/v1/services?collection=prod").Services, 3)

	got := get[api.ServiceDetail](t, h, "/api/v1/services/shop_api")
	require.Equal(t, []api.Route{{
		Name: "shop_api", Hosts: []string{"shop.example.com"}, Lost: []string{}, Path: "/api", Cluster: "shop_api:9090", State: "live",
	}}, got.Routes)
	// Slot 3 leaves, slot 2 is on a node that is down.
	require.Equal(t, []api.Endpoint{
		{Cluster: "shop_api:9090", Address: "10.0.1.1:9090", Task: "id-shop_api-t1", Node: "alpha", Slot: 1, State: api.EndpointReady},
		{Cluster: "shop_api:9090", Address: "10.0.1.2:9090", Task: "id-shop_api-t2", Node: "beta", Slot: 2, Priority: 1, State: api.EndpointNodeDown},
	}, got.Endpoints)
	require.Equal(t, 2, got.EndpointCount)

	thief := get[api.ServiceDetail](t, h, "/api/v1/services/thief")
	require.Equal(t, []string{"shop.example.com"}, thief.Routes[0].Lost)
	require.Equal(t, []string{"thief.example.com"}, thief.Routes[0].Hosts)
	require.Positive(t, thief.ProblemCounts.Error)
	require.Equal(t, "shop_web", thief.Problems[0].Winner)

	typo := get[api.ServiceDetail](t, h, "/api/v1/services/typo")
	require.Equal(t, "broken", typo.Routes[0].State)
	require.Empty(t, typo.Endpoints)

	require.Contains(t, refused(t, h, 404, "/api/v1/services/plain"), "no labels that publish")
	require.Contains(t, refused(t, h, 404, "/api/v1/services/shop"), "stack_service")
	require.Contains(t, refused(t, h, 404, "/api/v1/services?collection=x"), "there are dev, prod")
}

// A task that Swarm wants gone stays an endpoint only while there is no other.
func TestLeavingEndpoint(t *testing.T) {
	p := swarm(svc("web", 1, "hosts", "a.example.com", "port", "80"))
	p.Tasks["id-web"][0].Desired = 640
	h := handler(newTestAPI(built(config.ForCollections(nil), p), &server{}), "")
	got := get[api.ServiceDetail](t, h, "/api/v1/services/web")
	require.Len(t, got.Endpoints, 1)
	require.Equal(t, api.EndpointLeaving, got.Endpoints[0].State)
}

func TestProblems(t *testing.T) {
	l := built(twoCollections(), shop())
	h := handler(newTestAPI(l, &server{}), "")
	all := get[api.Problems](t, h, "/api/v1/problems").Problems
	require.Equal(t, l.b.Problems(), all)
	for _, c := range []struct {
		query string
		keep  func(api.Problem) bool
	}{
		{"collection=prod", func(p api.Problem) bool { return p.Collection == "prod" }},
		{"severity=error", func(p api.Problem) bool { return p.Severity == "error" }},
		{"service=thief", func(p api.Problem) bool { return p.Service == "thief" }},
		{"service=nobody", func(p api.Problem) bool { return false }},
		{"severity=error&collection=dev&service=typo", func(p api.Problem) bool {
			return p.Severity == "error" && p.Collection == "dev" && p.Service == "typo"
		}},
	} {
		want := slices.DeleteFunc(slices.Clone(all), func(p api.Problem) bool { return !c.keep(p) })
		require.Equal(t, want, get[api.Problems](t, h, "/api/v1/problems?"+c.query).Problems, c.query)
	}
	require.Contains(t, refused(t, h, 400, "/api/v1/problems?severity=fatal"), "error, warning or info")
	require.Contains(t, refused(t, h, 400, "/api/v1/problems?svc=thief"), `"svc" is unknown`)
	require.Contains(t, refused(t, h, 400, "/api/v1/problems?service=a&service=b"), "given twice")
	require.Contains(t, refused(t, h, 404, "/api/v1/problems?collection=x"), "there are dev, prod")
}

func TestProxies(t *testing.T) {
	h := handler(newTestAPI(built(twoCollections(), shop()), &server{proxies: fleet}), "")
	got := get[api.Proxies](t, h, "/api/v1/proxies").Proxies
	require.Len(t, got, 3)
	require.Equal(t, api.Proxy{
		NodeID: "prod/2", Collection: "prod", Instance: "2", Version: "1.40.0", Address: "10.9.0.2:4000", Connected: epoch,
		Kinds: []api.ProxyKind{
			{Kind: "clusters", Sent: "aa", ACKed: "aa", Resources: 2, Current: true, Rejected: []string{}},
			{Kind: "routes", Sent: "bb", ACKed: "b0", Resources: 1, Rejected: []string{"http"}},
		},
		LastNACK: &api.NACK{At: epoch.Add(time.Hour), Kind: "routes", Version: "bb", Resources: []string{"http"}, Message: "no such cluster"},
	}, got[1])
	require.True(t, got[2].Retired, "its collection is configured no more")
	require.Len(t, get[api.Proxies](t, h, "/api/v1/proxies?collection=prod").Proxies, 2)
	require.Empty(t, get[api.Proxies](t, h, "/api/v1/proxies?collection=dev").Proxies)
	require.Len(t, get[api.Proxies](t, h, "/api/v1/proxies?collection=old").Proxies, 1)
	require.Contains(t, refused(t, h, 404, "/api/v1/proxies?collection=x"), "unknown")
}

func TestCertificates(t *testing.T) {
	h := handler(newTestAPI(built(twoCollections(), shop()), &server{}), "")
	all := get[api.Certificates](t, h, "/api/v1/certificates").Certificates
	require.Len(t, all, 3)
	ends, rotated := epoch.AddDate(0, 3, 0), epoch.Add(time.Minute)
	require.Equal(t, api.Certificate{
		Collection: "prod", Source: "secret", Name: "shop_cert", Hosts: []string{"shop.example.com"}, Issuer: "An authority", Serial: "7",
		NotBefore: &epoch, NotAfter: &ends, Rotated: &rotated, Kept: "it is empty",
	}, all[2])
	require.Nil(t, all[1].NotAfter)
	require.Equal(t, []string{}, all[1].Hosts)
	ofDev := get[api.Certificates](t, h, "/api/v1/certificates?collection=dev").Certificates
	require.Equal(t, all[:2], ofDev, "the development authority is everybody's")
	require.Contains(t, refused(t, h, http.StatusNotFound, "/api/v1/certificates?collection=nowhere"), "is unknown")
}

func TestResources(t *testing.T) {
	a := newTestAPI(built(twoCollections(), shop()), &server{})
	h := handler(a, "")
	const key = "-----BEGIN PRIVATE KEY----- hunter2"
	withSecret(t, a, "prod", key)
	tree := get[map[string]map[string]any](t, h, "/api/v1/collections/prod/resources")
	require.Contains(t, tree["clusters"], "shop_web:8080")
	require.Contains(t, tree["listeners"], "http")
	clusters := get[map[string]any](t, h, "/api/v1/collections/prod/resources/clusters")
	require.Equal(t, tree["clusters"], clusters)
	require.Equal(t, clusters["shop_web:8080"], get[any](t, h, "/api/v1/collections/prod/resources/clusters/shop_web:8080"))
	require.Contains(t, get[map[string]any](t, h, "/api/v1/collections/dev/resources/extensions"), "rate_limit")

	secret := get[map[string]any](t, h, "/api/v1/collections/prod/resources/secrets/cert/x")
	require.Equal(t, "cert/x", secret["name"])
	for _, path := range []string{"", "/secrets", "/secrets/cert/x", "/secrets/cert%2Fx"} {
		body := request(t, h, "/api/v1/collections/prod/resources"+path).Body.String()
		require.Contains(t, body, "[redacted]", path)
		require.Contains(t, body, "the public half", path)
		require.NotContains(t, body, "hunter2", path)
	}

	// What guards know stands in routes.
	guarded := swarm(svc("web", 1, "hosts", "web.example.com", "port", "80", "service_cluster", "prod", "basic_auth", "users", "api_keys", "keys"))
	guarded.Configs = map[string]*watcher.Config{
		"users": {Name: "users", Data: []byte("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")},
		"keys":  {Name: "keys", Data: []byte("hunter2-key\n")},
	}
	gh := handler(newTestAPI(built(twoCollections(), guarded), &server{}), "")
	for _, path := range []string{"/collections/prod/resources", "/collections/prod/resources/routes", "/collections/prod/resources/routes/http", "/explain?collection=prod&url=http://web.example.com/", "/services", "/problems"} {
		body := request(t, gh, "/api/v1"+path).Body.String()
		if strings.Contains(path, "resources") {
			require.Contains(t, body, "BasicAuthPerRoute", path)
			require.Contains(t, body, "[redacted]", path)
		}
		require.NotContains(t, body, "hunter2-key", path)
		require.NotContains(t, body, "5en6G6MezRroT3XKqkdPOmY", path)
	}

	require.Contains(t, refused(t, h, 404, "/api/v1/collections/x/resources"), "there are dev, prod")
	require.Contains(t, refused(t, h, 404, "/api/v1/collections/prod/resources/things"), "listeners, routes, clusters")
	require.Contains(t, refused(t, h, 404, "/api/v1/collections/prod/resources/clusters/x"), `no "x" among its clusters`)
}

func TestExplain(t *testing.T) {
	l := built(twoCollections(), shop())
	h := handler(newTestAPI(l, &server{}), "")
	got := get[explain.Answer](t, h, "/api/v1/explain?collection=prod&method=post&url=http://shop.example.com/api/x&header=X-A:%20b")
	want, err := explain.Explain(l.b.Resources("prod"), explain.Request{
		Collection: "prod", Method: "POST", URL: "http://shop.example.com/api/x", Header: http.Header{"X-A": {"b"}},
	}, l.b.Problems())
	require.NoError(t, err)
	require.Equal(t, *want, got)
	require.Equal(t, "shop_api", got.Service)
	require.Equal(t, got.Service, get[explain.Answer](t, h, "/api/v1/explain?method=POST&url=http://shop.example.com/api/x").Service,
		"without a collection, the default one is meant")
	// The Host header counts.
	require.Equal(t, "thief", get[explain.Answer](t, h, "/api/v1/explain?url=http://nobody/&header=Host:thief.example.com").Service)

	require.Contains(t, refused(t, h, 400, "/api/v1/explain?collection=prod"), "no url")
	require.Contains(t, refused(t, h, 400, "/api/v1/explain?url=ftp://x/"), "ftp is not served here")
	require.Contains(t, refused(t, h, 400, "/api/v1/explain?url=http://x/&header=nonsense"), "Name: value")
	require.Contains(t, refused(t, h, 400, "/api/v1/explain?url=http://x/&host=y"), `"host" is unknown`)
	require.Contains(t, refused(t, h, 404, "/api/v1/explain?url=http://x/&collection=y"), "there are dev, prod")
	cfg := twoCollections()
	cfg.Collections["prod"].Default = false
	l.build(cfg, shop())
	require.Contains(t, refused(t, h, 400, "/api/v1/explain?url=http://x/"), "no collection is given: there are dev, prod")
}

// However many ask, the loop is asked once per build.
func TestOneQueryPerBuild(t *testing.T) {
	l := built(twoCollections(), shop())
	h := handler(newTestAPI(l, &server{}), "")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "/api/v1/services", nil)
			r.Host = "localhost"
			h.ServeHTTP(w, r)
			if w.Code != 200 {
				t.Error(w.Code, w.Body)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, l.queries.Load())
	l.build(twoCollections(), swarm(svc("new", 1, "hosts", "new.example.com", "port", "80")))
	require.Equal(t, "new", get[api.Services](t, h, "/api/v1/services").Services[0].Name)
	require.EqualValues(t, 2, l.queries.Load())
}

func TestBeforeTheFirstBuild(t *testing.T) {
	l := &loop{b: translate.NewBuilder()}
	h := handler(newTestAPI(l, &server{}), "")
	for path, want := range map[string]string{
		"/api/v1/collections": `{"collections":[],"nowhere":{"services":0,"problems":{"error":0,"warning":0,"info":0}}}`,
		"/api/v1/services":    `{"services":[]}`,
		"/api/v1/problems":    `{"problems":[]}`,
		"/api/v1/proxies":     `{"proxies":[]}`,
	} {
		require.JSONEq(t, want, request(t, h, path).Body.String())
	}
	l.err = control.ErrStopped
	l.change(func(s *control.Status) { s.Builds++ })
	require.Contains(t, refused(t, h, 503, "/api/v1/services"), "stopping")
}

func TestAPIIsGuarded(t *testing.T) {
	h := handler(newTestAPI(built(twoCollections(), shop()), &server{}), "s3cret")
	for _, path := range []string{"status", "collections", "services", "services/thief", "problems", "proxies", "certificates", "explain", "events", "nothing"} {
		w := request(t, h, "/api/v1/"+path)
		require.Equal(t, http.StatusUnauthorized, w.Code, path)
		require.NotContains(t, w.Body.String(), "example.com")
	}
	h = handler(newTestAPI(built(twoCollections(), shop()), &server{}), "")
	r := httptest.NewRequest(http.MethodGet, "/api/v1/status", nil)
	r.Host = "evil.example.com"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusMisdirectedRequest, w.Code)

	r = httptest.NewRequest(http.MethodPost, "/api/v1/status", nil)
	r.Host = "localhost"
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)

	require.Contains(t, request(t, h, "/api/v1/status").Header().Get("Content-Security-Policy"), "default-src 'none'")
	require.Contains(t, refused(t, h, 404, "/api/v1/nothing"), "the API has")
	require.Contains(t, refused(t, h, 404, "/api/v2/status"), "the API has")
	require.Contains(t, refused(t, h, 400, "/api/v1/status?verbose=1"), "takes none")
}

// Text of labels cannot become markup in a page that shows an answer.
func TestLabelTextIsEscaped(t *testing.T) {
	p := swarm(svc("evil", 1, "hosts", "<script>alert(1)</script>", "port", "80"))
	h := handler(newTestAPI(built(config.ForCollections(nil), p), &server{}), "")
	body := request(t, h, "/api/v1/problems").Body
	require.NotContains(t, body.String(), "<script>")
	var ps api.Problems
	require.NoError(t, json.Unmarshal(body.Bytes(), &ps))
	require.Contains(t, ps.Problems[0].Value, "<script>", "and yet it is what was written")
}

func BenchmarkServices(b *testing.B) {
	var services []*watcher.Service
	for i := range 1000 {
		services = append(services, svc(fmt.Sprintf("stack%d_web", i), 3, "hosts", fmt.Sprintf("h%d.example.com", i), "port", "80"))
	}
	a := newTestAPI(built(config.ForCollections(nil), swarm(services...)), &server{})
	h := handler(a, "")
	for name, fresh := range map[string]bool{"same build": false, "new build": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if fresh {
					a.latest.Store(nil)
				}
				r := httptest.NewRequest(http.MethodGet, "/api/v1/services", nil)
				r.Host = "localhost"
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
