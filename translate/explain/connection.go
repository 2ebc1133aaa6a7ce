package explain

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbaccfgv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	setfilterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
)

// way is how a request comes in: the filter chain that takes its connection.
type way struct {
	port  uint32
	chain string // its name
	// manager takes requests; table is the name of its route configuration. Without
	// one the connection is passed through.
	manager *hcmv3.HttpConnectionManager
	table   string
	tunnel  *tcpproxyv3.TcpProxy
	// certificate is the name of its secret, "" where the connection is no TLS;
	// authorities that of those that clients must have a certificate of.
	certificate, authorities string
	names                    string // that the certificate is for, as the connection says
	least                    string // TLS version
}

// wayFor finds the listener that serves a scheme, and in it the filter chain that takes
// a connection. Without a listener it gives nil and false, without a chain nil and true.
func wayFor(res translate.Resources, q *request) (found *way, listens bool, err error) {
	secure := q.scheme == "https"
	for _, name := range slices.Sorted(maps.Keys(res[translate.Listener])) {
		l, ok := res[translate.Listener][name].Message.(*listenerv3.Listener)
		if !ok {
			return nil, false, fmt.Errorf("listener %q is not one", name)
		}
		if l.GetUdpListenerConfig() != nil || overTLS(l) != secure {
			continue
		}
		listens = true
		chain := chainFor(l.GetFilterChains(), q.server)
		if chain == nil {
			continue
		}
		found = &way{port: l.GetAddress().GetSocketAddress().GetPortValue(), chain: chain.GetName()}
		if err := found.read(chain, res[translate.Extension]); err != nil {
			return nil, true, fmt.Errorf("listener %q, filter chain %q: %w", name, chain.GetName(), err)
		}
		if found.manager != nil || found.tunnel != nil {
			return found, true, nil
		}
	}
	return nil, listens, nil
}

// overTLS reports whether a listener is for TLS: it looks at server names.
func overTLS(l *listenerv3.Listener) bool {
	return slices.ContainsFunc(l.GetListenerFilters(), func(f *listenerv3.ListenerFilter) bool {
		return f.GetName() == "envoy.filters.listener.tls_inspector"
	})
}

// chainFor is the filter chain for a server name by Envoy's rules: an exact name, the
// longest wildcard, then one that takes all. Chains for trusted proxies alone are left
// out: what they take is the same.
func chainFor(chains []*listenerv3.FilterChain, server string) *listenerv3.FilterChain {
	var best *listenerv3.FilterChain
	rank := -1
	for _, c := range chains {
		m := c.GetFilterChainMatch()
		if len(m.GetSourcePrefixRanges()) > 0 {
			continue
		}
		r := -1
		if len(m.GetServerNames()) == 0 {
			r = 0
		}
		for _, name := range m.GetServerNames() {
			if suffix, wild := strings.CutPrefix(name, "*"); wild && strings.HasSuffix(server, suffix) && len(server) > len(suffix) {
				r = max(r, len(suffix))
			} else if name == server {
				r = max(r, 1<<16)
			}
		}
		if r > rank {
			best, rank = c, r
		}
	}
	return best
}

// read takes from a filter chain what becomes of a connection. Its connection manager
// may be discovered.
func (w *way) read(c *listenerv3.FilterChain, discovered map[string]*translate.Resource) error {
	for _, f := range c.GetFilters() {
		config := f.GetTypedConfig()
		if f.GetConfigDiscovery() != nil {
			r := discovered[f.GetName()]
			if r == nil {
				return fmt.Errorf("its filter %q is not there", f.GetName())
			}
			config = r.Message.(*corev3.TypedExtensionConfig).GetTypedConfig()
		}
		m, t, said := &hcmv3.HttpConnectionManager{}, &tcpproxyv3.TcpProxy{}, &setfilterstatev3.Config{}
		switch any := config; {
		case any.MessageIs(m):
			if err := any.UnmarshalTo(m); err != nil {
				return fmt.Errorf("read its connection manager: %w", err)
			}
			w.manager, w.table = m, m.GetRds().GetRouteConfigName()
		case any.MessageIs(said):
			if err := any.UnmarshalTo(said); err != nil {
				return fmt.Errorf("read what its connections say: %w", err)
			}
			for _, v := range said.GetOnNewConnection() {
				w.names = strings.ReplaceAll(v.GetFormatString().GetTextFormatSource().GetInlineString(), "%%", "%")
			}
		case any.MessageIs(t):
			if err := any.UnmarshalTo(t); err != nil {
				return fmt.Errorf("read its TCP proxy: %w", err)
			}
			w.tunnel = t
		}
	}
	if c.GetTransportSocket() == nil {
		return nil
	}
	ctx := &tlsv3.DownstreamTlsContext{}
	if err := c.GetTransportSocket().GetTypedConfig().UnmarshalTo(ctx); err != nil {
		return fmt.Errorf("read its TLS: %w", err)
	}
	common := ctx.GetCommonTlsContext()
	for _, s := range common.GetTlsCertificateSdsSecretConfigs() {
		w.certificate = s.GetName()
	}
	w.authorities = common.GetValidationContextSdsSecretConfig().GetName()
	if common.GetTlsParams().GetTlsMinimumProtocolVersion() == tlsv3.TlsParameters_TLSv1_3 {
		w.least = "TLS 1.3"
	}
	return nil
}

// connect says what becomes of the connection before there is a request. It is false
// where nothing comes after that.
func (a *Answer) connect(res translate.Resources, q *request, w *way) (bool, error) {
	if w.tunnel != nil {
		return false, a.passThrough(res, w, q)
	}
	if w.certificate != "" {
		a.Certificate = w.certificate
		why := fmt.Sprintf("connections for %s are served with the %s", cmp.Or(q.server, "no host"), certificateText(w.certificate))
		if w.least != "" {
			why += ", " + w.least + " at least"
		}
		if w.authorities != "" {
			why += fmt.Sprintf(", and only to clients with a certificate of %s", strings.TrimPrefix(w.authorities, "ca/"))
		}
		a.because(why)
	}
	return true, nil
}

// passThrough follows a connection that the proxy does not look into.
func (a *Answer) passThrough(res translate.Resources, w *way, q *request) error {
	a.Action = Forward
	a.because(fmt.Sprintf("connections for %s are passed through as they are (ssl_passthrough): the task itself speaks TLS", q.server))
	a.Cluster = w.tunnel.GetCluster()
	for _, c := range w.tunnel.GetWeightedClusters().GetClusters() {
		targets, err := endpointsOf(res, c.GetName())
		if err != nil {
			return err
		}
		a.Shares = append(a.Shares, Share{Service: serviceOf(c.GetName()), Cluster: c.GetName(), Weight: c.GetWeight(), Endpoints: targets})
	}
	if len(a.Shares) > 0 {
		a.Cluster = slices.MaxFunc(a.Shares, func(x, y Share) int { return cmp.Compare(x.Weight, y.Weight) }).Cluster
	}
	a.Service = serviceOf(a.Cluster)
	targets, err := endpointsOf(res, a.Cluster)
	if err != nil {
		return err
	}
	if a.Endpoints = targets; len(targets) == 0 {
		a.Action = Reject
		a.because(a.Service + " has no running task: the connection is closed")
	}
	return nil
}

// certificateText is a secret's name in words.
func certificateText(secret string) string {
	kind, name, _ := strings.Cut(strings.TrimPrefix(secret, "cert/"), "/")
	switch kind {
	case "local":
		return "certificate of the development authority"
	case "file", "secret", "config":
		cert, key, apart := strings.Cut(name, "+")
		if apart {
			return fmt.Sprintf("certificate of the %s %s and the key of the %s", kind, cert, strings.Replace(key, "/", " ", 1))
		}
		return fmt.Sprintf("certificate of the %s %s", kind, name)
	}
	return "certificate " + secret
}

// serverName is what a client says in its handshake for a host; nothing for an address.
func serverName(authority string) string {
	if i := portStart(authority); i >= 0 {
		authority = authority[:i]
	}
	if _, err := netip.ParseAddr(strings.Trim(authority, "[]")); err == nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(authority, "."))
}

// covered reports whether a host is reached on the connection: its certificate must be
// for the host. If not, it gives the reason that the answer carries.
func (w *way) covered(host *routev3.VirtualHost, authority string) (reason string, is bool, err error) {
	packed := host.GetTypedPerFilterConfig()[translate.CoveredFilter]
	if packed == nil {
		return "", true, nil
	}
	per := &rbacv3.RBACPerRoute{}
	if err := packed.UnmarshalTo(per); err != nil {
		return "", false, fmt.Errorf("read what virtual host %q says of connections: %w", host.GetName(), err)
	}
	for reason, p := range per.GetRbac().GetRules().GetPolicies() {
		for _, who := range p.GetPrincipals() { // whom it denies
			if !slices.ContainsFunc(who.GetNotId().GetOrIds().GetIds(), func(id *rbaccfgv3.Principal) bool { return w.holds(id, authority) }) {
				return reason, false, nil
			}
		}
	}
	return "", true, nil
}

// holds evaluates what is said of a connection and of the host that is asked for on it.
func (w *way) holds(id *rbaccfgv3.Principal, authority string) bool {
	switch {
	case id.GetAndIds() != nil:
		return !slices.ContainsFunc(id.GetAndIds().GetIds(), func(p *rbaccfgv3.Principal) bool { return !w.holds(p, authority) })
	case id.GetOrIds() != nil:
		return slices.ContainsFunc(id.GetOrIds().GetIds(), func(p *rbaccfgv3.Principal) bool { return w.holds(p, authority) })
	case id.GetFilterState() != nil:
		return strings.Contains(w.names, id.GetFilterState().GetStringMatch().GetContains())
	}
	re, err := regexp.Compile("^(?:" + id.GetHeader().GetStringMatch().GetSafeRegex().GetRegex() + ")$")
	return err == nil && re.MatchString(authority)
}

// certificateTroubles is what is wrong with certificates of a collection.
func certificateTroubles(problems []translate.Problem, collection string) []string {
	const most = 5
	var out []string
	for _, p := range problems {
		key := p.Label[strings.LastIndexByte(p.Label, '.')+1:]
		about := key == "ssl_cert" || key == "ssl_key" || key == "tls" || strings.HasPrefix(p.Label, "certificates.")
		if p.Severity == labels.Error && about && p.Collection == collection && len(out) < most {
			out = append(out, fmt.Sprintf("%s, %s: %s; %s", cmp.Or(p.Service, "the collection"), p.Label, p.Reason, p.Hint))
		}
	}
	return out
}
