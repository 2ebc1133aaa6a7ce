package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds"
	"github.com/waggle-lb/waggle/xds/identity"
)

// patience bounds every wait in the tests.
const patience = 30 * time.Second

// envoyBinary is the real Envoy that the tests run.
func envoyBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", "..", ".cache", "envoy-1.40.0", "envoy")
	}
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	require.FileExists(t, path, "the real Envoy is needed: «make test» fetches it, or name one in the environment variable ENVOY")
	return path
}

// collection is what a proxy of the tests serves: all requests at http, and all
// connections at tcp, go to the backend.
type collection struct {
	name, http, tcp, accessLog string
}

// newCollection has free ports.
func newCollection(t *testing.T, name string) collection {
	return collection{name: name, http: freeAddress(t), tcp: freeAddress(t), accessLog: filepath.Join(t.TempDir(), "access.log")}
}

// freeAddress is a loopback address where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	return lis.Addr().String()
}

// controlPlane serves the collections to their proxies, and gives its address.
func controlPlane(t *testing.T, backend string, all ...collection) string {
	t.Helper()
	return guardedControlPlane(t, identity.Insecure(), backend, all...)
}

// guardedControlPlane is one with somebody at its door.
func guardedControlPlane(t *testing.T, guard *identity.Guard, backend string, all ...collection) string {
	t.Helper()
	server := xds.New(xds.Options{Guard: identity.Insecure()})
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.name
	}
	server.SetCollections(names)
	for _, c := range all {
		require.NoError(t, server.Publish(translate.Delta{Collection: c.name, Changes: []translate.Change{
			resource(t, translate.Cluster, "backend", &clusterv3.Cluster{}, `{"name":"backend","type":"STATIC","load_assignment":{"cluster_name":"backend",
				"endpoints":[{"lb_endpoints":[{"endpoint":{"address":%s}}]}]}}`, address(t, backend)),
			resource(t, translate.Listener, "http", &listenerv3.Listener{}, `{"name":"http","stat_prefix":"http","address":%s,"filter_chains":[{"filters":[{"name":"hcm","typed_config":{
				"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"http",
				"access_log":[{"name":"file","typed_config":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":%q}}],
				"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
				"route_config":{"virtual_hosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"backend","timeout":"0s"}}]}]}}}]}]}`, address(t, c.http), c.accessLog),
			resource(t, translate.Listener, "tcp", &listenerv3.Listener{}, `{"name":"tcp","stat_prefix":"tcp","address":%s,"filter_chains":[{"filters":[{"name":"tcp","typed_config":{
				"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"tcp","cluster":"backend"}}]}]}`, address(t, c.tcp)),
		}}))
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, lis, guard.ServerOptions()...) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
	})
	return lis.Addr().String()
}

func resource(t *testing.T, kind translate.Kind, name string, m proto.Message, format string, args ...any) translate.Change {
	t.Helper()
	require.NoError(t, protojson.Unmarshal(fmt.Appendf(nil, format, args...), m))
	return translate.Change{Kind: kind, Name: name, Resource: &translate.Resource{Kind: kind, Name: name, Message: m}}
}

func address(t *testing.T, hostPort string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(hostPort)
	require.NoError(t, err)
	return fmt.Sprintf(`{"socket_address":{"address":%q,"port_value":%s}}`, host, port)
}

// backend answers 200, after ?delay=. It gives its address.
func backend(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		delay, err := time.ParseDuration(r.URL.Query().Get("delay"))
		if err != nil {
			return
		}
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// proxy is a Run under way.
type proxy struct {
	collection
	ready   string // its readiness address
	options Options
	signals chan os.Signal
	log     *buffer
	ended   chan struct{}
	err     error // valid after ended is closed
}

// options run a proxy of a collection, in a hurry, and quietly for the machine.
func options(t *testing.T, c collection, plane string) Options {
	return Options{
		Bootstrap:   bootstrap.Options{Collection: c.name, NodeID: c.name + "/test", XDSAddress: plane, AdminAddress: filepath.Join(t.TempDir(), "admin.sock")},
		Binary:      envoyBinary(t),
		Concurrency: 1, ListenerDrain: DefaultListenerDrain, Drain: 10 * time.Second,
		ReadyAddress: freeAddress(t),
	}
}

// launch starts a proxy; it is stopped when the test ends.
func launch(t *testing.T, c collection, o Options) *proxy {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	p := &proxy{collection: c, ready: "http://" + o.ReadyAddress + "/ready", options: o, signals: make(chan os.Signal, 8), log: &buffer{}, ended: make(chan struct{})}
	o.Signals = p.signals
	o.Logger = slog.New(slog.NewTextHandler(p.log, nil))
	o.Stdout, o.Stderr = null, null
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(p.ended)
		p.err = Run(ctx, o)
	}()
	t.Cleanup(func() {
		p.signals <- syscall.SIGTERM
		p.signals <- syscall.SIGTERM
		<-p.ended
		cancel()
		require.NoError(t, null.Close())
		if t.Failed() {
			t.Logf("the launcher of %s said:\n%s", c.name, p.log)
		}
	})
	return p
}

// isReady waits until the proxy is.
func (p *proxy) isReady(t *testing.T) *proxy {
	t.Helper()
	p.says(t, "the proxy is ready")
	return p
}

// says waits for a line in the launcher's log.
func (p *proxy) says(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return strings.Contains(p.log.String(), text)
		}
	}, patience, 5*time.Millisecond)
	if !strings.Contains(p.log.String(), text) {
		require.Fail(t, "it ended without saying "+text, "%v", p.err)
	}
}

// end waits for the end of Run and gives its error.
func (p *proxy) end(t *testing.T) error {
	t.Helper()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(patience):
		require.Fail(t, "it does not end", "it said:\n%s", p.log)
		return nil
	}
}

// runs makes sure that Run goes on for a while.
func (p *proxy) runs(t *testing.T, while time.Duration) {
	t.Helper()
	select {
	case <-p.ended:
		require.Fail(t, "it ended", "%v", p.err)
	case <-time.After(while):
	}
}

// client has connections of its own.
func client(t *testing.T) *http.Client {
	c := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// status asks for a URL; 0: no answer.
func status(c *http.Client, url string) int {
	res, err := c.Get(url)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
