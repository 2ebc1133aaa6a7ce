package xds

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

// envoyBinary is the real thing.
func envoyBinary(t *testing.T) string {
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", ".cache", "envoy-1.40.0", "envoy")
	}
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	_, err = os.Stat(path)
	require.NoError(t, err, "this test needs Envoy 1.40: run `make test`, which fetches it, or set ENVOY to its path")
	return path
}

// startEnvoy runs an Envoy with a minimal bootstrap; it is ended with the test.
func startEnvoy(t *testing.T, node, xds string) {
	host, port, err := net.SplitHostPort(xds)
	require.NoError(t, err)
	dir := t.TempDir()
	object := func(pairs ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1]
		}
		return m
	}
	ads := object("ads", object(), "resource_api_version", "V3", "initial_fetch_timeout", "0s")
	portValue, err := strconv.Atoi(port)
	require.NoError(t, err)
	bootstrap := object(
		"node", object("id", node, "cluster", "waggle"),
		"admin", object("address", object("pipe", object("path", filepath.Join(dir, "admin")))),
		"dynamic_resources", object(
			"ads_config", object(
				"api_type", "DELTA_GRPC", "transport_api_version", "V3", "set_node_on_first_message_only", true,
				"grpc_services", []any{object("envoy_grpc", object("cluster_name", "xds",
					"retry_policy", object("retry_back_off", object("base_interval", "0.05s", "max_interval", "0.2s"))))}),
			"cds_config", ads, "lds_config", ads),
		"static_resources", object("clusters", []any{object(
			"name", "xds", "type", "STATIC", "connect_timeout", "1s",
			"typed_extension_protocol_options", object("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", object(
				"@type", "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config", object("http2_protocol_options", object()))),
			"load_assignment", object("cluster_name", "xds", "endpoints", []any{object("lb_endpoints", []any{object("endpoint",
				object("address", object("socket_address", object("address", host, "port_value", portValue))))})}))}))
	text, err := json.Marshal(bootstrap)
	require.NoError(t, err)
	file := filepath.Join(dir, "bootstrap.json")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd := exec.Command(envoyBinary(t), "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("Envoy's log:\n%s", text)
		}
	})
}

// backend answers with its name.
func backend(t *testing.T, name string) (port uint32) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	n, err := strconv.ParseUint(u.Port(), 10, 32)
	require.NoError(t, err)
	return uint32(n)
}

// TestEnvoyRejects: what the real Envoy does not take goes into quarantine, in its own
// words; the rest of the same publish and the next ones arrive.
func TestEnvoyRejects(t *testing.T) {
	r := start(t, Options{Gate: 200 * time.Millisecond}, "dev")
	free := newListener(t)
	port := uint32(free.Addr().(*net.TCPAddr).Port)
	require.NoError(t, free.Close())
	startEnvoy(t, "dev/1", r.addr)
	backendPort := backend(t, "it")
	table := func(regex string, hosts ...string) *translate.Resource {
		m := &routev3.RouteConfiguration{Name: "http"}
		for _, h := range append(hosts, "old.test") {
			m.VirtualHosts = append(m.VirtualHosts, host(h, "a", "", ""))
		}
		if regex != "" {
			bad := m.VirtualHosts[len(m.VirtualHosts)-1].Routes[0]
			bad.Match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}}
		}
		return res(translate.Routes, "http", m)
	}
	w := newWorld("dev").put(edsCluster("a", time.Second), endpoints("a", backendPort), table(""), listener("http", port, "http"))
	r.publish(t, w)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answers := func(port uint32, host string, want int) {
		t.Helper()
		got := 0
		require.Eventually(t, func() bool {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
			require.NoError(t, err)
			req.Host = host
			resp, err := client.Do(req)
			if err != nil {
				return false
			}
			got = resp.StatusCode
			return resp.Body.Close() == nil && got == want
		}, patience, 5*time.Millisecond, "%s: want %d, last was %d", host, want, got)
	}
	answers(port, "old.test", 200)
	r.settles(t, 1)

	unknown := edsCluster("a", 2*time.Second)
	unknown.Message.(*clusterv3.Cluster).TransportSocket = &corev3.TransportSocket{
		Name: "x", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/foo.Bar"}},
	}
	r.publish(t, w.put(unknown, edsCluster("b", time.Second), endpoints("b", backendPort), table("(unclosed")))
	held := r.quarantines(t, "clusters a", "routes http")
	require.Contains(t, held[0].Message, "Didn't find a registered implementation for 'x'")
	require.Equal(t, "missing ): (unclosed", held[1].Message)
	require.Equal(t, []string{"old.test"}, held[1].Hosts)
	r.settles(t, 1)
	nack := r.Proxies()[0].kind(translate.Routes).NACK.At
	r.publish(t, w.put(table("(unclosed", "new.test")))
	answers(port, "new.test", 200)
	answers(port, "old.test", 200)
	r.settles(t, 1)
	require.Equal(t, nack, r.Proxies()[0].kind(translate.Routes).NACK.At, "the bad one was not sent again")

	r.publish(t, w.put(edsCluster("a", 3*time.Second), table("/other", "new.test")))
	answers(port, "old.test", 404)
	answers(port, "new.test", 200)
	r.settles(t, 1)
	require.Empty(t, r.Quarantine())
}

// TestEnvoyCanary: of three real Envoys two find out what none of them takes, and the third
// never sees it; what is good arrives at all of them.
func TestEnvoyCanary(t *testing.T) {
	r := start(t, Options{Canary: patience}, "dev")
	free := newListener(t)
	port := uint32(free.Addr().(*net.TCPAddr).Port)
	require.NoError(t, free.Close())
	w := newWorld("dev").put(edsCluster("a", time.Second), endpoints("a", backend(t, "it")),
		hostTable("http", host("old.test", "a", "", "")), listener("http", port, "http"))
	r.publish(t, w)
	for i := range 3 { // they share the port
		startEnvoy(t, fmt.Sprintf("dev/%d", i), r.addr)
		require.Eventually(t, func() bool { return len(r.Proxies()) == i+1 && len(r.Proxies()[i].Kinds) == 4 }, patience, time.Millisecond)
		r.settles(t, i+1)
	}
	bad := host("old.test", "a", "", "")
	bad.Routes[0].Match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "(unclosed"}}
	r.publish(t, w.put(hostTable("http", bad), edsCluster("b", time.Second), endpoints("b", 1)))
	held := r.quarantines(t, "routes http")
	require.Equal(t, 2, held[0].Proxies)
	r.settles(t, 3)
	require.Empty(t, r.Trials())
	rejected := 0
	for _, p := range r.Proxies() {
		if p.kind(translate.Routes).NACK != nil {
			rejected++
		}
		require.Equal(t, r.Proxies()[0].kind(translate.Cluster).ACKed, p.kind(translate.Cluster).ACKed)
	}
	require.Equal(t, 2, rejected)
	began := time.Now()
	r.publish(t, w.put(hostTable("http", host("old.test", "b", "", ""))))
	r.settles(t, 3)
	t.Logf("a good change was at all three after %s", time.Since(began).Round(100*time.Microsecond))
	require.Empty(t, r.Quarantine())
}

// TestEnvoy is the real Envoy behind the server: a collection goes live, endpoints and
// clusters change under load without a failed request, and a control plane that is
// replaced sends nothing.
func TestEnvoy(t *testing.T) {
	lis := newListener(t)
	addr := lis.Addr().String()
	r := startOn(t, lis, Options{}, "dev")
	free := newListener(t)
	port := uint32(free.Addr().(*net.TCPAddr).Port)
	require.NoError(t, free.Close())
	startEnvoy(t, "dev/real", addr)

	anyHost := func(cluster string) *translate.Resource {
		return routesFor("http", []string{"*"}, cluster)
	}
	one, two := backend(t, "one"), backend(t, "two")
	w := newWorld("dev").put(edsCluster("a", time.Second), endpoints("a", one), anyHost("a"), listener("http", port, "http"))
	r.publish(t, w)

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	get := func() (string, error) {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("status %d: %s", resp.StatusCode, body)
		}
		return string(body), err
	}
	answers := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; {
			got, err := get()
			if got == want {
				return
			}
			require.True(t, time.Now().Before(deadline), "want an answer from %s, last was %q, %v", want, got, err)
		}
	}
	answers("one")
	r.settles(t, 1)
	require.Equal(t, "1.40.0", r.Proxies()[0].Version)

	var asked, failed atomic.Int64
	var firstFailure atomic.Value
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				asked.Add(1)
				if _, err := get(); err != nil {
					failed.Add(1)
					firstFailure.CompareAndSwap(nil, err.Error())
				}
				<-tick.C
			}
		})
	}
	defer func() { stop(); load.Wait() }()

	for i := range 10 { // endpoints move, the cluster changes, a service moves to another cluster and back
		name, other := "a", "b"
		if i%2 == 1 {
			name, other = other, name
		}
		r.publish(t, w.put(endpoints(name, two)))
		answers("two")
		r.publish(t, w.put(edsCluster(name, time.Duration(2+i)*time.Second), endpoints(name, one)))
		answers("one")
		r.publish(t, w.put(edsCluster(other, time.Second), endpoints(other, two), anyHost(other)).
			drop(translate.Cluster, name).drop(translate.Endpoints, name))
		answers("two")
		r.settles(t, 1)
		r.publish(t, w.put(endpoints(other, one)))
		answers("one")
	}
	r.settles(t, 1)

	r.stop()
	lis, err := listenAgain(addr)
	require.NoError(t, err)
	r = startOn(t, lis, Options{}, "dev")
	require.NoError(t, r.Publish(w.whole()))
	require.Eventually(t, func() bool {
		ps := r.Proxies()
		return len(ps) == 1 && ps[0].Current && len(ps[0].Kinds) == 4
	}, patience, time.Millisecond)
	for _, k := range r.Proxies()[0].Kinds {
		require.Zero(t, k.Resources, "%s were sent again", k.Kind)
		require.Nil(t, k.NACK)
	}
	r.publish(t, w.put(endpoints("a", two))) // and it goes on from there
	answers("two")

	require.Eventually(t, func() bool { return asked.Load() >= 300 }, patience, time.Millisecond)
	stop()
	load.Wait()
	require.Zero(t, failed.Load(), "of %d requests; the first: %v", asked.Load(), firstFailure.Load())
}
