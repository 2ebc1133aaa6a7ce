package translate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

const shut = "/* -> 503 guard_unavailable"

// Where the routing mesh hides who is there, a guard by address would let everyone
// pass, or nobody.
func TestFleetBehindTheIngressMeshSeesNoClients(t *testing.T) {
	w := newWorld()
	w.service("a_deny", map[string]string{"hosts": "deny.test", "port": "80", "deny_ips": "192.0.2.0/24"}, stack("a"))
	w.service("a_rate", map[string]string{"hosts": "rate.test", "port": "80", "rate_limit": "1/s", "rate_limit_by": "ip"}, stack("a"))
	w.service("a_free", map[string]string{"hosts": "free.test", "port": "80", "rate_limit": "1/s"}, stack("a"))
	fleet := w.service("proxies", map[string]string{FleetLabel: "dev"})
	fleet.Ports = []watcher.Port{{Protocol: "tcp", Target: 80, Published: 80, HostMode: true}}
	cfg := testConfig()
	b := w.build(t, cfg)
	open := []string{"/* -> a_deny:80"}
	require.Equal(t, open, routeLines(b, "dev", "deny.test"))

	meshed := *fleet
	meshed.Version++
	meshed.Ports = []watcher.Port{{Protocol: "tcp", Target: 80, Published: 80}}
	p := *w.Picture
	p.Services = map[string]*watcher.Service{}
	for id, s := range w.Services {
		p.Services[id] = s
	}
	p.Services[fleet.ID] = &meshed
	b.Build(Input{Picture: &p, Config: cfg}, watcher.Changes{Services: map[string]struct{}{fleet.ID: {}}})
	for _, host := range []string{"deny.test", "rate.test"} {
		require.Equal(t, []string{shut}, routeLines(b, "dev", host))
	}
	require.Equal(t, []string{"/* -> a_free:80"}, routeLines(b, "dev", "free.test"))
	require.Contains(t, requireProblem(t, b, "a_deny", labels.Error, "through the ingress mesh").Hint, "mode: host")

	b.Build(Input{Picture: w.Picture, Config: cfg}, watcher.Changes{Services: map[string]struct{}{fleet.ID: {}}})
	require.Equal(t, open, routeLines(b, "dev", "deny.test"))
}

// Services share a match only with the same guards; where the names in a guard are
// their own, what it says is compared.
func TestSharersHaveTheSameGuards(t *testing.T) {
	w := newWorld()
	with := func(extra map[string]string) map[string]string {
		all := map[string]string{"hosts": "a.test", "port": "80", "weight": "1"}
		for k, v := range extra {
			all[k] = v
		}
		return all
	}
	w.service("a_1", with(map[string]string{"rate_limit": "10/s", "allow_ips": "10.0.0.0/8"}), stack("a"))
	w.service("a_2", with(map[string]string{"rate_limit": "10/s,burst=10", "allow_ips": "10.0.0.0/8"}), stack("a"))
	w.service("a_3", with(map[string]string{"rate_limit": "10/s", "allow_ips": "10.0.0.0/8"}), stack("a"))
	w.service("a_4", with(map[string]string{"allow_ips": "10.0.0.0/8"}), stack("a"))
	w.service("a_5", with(nil), stack("a"))
	w.service("a_6", with(map[string]string{"allow_ips": "10.0.0.0/8", "rate_limit": "x"}), stack("a"))
	b := w.build(t, testConfig())
	require.Equal(t, []string{"/* -> a_1:80=1 a_3:80=1"}, routeLines(b, "dev", "a.test"))
	for _, s := range []string{"a_2", "a_4", "a_5", "a_6"} {
		require.Equal(t, "a_1", requireProblem(t, b, s, labels.Error, "other guards").Winner)
	}
}

// The limits of a collection are one resource; each route has its own in it, and
// a limit that goes does not stay.
func TestLimitsOfACollection(t *testing.T) {
	w := newWorld()
	s := w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "rate_limit": "5/m",
		"api.hosts": "b.test", "api.port": "80", "api.rate_limit": "7/s,burst=9", "api.rate_limit_by": "header:X-Key"}, stack("a"))
	w.service("p_web", map[string]string{"hosts": "p.test", "port": "80", "rate_limit": "1/s", "service_cluster": "prod"}, stack("p"), on("prod-edge"))
	cfg := testConfig()
	b := w.build(t, cfg)
	require.Equal(t, []string{"a_web 5/5 per 1m0s", "a_web/api header=* 9/7 per 1s", "a_web/api 9/7 per 1s"}, limitsOf(t, b, "dev"))
	require.Equal(t, []string{"p_web 1/1 per 1s"}, limitsOf(t, b, "prod"))

	b.Build(Input{Picture: w.Picture, Config: cfg}, watcher.Changes{Tasks: map[string]struct{}{s.ID: {}}})
	delete(w.Services, s.ID)
	ds := b.Build(Input{Picture: w.Picture, Config: cfg}, watcher.Changes{Services: map[string]struct{}{s.ID: {}}})
	require.Contains(t, changed(ds), "dev extensions rate_limit")
	require.NotContains(t, changed(ds), "prod extensions rate_limit")
	require.Empty(t, limitsOf(t, b, "dev"))
}

func limitsOf(t *testing.T, b *Builder, collection string) (out []string) {
	t.Helper()
	var l localv3.LocalRateLimit
	require.NoError(t, b.Resources(collection)[Extension]["rate_limit"].Message.(*corev3.TypedExtensionConfig).TypedConfig.UnmarshalTo(&l))
	require.NoError(t, l.ValidateAll())
	for _, d := range l.Descriptors {
		line := d.Entries[0].Value
		for _, e := range d.Entries[1:] {
			line += " " + e.Key + "=*" + e.Value
		}
		out = append(out, fmt.Sprintf("%s %d/%d per %v", line, d.TokenBucket.MaxTokens, d.TokenBucket.TokensPerFill.Value, d.TokenBucket.FillInterval.AsDuration()))
	}
	return out
}

// Every guard, good and bad, of a random Swarm is something that Envoy takes.
func TestEnvoyAcceptsGuards(t *testing.T) {
	w := newWorld()
	s := newSwarm(77)
	for i := range 300 {
		l := map[string]string{"hosts": fmt.Sprintf("h%d.test", i), "port": "80"}
		s.guards("", l)
		w.service(fmt.Sprintf("a_%d", i), l, stack("a"))
	}
	cfg := testConfig()
	cfg.Collections["dev"].TrustedProxies = []string{"10.0.0.0/8", "2001:db8::/32"}
	b := w.build(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, envoyBinary(t), "--mode", "validate", "-c", staticBootstrap(t, b, "dev"), "-l", "warning").CombinedOutput()
	require.NoError(t, err, string(out))
}

// Under proxy_protocol every connection says who the client is, and only trusted
// proxies may connect at all.
func TestProxyProtocol(t *testing.T) {
	w := newWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	s := w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "allow_ips": "192.0.2.7, 2001:db8::7"}, stack("a"), scaled(0))
	w.backend(t, s, 1, echo("web"))
	any := w.service("a_any", map[string]string{"hosts": "any.test", "port": "80"}, stack("a"), scaled(0))
	w.backend(t, any, 1, echo("any"))
	cfg := testConfig()
	cfg.Collections["dev"].TrustedProxies = []string{"127.0.0.2/32"}
	cfg.Collections["dev"].ProxyProtocol = true
	p := runEnvoy(t, staticBootstrap(t, w.build(t, cfg), "dev"))

	ask := func(from, hello, host, more string) (*http.Response, string, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		conn, err := d.DialContext(t.Context(), "tcp", p.addr)
		if err != nil {
			return nil, "", err
		}
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		if _, err := fmt.Fprintf(conn, "%sGET / HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n", hello, host, more); err != nil {
			return nil, "", err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, string(body), err
	}
	status := func(from, hello, host, more string) int {
		resp, _, err := ask(from, hello, host, more)
		if err != nil {
			return 0
		}
		return resp.StatusCode
	}
	client := "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n"
	require.Equal(t, 200, status("127.0.0.2", client, "a.test", ""))
	require.Equal(t, 200, status("127.0.0.2", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n", "a.test", ""))
	require.Equal(t, 403, status("127.0.0.2", "PROXY TCP4 192.0.2.8 192.0.2.1 4711 80\r\n", "a.test", "X-Forwarded-For: 192.0.2.7\r\n"))
	require.Equal(t, 0, status("127.0.0.2", "", "a.test", ""), "no PROXY header, no answer")
	require.Equal(t, 0, status("127.0.0.3", client, "a.test", ""), "a stranger with a PROXY header")
	require.Equal(t, 0, status("127.0.0.3", "", "a.test", ""))
	require.Equal(t, 200, status("127.0.0.2", "PROXY TCP4 127.0.0.2 192.0.2.1 4711 80\r\n", "a.test", "X-Forwarded-For: 192.0.2.7\r\n"), "a trusted proxy behind a trusted proxy")
	_, body, err := ask("127.0.0.2", client, "any.test", "X-Forwarded-For: 203.0.113.9\r\n")
	require.NoError(t, err)
	require.Contains(t, body, `"X-Real-Ip":["192.0.2.7"]`)
	require.True(t, strings.Contains(body, "203.0.113.9,192.0.2.7") || strings.Contains(body, "203.0.113.9, 192.0.2.7"), body)
}
