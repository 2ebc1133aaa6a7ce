package bootstrap

import (
	"fmt"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// overloadManager bounds the connections of clients: without it they are bounded
// by the memory of the machine.
func overloadManager(maxConnections uint64) (*overloadv3.OverloadManager, error) {
	if maxConnections == 0 {
		maxConnections = DefaultMaxConnections
	}
	if maxConnections > 1<<31 {
		return nil, fmt.Errorf("bootstrap: %d client connections at once are more than any machine has: use less than %d", maxConnections, 1<<31)
	}
	limit, err := anypb.New(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: int64(maxConnections)})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: limit of client connections: %w", err)
	}
	return &overloadv3.OverloadManager{ResourceMonitors: []*overloadv3.ResourceMonitor{{
		Name:       "envoy.resource_monitors.global_downstream_max_connections",
		ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: limit},
	}}}, nil
}

// maxRegex is the RE2 program size up to which Envoy accepts a regular expression.
// Its own limit of 100 refuses honest paths; Waggle checks each label's before it is served.
const maxRegex = 1000

// runtime has one layer, without one for the admin address: nobody changes it at run time.
func runtime() *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "waggle",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
			"re2.max_program_size.error_level": structpb.NewNumberValue(maxRegex),
		}}},
	}}}
}
