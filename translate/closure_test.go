package translate

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	oauth2v3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/oauth2/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	quicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/quic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/config"
)

func contains(s, sub string) bool { return strings.Contains(s, sub) }

// requireClosed checks what Envoy needs of every collection: each resource valid
// by itself and equal to its bytes, no reference into nothing, no domain twice.
func requireClosed(t testing.TB, b *Builder, cfg *config.Config) {
	t.Helper()
	for name := range cfg.Collections {
		res := b.Resources(name)
		for k := range res {
			for n, r := range res[k] {
				require.Equal(t, Kind(k), r.Kind)
				require.Equal(t, n, r.Name)
				require.NoError(t, r.Message.(validator).ValidateAll(), "%s %s", r.Kind, n)
				bytes, err := deterministic.Marshal(r.Message)
				require.NoError(t, err)
				require.Equal(t, bytes, r.Body, "%s %s: Body is not the deterministic form of Message", r.Kind, n)
				back := r.Message.ProtoReflect().New().Interface()
				require.NoError(t, proto.Unmarshal(r.Body, back))
				require.True(t, proto.Equal(back, r.Message), "%s %s: Body says something else than Message", r.Kind, n)
				for _, ref := range r.Refs {
					require.NotNil(t, res[ref.Kind][ref.Name], "%s %s needs %s", r.Kind, n, ref.Name)
				}
			}
		}
		named := tunnelled(t, res)
		if e, ok := collector(cfg.Collections[name]); ok {
			named[collectorCluster(e)] = true
		}
		for n, r := range res[Routes] {
			refs := map[string]bool{}
			for _, ref := range r.Refs {
				refs[ref.Name] = true
			}
			domains := map[string]string{}
			for _, vh := range r.Message.(*routev3.RouteConfiguration).VirtualHosts {
				for _, d := range vh.Domains {
					d = strings.ToLower(d)
					require.Empty(t, domains[d], "domain %s twice in table %s", d, n)
					domains[d] = vh.Name
				}
				require.NotEmpty(t, vh.Routes, "host %s", vh.Name)
				for _, route := range vh.Routes {
					for _, c := range clustersOf(t, res, route) {
						require.NotNil(t, res[Cluster][c], "route %s of %s: no cluster %s", route.Name, vh.Name, c)
						require.True(t, refs[c], "table %s does not say that it needs %s", n, c)
						named[c] = true
					}
				}
			}
			require.Contains(t, domains, "*", "table %s", n)
		}
		eds := 0
		for n, r := range res[Cluster] {
			require.True(t, named[n], "cluster %s: no route names it", n)
			if _, outside := externalNamed(strings.TrimPrefix(n, "otlp+")); outside {
				require.False(t, r.EDS)
				continue
			}
			require.True(t, r.EDS)
			require.NotNil(t, res[Endpoints][n], "cluster %s has no endpoints", n)
			eds++
		}
		require.Len(t, res[Endpoints], eds)
		for n, r := range res[Listener] {
			requireChains(t, res, n, r)
		}
	}
}

// requireChains checks that every filter chain of a listener has what it names, and
// that no server name leads to two.
func requireChains(t testing.TB, res Resources, name string, r *Resource) {
	t.Helper()
	needs := map[Ref]bool{}
	for _, ref := range r.Refs {
		needs[ref] = true
	}
	servers, called := map[string]string{}, map[string]bool{}
	for _, chain := range r.Message.(*listenerv3.Listener).FilterChains {
		require.False(t, called[chain.Name], "listener %s: two chains %s", name, chain.Name)
		called[chain.Name] = true
		for _, server := range chain.GetFilterChainMatch().GetServerNames() {
			at := fmt.Sprint(server, chain.FilterChainMatch.SourcePrefixRanges)
			require.Empty(t, servers[at], "listener %s: server name %s twice", name, server)
			servers[at] = chain.Name
		}
		end := chain.Filters[len(chain.Filters)-1]
		last := end.GetTypedConfig()
		if end.GetConfigDiscovery() != nil {
			require.True(t, needs[Ref{Extension, end.Name}], "listener %s", name)
			last = res[Extension][end.Name].Message.(*corev3.TypedExtensionConfig).TypedConfig
		}
		if hcm := new(hcmv3.HttpConnectionManager); last.MessageIs(hcm) {
			require.NoError(t, last.UnmarshalTo(hcm))
			require.NoError(t, hcm.ValidateAll())
			require.True(t, needs[Ref{Routes, hcm.GetRds().RouteConfigName}], "listener %s", name)
		} else {
			require.NoError(t, last.UnmarshalTo(new(tcpproxyv3.TcpProxy)))
		}
		if chain.TransportSocket == nil {
			continue
		}
		var ctx *tlsv3.DownstreamTlsContext
		m, err := chain.TransportSocket.GetTypedConfig().UnmarshalNew()
		require.NoError(t, err)
		if ctx, _ = m.(*tlsv3.DownstreamTlsContext); ctx == nil {
			ctx = m.(*quicv3.QuicDownstreamTransport).DownstreamTlsContext
		}
		require.NoError(t, ctx.ValidateAll())
		named := ctx.CommonTlsContext.TlsCertificateSdsSecretConfigs
		if ca := ctx.CommonTlsContext.GetValidationContextSdsSecretConfig(); ca != nil {
			require.True(t, ctx.RequireClientCertificate.GetValue())
			named = append(named, ca)
		}
		for _, s := range named {
			require.True(t, needs[Ref{Secret, s.Name}], "listener %s, secret %s", name, s.Name)
			require.True(t, proto.Equal(bySDS(s.Name), s))
		}
	}
}

// tunnelled are the clusters that listeners name themselves.
func tunnelled(t testing.TB, res Resources) map[string]bool {
	named := map[string]bool{}
	for _, r := range res[Listener] {
		for _, chain := range r.Message.(*listenerv3.Listener).FilterChains {
			p := new(tcpproxyv3.TcpProxy)
			if last := chain.Filters[len(chain.Filters)-1].GetTypedConfig(); !last.MessageIs(p) || last.UnmarshalTo(p) != nil {
				continue
			}
			require.NoError(t, p.ValidateAll())
			if c := p.GetCluster(); c != "" {
				named[c] = true
			}
			for _, c := range p.GetWeightedClusters().GetClusters() {
				named[c.Name] = true
			}
		}
	}
	return named
}

func clustersOf(t testing.TB, res Resources, r *routev3.Route) []string {
	out := askedBy(t, res, r)
	a := r.GetRoute()
	if a == nil {
		return out
	}
	for _, m := range a.RequestMirrorPolicies {
		out = append(out, m.Cluster)
	}
	if c := a.GetCluster(); c != "" {
		return append(out, c)
	}
	total := uint64(0)
	for _, c := range a.GetWeightedClusters().GetClusters() {
		out = append(out, c.Name)
		total += uint64(c.Weight.GetValue())
	}
	require.NotEmpty(t, a.GetWeightedClusters().GetClusters())
	require.Positive(t, total)
	require.LessOrEqual(t, total, uint64(1<<32-1))
	return out
}

// askedBy is whom the guards of a route ask.
func askedBy(t testing.TB, res Resources, r *routev3.Route) (out []string) {
	t.Helper()
	if packed := r.TypedPerFilterConfig[jwtName]; packed != nil {
		var per jwtv3.PerRouteConfig
		require.NoError(t, packed.UnmarshalTo(&per))
		var all jwtv3.JwtAuthentication
		require.NoError(t, res[Extension][jwtName].Message.(*corev3.TypedExtensionConfig).TypedConfig.UnmarshalTo(&all))
		require.NoError(t, all.ValidateAll())
		p := all.Providers[all.RequirementMap[per.GetRequirementName()].GetProviderName()]
		require.NotNil(t, p, "route %s: no provider", r.Name)
		if c := p.GetRemoteJwks().GetHttpUri().GetCluster(); c != "" {
			out = append(out, c)
		}
	}
	if packed := r.TypedPerFilterConfig[oidc.name]; packed != nil {
		var chain chainv3.FilterChainConfigPerRoute
		require.NoError(t, packed.UnmarshalTo(&chain))
		require.NoError(t, chain.ValidateAll())
		require.Len(t, chain.FilterChain.Filters, 3)
		var o oauth2v3.OAuth2
		require.NoError(t, chain.FilterChain.Filters[1].TypedConfig.UnmarshalTo(&o))
		require.NoError(t, o.ValidateAll())
		for _, s := range []*tlsv3.SdsSecretConfig{o.Config.Credentials.TokenSecret, o.Config.Credentials.GetHmacSecret()} {
			require.NotNil(t, res[Secret][s.Name], "route %s: no secret %s", r.Name, s.Name)
			require.True(t, proto.Equal(bySDS(s.Name), s))
		}
		out = append(out, o.Config.TokenEndpoint.GetCluster())
	}
	packed := r.TypedPerFilterConfig[extAuth.name]
	if packed == nil {
		return out
	}
	var chain chainv3.FilterChainConfigPerRoute
	require.NoError(t, packed.UnmarshalTo(&chain))
	for _, f := range chain.FilterChain.Filters {
		m, err := f.TypedConfig.UnmarshalNew()
		require.NoError(t, err)
		require.NoError(t, m.(validator).ValidateAll())
		if a, ok := m.(*authzv3.ExtAuthz); ok {
			require.False(t, a.FailureModeAllow)
			out = append(out, cmp.Or(a.GetHttpService().GetServerUri().GetCluster(), a.GetGrpcService().GetEnvoyGrpc().GetClusterName()))
		}
	}
	require.NotEmpty(t, out)
	return out
}
