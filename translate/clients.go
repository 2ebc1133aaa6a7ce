package translate

import (
	"net/netip"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	xffv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/original_ip_detection/xff/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/config"
)

// Who the client is: the peer of the connection, unless that is one of the
// collection's trusted_proxies. Guards by address, rates by address, x-real-ip and
// the access log all see what is found out here.

// clientChains gives the filter chains in place of one: as it is for everyone, and
// a second one for trusted proxies, whose word about their clients is taken. Two,
// because Envoy knows the edge only as a whole: a connection manager that looks at
// X-Forwarded-For by ranges no longer cleans what strangers say of themselves.
//
// Under proxy_protocol both are for connections from trusted proxies alone; for
// others there is no chain, and Envoy closes them. The PROXY header then says who
// the peer is, and X-Forwarded-For is believed where that is a trusted proxy again.
func clientChains(c *config.Collection, chain *listenerv3.FilterChain, manager *hcmv3.HttpConnectionManager) []*listenerv3.FilterChain {
	chains := []*listenerv3.FilterChain{withManager(chain, manager)}
	trusted := trustedProxies(c)
	if len(trusted) == 0 {
		return chains
	}
	front := proto.CloneOf(chain)
	front.Name += "/trusted"
	matchOf(front).SourcePrefixRanges = trusted
	chains = append(chains, withManager(front, believing(manager, trusted)))
	if c.ProxyProtocol {
		for _, fc := range chains {
			matchOf(fc).DirectSourcePrefixRanges = trusted
		}
	}
	return chains
}

func trustedProxies(c *config.Collection) []*corev3.CidrRange {
	var ranges []netip.Prefix
	for _, text := range c.TrustedProxies {
		if p, err := netip.ParsePrefix(text); err == nil { // config refuses others
			ranges = append(ranges, p)
		}
	}
	return cidrs(ranges)
}

// believing is the connection manager for trusted proxies. The client is the last
// address of X-Forwarded-For that is none of them; X-Forwarded-Proto is theirs to
// say. x-envoy-… headers steer the router, and are nobody's to say.
func believing(m *hcmv3.HttpConnectionManager, trusted []*corev3.CidrRange) *hcmv3.HttpConnectionManager {
	m = proto.CloneOf(m)
	m.UseRemoteAddress = wrapperspb.Bool(false)
	m.OriginalIpDetectionExtensions = []*corev3.TypedExtensionConfig{{
		Name: "envoy.http.original_ip_detection.xff",
		TypedConfig: mustAny(&xffv3.XffConfig{
			XffTrustedCidrs: &xffv3.XffTrustedCidrs{Cidrs: trusted},
			SkipXffAppend:   wrapperspb.Bool(false),
		}),
	}}
	m.EarlyHeaderMutationExtensions = []*corev3.TypedExtensionConfig{{
		Name: "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: mustAny(&earlyv3.HeaderMutation{Mutations: []*mutationv3.HeaderMutation{{
			Action: &mutationv3.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
				KeyMatcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "x-envoy-"}},
			}},
		}}}),
	}}
	return m
}

func matchOf(fc *listenerv3.FilterChain) *listenerv3.FilterChainMatch {
	if fc.FilterChainMatch == nil {
		fc.FilterChainMatch = &listenerv3.FilterChainMatch{}
	}
	return fc.FilterChainMatch
}

func withManager(fc *listenerv3.FilterChain, m *hcmv3.HttpConnectionManager) *listenerv3.FilterChain {
	fc.Filters = []*listenerv3.Filter{{
		Name:       "envoy.filters.network.http_connection_manager",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(m)},
	}}
	return fc
}

// listenerFilters look at a connection before a filter chain is chosen.
func listenerFilters(c *config.Collection) []*listenerv3.ListenerFilter {
	if !c.ProxyProtocol {
		return nil
	}
	return []*listenerv3.ListenerFilter{{
		Name:       "envoy.filters.listener.proxy_protocol",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: mustAny(&proxyprotocolv3.ProxyProtocol{StatPrefix: httpListener})},
	}}
}
