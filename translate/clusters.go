package translate

import (
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/translate/labels"
)

// upstream is what makes two routes to one port need clusters of their own.
// It is compared with ==.
type upstream struct {
	connectTimeout time.Duration
	maxFails       int64 // -1: the default counts
	failTimeout    time.Duration
}

func upstreamOf(r *labels.Route) upstream {
	u := upstream{connectTimeout: r.ConnectTimeout, maxFails: -1, failTimeout: r.FailTimeout}
	if r.MaxFails != nil {
		u.maxFails = int64(*r.MaxFails)
	}
	if u.connectTimeout <= 0 {
		u.connectTimeout = defaultConnectTimeout
	}
	if u.failTimeout <= 0 {
		u.failTimeout = defaultFailTimeout
	}
	return u
}

const (
	defaultConnectTimeout = 500 * time.Millisecond
	defaultFailTimeout    = 5 * time.Second

	// Where a service has lost its node, packets vanish: without a limit a request
	// on an open connection hangs until its client gives up.
	tcpUserTimeoutMillis = 2000
	solTCP               = 6  // IPPROTO_TCP
	tcpUserTimeout       = 18 // TCP_USER_TIMEOUT, Linux

	// Envoy's default of 3 concurrent retries runs out exactly when they are needed.
	maxConcurrentRetries = 1024

	edsFetchTimeout = time.Second // a cluster that warms holds back the ACK of all (envoy-xds.md §1)
)

// newCluster is the cluster of one service, port and upstream settings.
func newCluster(name string, u upstream) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{
			EdsConfig: adsSource(durationpb.New(edsFetchTimeout)),
		},
		ConnectTimeout:                durationpb.New(u.connectTimeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		LbPolicy:                      clusterv3.Cluster_LEAST_REQUEST,
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
			// No active checks: below the threshold Envoy would send to ejected tasks again.
			HealthyPanicThreshold: &typev3.Percent{Value: 0},
		},
		CircuitBreakers:               breakers(),
		OutlierDetection:              u.ejection(),
		UpstreamConnectionOptions:     keepalive(),
		UpstreamBindConfig:            userTimeout(),
		TypedExtensionProtocolOptions: http1(),
	}
}

// ejection is passive: one failure to connect or five answers of 502–504 in a
// row take a task out for some seconds, never more than half of them. Envoy
// counts the task it is about to eject: the only task of a service stays.
func (u upstream) ejection() *clusterv3.OutlierDetection {
	if u.maxFails == 0 {
		return nil
	}
	local, gateway := uint32(1), uint32(5)
	if u.maxFails > 0 {
		local = uint32(min(u.maxFails, math.MaxUint32))
		gateway = local
	}
	return &clusterv3.OutlierDetection{
		Interval:                       durationpb.New(time.Second), // how often an ejection's end is looked at
		BaseEjectionTime:               durationpb.New(u.failTimeout),
		MaxEjectionTime:                durationpb.New(u.failTimeout), // does not grow
		MaxEjectionPercent:             wrapperspb.UInt32(50),
		AlwaysEjectOneHost:             wrapperspb.Bool(false),
		SplitExternalLocalOriginErrors: true,

		ConsecutiveLocalOriginFailure:          wrapperspb.UInt32(local),
		EnforcingConsecutiveLocalOriginFailure: wrapperspb.UInt32(100),
		ConsecutiveGatewayFailure:              wrapperspb.UInt32(gateway),
		EnforcingConsecutiveGatewayFailure:     wrapperspb.UInt32(100),
		// A task's own 500 says nothing about the task.
		EnforcingConsecutive_5Xx:        wrapperspb.UInt32(0),
		EnforcingSuccessRate:            wrapperspb.UInt32(0),
		EnforcingLocalOriginSuccessRate: wrapperspb.UInt32(0),
	}
}

func breakers() *clusterv3.CircuitBreakers {
	open := func(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
		return &clusterv3.CircuitBreakers_Thresholds{
			Priority:           p,
			MaxConnections:     wrapperspb.UInt32(math.MaxUint32),
			MaxPendingRequests: wrapperspb.UInt32(math.MaxUint32),
			MaxRequests:        wrapperspb.UInt32(math.MaxUint32),
			MaxRetries:         wrapperspb.UInt32(maxConcurrentRetries),
		}
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
		open(corev3.RoutingPriority_DEFAULT), open(corev3.RoutingPriority_HIGH),
	}}
}

func keepalive() *clusterv3.UpstreamConnectionOptions {
	return &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
		KeepaliveProbes:   wrapperspb.UInt32(3),
		KeepaliveTime:     wrapperspb.UInt32(10),
		KeepaliveInterval: wrapperspb.UInt32(5),
	}}
}

func userTimeout() *corev3.BindConfig {
	return &corev3.BindConfig{SocketOptions: []*corev3.SocketOption{{
		Description: "TCP_USER_TIMEOUT",
		Level:       solTCP,
		Name:        tcpUserTimeout,
		Value:       &corev3.SocketOption_IntValue{IntValue: tcpUserTimeoutMillis},
		State:       corev3.SocketOption_STATE_PREBIND,
	}}}
}

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func http1() map[string]*anyMessage {
	return map[string]*anyMessage{httpProtocolOptions: mustAny(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
					HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
				},
			},
		},
	})}
}

// adsSource is the one way to every resource: the stream that brought this one.
func adsSource(fetch *durationpb.Duration) *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   fetch,
	}
}
