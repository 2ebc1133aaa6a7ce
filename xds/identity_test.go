package xds

import (
	"context"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extensionservice "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	runtimeservice "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

func TestIdentify(t *testing.T) {
	ctx := identity.NewContext(t.Context(), identity.Identity{Insecure: true})
	for id, want := range map[string]proxyID{
		"dev":        {nodeID: "dev", collection: "dev"},
		"dev/":       {nodeID: "dev/", collection: "dev"},
		"dev/a":      {nodeID: "dev/a", collection: "dev", instance: "a"},
		"dev/a/b":    {nodeID: "dev/a/b", collection: "dev", instance: "a/b"},
		"/a":         {nodeID: "/a", instance: "a"},
		"DEV":        {nodeID: "DEV", collection: "DEV"},
		"dev.a-b_c/": {nodeID: "dev.a-b_c/", collection: "dev.a-b_c"},
	} {
		got, err := identify(ctx, &corev3.Node{Id: id})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, node := range []*corev3.Node{nil, {}, {Cluster: "dev"}} {
		_, err := identify(ctx, node)
		requireStatus(t, err, "InvalidArgument", "start Envoy with a node.id of the form COLLECTION or COLLECTION/INSTANCE")
	}
	_, err := identify(ctx, &corev3.Node{Id: strings.Repeat("x", 600)})
	requireStatus(t, err, "InvalidArgument", "longer than 512 bytes")

	proved := identity.NewContext(t.Context(), identity.Identity{Collections: []string{"dev"}, NotAfter: time.Now().Add(time.Hour)})
	_, err = identify(proved, &corev3.Node{Id: "dev/a"})
	require.NoError(t, err)
	_, err = identify(proved, &corev3.Node{Id: "prod/a"})
	require.Error(t, err, "a certificate of dev asks for prod")
	_, err = identify(t.Context(), &corev3.Node{Id: "dev/a"})
	require.Error(t, err, "nobody is served behind no guard")
}

func TestWhoIsRefused(t *testing.T) {
	r := start(t, Options{}, "dev", "prod")
	r.publish(t, shop("dev", 1))
	for node, want := range map[string][2]string{
		"":        {"InvalidArgument", "no node ID"},
		"test":    {"NotFound", `collection "test"`},
		"/dev":    {"NotFound", `collection ""`},
		"DEV":     {"NotFound", `collection "DEV"`},
		"dev ":    {"NotFound", `collection "dev "`},
		"..":      {"NotFound", "`collections` in waggle.yml"},
		"*":       {"NotFound", `collection "*"`},
		"dev\x00": {"NotFound", "is not served here"},
	} {
		c := openRaw(t, r.addr, node)
		c.ask(translate.Cluster)
		requireStatus(t, c.end(), want[0], want[1])
	}
	require.Empty(t, r.Proxies())

	r.SetCollections([]string{"dev"})
	c := openRaw(t, r.addr, "prod")
	c.ask(translate.Cluster)
	requireStatus(t, c.end(), "NotFound", `collection "prod"`)
}

// TestCollectionsAreApart: whatever a dev proxy asks for, prod's names and content do not
// reach it.
func TestCollectionsAreApart(t *testing.T) {
	r := start(t, Options{}, "dev", "prod")
	r.publish(t, shop("dev", 1))
	prod := newWorld("prod").put(edsCluster("only-prod", 1), endpoints("only-prod", 1), secret("prod-key", "x"),
		routes("prod-table", "only-prod"), listener("prod-http", 10080, "prod-table"), uses(extension("prod-ext", "x"), "prod-key"))
	r.publish(t, prod)
	c := openRaw(t, r.addr, "dev/prod")
	c.ask(translate.Cluster, "*", "only-prod")
	m := c.nextOf(translate.Cluster, "svc0000")
	require.Equal(t, []string{"only-prod"}, m.GetRemovedResources())
	c.ack(m)
	for kind, name := range map[translate.Kind]string{
		translate.Endpoints: "only-prod", translate.Secret: "prod-key", translate.Extension: "prod-ext",
	} {
		c.ask(kind, name, "*")
		c.ack(c.nextGone(kind, name))
	}
	c.ask(translate.Listener, "*", "prod-http")
	m = c.nextOf(translate.Listener, "http")
	require.Equal(t, []string{"prod-http"}, m.GetRemovedResources())
	c.ack(m)
	c.ask(translate.Routes, "prod-table")
	c.ack(c.nextGone(translate.Routes, "prod-table"))
	// And what happens in prod is no traffic in dev.
	r.publish(t, prod.put(endpoints("only-prod", 2), secret("prod-key", "y"), edsCluster("more", 1)).drop(translate.Routes, "prod-table"))
	c.expectNothing()
}

// TestOnlyDeltaADS: every other way to ask is answered with what to set.
func TestOnlyDeltaADS(t *testing.T) {
	r := start(t, Options{}, "dev")
	r.publish(t, shop("dev", 1))
	conn := dial(t, r.addr)
	node := &corev3.Node{Id: "dev"}
	sotw := &discovery.DiscoveryRequest{Node: node, TypeUrl: translate.Cluster.TypeURL()}
	delta := &discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: translate.Cluster.TypeURL()}
	ctx := t.Context()

	calls := map[string]func() error{}
	fetch := func(method string) {
		calls[method] = func() error { return conn.Invoke(ctx, method, sotw, &discovery.DiscoveryResponse{}) }
	}
	stream := func(method string, first any, answer any) {
		calls[method] = func() error {
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
			if err != nil {
				return err
			}
			_ = s.SendMsg(first)
			return s.RecvMsg(answer)
		}
	}
	for _, d := range []grpc.ServiceDesc{
		clusterservice.ClusterDiscoveryService_ServiceDesc, endpointservice.EndpointDiscoveryService_ServiceDesc,
		listenerservice.ListenerDiscoveryService_ServiceDesc, routeservice.RouteDiscoveryService_ServiceDesc,
		routeservice.ScopedRoutesDiscoveryService_ServiceDesc, routeservice.VirtualHostDiscoveryService_ServiceDesc,
		secretservice.SecretDiscoveryService_ServiceDesc, runtimeservice.RuntimeDiscoveryService_ServiceDesc,
		extensionservice.ExtensionConfigDiscoveryService_ServiceDesc, discovery.AggregatedDiscoveryService_ServiceDesc,
	} {
		for _, m := range d.Methods {
			fetch("/" + d.ServiceName + "/" + m.MethodName)
		}
		for _, s := range d.Streams {
			method := "/" + d.ServiceName + "/" + s.StreamName
			switch {
			case s.StreamName == "DeltaAggregatedResources":
			case strings.HasPrefix(s.StreamName, "Delta"):
				stream(method, delta, &discovery.DeltaDiscoveryResponse{})
			default:
				stream(method, sotw, &discovery.DiscoveryResponse{})
			}
		}
	}
	require.Greater(t, len(calls), 25)
	for method, call := range calls {
		err := call()
		requireStatus(t, err, "Unimplemented", "`api_type: DELTA_GRPC`")
		require.ErrorContains(t, err, "`ads: {}`", method)
	}
	err := conn.Invoke(ctx, "/grpc.health.v1.Health/Check", sotw, &discovery.DiscoveryResponse{})
	requireStatus(t, err, "Unimplemented", "Waggle's xDS port")
	require.Empty(t, r.Proxies())
}

func TestARemovedCollectionLeavesItsProxies(t *testing.T) {
	r := start(t, Options{}, "dev", "prod")
	w := shop("prod", 2)
	r.publish(t, w)
	c := envoylike.New(envoylike.Options{Node: "prod/1"})
	disconnect := connect(t, c, r.addr)
	r.reaches(t, c, "prod")
	r.settles(t, 1)
	before := c.Counts()

	r.SetCollections([]string{"dev"})
	require.Error(t, r.Publish(w.put(endpoints("svc0000", 9)).delta()))
	require.Nil(t, r.Snapshot("prod"))
	require.Len(t, r.Proxies(), 1, "it is still connected")
	require.Equal(t, before, c.Counts())
	disconnect()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	requireStatus(t, c.Run(ctx, r.addr), "NotFound", `collection "prod"`)
	require.True(t, len(c.State()[translate.Cluster]) == 2, "and keeps what it has")
	require.Eventually(t, func() bool { return len(r.all()) == 1 }, patience, 1e6, "the collection is forgotten with its last proxy")
}
