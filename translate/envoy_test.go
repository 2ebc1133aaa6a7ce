package translate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/waggle-lb/waggle/watcher"
)

func envoyBinary(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("ENVOY")
	if bin == "" {
		bin = filepath.Join("..", ".cache", "envoy-1.40.0", "envoy")
	}
	_, err := os.Stat(bin)
	require.NoError(t, err, "this test needs the Envoy binary: `make test` fetches it, or set ENVOY to its path")
	return bin
}

// staticBootstrap writes what a collection is served as a bootstrap without a
// control plane: everything that would come by the stream stands in the file.
func staticBootstrap(t *testing.T, b *Builder, collection string) string {
	t.Helper()
	res := b.Resources(collection)
	static := &bootstrapv3.Bootstrap_StaticResources{}
	for _, n := range names(b, collection, Cluster) {
		c := proto.CloneOf(res[Cluster][n].Message.(*clusterv3.Cluster))
		if !res[Cluster][n].EDS {
			static.Clusters = append(static.Clusters, c)
			continue
		}
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		c.EdsClusterConfig = nil
		c.LoadAssignment = res[Endpoints][n].Message.(*endpointv3.ClusterLoadAssignment)
		static.Clusters = append(static.Clusters, c)
	}
	for _, n := range names(b, collection, Listener) {
		l := proto.CloneOf(res[Listener][n].Message.(*listenerv3.Listener))
		l.Address = bindAddress("127.0.0.1", 0)
		for _, fc := range l.FilterChains {
			hcm := new(hcmv3.HttpConnectionManager)
			require.NoError(t, fc.Filters[0].GetTypedConfig().UnmarshalTo(hcm))
			table := res[Routes][hcm.GetRds().RouteConfigName].Message.(*routev3.RouteConfiguration)
			hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: table}
			for _, f := range hcm.HttpFilters {
				if f.GetConfigDiscovery() != nil {
					found := res[Extension][f.Name].Message.(*corev3.TypedExtensionConfig)
					f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: found.TypedConfig}
				}
			}
			fc.Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(hcm)}
		}
		static.Listeners = append(static.Listeners, l)
	}
	boot := &bootstrapv3.Bootstrap{
		StaticResources: static,
		Admin:           &bootstrapv3.Admin{Address: bindAddress("127.0.0.1", 0)},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "waggle", // as the real bootstrap has it
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
				"re2.max_program_size.error_level": structpb.NewNumberValue(1000),
			}}},
		}}},
	}
	j, err := protojson.Marshal(boot)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "envoy.json")
	require.NoError(t, os.WriteFile(file, j, 0o600))
	return file
}

func TestEnvoyAcceptsWhatIsBuilt(t *testing.T) {
	bin := envoyBinary(t)
	cfg := testConfig()
	cfg.Collections["dev"].AccessLog = true
	cfg.Collections["dev"].Networks = []string{"dev-edge", "other"}
	cfg.Collections["prod"].Bind = "::"
	w := newWorld()
	w.network("other")
	w.service("a_web", map[string]string{
		"hosts": "a.example.com,*.a.example.com", "port": "80", "timeout": "3s", "max_fails": "3", "fail_timeout": "7s",
		"api.hosts": "a.example.com", "api.context_root": "/api", "api.context_root_rewrite": "true", "api.port": "81", "api.connect_timeout": "2s",
		"slow.hosts": "a.example.com", "slow.context_root": "/slow", "slow.port": "80", "slow.max_fails": "0", "slow.retries": "0",
		"bad.hosts": "a.example.com", "bad.context_root": "/bad", "bad.port": "http",
		"shut.hosts": "a.example.com", "shut.context_root": "/shut", "shut.port": "80", "shut.basic_auth": "nobody",
	}, stack("a"))
	w.service("a_web2", map[string]string{"hosts": "a.example.com", "port": "80", "weight": "5"}, stack("a"))
	w.service("c_extreme", map[string]string{
		"hosts": "c.example.com,*.c.example.com", "port": "65535", "timeout": "2562047h", "idle_timeout": "2562047h", "connect_timeout": "2562047h",
		"retries": "4294967295", "max_fails": "4294967295", "fail_timeout": "2562047h", "context_root": "/ü%20x/{id}/*",
		"tiny.hosts": "tiny.c.example.com", "tiny.port": "1", "tiny.timeout": "1ns", "tiny.idle_timeout": "1ns", "tiny.connect_timeout": "1ns", "tiny.fail_timeout": "1ns", "tiny.weight": "1",
		"zero.hosts": "zero.c.example.com", "zero.port": "1", "zero.timeout": "0", "zero.idle_timeout": "0", "zero.connect_timeout": "0", "zero.fail_timeout": "0",
	}, stack("c"))
	w.service("b_all", map[string]string{"default_backend": "true", "port": "80"}, stack("b"))
	down := w.service("b_down", map[string]string{"hosts": "down.example.com", "port": "80"}, stack("b"))
	w.Nodes["n2"] = &watcher.Node{ID: "n2", Hostname: "beta", Down: true}
	w.service("p_web", map[string]string{"hosts": "p.example.com", "port": "80", "service_cluster": "prod"}, stack("p"), on("prod-edge"))
	w.service("p_none", map[string]string{"hosts": "none.example.com", "port": "80", "service_cluster": "prod"}, stack("p"), on("prod-edge"), scaled(0))
	b := w.build(t, cfg)
	require.Equal(t, uint32(1), b.Resources("dev")[Endpoints][down.Name+":80"].Message.(*endpointv3.ClusterLoadAssignment).Endpoints[1].Priority)

	for name := range cfg.Collections {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := exec.CommandContext(ctx, bin, "--mode", "validate", "-c", staticBootstrap(t, b, name), "-l", "warning").CombinedOutput()
		cancel()
		require.NoError(t, err, "collection %s: %s", name, out)
		require.NotContains(t, string(out), "eprecated", "collection %s", name)
	}
}

// proxy is a running Envoy.
type proxy struct {
	addr, admin string
	log         *bytes.Buffer
}

func runEnvoy(t *testing.T, file string) *proxy {
	t.Helper()
	adminFile := filepath.Join(t.TempDir(), "admin")
	p := &proxy{log: new(bytes.Buffer)}
	cmd := exec.Command(envoyBinary(t), "-c", file, "--admin-address-path", adminFile, "--use-dynamic-base-id",
		"--concurrency", "1", "-l", "warning", "--drain-time-s", "1")
	cmd.Stderr = p.log
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			ended <- err
			require.FailNow(t, "Envoy ended", "%v\n%s", err, p.log)
		case <-deadline:
			require.FailNow(t, "Envoy is not ready after 20 s")
		case <-tick.C:
			if admin, err := os.ReadFile(adminFile); err == nil && len(admin) > 0 {
				if p.admin, p.addr = string(admin), listenerAddress(string(admin)); p.addr != "" {
					return p
				}
			}
		}
	}
}

// listenerAddress asks Envoy where it listens; "" while it does not.
func listenerAddress(admin string) string {
	if body, err := get(admin, "/ready"); err != nil || !strings.Contains(body, "LIVE") {
		return ""
	}
	body, err := get(admin, "/listeners?format=json")
	if err != nil {
		return ""
	}
	var l struct {
		ListenerStatuses []struct {
			LocalAddress struct {
				SocketAddress struct {
					Address   string
					PortValue int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if json.Unmarshal([]byte(body), &l) != nil || len(l.ListenerStatuses) == 0 {
		return ""
	}
	a := l.ListenerStatuses[0].LocalAddress.SocketAddress
	return fmt.Sprintf("%s:%d", a.Address, a.PortValue)
}

func get(addr, path string) (string, error) {
	c := http.Client{Timeout: time.Second}
	defer c.CloseIdleConnections()
	r, err := c.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// reply is a response with its body read.
type reply struct {
	*http.Response
	body string
}

func (p *proxy) do(t *testing.T, method, url string, header http.Header, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.addr+"/", strings.NewReader(body))
	require.NoError(t, err)
	host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	path, query, _ := strings.Cut("/"+path, "?")
	req.Host, req.URL.RawQuery, req.URL.RawPath = host, query, path // as written, not cleaned
	req.URL.Path, err = neturl.PathUnescape(path)
	require.NoError(t, err)
	for k, v := range header {
		req.Header[k] = v
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	c := http.Client{Timeout: 15 * time.Second, Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	require.NoError(t, err, "%s %s", method, url)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp, string(b)}
}

// seen is what reached a task.
type seen struct {
	Method, Host, Path string
	Header             http.Header
	Task               string
}

func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
			return
		}
		if s := r.URL.Query().Get("status"); s != "" {
			var n int
			_, _ = fmt.Sscan(s, &n)
			w.WriteHeader(n)
		}
		_ = json.NewEncoder(w).Encode(seen{r.Method, r.Host, r.RequestURI, r.Header, name})
	})
}

func (w *world) backend(t *testing.T, s *watcher.Service, slot int, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	w.at(s, slot, netip.MustParseAddrPort(srv.Listener.Addr().String()))
	return srv
}

// at gives a service one more task, on this machine.
func (w *world) at(s *watcher.Service, slot int, addr netip.AddrPort) {
	w.Tasks[s.ID] = append(w.Tasks[s.ID], &watcher.Task{
		ID: fmt.Sprintf("%s-t%d", s.ID, slot), ServiceID: s.ID, NodeID: "n1", Slot: slot, State: watcher.Running, Desired: watcher.Running,
		Ports: []watcher.HostPort{{Protocol: "tcp", Target: 80, Published: uint32(addr.Port())}},
	})
}

func refusingPort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestEnvoyAnswers(t *testing.T) {
	w := newWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	none := scaled(0)
	web := w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "app.hosts": "a.test", "app.port": "80", "app.context_root": "/app", "app.context_root_rewrite": "true",
		"bad.hosts": "a.test", "bad.context_root": "/bad", "bad.port": "x"}, stack("a"), none)
	w.backend(t, web, 1, echo("web"))
	rooted := w.service("a_rooted", map[string]string{"hosts": "r.test", "port": "80", "context_root": "/only"}, stack("a"), none)
	w.backend(t, rooted, 1, echo("rooted"))
	w.service("a_empty", map[string]string{"hosts": "empty.test", "port": "80"}, stack("a"), none)
	dead := w.service("a_dead", map[string]string{"hosts": "dead.test", "port": "80"}, stack("a"), none)
	w.at(dead, 1, refusingPort(t))
	half := w.service("a_half", map[string]string{"hosts": "half.test", "port": "80"}, stack("a"), none)
	w.at(half, 1, refusingPort(t))
	w.backend(t, half, 2, echo("half"))
	crash := w.service("a_crash", map[string]string{"hosts": "crash.test", "port": "80"}, stack("a"), none)
	w.backend(t, crash, 1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }))
	w.backend(t, crash, 2, echo("crash"))
	var broken [2]atomic.Int32 // requests seen, safe and other
	fails := w.service("a_fails", map[string]string{"hosts": "fails.test", "port": "80"}, stack("a"), none)
	w.backend(t, fails, 1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			broken[0].Add(1)
		} else {
			broken[1].Add(1)
		}
		panic(http.ErrAbortHandler)
	}))
	var stranded atomic.Int32 // requests that went to a node that is down
	w.Nodes["n2"].Addr, w.Nodes["n2"].Down = netip.MustParseAddr("127.0.0.1"), true
	node := w.service("a_node", map[string]string{"hosts": "node.test", "port": "80"}, stack("a"), none)
	w.at(node, 1, refusingPort(t))
	w.backend(t, node, 2, echo("node"))
	w.backend(t, node, 3, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stranded.Add(1) }))
	w.Tasks[node.ID][2].NodeID = "n2"
	late := w.service("a_late", map[string]string{"hosts": "late.test", "port": "80", "timeout": "200ms"}, stack("a"), none)
	w.backend(t, late, 1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client left
		<-r.Context().Done()
	}))
	four := w.service("c_four", map[string]string{"hosts": "canary.test", "port": "80"}, stack("c"), none)
	w.backend(t, four, 1, echo("four"))
	one := w.service("c_one", map[string]string{"hosts": "canary.test", "port": "80"}, stack("c"), none)
	w.backend(t, one, 1, echo("one"))
	four.Replicas, one.Replicas = 4, 1
	b := w.build(t, testConfig())
	p := runEnvoy(t, staticBootstrap(t, b, "dev"))

	own := func(t *testing.T, r reply, status int, reason string) {
		t.Helper()
		require.Equal(t, status, r.StatusCode, r.body)
		require.Equal(t, reason, r.Header.Get(ReasonHeader), r.body)
		require.Equal(t, "text/plain", r.Header.Get("Content-Type"))
		require.Equal(t, 1, strings.Count(r.body, "\n"), r.body)
	}
	task := func(t *testing.T, r reply) seen {
		t.Helper()
		var s seen
		require.NoError(t, json.Unmarshal([]byte(r.body), &s), "%d %s", r.StatusCode, r.body)
		require.Empty(t, r.Header.Get(ReasonHeader))
		return s
	}

	t.Run("the proxy's own answers", func(t *testing.T) {
		own(t, p.do(t, "GET", "http://nobody.test/", nil, ""), 503, "unknown_host")
		own(t, p.do(t, "GET", "http://r.test/", nil, ""), 404, "no_route")
		own(t, p.do(t, "GET", "http://r.test/onlyx", nil, ""), 404, "no_route")
		own(t, p.do(t, "GET", "http://a.test/bad/x", nil, ""), 503, "not_built")
		own(t, p.do(t, "GET", "http://dead.test/", nil, ""), 503, "unreachable")
		r := p.do(t, "GET", "http://empty.test/", nil, "")
		own(t, r, 503, "no_task")
		require.Equal(t, "1", r.Header.Get("Retry-After"))
		own(t, p.do(t, "POST", "http://late.test/", nil, "x"), 504, "timeout")
	})
	t.Run("a task's own answer is its own", func(t *testing.T) {
		for _, status := range []int{404, 413, 500, 503, 504} {
			r := p.do(t, "POST", fmt.Sprintf("http://a.test/?status=%d", status), nil, "x")
			require.Equal(t, status, r.StatusCode)
			require.Equal(t, "web", task(t, r).Task)
		}
	})
	t.Run("the Host header may carry any port and reaches the task as sent", func(t *testing.T) {
		require.Equal(t, "A.test:4711", task(t, p.do(t, "GET", "http://A.test:4711/", nil, "")).Host)
	})
	t.Run("context root", func(t *testing.T) {
		require.Equal(t, "rooted", task(t, p.do(t, "GET", "http://r.test/only", nil, "")).Task)
		require.Equal(t, "/only/x?y=1", task(t, p.do(t, "GET", "http://r.test/only/x?y=1", nil, "")).Path)
		r := p.do(t, "GET", "http://a.test/app?y=1", nil, "")
		require.Equal(t, 301, r.StatusCode)
		require.Equal(t, "http://a.test/app/?y=1", r.Header.Get("Location"))
		require.Equal(t, "/x/y?z=1", task(t, p.do(t, "GET", "http://a.test/app/x/y?z=1", nil, "")).Path)
		require.Equal(t, "/", task(t, p.do(t, "POST", "http://a.test/app/", nil, "")).Path)
		require.Equal(t, "/apple", task(t, p.do(t, "GET", "http://a.test/apple", nil, "")).Path)
	})
	t.Run("a path has one spelling", func(t *testing.T) {
		require.Equal(t, "/x", task(t, p.do(t, "GET", "http://a.test/app//x", nil, "")).Path)
		own(t, p.do(t, "GET", "http://a.test//bad", nil, ""), 503, "not_built")
		own(t, p.do(t, "GET", "http://a.test/y/../bad/", nil, ""), 503, "not_built")
		own(t, p.do(t, "GET", "http://a.test/y/%2e%2e/bad/", nil, ""), 503, "not_built")
		r := p.do(t, "GET", "http://a.test/y/..%2fbad/", nil, "")
		require.Equal(t, 307, r.StatusCode)
		require.Equal(t, "/bad/", r.Header.Get("Location"))
	})
	t.Run("clients are not believed", func(t *testing.T) {
		r := p.do(t, "GET", "http://a.test/", http.Header{
			"X-Forwarded-For": {"10.0.0.1"}, "X-Envoy-Internal": {"true"}, "X-Envoy-Retry-On": {"5xx"}, "X-Real-Ip": {"1.2.3.4"},
			"X-Forwarded-Proto": {"https"}, "With_underscore": {"1"}, "X-Envoy-Expected-Rq-Timeout-Ms": {"1"},
		}, "")
		h := task(t, r).Header
		require.Regexp(t, `^10\.0\.0\.1,[0-9.]+$`, h.Get("X-Forwarded-For"))
		require.Equal(t, "127.0.0.1", h.Get("X-Real-Ip"))
		require.Equal(t, "http", h.Get("X-Forwarded-Proto"))
		require.NotContains(t, h, "With_underscore")
		require.Equal(t, "127.0.0.1", h.Get("X-Envoy-External-Address"), "Envoy's own: the client, as the proxy sees it")
		h.Del("X-Envoy-External-Address")
		for k := range h {
			require.False(t, strings.HasPrefix(k, "X-Envoy"), "%s: %s", k, h.Get(k))
		}
		require.NotEmpty(t, r.Header.Get("X-Request-Id"))
		require.Empty(t, r.Header.Get("Server"))
		for k := range r.Header {
			require.False(t, strings.HasPrefix(k, "X-Envoy"), k)
		}
	})
	t.Run("a task that is gone costs no request", func(t *testing.T) {
		for range 10 {
			for _, method := range []string{"GET", "POST"} {
				require.Equal(t, "half", task(t, p.do(t, method, "http://half.test/", nil, "x")).Task)
			}
		}
	})
	t.Run("a crashed task costs no safe request", func(t *testing.T) {
		for range 10 {
			require.Equal(t, "crash", task(t, p.do(t, "GET", "http://crash.test/", nil, "")).Task)
		}
	})
	t.Run("only safe methods are sent twice", func(t *testing.T) {
		own(t, p.do(t, "GET", "http://fails.test/", nil, ""), 503, "unreachable")
		require.EqualValues(t, 3, broken[0].Load())
		own(t, p.do(t, "POST", "http://fails.test/", http.Header{"X-Envoy-Retry-On": {"reset"}}, "x"), 503, "unreachable")
		require.EqualValues(t, 1, broken[1].Load())
	})
	t.Run("a node that is down gets nothing while another task is left", func(t *testing.T) {
		for range 30 { // half of the others are ejected meanwhile
			require.Equal(t, "node", task(t, p.do(t, "POST", "http://node.test/", nil, "x")).Task)
		}
		require.Zero(t, stranded.Load())
	})
	t.Run("the only task is never ejected", func(t *testing.T) {
		for range 5 {
			own(t, p.do(t, "GET", "http://dead.test/", nil, ""), 503, "unreachable")
		}
	})
	t.Run("replicas are shares", func(t *testing.T) {
		got := map[string]int{}
		for range 200 {
			got[task(t, p.do(t, "GET", "http://canary.test/", nil, "")).Task]++
		}
		require.InDelta(t, 40, got["one"], 30, "of 200 at 4:1")
		require.Equal(t, 200, got["one"]+got["four"])
	})
	t.Run("websocket", func(t *testing.T) {
		r := p.do(t, "GET", "http://a.test/", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, "")
		require.Equal(t, http.StatusSwitchingProtocols, r.StatusCode)
		require.Equal(t, "hello", r.body)
	})
}
