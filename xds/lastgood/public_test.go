package lastgood

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	basicauthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/basic_auth/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

func of(t *testing.T, kind translate.Kind, m proto.Message) *translate.Resource {
	t.Helper()
	body, err := proto.Marshal(m)
	require.NoError(t, err)
	return &translate.Resource{Kind: kind, Name: "r", Body: body, Refs: []translate.Ref{{Kind: translate.Cluster, Name: "c"}, {Kind: translate.Secret, Name: "s"}}}
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	require.NoError(t, err)
	return a
}

func tableOf(t *testing.T, body []byte) *routev3.RouteConfiguration {
	t.Helper()
	var table routev3.RouteConfiguration
	require.NoError(t, proto.Unmarshal(body, &table))
	return &table
}

func guarded(t *testing.T) map[string]*anypb.Any {
	return map[string]*anypb.Any{"guard": pack(t, &routev3.FilterConfig{Config: pack(t, &basicauthv3.BasicAuthPerRoute{Users: inline("alice:" + hash)})})}
}

func route(prefix string, filters map[string]*anypb.Any) *routev3.Route {
	return &routev3.Route{
		Match:                &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix}},
		Action:               &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "c"}}},
		TypedPerFilterConfig: filters,
	}
}

func TestRoutesWithSecretsAreClosed(t *testing.T) {
	secret := guarded(t)
	unknown := map[string]*anypb.Any{"guard": {TypeUrl: "type.googleapis.com/not.linked", Value: []byte{1}}}
	sds := map[string]*anypb.Any{"guard": pack(t, &tlsv3.SdsSecretConfig{Name: "s"})}
	weighted := route("/", nil)
	weighted.GetRoute().ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{
		Clusters: []*routev3.WeightedCluster_ClusterWeight{{Name: "c", TypedPerFilterConfig: secret}},
	}}
	vh := func(filters map[string]*anypb.Any, routes ...*routev3.Route) *routev3.VirtualHost {
		return &routev3.VirtualHost{Name: "v", Domains: []string{"v.test"}, TypedPerFilterConfig: filters, Routes: routes}
	}
	for name, c := range map[string]struct {
		table  *routev3.RouteConfiguration
		closed []bool
	}{
		"nothing":        {&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vh(nil, route("/a", nil), route("/", nil))}}, []bool{false, false}},
		"one route":      {&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vh(nil, route("/a", secret), route("/", nil))}}, []bool{true, false}},
		"by SDS":         {&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vh(nil, route("/a", sds), route("/", nil))}}, []bool{true, false}},
		"not understood": {&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vh(nil, route("/a", unknown), route("/", nil))}}, []bool{true, false}},
		"one sharer":     {&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vh(nil, weighted)}}, []bool{true}},
		"the host":       {&routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{vh(secret, route("/a", nil), route("/", nil))}}, []bool{true, true}},
		"the table":      {&routev3.RouteConfiguration{TypedPerFilterConfig: secret, VirtualHosts: []*routev3.VirtualHost{vh(nil, route("/a", nil), route("/", nil))}}, []bool{true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			was := of(t, translate.Routes, c.table)
			is, err := Public(was)
			require.NoError(t, err)
			require.NotContains(t, string(is.Body), hash)
			again, err := Public(is)
			require.NoError(t, err)
			require.Same(t, is, again, "what is public stays as it is")
			any := false
			for i, r := range tableOf(t, is.Body).GetVirtualHosts()[0].GetRoutes() {
				if any = any || c.closed[i]; !c.closed[i] {
					require.Equal(t, "c", r.GetRoute().GetCluster())
					continue
				}
				require.EqualValues(t, 503, r.GetDirectResponse().GetStatus())
				require.Equal(t, "guard_unavailable", r.GetResponseHeadersToAdd()[0].GetHeader().GetValue())
				require.Empty(t, r.GetTypedPerFilterConfig())
				require.NotNil(t, r.GetMatch())
			}
			if any {
				require.Equal(t, was.Refs[:1], is.Refs)
			} else {
				require.Same(t, was, is)
			}
		})
	}
}

func TestListenersLoseTheChainsThatNeedSecrets(t *testing.T) {
	tls := pack(t, &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "s"}}}})
	secure := func() *listenerv3.FilterChain {
		return &listenerv3.FilterChain{Name: "secure", TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: tls}}}
	}
	plain := func() *listenerv3.FilterChain {
		return &listenerv3.FilterChain{Name: "plain", Filters: []*listenerv3.Filter{{Name: "f", ConfigType: &listenerv3.Filter_TypedConfig{
			TypedConfig: pack(t, &basicauthv3.BasicAuth{Users: inline(translate.Nobody)}),
		}}}}
	}
	known := plain()
	known.Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, &basicauthv3.BasicAuth{Users: inline("alice:" + hash)})}
	for name, c := range map[string]struct {
		listener *listenerv3.Listener
		left     []string
	}{
		"plain":        {&listenerv3.Listener{FilterChains: []*listenerv3.FilterChain{plain()}}, []string{"plain"}},
		"both":         {&listenerv3.Listener{FilterChains: []*listenerv3.FilterChain{secure(), plain()}}, []string{"plain"}},
		"the default":  {&listenerv3.Listener{DefaultFilterChain: secure(), FilterChains: []*listenerv3.FilterChain{plain()}}, []string{"plain"}},
		"TLS alone":    {&listenerv3.Listener{FilterChains: []*listenerv3.FilterChain{secure()}}, nil},
		"a credential": {&listenerv3.Listener{FilterChains: []*listenerv3.FilterChain{known}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			is, err := Public(of(t, translate.Listener, c.listener))
			require.NoError(t, err)
			if c.left == nil {
				require.Nil(t, is)
				return
			}
			var l listenerv3.Listener
			require.NoError(t, proto.Unmarshal(is.Body, &l))
			require.Nil(t, l.GetDefaultFilterChain())
			var left []string
			for _, chain := range l.GetFilterChains() {
				left = append(left, chain.GetName())
			}
			require.Equal(t, c.left, left)
		})
	}
}

func TestOtherResourcesStayOrGo(t *testing.T) {
	socket := func(m proto.Message) *clusterv3.Cluster {
		return &clusterv3.Cluster{Name: "c", TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, m)}}}
	}
	extension := func(m proto.Message) *corev3.TypedExtensionConfig {
		return &corev3.TypedExtensionConfig{Name: "e", TypedConfig: pack(t, m)}
	}
	jwks := &jwtv3.JwtAuthentication{Providers: map[string]*jwtv3.JwtProvider{"p": {JwksSourceSpecifier: &jwtv3.JwtProvider_LocalJwks{LocalJwks: inline(`{"keys":[]}`)}}}}
	key := &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{{PrivateKey: inline("key")}}}}
	byName := &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
		ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: "ca"},
	}}}
	for name, c := range map[string]struct {
		r     *translate.Resource
		stays bool
	}{
		"a secret":                      {of(t, translate.Secret, &tlsv3.Secret{Name: "s"}), false},
		"a cluster":                     {of(t, translate.Cluster, &clusterv3.Cluster{Name: "c"}), true},
		"a cluster whose CA is by name": {of(t, translate.Cluster, socket(byName)), true},
		"a cluster with a key":          {of(t, translate.Cluster, socket(key)), false},
		"public keys":                   {of(t, translate.Extension, extension(jwks)), true},
		"an extension with users":       {of(t, translate.Extension, extension(&basicauthv3.BasicAuth{Users: inline("alice:" + hash)})), false},
	} {
		t.Run(name, func(t *testing.T) {
			is, err := Public(c.r)
			require.NoError(t, err)
			if c.stays {
				require.Same(t, c.r, is)
			} else {
				require.Nil(t, is)
			}
		})
	}
}
