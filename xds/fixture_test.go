package xds

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

// patience bounds every wait in the tests.
const patience = 20 * time.Second

// world is the resources of a collection, to be edited and published.
type world struct {
	collection string
	now, was   map[translate.Ref]*translate.Resource
}

func newWorld(collection string) *world {
	return &world{collection, map[translate.Ref]*translate.Resource{}, map[translate.Ref]*translate.Resource{}}
}

func (w *world) put(rs ...*translate.Resource) *world {
	for _, r := range rs {
		w.now[translate.Ref{Kind: r.Kind, Name: r.Name}] = r
	}
	return w
}

func (w *world) drop(kind translate.Kind, names ...string) *world {
	for _, name := range names {
		delete(w.now, translate.Ref{Kind: kind, Name: name})
	}
	return w
}

// delta is what changed since the last delta.
func (w *world) delta() translate.Delta {
	d := translate.Delta{Collection: w.collection}
	for ref, r := range w.now {
		if w.was[ref] != r {
			d.Changes = append(d.Changes, translate.Change{Kind: ref.Kind, Name: ref.Name, Resource: r})
		}
	}
	for ref := range w.was {
		if w.now[ref] == nil {
			d.Changes = append(d.Changes, translate.Change{Kind: ref.Kind, Name: ref.Name})
		}
	}
	slices.SortFunc(d.Changes, func(a, b translate.Change) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	w.was = maps.Clone(w.now)
	return d
}

// whole is everything, as a control plane that has just started publishes it.
func (w *world) whole() translate.Delta {
	w.was = map[translate.Ref]*translate.Resource{}
	return w.delta()
}

func res(kind translate.Kind, name string, m proto.Message) *translate.Resource {
	c, ok := m.(*clusterv3.Cluster)
	return &translate.Resource{Kind: kind, Name: name, Message: m, EDS: ok && c.GetType() == clusterv3.Cluster_EDS}
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(time.Second),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// edsCluster is a cluster with endpoints by EDS; another timeout is another version.
func edsCluster(name string, timeout time.Duration) *translate.Resource {
	return res(translate.Cluster, name, &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(timeout),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()},
	})
}

func address(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// endpoints are the loopback ports of a cluster.
func endpoints(name string, ports ...uint32) *translate.Resource {
	l := &endpointv3.LocalityLbEndpoints{}
	for _, port := range ports {
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address("127.0.0.1", port)}},
		})
	}
	return res(translate.Endpoints, name, &endpointv3.ClusterLoadAssignment{
		ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{l},
	})
}

// routes is a route table with one host per cluster.
func routes(name string, clusters ...string) *translate.Resource {
	hosts := make([]string, len(clusters))
	for i, c := range clusters {
		hosts[i] = c + ".example.com"
	}
	return routesFor(name, hosts, clusters...)
}

func routesFor(name string, hosts []string, clusters ...string) *translate.Resource {
	rc := &routev3.RouteConfiguration{Name: name}
	for i, c := range clusters {
		rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{
			Name: c, Domains: []string{hosts[i]},
			Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c},
				}},
			}},
		})
	}
	return res(translate.Routes, name, rc)
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

// listener serves a route table on a loopback port, with the secrets if there are any.
func listener(name string, port uint32, table string, secrets ...string) *translate.Resource {
	hcm := &hcmv3.HttpConnectionManager{
		StatPrefix: name,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(), RouteConfigName: table,
		}},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})},
		}},
	}
	chain := &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{
		Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(hcm)},
	}}}
	if len(secrets) > 0 {
		tls := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{}}
		for _, s := range secrets {
			tls.CommonTlsContext.TlsCertificateSdsSecretConfigs = append(tls.CommonTlsContext.TlsCertificateSdsSecretConfigs,
				&tlsv3.SdsSecretConfig{Name: s, SdsConfig: adsSource()})
		}
		chain.TransportSocket = &corev3.TransportSocket{
			Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(tls)},
		}
	}
	return uses(res(translate.Listener, name, &listenerv3.Listener{
		Name: name, Address: address("127.0.0.1", port), FilterChains: []*listenerv3.FilterChain{chain},
	}), secrets...)
}

// uses says that a resource refers to secrets.
func uses(r *translate.Resource, secrets ...string) *translate.Resource {
	for _, name := range secrets {
		r.Refs = append(r.Refs, translate.Ref{Kind: translate.Secret, Name: name})
	}
	return r
}

func secret(name, content string) *translate.Resource {
	inline := func(s string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
	}
	return res(translate.Secret, name, &tlsv3.Secret{
		Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(content), PrivateKey: inline(content),
		}},
	})
}

func extension(name, variant string) *translate.Resource {
	return res(translate.Extension, name, &corev3.TypedExtensionConfig{
		Name: name, TypedConfig: pack(wrapperspb.String(variant)),
	})
}

// running is a server that listens; stop ends it and waits until it has.
type running struct {
	*Server
	addr string
	stop func()
}

func start(t testing.TB, o Options, collections ...string) *running {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return startOn(t, lis, o, collections...)
}

func startOn(t testing.TB, lis net.Listener, o Options, collections ...string) *running {
	if o.Guard == nil {
		o.Guard = identity.Insecure()
	}
	s := New(o)
	s.SetCollections(collections)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, lis) }()
	var once sync.Once
	r := &running{Server: s, addr: lis.Addr().String()}
	r.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(patience):
				t.Error("Serve did not end")
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

func (r *running) publish(t testing.TB, w *world) {
	t.Helper()
	require.NoError(t, r.Publish(w.delta()))
}

// connect runs a client until the returned function ends it.
func connect(t testing.TB, c *envoylike.Client, addr string) (disconnect func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Run(ctx, addr)
	}()
	var once sync.Once
	stop := func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(stop)
	return stop
}

// keepConnected is connect for a client that comes again when its stream ends.
func keepConnected(t testing.TB, c *envoylike.Client, addr string) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = c.Run(ctx, addr)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// reaches waits until the client is active with exactly what is served.
func (r *running) reaches(t testing.TB, c *envoylike.Client, collection string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := c.Wait(ctx, func() bool { return c.Active() && c.Matches(r.Snapshot(collection)) == nil })
	require.NoError(t, err, "%s does not reach the served state: active %v, %v\nfaults %v\nclient %s\nserver %s",
		c.Node(), c.Active(), c.Matches(r.Snapshot(collection)), c.Faults(), c.Waiting(), r.stuck(c.Node()))
}

// easygoing connects a proxy that takes everything, so that one that does not is alone.
func (r *running) easygoing(t testing.TB, collection string) *envoylike.Client {
	c := envoylike.New(envoylike.Options{Node: collection + "/takes-all", AnyEndpoints: true})
	keepConnected(t, c, r.addr)
	r.reaches(t, c, collection)
	return c
}

// settles waits until the server knows that every proxy has acknowledged everything.
func (r *running) settles(t testing.TB, proxies int) {
	t.Helper()
	require.Eventually(t, func() bool {
		ps := r.Proxies()
		return len(ps) == proxies && !slices.ContainsFunc(ps, func(p Proxy) bool { return !p.Current })
	}, patience, time.Millisecond, "the proxies do not settle")
}

// shop is a small collection with all that matters: n services, one table, one listener.
func shop(collection string, n int) *world {
	w := newWorld(collection)
	var names []string
	for i := range n {
		name := fmt.Sprintf("svc%04d", i)
		w.put(edsCluster(name, time.Second), endpoints(name, uint32(10000+i)))
		names = append(names, name)
	}
	return w.put(routes("http", names...), listener("http", 10080, "http"))
}

// stuck tells what the streams of a node wait for.
func (r *running) stuck(node string) string {
	var b strings.Builder
	for _, k := range r.all() {
		k.mu.Lock()
		for st := range k.streams {
			if st.proxy.nodeID != node {
				continue
			}
			fmt.Fprintf(&b, "awaited %v all %v, held since %v, resuming %v, seq %d", sortedKeys(st.awaited), st.awaitAll, st.heldSince, st.resuming, k.seq)
			for kind := range st.subs {
				s, tb := &st.subs[kind], &k.tables[kind]
				fmt.Fprintf(&b, "\n  %s: active %v open %v first %v add %d/%d rem %d/%d settled %d in flight %d want %v late %v@%d doubts %v retry %v",
					translate.Kind(kind), s.active, s.open, s.first, s.add, tb.last, s.rem, tb.lastGone, s.settled, len(s.inflight),
					sortedKeys(s.want), sortedKeys(s.late), s.lateSeq, s.doubts, s.retry)
			}
		}
		k.mu.Unlock()
	}
	return b.String()
}
