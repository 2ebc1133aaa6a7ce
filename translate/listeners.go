package translate

import (
	"net/netip"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	streamlogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/config"
)

// Names of what every collection has.
const (
	httpListener = "http"
	httpTable    = "http" // the route configuration of plain HTTP
)

const (
	// connectionBuffer bounds what one connection may hold back. It is also how
	// much of a request's body can be sent again to another task.
	connectionBuffer = 256 << 10

	listenerFiltersTimeout = 5 * time.Second
	handshakeTimeout       = 10 * time.Second
	requestHeadersTimeout  = 30 * time.Second
	streamIdleTimeout      = 10 * time.Minute
	clientIdleTimeout      = time.Hour
)

// newHTTPListener is the listener of plain HTTP. Changing any field of it cuts
// long streams at the end of its drain (envoy-xds.md §7): it depends on the
// configuration alone, never on a service.
func newHTTPListener(c *config.Collection) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:                          httpListener,
		Address:                       bindAddress(c.Bind, c.HTTPPort),
		StatPrefix:                    httpListener,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		ListenerFiltersTimeout:        durationpb.New(listenerFiltersTimeout),
		ListenerFilters:               listenerFilters(c),
		FilterChains: clientChains(c, &listenerv3.FilterChain{
			Name:                          httpListener,
			TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
		}, connectionManager(c, httpListener, httpTable)),
	}
}

func connectionManager(c *config.Collection, stats, table string) *hcmv3.HttpConnectionManager {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: stats,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource:    adsSource(nil),
			RouteConfigName: table,
		}},
		HttpFilters: append(chain(c), &hcmv3.HttpFilter{
			Name: "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(&routerv3.Router{
				SuppressEnvoyHeaders: true,
			})},
		}),
		LocalReplyConfig: localReplies(),
		AccessLog:        accessLog(c.AccessLog),

		// Matching sees one spelling of a path, and so does the task: otherwise
		// "/x/..%2Fadmin" walks around a route that guards /admin.
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT,

		// The proxy is the edge: what clients say of themselves is not believed.
		UseRemoteAddress:  wrapperspb.Bool(true),
		XffNumTrustedHops: 0,
		InternalAddressConfig: &hcmv3.HttpConnectionManager_InternalAddressConfig{
			CidrRanges: []*corev3.CidrRange{nobody()},
		},

		ServerHeaderTransformation:   hcmv3.HttpConnectionManager_PASS_THROUGH,
		AlwaysSetRequestIdInResponse: true,

		StreamIdleTimeout:     durationpb.New(streamIdleTimeout), // routes have their own
		RequestHeadersTimeout: durationpb.New(requestHeadersTimeout),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:                  durationpb.New(clientIdleTimeout),
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER,
		},
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{AcceptHttp_10: true},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        wrapperspb.UInt32(100),
			InitialStreamWindowSize:     wrapperspb.UInt32(64 << 10),
			InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
		},
		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
	}
	trace(m, c)
	return m
}

// nobody is a range that no client comes from: without a range Envoy may count
// the private networks as internal, and believe their x-envoy-… headers.
func nobody() *corev3.CidrRange {
	return &corev3.CidrRange{AddressPrefix: "255.255.255.255", PrefixLen: wrapperspb.UInt32(32)}
}

// accessLog is JSON with fixed fields: a label never supplies a format.
func accessLog(byDefault bool) []*accesslogv3.AccessLog {
	fields := map[string]*structpb.Value{}
	for name, command := range map[string]string{
		"time": "%START_TIME%", "method": "%REQ(:METHOD)%", "authority": "%REQ(:AUTHORITY)%", "path": "%REQ(:PATH)%",
		"protocol": "%PROTOCOL%", "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
		"duration_ms": "%DURATION%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%",
		"client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "forwarded_for": "%REQ(X-FORWARDED-FOR)%",
		"user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%",
		"route": "%ROUTE_NAME%", "cluster": "%UPSTREAM_CLUSTER_RAW%", "upstream": "%UPSTREAM_HOST%",
		"attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
	} {
		fields[name] = structpb.NewStringValue(command)
	}
	return []*accesslogv3.AccessLog{{
		Name:   "envoy.access_loggers.stdout",
		Filter: logged(byDefault),
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: mustAny(&streamlogv3.StdoutAccessLog{
			AccessLogFormat: &streamlogv3.StdoutAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: fields}},
			}},
		})},
	}}
}

func bindAddress(bind string, port uint32) *corev3.Address {
	addr, err := netip.ParseAddr(bind)
	if err != nil { // config refuses it; without a configuration there is none
		addr = netip.IPv4Unspecified()
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       addr.String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		Ipv4Compat:    addr == netip.IPv6Unspecified(),
	}}}
}
