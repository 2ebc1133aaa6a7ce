package translate

import (
	"cmp"
	"errors"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	quicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/quic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
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

	var refs, quicRefs []Ref
	trusted := trustedProxies(c.cfg)
	for _, ch := range c.chains {
		if ch.cert == nil {
			tcp.FilterChains = append(tcp.FilterChains, passthroughChains(c.cfg, ch)...)
			for _, w := range ch.tunnel {
				refs = append(refs, Ref{Cluster, w.claim.route.backend.name})
			}
			continue
		}
		secrets := []Ref{{Secret, ch.cert.secret}}
		if ch.authority != nil {
			secrets = append(secrets, Ref{Secret, ch.authority.Name})
		}
		for _, m := range ch.managers(c.cfg) {
			fc := &listenerv3.FilterChain{
				Name:             ch.name(),
				FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: ch.names},
				Filters:          m.filters(c.cfg, ch.cert.state()),
			}
			needs := append([]Ref{{Extension, m.name()}, {Routes, m.profile.table()}}, secrets...)
			if m.http3 {
				fc.TransportSocket = &corev3.TransportSocket{
					Name:       "envoy.transport_sockets.quic",
					ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(&quicv3.QuicDownstreamTransport{DownstreamTlsContext: downstream(ch)})},
				}
				quic.FilterChains, quicRefs = append(quic.FilterChains, fc), append(append(quicRefs, m.refs(c.cfg)...), secrets...)
				continue
			}
			fc.TransportSocketConnectTimeout = durationpb.New(handshakeTimeout)
			fc.TransportSocket = &corev3.TransportSocket{
				Name:       "envoy.transport_sockets.tls",
				ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(downstream(ch, "h2", "http/1.1"))},
			}
			if m.trusting {
				fc.Name += "/trusted"
				fc.FilterChainMatch.SourcePrefixRanges = trusted
			}
			if c.cfg.ProxyProtocol {
				fc.FilterChainMatch.DirectSourcePrefixRanges = trusted
			}
			tcp.FilterChains, refs = append(tcp.FilterChains, fc), append(refs, needs...)
		}
	}
	set(&Resource{Kind: Listener, Name: tcp.Name, Message: tcp, Body: mustEncode(tcp), Refs: sortedRefs(refs)})
	if len(quic.FilterChains) == 0 {
		drop(Listener, http3Listener)
		return
	}
	set(&Resource{Kind: Listener, Name: quic.Name, Message: quic, Body: mustEncode(quic), Refs: sortedRefs(quicRefs)})
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
