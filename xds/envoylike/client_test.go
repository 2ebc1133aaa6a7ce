package envoylike_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestItSeesFaults: behind go-control-plane's stock cache, which takes the old cluster away
// in the response that brings the new one, the client has something to complain about.
func TestItSeesFaults(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stock := cache.NewSnapshotCache(true, cache.IDHash{}, nil)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, server.NewServer(ctx, stock, nil))
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	defer func() { g.Stop(); <-served }()

	require.NoError(t, stock.SetSnapshot(ctx, "dev", snapshot(t, "1", "a")))
	c := envoylike.New(envoylike.Options{Node: "dev"})
	run, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(run, lis.Addr().String()) }()
	defer func() { end(); <-done }()
	require.NoError(t, c.Wait(ctx, c.Active))
	require.Empty(t, c.Faults())
	require.Len(t, c.State()[translate.Cluster], 1)
	require.NotNil(t, c.Resource(translate.Routes, "http"))
	require.Equal(t, 4, c.Counts().Sum())

	require.NoError(t, stock.SetSnapshot(ctx, "dev", snapshot(t, "2", "b")))
	require.NoError(t, c.Wait(ctx, func() bool { return len(c.Faults()) > 0 }))
	require.Contains(t, strings.Join(c.Faults(), "\n"), `cluster "a" was removed while 1 route tables or listeners name it`)
}

// snapshot is one cluster, its endpoints, a route to it and a listener.
func snapshot(t *testing.T, version, cluster string) *cache.Snapshot {
	ads := &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
	hcm, err := anypb.New(&hcmv3.HttpConnectionManager{StatPrefix: "http", RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
		Rds: &hcmv3.Rds{ConfigSource: ads, RouteConfigName: "http"},
	}})
	require.NoError(t, err)
	s, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{
		resource.ClusterType: {&clusterv3.Cluster{
			Name: cluster, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads},
		}},
		resource.EndpointType: {&endpointv3.ClusterLoadAssignment{ClusterName: cluster}},
		resource.RouteType: {&routev3.RouteConfiguration{Name: "http", VirtualHosts: []*routev3.VirtualHost{{
			Name: "a", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
			}},
		}}}},
		resource.ListenerType: {&listenerv3.Listener{Name: "http", FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm}}},
		}}}},
	})
	require.NoError(t, err)
	return s
}
