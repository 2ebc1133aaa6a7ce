package explain

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
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
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/waggle-lb/waggle/lab/envoy"
	"github.com/waggle-lb/waggle/translate"
)

// What Envoy does with a request is what Explain says of it, for every part of a request that a route may look at.
func TestEnvoyAgrees(t *testing.T) {
	for name, table := range map[string]struct {
		res   translate.Resources
		hosts []string
		paths []string // segments
	}{
		"handmade": {
			res: handmade(t),
			hosts: []string{"shop.example.com", "shop.example.com", "shop.example.com", "paths.example.com", "go.example.com", "x.shop.example.com",
				"y.example.com", "example.com", "tls.example.com", "nowhere.test", "[2001:db8::1]", "shop.example.com."},
			paths: []string{"api", "api", "v2", "pay", "app", "old", "empty", "empty", "gone", "closed", "case", "CASE", "a", "b", "c", "s", "t", "h", "q", "p", "from", "v12"},
		},
		"translated": {
			res:   translated(t),
			hosts: []string{"shop.example.com", "shop.example.com", "api.example.com", "wild.apps.example.com", "a.b.apps.example.com", "bad.example.com", "idle.example.com", "nowhere.test"},
			paths: []string{"api", "v1", "app", "admin", "apis", "static"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := serve(t, table.res)
			ask := asker{rand: rand.New(rand.NewPCG(1, 2)), hosts: table.hosts, segments: table.paths}
			outcomes := map[string]int{}
			for range 400 {
				q := ask.request()
				got, err := proxy.send(t.Context(), q)
				require.NoError(t, err, "%+v", q)
				want, err := Explain(table.res, Request{Collection: "dev", Method: q.method, URL: "http://" + q.host + q.path, Header: q.header}, nil)
				require.NoError(t, err, "%+v", q)
				agree(t, q, want, got)
				outcomes[fmt.Sprint(want.Action, want.Status)]++
			}
			for _, o := range []string{"forward0", "forward503", "reject404", "reject503", "redirect301", "redirect307"} {
				require.NotZero(t, outcomes[o], "no request came to %s: %v", o, outcomes)
			}
		})
	}
}

// The same for tables that nobody thought out.
func TestEnvoyAgreesOnRandomTables(t *testing.T) {
	asked := []string{"a.test", "b.test", "x.a.test", "y.x.a.test", "z.y.x.a.test", "z.a.test", "c.test", "test"}
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			res := randomTable(t, r)
			proxy := serve(t, res)
			ask := asker{rand: r, hosts: asked, segments: randomSegments}
			for range 120 {
				q := ask.request()
				got, err := proxy.send(t.Context(), q)
				require.NoError(t, err, "%+v", q)
				want, err := Explain(res, Request{Collection: "default", Method: q.method, URL: "http://" + q.host + q.path, Header: q.header}, nil)
				require.NoError(t, err, "%+v", q)
				agree(t, q, want, got)
			}
		})
	}
}

// Every spelling of a path that normalisation knows comes out as Envoy has it.
func TestEnvoyAgreesOnPaths(t *testing.T) {
	res := handmade(t)
	proxy := serve(t, res)
	paths := []string{
		"/", "//", "///", "/.", "/..", "/../..", "/./", "/a/..", "/a/../", "/a/../..", "/a/b/../c", "/a/%2e%2e/c", "/a/.%2E/c", "/a/..c", "/a/.c", "/a/...", "/a/.b/..",
		"/a//../c", "/a/./..//c", `/a\b\..\c`, "/%61%7e%2d%5f%2E%30", "/%41/%zz", "/%", "/%4", "/a%20b", "/a%3Fb", "/a%23b", "/a%25b", "/%25%32%66", "/a%2", "/a|b", `/a"b`,
		"/a<b>c", "/a^b`c", "/a{b}c", "/a[b]c", "/a;b=c", "/a:b@c!d$e&f'g(h)i*j+k,l=m", "/a?b//c/../d", "/a/..?b/../c", "/a?%2f", "/%e2%82%ac", "/a%00", "/a%01", "/a%7f", "/a/%2e", "/%2e%2e/%2e", "/a/%2e%2e%2fb",
		"/a%2Fb", "/a%2f..%2fb", "/a%5cb", "/a%5C..%5Cb", "//a", "//a//", "/a/.//b", "/a//.", "/a//..", "/~a", "/a%7E", "/%2525",
	}
	for _, p := range paths {
		q := question{method: "GET", host: "y.example.com", path: p}
		got, err := proxy.send(t.Context(), q)
		require.NoError(t, err, "%q", p)
		want, err := Explain(res, Request{Collection: "dev", URL: "http://" + q.host + p}, nil)
		require.NoError(t, err, "%q", p)
		agree(t, q, want, got)
	}
}

// question is a request on the wire.
type question struct {
	method, host, path string
	header             http.Header
}

// reply is what came back.
type reply struct {
	status                          int
	reason, location, cluster, path string
}

func agree(t *testing.T, q question, want *Answer, got reply) {
	t.Helper()
	said := fmt.Sprintf("%s %s%s %v\nEnvoy: %+v\nexplain: %s, upstream path %q\n%s", q.method, q.host, q.path, q.header, got, summary(want), want.Request.Upstream, strings.Join(want.Because, "\n"))
	if want.Action == Forward && want.Status == 0 {
		require.Equal(t, http.StatusOK, got.status, said)
		clusters := []string{want.Cluster}
		for _, s := range want.Shares {
			clusters = append(clusters, s.Cluster)
		}
		require.True(t, slices.Contains(clusters, got.cluster), said)
		path := want.Request.Path
		if want.Request.Upstream != "" {
			path = want.Request.Upstream
		}
		require.Equal(t, path, got.path, said)
		return
	}
	require.Equal(t, want.Status, got.status, said)
	require.Equal(t, want.Reason, got.reason, said)
	require.Equal(t, want.Location, got.location, said)
}

// asker makes up requests.
type asker struct {
	rand            *rand.Rand
	hosts, segments []string
}

func (a asker) request() question {
	pick := func(list []string) string { return list[a.rand.IntN(len(list))] }
	chance := func(percent int) bool { return a.rand.IntN(100) < percent }
	q := question{method: pick([]string{"GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"}), host: pick(a.hosts), header: http.Header{}}
	if chance(20) {
		q.host = strings.ToUpper(q.host)
	}
	if chance(5) {
		q.host += "."
	}
	if chance(20) {
		q.host += pick([]string{":80", ":8081", ":443"})
	}
	for range a.rand.IntN(4) {
		s := pick(a.segments)
		switch {
		case chance(5):
			s = pick([]string{".", "..", "", "%2e%2e", "a%2fb", "%61pi", "x y"})
			s = strings.ReplaceAll(s, " ", "%20")
		case chance(5):
			s += "s"
		}
		q.path += "/" + s
	}
	if q.path == "" || chance(20) {
		q.path += "/"
	}
	if chance(30) {
		q.path += "?" + pick([]string{"debug", "debug=1", "v=2", "v=23&x", "v=1", "a=b&v=2", "x=/../y", ""})
	}
	for _, h := range []string{"X-Beta: yes", "X-Beta: no", "User-Agent: curl", "User-Agent: robot", "X-Hello: 1", "x_hello: 1", "X-Envoy-Retry-On: 5xx"} {
		if name, value, _ := strings.Cut(h, ": "); chance(20) && q.header[name] == nil {
			q.header[name] = []string{value}
		}
	}
	return q
}

// proxy is a real Envoy that serves resources from its bootstrap.
type proxy struct{ address string }

// send writes a request as it is: Go's client would tidy its path up.
func (p proxy) send(ctx context.Context, q question) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return reply{}, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n", q.method, q.path, q.host)
	for name, values := range q.header {
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
	}
	b.WriteString("Connection: close\r\n\r\n")
	if _, err := conn.Write([]byte(b.String())); err != nil {
		return reply{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: q.method})
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	return reply{resp.StatusCode, resp.Header.Get(translate.ReasonHeader), resp.Header.Get("Location"), resp.Header.Get("X-Cluster"), resp.Header.Get("X-Path")}, nil
}

// serve starts an Envoy with the resources and, behind each cluster that has
// endpoints, a server that says which it is.
func serve(t *testing.T, res translate.Resources) proxy {
	t.Helper()
	static := &bootstrapv3.Bootstrap_StaticResources{}
	for _, r := range res[translate.Cluster] {
		static.Clusters = append(static.Clusters, staticCluster(t, r.Name, r.Message.(*clusterv3.Cluster), len(endpoints(t, res, r.Name)) > 0))
	}
	listener := proto.Clone(res[translate.Listener]["http"].Message).(*listenerv3.Listener)
	address, admin := freeAddress(t), freeAddress(t)
	listener.Address = socketAddress(address)
	filter := listener.FilterChains[0].Filters[0]
	manager := &hcmv3.HttpConnectionManager{}
	require.NoError(t, filter.GetTypedConfig().UnmarshalTo(manager))
	table, err := routeTable(res, manager.GetRds().GetRouteConfigName())
	require.NoError(t, err)
	manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: proto.Clone(table).(*routev3.RouteConfiguration)}
	for _, f := range manager.HttpFilters {
		if f.GetConfigDiscovery() != nil {
			found := res[translate.Extension][f.Name].Message.(*corev3.TypedExtensionConfig)
			f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: found.TypedConfig}
		}
	}
	packed, err := anypb.New(manager)
	require.NoError(t, err)
	filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
	static.Listeners = []*listenerv3.Listener{listener}

	raw, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: "dev", Cluster: "dev"}, StaticResources: static,
		Admin: &bootstrapv3.Admin{Address: socketAddress(admin)},
	})
	require.NoError(t, err)
	p, err := envoy.Start(envoy.Options{Name: "dev", Bootstrap: raw, Admin: admin, Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(p.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, p.Ready(ctx))
	return proxy{address}
}

func endpoints(t *testing.T, res translate.Resources, cluster string) []Target {
	t.Helper()
	list, err := endpointsOf(res, cluster)
	require.NoError(t, err)
	return list
}

// staticCluster is a cluster whose only endpoint, if it has any, is a server of the test.
func staticCluster(t *testing.T, name string, c *clusterv3.Cluster, running bool) *clusterv3.Cluster {
	t.Helper()
	c = proto.Clone(c).(*clusterv3.Cluster)
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	c.EdsClusterConfig = nil
	c.ConnectTimeout = durationpb.New(5 * time.Second)
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if !running {
		return c
	}
	c.LoadAssignment.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socketAddress(upstream(t, name))}},
	}}}}
	return c
}

// upstream answers every request with its own name and the path as it came: Go's
// server would refuse the paths that are worth a test.
func upstream(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed at the end of the test
			}
			serving.Go(func() {
				defer conn.Close()
				if conn.SetDeadline(time.Now().Add(20*time.Second)) != nil {
					return
				}
				in := bufio.NewReader(conn)
				request, err := in.ReadString('\n')
				for line := request; err == nil && strings.TrimSpace(line) != ""; {
					line, err = in.ReadString('\n')
				}
				if words := strings.Fields(request); err == nil && len(words) == 3 {
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nX-Cluster: %s\r\nX-Path: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", name, words[1])
				}
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		serving.Wait()
	})
	return l.Addr().String()
}

func socketAddress(hostPort string) *corev3.Address {
	host, port, _ := strings.Cut(hostPort, ":")
	var n uint32
	_ = json.Unmarshal([]byte(port), &n)
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: n},
	}}}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
