package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// envoyBinary is the real Envoy that the tests ask.
func envoyBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", ".cache", "envoy-1.40.0", "envoy")
	}
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	require.FileExists(t, path, "the real Envoy is needed: «make test» fetches it, or name one in the environment variable ENVOY")
	return path
}

// write puts a bootstrap where an Envoy can read it.
func write(t *testing.T, b *bootstrapv3.Bootstrap) string {
	t.Helper()
	raw, err := Marshal(b)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	return file
}

// The real Envoy accepts every set of options, and complains about nothing in them.
func TestEnvoyValidates(t *testing.T) {
	binary := envoyBinary(t)
	for name, o := range accepted {
		t.Run(name, func(t *testing.T) {
			if o.TLS != nil { // what it names must be there
				o.TLS = proxyTLS(t, newAuthority(t), "dev")
			}
			b, err := New(o)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, binary, "--mode", "validate", "-c", write(t, b), "--log-level", "warning").CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "OK")
			for line := range strings.SplitSeq(string(out), "\n") {
				require.NotContains(t, line, "[warning]")
				require.NotContains(t, line, "[error]")
			}
		})
	}
}

// An Envoy that has no control plane yet answers at its admin address (it is
// alive), knows who it is, and does not call itself ready.
func TestEnvoyStarts(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	for name, o := range map[string]Options{
		"port":   {Collection: "dev", NodeID: "dev/one", XDSAddress: unusedAddress(t), AdminAddress: "127.0.0.1:0"},
		"socket": {Collection: "dev", NodeID: "dev/one", XDSAddress: unusedAddress(t), AdminAddress: socket},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := New(o)
			require.NoError(t, err)
			admin := start(t, b)

			var info struct {
				Node  struct{ ID, Cluster string }
				State string
			}
			require.NoError(t, json.Unmarshal([]byte(admin.get(t, "/server_info", http.StatusOK)), &info))
			require.Equal(t, "dev/one", info.Node.ID)
			require.Equal(t, "dev", info.Node.Cluster)
			admin.get(t, "/ready", http.StatusServiceUnavailable)

			require.Eventually(t, func() bool {
				return strings.Contains(admin.get(t, "/stats", http.StatusOK), "cluster.xds.upstream_cx_connect_fail: ")
			}, 20*time.Second, 20*time.Millisecond, "it looks for its control plane")

		})
	}
}

// What is not on the list of statistics does not exist, and what is, does.
func TestEnvoyKeepsFewStats(t *testing.T) {
	b, err := New(Options{Collection: "dev", XDSAddress: unusedAddress(t), AdminAddress: "127.0.0.1:0"})
	require.NoError(t, err)
	stats := start(t, b).get(t, "/stats", http.StatusOK)
	require.Contains(t, stats, "server.live: ")
	require.Contains(t, stats, "cluster_manager.active_clusters: ")
	require.NotContains(t, stats, "runtime.")
	require.NotContains(t, stats, "http.admin.downstream_cx_length_ms")
	require.NotContains(t, stats, "filesystem.")
}

// The raised limit lets a regular expression pass that Envoy's own would refuse.
func TestEnvoyTakesLongRegexes(t *testing.T) {
	binary := envoyBinary(t)
	long := "/(" + strings.TrimSuffix(strings.Repeat("[a-f]+x[0-9]{9}|", 20), "|") + ")"
	validate := func(b *bootstrapv3.Bootstrap) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, binary, "--mode", "validate", "-c", write(t, b)).CombinedOutput()
		return string(out), err
	}
	b, err := New(Options{Collection: "dev"})
	require.NoError(t, err)
	addRegexRoute(t, b, long)
	out, err := validate(b)
	require.NoError(t, err, "%s", out)

	b.LayeredRuntime = nil
	out, err = validate(b)
	require.Error(t, err, "the test's expression is too short to show anything")
	require.Contains(t, out, "max program size")
}

// addRegexRoute adds a listener with a route on a regular expression.
func addRegexRoute(t *testing.T, b *bootstrapv3.Bootstrap, regex string) {
	t.Helper()
	pattern, err := json.Marshal(regex)
	require.NoError(t, err)
	added := &bootstrapv3.Bootstrap{}
	require.NoError(t, protojson.Unmarshal(fmt.Appendf(nil, `{"static_resources":{"listeners":[{"name":"l",
		"address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":{
		"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"l",
		"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
		"route_config":{"virtual_hosts":[{"name":"v","domains":["*"],"routes":[{"match":{"safe_regex":{"regex":%s}},"direct_response":{"status":200}}]}]}
		}}]}]}]}}`, pattern), added))
	b.StaticResources.Listeners = added.StaticResources.Listeners
}

// adminClient asks an Envoy's admin address.
type adminClient struct {
	http *http.Client
	base string
}

func (a adminClient) get(t *testing.T, path string, status int) string {
	t.Helper()
	resp, err := a.http.Get(a.base + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, status, resp.StatusCode, "%s: %s", path, body)
	return string(body)
}

// start runs an Envoy until the test ends, and waits for its admin address.
func start(t *testing.T, b *bootstrapv3.Bootstrap) adminClient {
	t.Helper()
	binary, dir := envoyBinary(t), t.TempDir()
	addressFile := filepath.Join(dir, "admin-address")
	log, err := os.Create(filepath.Join(dir, "envoy.log"))
	require.NoError(t, err)
	cmd := exec.Command(binary, "-c", write(t, b), "--admin-address-path", addressFile,
		"--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // that one process; it may have ended by itself
		_ = cmd.Wait()
		require.NoError(t, log.Close())
		if t.Failed() {
			text, err := os.ReadFile(log.Name())
			require.NoError(t, err)
			t.Logf("Envoy said:\n%s", text)
		}
	})
	a := adminClient{http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	if pipe := b.Admin.Address.GetPipe(); pipe != nil {
		a.base = "http://admin"
		a.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", pipe.Path)
		}
	}
	require.Eventually(t, func() bool {
		if b.Admin.Address.GetPipe() == nil {
			address, err := os.ReadFile(addressFile)
			if err != nil || len(address) == 0 {
				return false
			}
			a.base = "http://" + string(address)
		}
		resp, err := a.http.Get(a.base + "/server_info")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil
	}, 30*time.Second, 20*time.Millisecond, "Envoy does not answer at its admin address")
	return a
}

// unusedAddress is a loopback address where nobody listens.
func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// A control plane that is given by name is resolved and spoken to in HTTP/2.
func TestEnvoyResolvesItsControlPlane(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(30*time.Second)))
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	b, err := New(Options{Collection: "dev", XDSAddress: "localhost:" + port, AdminAddress: "127.0.0.1:0"})
	require.NoError(t, err)
	start(t, b)
	conn, err := l.Accept()
	require.NoError(t, err, "nobody came")
	defer conn.Close()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	preface := make([]byte, 24)
	_, err = io.ReadFull(conn, preface)
	require.NoError(t, err)
	require.Equal(t, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", string(preface))
}
