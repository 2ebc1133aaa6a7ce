package translate

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// A listener traces where the configuration says so, and never because of a label:
// Envoy rewrites traceparent of requests wherever tracing is on.
func TestTracingIsTheConfigurations(t *testing.T) {
	p := &watcher.Picture{Static: true, Services: map[string]*watcher.Service{
		"a": {ID: "a", Name: "a", Mode: watcher.Replicated, Replicas: 1, Labels: map[string]string{"lb.hosts": "a.test", "lb.port": "80", "lb.trace_sampling": "1"}},
	}}
	manager := func(b *Builder) *hcmv3.HttpConnectionManager {
		m := new(hcmv3.HttpConnectionManager)
		require.NoError(t, b.Resources("default")[Listener]["http"].Message.(*listenerv3.Listener).FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m))
		return m
	}
	b := NewBuilder()
	b.Build(Input{Picture: p, Config: config.ForCollections(nil)}, watcher.Changes{All: true})
	require.Nil(t, manager(b).Tracing)
	require.Len(t, b.Problems(), 1)

	cfg := config.ForCollections(nil)
	cfg.Collections["default"].Tracing.OTLP = "https://Collector.example.com"
	b.Build(Input{Picture: p, Config: cfg}, watcher.Changes{All: true})
	require.Empty(t, b.Problems())
	require.True(t, manager(b).Tracing.NoContextPropagation)
	const name = "otlp+https://collector.example.com:4317"
	cluster := b.Resources("default")[Cluster][name].Message.(*clusterv3.Cluster)
	require.NoError(t, cluster.ValidateAll())
	require.NotNil(t, cluster.TransportSocket)
	require.Contains(t, b.Resources("default")[Listener]["http"].Refs, Ref{Cluster, name})

	// The proxy itself: the listener stays, its spans go nowhere.
	cfg = config.ForCollections(nil)
	cfg.Collections["default"].Tracing.OTLP = "127.0.0.1:4317"
	b.Build(Input{Picture: p, Config: cfg}, watcher.Changes{All: true})
	require.Len(t, b.Problems(), 1)
	require.Contains(t, b.Problems()[0].Reason, "the collector 127.0.0.1:4317 is refused")
	require.NotContains(t, b.Resources("default")[Cluster], name)
	cluster = b.Resources("default")[Cluster]["otlp+http://127.0.0.1:4317"].Message.(*clusterv3.Cluster)
	require.Empty(t, cluster.LoadAssignment.Endpoints)

	b.Build(Input{Picture: p, Config: config.ForCollections(nil)}, watcher.Changes{All: true})
	require.Nil(t, manager(b).Tracing)
	require.Len(t, b.Resources("default")[Cluster], 1)
}
