package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/xds"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// swarm is a picture with two nodes, alpha and beta, and n services.
func swarm(services ...*watcher.Service) *watcher.Picture {
	p := &watcher.Picture{
		Services: map[string]*watcher.Service{}, Tasks: map[string][]*watcher.Task{},
		Nodes: map[string]*watcher.Node{
			"n1": {ID: "n1", Hostname: "alpha", Addr: netip.MustParseAddr("192.168.0.1")},
			"n2": {ID: "n2", Hostname: "beta", Addr: netip.MustParseAddr("192.168.0.2")},
		},
		Networks: map[string]*watcher.Network{"net": {ID: "net", Name: "edge"}},
	}
	for i, s := range services {
		s.Order = i
		p.Services[s.ID] = s
		for slot := 1; slot <= int(s.Replicas); slot++ {
			p.Tasks[s.ID] = append(p.Tasks[s.ID], &watcher.Task{
				ID: fmt.Sprintf("%s-t%d", s.ID, slot), ServiceID: s.ID, NodeID: []string{"n2", "n1"}[slot%2], Slot: slot,
				State: watcher.Running, Desired: watcher.Running,
				Addresses: []watcher.Address{{Network: "net", Addr: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(slot)})}},
			})
		}
	}
	return p
}

// svc is a service with labels, written key, value, key, value …
func svc(name string, replicas uint64, labels ...string) *watcher.Service {
	s := &watcher.Service{
		ID: "id-" + name, Name: name, Version: 1, Mode: watcher.Replicated, Replicas: replicas,
		Networks: []string{"net"}, Labels: map[string]string{},
	}
	for i := 0; i+1 < len(labels); i += 2 {
		s.Labels["com.docker.lb."+labels[i]] = labels[i+1]
	}
	return s
}

// shop is the swarm that most tests ask about.
func shop() *watcher.Picture {
	p := swarm(
		svc("shop_web", 2, "hosts", "shop.example.com", "port", "8080", "service_cluster", "prod"),
		svc("shop_api", 3, "hosts", "shop.example.com", "port", "9090", "context_root", "/api", "service_cluster", "prod"),
		svc("thief", 1, "hosts", "shop.example.com,thief.example.com", "port", "80", "service_cluster", "prod"),
		svc("typo", 1, "hosts", "typo.example.com", "port", "eighty", "service_cluster", "dev"),
		svc("lost", 1, "hosts", "lost.example.com", "port", "80", "service_cluster", "nowhere"),
		svc("plain", 1),
	)
	p.Services["id-shop_web"].Labels[watcher.StackLabel] = "shop"
	p.Services["id-shop_api"].Labels[watcher.StackLabel] = "shop"
	p.Tasks["id-shop_api"][2].Desired = watcher.Shutdown // leaves: no endpoint
	down := *p.Nodes["n2"]
	down.Down = true
	p.Nodes["n2"] = &down
	return p
}

func twoCollections() *config.Config {
	cfg := config.ForCollections([]string{"dev", "prod"})
	delete(cfg.Collections, "default")
	cfg.Collections["prod"].Default = true
	return cfg
}

// loop is a control loop without the loop: what was built stays until the test says otherwise.
type loop struct {
	mu      sync.Mutex
	s       control.Status
	b       *translate.Builder
	queries atomic.Int32
	err     error
	tell    func(control.Step)
}

func built(cfg *config.Config, p *watcher.Picture) *loop {
	l := &loop{}
	l.build(cfg, p)
	return l
}

func (l *loop) build(cfg *config.Config, p *watcher.Picture) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = translate.Build(translate.Input{Config: cfg, Picture: p})
	l.s = control.Status{
		Ready: true, Builds: l.s.Builds + 1, Config: cfg, Picture: p, Problems: l.b.Problems(),
		LastRead: epoch.Add(time.Minute), LastBuild: epoch.Add(2 * time.Minute),
	}
}

func (l *loop) Status() control.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.s
}

func (l *loop) change(f func(*control.Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.s)
}

func (l *loop) Query(_ context.Context, f func(*translate.Builder)) error {
	l.queries.Add(1)
	if l.err != nil {
		return l.err
	}
	f(l.b)
	return nil
}

func (l *loop) Observe(f func(control.Step)) { l.tell = f }

// server is an xDS server with the proxies that a test says.
type server struct {
	mu       sync.Mutex
	proxies  []xds.Proxy
	snapshot map[string]map[translate.Kind]map[string]string
	held     []xds.Quarantined
	trials   []xds.Trial
}

func (s *server) Quarantine() []xds.Quarantined {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

func (s *server) Trials() []xds.Trial { return s.trials }

func (s *server) Proxies() []xds.Proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proxies
}

func (s *server) set(ps ...xds.Proxy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proxies = ps
}

func (s *server) Snapshot(c string) map[translate.Kind]map[string]string { return s.snapshot[c] }

var fleet = []xds.Proxy{
	{
		NodeID: "prod/1", Collection: "prod", Instance: "1", Version: "1.40.0", Address: "10.9.0.1:4000", Connected: epoch, Current: true,
		Kinds: []xds.ProxyKind{{Kind: translate.Cluster, Sent: "aa", ACKed: "aa", Resources: 2, Current: true}},
	},
	{
		NodeID: "prod/2", Collection: "prod", Instance: "2", Version: "1.40.0", Address: "10.9.0.2:4000", Connected: epoch,
		Kinds: []xds.ProxyKind{
			{Kind: translate.Cluster, Sent: "aa", ACKed: "aa", Resources: 2, Current: true},
			{
				Kind: translate.Routes, Sent: "bb", ACKed: "b0", Resources: 1, Rejected: []string{"http"},
				NACK: &xds.NACK{At: epoch.Add(time.Hour), Version: "bb", Resources: []string{"http"}, Message: "no such cluster"},
			},
		},
	},
	{NodeID: "old/1", Collection: "old", Instance: "1", Connected: epoch},
}

// newTestAPI is an API with a clock that stands still.
func newTestAPI(l Loop, s Server) *API {
	a := NewAPI(APIOptions{
		Loop: l, Server: s, Source: func() string { return "engine" }, Look: 10 * time.Millisecond,
		Certificates: func() []secrets.Certificate {
			return []secrets.Certificate{
				{Source: "local", Name: "Waggle development authority", NotAfter: epoch.AddDate(10, 0, 0)},
				{Collection: "dev", Source: "directory", Name: "lone.pem", Error: "it has no key"},
				{Collection: "prod", Source: "secret", Name: "shop_cert", Hosts: []string{"shop.example.com"}, Issuer: "An authority", Serial: "7", NotBefore: epoch, NotAfter: epoch.AddDate(0, 3, 0), Rotated: epoch.Add(time.Minute), Kept: "it is empty"},
			}
		},
		Facts: Facts{Replica: "r1", Version: "v1", Revision: "abc", Started: epoch, Insecure: true},
	})
	a.now = func() time.Time { return epoch.Add(3 * time.Minute) }
	return a
}

func handler(a *API, token string) http.Handler {
	return Handler(Options{
		Address: "127.0.0.1:19000", Token: token, API: a,
		Ready: func() error { return nil }, Metrics: prometheus.NewRegistry(),
	})
}

// get asks for a path and reads the answer into a T.
func get[T any](t *testing.T, h http.Handler, path string) T {
	t.Helper()
	w := request(t, h, path)
	require.Equal(t, http.StatusOK, w.Code, "%s: %s", path, w.Body)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var v T
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&v), path)
	return v
}

func request(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	r.Host = "127.0.0.1:19000"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// refused asks for a path that is answered with a sentence.
func refused(t *testing.T, h http.Handler, status int, path string) string {
	t.Helper()
	w := request(t, h, path)
	require.Equal(t, status, w.Code, "%s: %s", path, w.Body)
	var e api.Error
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e), path)
	require.NotEmpty(t, e.Error)
	return e.Error
}

// withSecret is a loop's state that has a private key among its resources, as a
// translation with certificates would.
func withSecret(t *testing.T, a *API, collection, key string) {
	t.Helper()
	_, err := a.view(httptest.NewRequest(http.MethodGet, "/", nil))
	require.NoError(t, err)
	v := a.latest.Load()
	res := v.resources[collection]
	res[translate.Secret] = map[string]*translate.Resource{"cert/x": {
		Kind: translate.Secret, Name: "cert/x",
		Message: &tlsv3.Secret{Name: "cert/x", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "the public half"}},
			PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: key}},
		}}},
	}}
	v.resources[collection] = res
}

var errDaemon = errors.New("the daemon does not answer")
