package translate

import (
	"cmp"
	"math"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	lbv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
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

	protocol      string // "h2c", "auto"; "" is HTTP/1
	grpc          bool   // checks are of gRPC's own kind
	policy        clusterv3.Cluster_LbPolicy
	tls           upstreamTLS
	proxyProtocol string // "v1", "v2", ""
	slowStart     time.Duration
	preferLocal   bool
	check         check

	maxConnections, maxPending, maxRequests uint32 // 0: unlimited

	failover string // service, as the label says
	fallback string // its cluster, "" where there is none; not known before every service is planned
}

// check is an active check; without a path there is none.
type check struct {
	path, host        string
	interval, timeout time.Duration
	rise, fall        uint32
}

func upstreamOf(r *labels.Route) upstream {
	u := upstream{
		connectTimeout: connectTimeoutOf(r),
		maxFails:       -1,
		failTimeout:    cmp.Or(max(r.FailTimeout, 0), defaultFailTimeout),
		policy:         policyOf(r),
		proxyProtocol:  r.SendProxyProtocol,
		maxConnections: r.MaxConnections, maxPending: r.MaxPendingRequests, maxRequests: r.MaxRequests,
		failover: r.Failover,
	}
	if r.MaxFails != nil {
		u.maxFails = int64(*r.MaxFails)
	}
	switch r.Protocol {
	case "h2c", "http2":
		u.protocol = h2c
	case "grpc":
		u.protocol, u.grpc = h2c, true
	case "auto":
		u.protocol = "auto"
	}
	if warmsUp(u.policy) {
		u.slowStart = r.SlowStart
	}
	u.preferLocal = r.PreferLocal && knowsNodes(u.policy)
	if r.HealthPath != "" {
		u.check = check{
			path: r.HealthPath, interval: r.HealthInterval, timeout: r.HealthTimeout, rise: r.HealthRise, fall: r.HealthFall,
			host: firstExact(r.Hosts),
		}
	}
	return u
}

// connectTimeoutOf is how long a connection to a task may take, with TLS until that
// is agreed on, which takes a task longer than the network.
func connectTimeoutOf(r *labels.Route) time.Duration {
	d := cmp.Or(max(r.ConnectTimeout, 0), defaultConnectTimeout)
	if r.SSLBackend && d == defaultConnectTimeout && !r.Standard("connect_timeout") { // nobody wrote it
		return secureConnectTimeout
	}
	return d
}

// h2c is HTTP/2 with prior knowledge, or over TLS the only protocol that is offered.
const h2c = "h2c"

// policyOf is how tasks are chosen. What is hashed needs a policy that hashes; a
// ring moves the fewest clients when tasks come and go.
func policyOf(r *labels.Route) clusterv3.Cluster_LbPolicy {
	switch {
	case r.LBPolicy == "maglev":
		return clusterv3.Cluster_MAGLEV
	case r.LBPolicy == "ring_hash", hashes(r):
		return clusterv3.Cluster_RING_HASH
	case r.LBPolicy == "round_robin":
		return clusterv3.Cluster_ROUND_ROBIN
	case r.LBPolicy == "random":
		return clusterv3.Cluster_RANDOM
	}
	return clusterv3.Cluster_LEAST_REQUEST
}

// hashes reports whether the route says what is hashed.
func hashes(r *labels.Route) bool {
	return r.HashOn.What != "" || r.StickySessionCookie != "" || r.IPHash
}

// warmsUp reports whether the policy knows a slow start.
func warmsUp(p clusterv3.Cluster_LbPolicy) bool {
	return p == clusterv3.Cluster_LEAST_REQUEST || p == clusterv3.Cluster_ROUND_ROBIN
}

// knowsNodes reports whether the policy can prefer the tasks of one node.
func knowsNodes(p clusterv3.Cluster_LbPolicy) bool {
	return warmsUp(p) || p == clusterv3.Cluster_RANDOM
}

// firstExact is the first host without a wildcard, "" without one.
func firstExact(hosts []string) string {
	for _, h := range hosts {
		if !strings.HasPrefix(h, "*") {
			return h
		}
	}
	return ""
}

const (
	defaultConnectTimeout = 500 * time.Millisecond
	secureConnectTimeout  = 2 * time.Second
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

// clusters makes the clusters of one build. Those with the same settings differ in
// their name alone: what they have in common is made and encoded once.
type clusters map[upstream]sameClusters

// sameClusters is a cluster without a name, and its encoding.
type sameClusters struct {
	message *clusterv3.Cluster
	bytes   []byte
}

// resource is the cluster of one service, port and upstream settings.
func (made clusters) resource(name string, u upstream) *Resource {
	if u.check.path != "" && u.check.host == "" && !u.grpc { // of HTTP a host must be asked for
		u.check.host, _, _ = strings.Cut(name, ":")
	}
	same, ok := made[u]
	if !ok {
		same.message = newCluster(u)
		same.bytes = mustEncode(same.message)
		made[u] = same
	}
	// The name is the first field, and encoding is in the order of fields.
	body := make([]byte, 0, protowire.SizeTag(1)+protowire.SizeBytes(len(name))+len(same.bytes))
	body = append(appendText(body, 1, name), same.bytes...)
	return &Resource{Kind: Cluster, Name: name, Message: same.named(name), Body: body, EDS: true}
}

// named has all fields that newCluster may set in common with the others.
func (s sameClusters) named(name string) *clusterv3.Cluster {
	m := s.message
	return &clusterv3.Cluster{
		Name: name,

		ClusterDiscoveryType:          m.ClusterDiscoveryType,
		EdsClusterConfig:              m.EdsClusterConfig,
		ConnectTimeout:                m.ConnectTimeout,
		PerConnectionBufferLimitBytes: m.PerConnectionBufferLimitBytes,
		LbPolicy:                      m.LbPolicy,
		LbConfig:                      m.LbConfig,
		LoadBalancingPolicy:           m.LoadBalancingPolicy,
		CommonLbConfig:                m.CommonLbConfig,
		CircuitBreakers:               m.CircuitBreakers,
		OutlierDetection:              m.OutlierDetection,
		HealthChecks:                  m.HealthChecks,
		IgnoreHealthOnHostRemoval:     m.IgnoreHealthOnHostRemoval,
		UpstreamConnectionOptions:     m.UpstreamConnectionOptions,
		UpstreamBindConfig:            m.UpstreamBindConfig,
		TransportSocket:               m.TransportSocket,
		TypedExtensionProtocolOptions: m.TypedExtensionProtocolOptions,
	}
}

// newCluster is a cluster of some upstream settings, without its name.
func newCluster(u upstream) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{
			EdsConfig: adsSource(durationpb.New(edsFetchTimeout)),
		},
		ConnectTimeout:                durationpb.New(u.connectTimeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		LbPolicy:                      u.policy,
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
			// Below the threshold Envoy sends to any task, also to ejected ones: only
			// where there is no other, as when all of them have come this moment.
			HealthyPanicThreshold:      &typev3.Percent{Value: 1},
			IgnoreNewHostsUntilFirstHc: true,
		},
		CircuitBreakers:               u.breakers(),
		OutlierDetection:              u.ejection(),
		UpstreamConnectionOptions:     keepalive(),
		UpstreamBindConfig:            userTimeout(),
		TransportSocket:               u.transportSocket(),
		TypedExtensionProtocolOptions: map[string]*anyMessage{httpProtocolOptions: mustAny(u.protocolOptions())},
	}
	// A task that has gone takes no request until a check fails (envoy-xds.md §3).
	c.IgnoreHealthOnHostRemoval = true
	c.HealthChecks = []*corev3.HealthCheck{u.arrival()}
	if u.check.path != "" {
		c.HealthChecks = []*corev3.HealthCheck{u.healthCheck()}
	}
	if u.check.path != "" || u.fallback != "" {
		// Checks may be wrong about all tasks, and so may failures where all tasks of
		// both services can be ejected: better any of them than none.
		c.CommonLbConfig.HealthyPanicThreshold.Value = 50
	}
	if u.preferLocal {
		c.LoadBalancingPolicy = u.nearest()
		return c
	}
	// Proxies that know their node (prefer_local) would by themselves divide the
	// requests of larger services by nodes first.
	c.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig_{
		ZoneAwareLbConfig: &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig{RoutingEnabled: &typev3.Percent{Value: 0}},
	}
	if u.slowStart > 0 {
		window := &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: durationpb.New(u.slowStart)}
		if u.policy == clusterv3.Cluster_ROUND_ROBIN {
			c.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: window}}
		} else {
			c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: window}}
		}
	}
	return c
}

// nearest takes healthy tasks of the proxy's own node while there are any. It
// needs a proxy that knows its node (bootstrap.Options.Zone); others choose among
// all. The older fields of a cluster only know shares by node.
func (u upstream) nearest() *clusterv3.LoadBalancingPolicy {
	local := &lbv3.LocalityLbConfig{LocalityConfigSpecifier: &lbv3.LocalityLbConfig_ZoneAwareLbConfig_{
		ZoneAwareLbConfig: &lbv3.LocalityLbConfig_ZoneAwareLbConfig{
			RoutingEnabled: &typev3.Percent{Value: 100},
			MinClusterSize: wrapperspb.UInt64(1),
			ForceLocalZone: &lbv3.LocalityLbConfig_ZoneAwareLbConfig_ForceLocalZone{MinSize: wrapperspb.UInt32(1)},
		},
	}}
	var window *lbv3.SlowStartConfig
	if u.slowStart > 0 {
		window = &lbv3.SlowStartConfig{SlowStartWindow: durationpb.New(u.slowStart)}
	}
	name, policy := "least_request", proto.Message(&leastrequestv3.LeastRequest{LocalityLbConfig: local, SlowStartConfig: window})
	switch u.policy {
	case clusterv3.Cluster_ROUND_ROBIN:
		name, policy = "round_robin", &roundrobinv3.RoundRobin{LocalityLbConfig: local, SlowStartConfig: window}
	case clusterv3.Cluster_RANDOM:
		name, policy = "random", &randomv3.Random{LocalityLbConfig: local}
	}
	return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
		TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.load_balancing_policies." + name, TypedConfig: mustAny(policy)},
	}}}
}

// healthCheck asks every task, new ones at once: until its first good answer a
// task is not used.
func (u upstream) healthCheck() *corev3.HealthCheck {
	h := &corev3.HealthCheck{
		Timeout:            durationpb.New(u.check.timeout),
		Interval:           durationpb.New(u.check.interval),
		NoTrafficInterval:  durationpb.New(u.check.interval), // Envoy's own is a minute
		HealthyThreshold:   wrapperspb.UInt32(u.check.rise),
		UnhealthyThreshold: wrapperspb.UInt32(u.check.fall),
	}
	if u.grpc {
		// gRPC servers answer no GET: their own protocol asks for a service by name, / for all of them.
		h.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{
			ServiceName: strings.Trim(u.check.path, "/"), Authority: u.check.host,
		}}
		return h
	}
	codec := typev3.CodecClientType_HTTP1
	if u.protocol == h2c {
		codec = typev3.CodecClientType_HTTP2
	}
	h.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: &corev3.HealthCheck_HttpHealthCheck{
		Host: u.check.host, Path: u.check.path, CodecClientType: codec,
	}}
	return h
}

// ejection is passive: one failure to connect or five answers of 502–504 in a
// row take a task out for some seconds, never more than half of them. Envoy
// counts the task it is about to eject: the only task of a service stays, unless
// another service stands in for it.
func (u upstream) ejection() *clusterv3.OutlierDetection {
	if u.maxFails == 0 {
		return nil
	}
	local, gateway := uint32(1), uint32(5)
	if u.maxFails > 0 {
		local = uint32(min(u.maxFails, math.MaxUint32))
		gateway = local
	}
	most := uint32(50)
	if u.fallback != "" {
		most = 100
	}
	return &clusterv3.OutlierDetection{
		Interval:                       durationpb.New(time.Second), // how often an ejection's end is looked at
		BaseEjectionTime:               durationpb.New(u.failTimeout),
		MaxEjectionTime:                durationpb.New(u.failTimeout), // does not grow
		MaxEjectionPercent:             wrapperspb.UInt32(most),
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

func (u upstream) breakers() *clusterv3.CircuitBreakers {
	limit := func(n uint32) *wrapperspb.UInt32Value {
		if n == 0 {
			n = math.MaxUint32
		}
		return wrapperspb.UInt32(n)
	}
	thresholds := func(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
		return &clusterv3.CircuitBreakers_Thresholds{
			Priority:           p,
			MaxConnections:     limit(u.maxConnections),
			MaxPendingRequests: limit(u.maxPending),
			MaxRequests:        limit(u.maxRequests),
			MaxRetries:         wrapperspb.UInt32(maxConcurrentRetries),
		}
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
		thresholds(corev3.RoutingPriority_DEFAULT), thresholds(corev3.RoutingPriority_HIGH),
	}}
}

// keepalive asks a silent connection for a sign of life each second. A request that
// a task has acknowledged before its node vanished leaves nothing unacknowledged that
// TCP_USER_TIMEOUT could be counted from: the probes do.
func keepalive() *clusterv3.UpstreamConnectionOptions {
	return &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
		KeepaliveProbes:   wrapperspb.UInt32(3),
		KeepaliveTime:     wrapperspb.UInt32(1),
		KeepaliveInterval: wrapperspb.UInt32(1),
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

// protocolOptions says how tasks are spoken to. HTTP/2 connections are not
// pinged: gRPC servers end those that ping more often than they like, and TCP
// notices a dead task by itself.
func (u upstream) protocolOptions() *httpv3.HttpProtocolOptions {
	var o httpv3.HttpProtocolOptions
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{}
	switch u.protocol {
	case h2c:
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}
	case "auto":
		if u.tls.on {
			o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			}}
			return &o
		}
		// Nothing to negotiate with over plain TCP: what the client speaks.
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			},
		}
		return &o
	default:
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		}
	}
	o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit}
	return &o
}

// transportSocket is what lies between TCP and HTTP; nil is nothing.
func (u upstream) transportSocket() *corev3.TransportSocket {
	var inner *corev3.TransportSocket
	if u.tls.on {
		inner = u.secureSocket()
	}
	if u.proxyProtocol == "" {
		return inner
	}
	if inner == nil {
		inner = socket("envoy.transport_sockets.raw_buffer", &rawbufferv3.RawBuffer{})
	}
	version := corev3.ProxyProtocolConfig_V1
	if u.proxyProtocol == "v2" {
		version = corev3.ProxyProtocolConfig_V2
	}
	return socket("envoy.transport_sockets.upstream_proxy_protocol", &proxyprotocolv3.ProxyProtocolUpstreamTransport{
		Config:          &corev3.ProxyProtocolConfig{Version: version},
		TransportSocket: inner,
	})
}

// adsSource is the one way to every resource: the stream that brought this one.
func adsSource(fetch *durationpb.Duration) *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   fetch,
	}
}
