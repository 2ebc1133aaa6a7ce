package translate

import (
	"cmp"
	"errors"
	"regexp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbaccfgv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	quicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/quic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
)

const (
	httpsListener = "https"
	http3Listener = "https-h3"
	httpsTable    = "https" // the route configuration of hosts without a profile; see profile.table
)

// servesHTTP3 reports whether there is a listener for QUIC. The PROXY protocol has no
// place in it.
func servesHTTP3(c *config.Collection) bool { return c.HTTP3 && !c.ProxyProtocol }

// buildSecureListeners brings the listeners of HTTPS to the chains that there are.
// Without any there is none: a connection is refused.
func (c *collection) buildSecureListeners(set func(*Resource), drop func(Kind, string)) {
	if len(c.chains) == 0 {
		drop(Listener, httpsListener)
		drop(Listener, http3Listener)
		return
	}
	tcp := &listenerv3.Listener{
		Name:                          httpsListener,
		Address:                       bindAddress(c.cfg.Bind, c.cfg.HTTPSPort),
		StatPrefix:                    httpsListener,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		ListenerFiltersTimeout:        durationpb.New(listenerFiltersTimeout),
		ListenerFilters: append(listenerFilters(c.cfg), &listenerv3.ListenerFilter{
			Name:       "envoy.filters.listener.tls_inspector",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: mustAny(&tlsinspectorv3.TlsInspector{})},
		}),
	}
	quic := &listenerv3.Listener{
		Name:              http3Listener,
		Address:           bindAddress(c.cfg.Bind, c.cfg.HTTPSPort),
		StatPrefix:        http3Listener,
		UdpListenerConfig: &listenerv3.UdpListenerConfig{QuicOptions: &listenerv3.QuicProtocolOptions{}},
	}
	quic.Address.GetSocketAddress().Protocol = corev3.SocketAddress_UDP

	refs := collectorRefs(c.cfg)
	for _, f := range sharedFilters() {
		refs = append(refs, Ref{Extension, f.name})
	}
	for _, ch := range c.chains {
		if ch.cert == nil {
			tcp.FilterChains = append(tcp.FilterChains, passthroughChains(c.cfg, ch)...)
			for _, w := range ch.tunnel {
				refs = append(refs, Ref{Cluster, w.claim.route.backend.name})
			}
			continue
		}
		refs = append(refs, Ref{Routes, ch.profile.table()}, Ref{Secret, ch.cert.secret})
		if ch.authority != nil {
			refs = append(refs, Ref{Secret, ch.authority.Name})
		}
		tcp.FilterChains = append(tcp.FilterChains, clientChains(c.cfg, &listenerv3.FilterChain{
			Name:                          ch.name(),
			FilterChainMatch:              &listenerv3.FilterChainMatch{ServerNames: ch.names},
			TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
			TransportSocket: &corev3.TransportSocket{
				Name:       "envoy.transport_sockets.tls",
				ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(downstream(ch, "h2", "http/1.1"))},
			},
		}, secureManager(c.cfg, ch, httpsListener))...)
		if servesHTTP3(c.cfg) {
			m := secureManager(c.cfg, ch, http3Listener)
			m.CodecType, m.Http3ProtocolOptions = hcmv3.HttpConnectionManager_HTTP3, &corev3.Http3ProtocolOptions{}
			quic.FilterChains = append(quic.FilterChains, withManager(&listenerv3.FilterChain{
				Name:             ch.name(),
				FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: ch.names},
				TransportSocket: &corev3.TransportSocket{
					Name:       "envoy.transport_sockets.quic",
					ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(&quicv3.QuicDownstreamTransport{DownstreamTlsContext: downstream(ch)})},
				},
			}, m))
		}
	}
	refs = sortedRefs(refs)
	set(&Resource{Kind: Listener, Name: tcp.Name, Message: tcp, Body: mustEncode(tcp), Refs: refs})
	if len(quic.FilterChains) == 0 {
		drop(Listener, http3Listener)
		return
	}
	refs = slices.DeleteFunc(slices.Clone(refs), func(r Ref) bool { return r.Kind == Cluster })
	refs = sortedRefs(append(refs, collectorRefs(c.cfg)...))
	set(&Resource{Kind: Listener, Name: quic.Name, Message: quic, Body: mustEncode(quic), Refs: refs})
}

// downstream is TLS with clients, as a chain asks for it.
func downstream(ch *filterChain, protocols ...string) *tlsv3.DownstreamTlsContext {
	least := tlsv3.TlsParameters_TLSv1_2
	if ch.tls13 {
		least = tlsv3.TlsParameters_TLSv1_3
	}
	t := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: least, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
		AlpnProtocols:                  protocols,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{bySDS(ch.cert.secret)},
	}}
	if ch.ca != "" {
		t.RequireClientCertificate = wrapperspb.Bool(true)
		t.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{ValidationContextSdsSecretConfig: bySDS(ch.ca)}
	}
	return t
}

// secureManager serves the table of a chain's profile. A certificate is for its own
// hosts: another host on its connection is sent away, so that a client that was let in
// for one never reaches the next by its Host header.
func secureManager(c *config.Collection, ch *filterChain, stats string) *hcmv3.HttpConnectionManager {
	m := connectionManager(c, stats, ch.profile.table())
	m.HttpFilters = slices.Insert(m.HttpFilters, 0, &hcmv3.HttpFilter{
		Name:       "covered",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(coveredOnly(ch.cert.pair.Names))},
	})
	if ch.ca != "" { // what clients say themselves is removed either way
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
			Subject: wrapperspb.Bool(true), Dns: true, Uri: true,
		}
	}
	return m
}

// coveredOnly sends requests away for hosts that a certificate is not for.
func coveredOnly(names []string) *rbacv3.RBAC {
	set := &rbaccfgv3.Permission_Set{}
	for _, name := range names {
		set.Rules = append(set.Rules, &rbaccfgv3.Permission{Rule: &rbaccfgv3.Permission_Header{Header: &routev3.HeaderMatcher{
			Name: ":authority",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: authorityOf(name)}},
			}},
		}}})
	}
	return &rbacv3.RBAC{Rules: &rbaccfgv3.RBAC{
		Action: rbaccfgv3.RBAC_DENY,
		Policies: map[string]*rbaccfgv3.Policy{misdirected.reason: {
			Permissions: []*rbaccfgv3.Permission{{Rule: &rbaccfgv3.Permission_NotRule{NotRule: &rbaccfgv3.Permission{
				Rule: &rbaccfgv3.Permission_OrRules{OrRules: set},
			}}}},
			Principals: []*rbaccfgv3.Principal{anyAddress()},
		}},
	}}
}

// authorityOf matches the Host header of a certificate's name: any case, the root's
// dot, any port; one label in place of a wildcard.
func authorityOf(name string) string {
	label := ""
	if len(name) > 2 && name[:2] == "*." {
		label, name = `[^.:]+\.`, name[2:]
	}
	return `(?i)` + label + regexp.QuoteMeta(name) + `\.?(:[0-9]+)?`
}

// secretsOfChains are those that listeners name.
func (c *collection) secretsOfChains(in map[string]*tlsv3.Secret) {
	inUse := map[string]bool{}
	for _, ch := range c.chains {
		if ch.cert == nil {
			continue
		}
		inUse[ch.cert.secret] = true
		if ch.authority != nil {
			inUse[ch.authority.Name] = true
		}
	}
	// Not what the chains were made of: contents change, and chains do not.
	put := func(cert *certificate, authority *tlsv3.Secret) {
		if cert != nil && inUse[cert.secret] {
			in[cert.secret] = cert.resource()
		}
		if authority != nil && inUse[authority.Name] {
			in[authority.Name] = authority
		}
	}
	for _, cert := range append(slices.Clone(c.listed), c.standard) {
		put(cert, nil)
	}
	for _, h := range c.published.values() {
		if h.tls.served() && !(h.tls.cert.listed && !h.tls.strict()) {
			put(h.tls.cert, h.tls.authority)
		}
	}
}

// setStandard finds the certificate for connections that name no host, or none that
// has one.
func (c *collection) setStandard(b *Builder) {
	before := c.standard
	c.standard, c.standardProblems = nil, nil
	name := c.cfg.Certificates.Default
	if name == "" {
		return
	}
	for _, cert := range c.listed {
		if cert.secret == "cert/file/"+name {
			c.standard = cert
		}
	}
	if c.standard == nil {
		c.standard, c.standardProblems = b.standardOf(c, name)
	}
	if (before == nil) != (c.standard == nil) || before != nil && (before.secret != c.standard.secret || !slices.Equal(before.pair.Names, c.standard.pair.Names)) {
		c.rechain = true
	}
	c.secret = c.secret || cmp.Or(before, c.standard) != nil
}

// standardOf is the certificate that certificates.default names, where it is none of
// the collection's directories.
func (b *Builder) standardOf(c *collection, name string) (*certificate, []Problem) {
	problem := func(severity labels.Severity, reason, hint string) Problem {
		return Problem{Severity: severity, Collection: c.name, Label: "certificates.default", Value: name, Reason: reason, Hint: hint}
	}
	item, err := secrets.Find(b.picture, b.material, c.name, "", name)
	if missing, ok := errors.AsType[*secrets.NotFound](err); ok {
		return nil, []Problem{problem(labels.Error, err.Error()+": connections for unknown hosts are refused", missing.Hint(c.name))}
	}
	if why := b.keepsKeys(item); why != "" {
		return nil, []Problem{problem(labels.Error, why, "give the channel its TLS (xds.tls)")}
	}
	pair, findings, err := secrets.ReadPair(item, secrets.Item{}, b.material.At())
	if err != nil {
		hint := ""
		if r, ok := errors.AsType[*secrets.Refusal](err); ok {
			hint = r.Hint()
		}
		return nil, []Problem{problem(labels.Error, err.Error()+": connections for unknown hosts are refused", hint)}
	}
	var ps []Problem
	for _, f := range findings {
		ps = append(ps, problem(labels.Warning, f.Text, f.Hint))
	}
	return &certificate{secret: secretName("cert", item), pair: pair, listed: true}, ps
}
