package translate

import (
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
)

// inside are the keys that need to see requests, and what is wrong without them: a
// connection that is passed through shows its server name and nothing else.
var inside = []string{
	"context_root", "context_root_rewrite", "path", "path_regex", "methods", "match_header", "match_query",
	"rewrite_path", "rewrite_regex", "rewrite_host", "redirect", "respond", "ssl_backend", "default_backend",
}

// tunnels checks a route whose connections are passed through.
func (r *route) tunnels() {
	for key := range r.label.Labels {
		first, _, _ := strings.Cut(key, ".")
		switch class := labels.ClassOf(first); {
		case slices.Contains(inside, first) && !r.label.Standard(first):
			r.lacks(errorAt(key, "remove it, or ssl_passthrough", "cannot be had where TLS goes straight to the task: only the server name is seen"), true)
		case class == labels.Guard && !slices.Contains([]string{"ssl_passthrough", "allow_ips", "deny_ips", "ssl_only", "tls_min_version", "client_ca"}, first) && !r.label.Standard(first):
			r.lacks(errorAt(key, "remove it, or ssl_passthrough", "cannot be checked where TLS goes straight to the task"), true)
		}
	}
}

// tunnel gives the shares of a host whose connections are passed through.
func (c *collection) tunnel(claims []*claim) []weighted {
	shares := weigh(claims)
	for _, s := range shares {
		s.claim.shared = len(shares) > 1
	}
	return shares
}

// passthroughChains send connections with a server name to a service as they are.
func passthroughChains(c *config.Collection, ch *filterChain) []*listenerv3.FilterChain {
	oldest := ch.tunnel[0].claim.route
	proxy := &tcpproxyv3.TcpProxy{
		StatPrefix:         httpsListener,
		IdleTimeout:        durationpb.New(oldest.label.IdleTimeout),
		MaxConnectAttempts: wrapperspb.UInt32(oldest.label.Retries + 1),
	}
	if c.AccessLog {
		proxy.AccessLog = accessLog(true)
		proxy.AccessLog[0].Filter = nil // it asks about requests
	}
	if len(ch.tunnel) == 1 {
		proxy.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: oldest.backend.name}
	} else {
		w := &tcpproxyv3.TcpProxy_WeightedCluster{}
		for _, s := range ch.tunnel {
			if s.weight > 0 { // Envoy takes no 0 here
				w.Clusters = append(w.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: s.claim.route.backend.name, Weight: s.weight})
			}
		}
		proxy.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	}
	fc := &listenerv3.FilterChain{
		Name:             ch.name(),
		FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: ch.names},
	}
	if rules := addressRules(oldest.label); rules != nil {
		fc.Filters = append(fc.Filters, &listenerv3.Filter{
			Name:       "envoy.filters.network.rbac",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(&rbacv3.RBAC{Rules: rules, StatPrefix: httpsListener})},
		})
	}
	fc.Filters = append(fc.Filters, &listenerv3.Filter{
		Name:       "envoy.filters.network.tcp_proxy",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(proxy)},
	})
	if c.ProxyProtocol {
		fc.FilterChainMatch.DirectSourcePrefixRanges = trustedProxies(c)
	}
	return []*listenerv3.FilterChain{fc}
}
