package bootstrap

import (
	"fmt"
	"net/netip"
	"regexp"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnscommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// hostName is what may stand for a control plane: DNS names, and Swarm's own with underscores.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?$`)

// xdsCluster is the channel to the control plane.
func xdsCluster(addr string) (*clusterv3.Cluster, error) {
	if addr == "" {
		addr = "waggle:18000"
	}
	host, port, err := hostPort(addr)
	if err == nil && port == 0 {
		err = fmt.Errorf("0 is not the port of a control plane")
	}
	if err != nil {
		return nil, fmt.Errorf("bootstrap: control plane %q: %w", addr, err)
	}
	protocol, err := anypb.New(http2())
	if err != nil {
		return nil, fmt.Errorf("bootstrap: protocol of the control plane: %w", err)
	}
	c := &clusterv3.Cluster{
		Name:           XDSCluster,
		ConnectTimeout: durationpb.New(time.Second),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: XDSCluster,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socketAddress(host, port)}},
			}}}},
		},
		// The stream must be let through whatever else is going on.
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
			unlimited(corev3.RoutingPriority_DEFAULT), unlimited(corev3.RoutingPriority_HIGH),
		}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpProtocolOptions: protocol},
	}
	if _, err := netip.ParseAddr(host); err == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		return c, nil
	}
	if !hostName.MatchString(host) {
		return nil, fmt.Errorf("bootstrap: control plane %q: %q is neither a name nor an IP address", addr, host)
	}
	// Under endpoint_mode dnsrr the name has one address per replica, new ones with
	// every update of the service: they must be seen before the old ones are gone.
	names, err := anypb.New(&dnsv3.DnsCluster{ // all addresses of the name, as STRICT_DNS, whose own fields Envoy is about to drop
		DnsLookupFamily: dnscommonv3.DnsLookupFamily_V4_PREFERRED,
		DnsRefreshRate:  durationpb.New(time.Second),
		DnsFailureRefreshRate: &dnsv3.DnsCluster_RefreshRate{
			BaseInterval: durationpb.New(200 * time.Millisecond),
			MaxInterval:  durationpb.New(time.Second),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: name of the control plane: %w", err)
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dns", TypedConfig: names,
	}}
	return c, nil
}

// http2 pings the control plane, so that one whose machine is gone is left for
// another replica: without that, the stream to a lost node hangs for TCP's
// quarter of an hour.
func http2() *httpv3.HttpProtocolOptions {
	return &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						ConnectionKeepalive: &corev3.KeepaliveSettings{
							Interval: durationpb.New(5 * time.Second),
							Timeout:  durationpb.New(5 * time.Second),
						},
					},
				},
			},
		},
	}
}

func unlimited(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
	const many = 1_000_000
	return &clusterv3.CircuitBreakers_Thresholds{
		Priority:           p,
		MaxConnections:     wrapperspb.UInt32(many),
		MaxPendingRequests: wrapperspb.UInt32(many),
		MaxRequests:        wrapperspb.UInt32(many),
		MaxRetries:         wrapperspb.UInt32(many),
	}
}
