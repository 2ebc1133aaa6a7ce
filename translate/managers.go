package translate

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	setfilterstatecommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	setfilterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/config"
)

// The connection managers of HTTPS are discovered: a chain only names one. They are
// large, there is a chain for each certificate, and Envoy reads a listener whole for
// every chain that comes or goes: with a thousand certificates that took it seconds.
// Over QUIC it still does.

// manager is a connection manager that chains name.
type manager struct {
	profile
	trusting bool // what trusted proxies say is believed
	http3    bool
}

// name is that of its resource.
func (m manager) name() string {
	name := m.profile.table()
	switch {
	case m.trusting:
		return name + "/trusted"
	case m.http3:
		return name + "/h3"
	}
	return name
}

// config is what it does.
func (m manager) config(c *config.Collection) *hcmv3.HttpConnectionManager {
	stats := httpsListener
	if m.http3 {
		stats = http3Listener
	}
	h := connectionManager(c, stats, m.profile.table())
	if m.ca != "" { // what clients say themselves is removed either way
		h.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		h.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
			Subject: wrapperspb.Bool(true), Dns: true, Uri: true,
		}
	}
	if m.trusting {
		h = believing(h, trustedProxies(c))
	}
	if m.http3 {
		h.CodecType, h.Http3ProtocolOptions = hcmv3.HttpConnectionManager_HTTP3, &corev3.Http3ProtocolOptions{}
	}
	return h
}

// resource is what proxies are sent under its name.
func (m manager) resource(c *config.Collection) *Resource {
	e := &corev3.TypedExtensionConfig{Name: m.name(), TypedConfig: mustAny(m.config(c))}
	return &Resource{Kind: Extension, Name: e.Name, Message: e, Body: mustEncode(e), Refs: sortedRefs(m.refs(c))}
}

// refs is what its configuration needs.
func (m manager) refs(c *config.Collection) []Ref {
	refs := append(collectorRefs(c), Ref{Routes, m.profile.table()})
	for _, f := range sharedFilters() {
		refs = append(refs, Ref{Extension, f.name})
	}
	return refs
}

// filters are those of a chain that ends connections with a certificate: what is known
// of the connection for those that decide about requests, and the connection manager.
func (m manager) filters(c *config.Collection, certificate string) []*listenerv3.Filter {
	end := &listenerv3.Filter{
		Name: m.name(),
		ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
			ConfigSource: adsSource(durationpb.New(fetchTimeout)),
			TypeUrls:     []string{managerType},
		}},
	}
	if m.http3 { // a discovered filter never sees a QUIC connection (Envoy 1.40): clients wait in vain
		end.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(m.config(c))}
	}
	return []*listenerv3.Filter{{
		Name: "envoy.filters.network.set_filter_state",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(&setfilterstatev3.Config{
			OnNewConnection: []*setfilterstatecommonv3.FilterStateValue{{
				Key:        &setfilterstatecommonv3.FilterStateValue_ObjectKey{ObjectKey: certificateState},
				FactoryKey: "envoy.string",
				Value: &setfilterstatecommonv3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
					Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(formatLiteral(certificate))},
				}},
				ReadOnly: true,
			}},
		})},
	}, end}
}

var managerType = mustAny(&hcmv3.HttpConnectionManager{}).TypeUrl

// buildManagers brings the connection managers to the chains that there are.
func (c *collection) buildManagers(set func(*Resource), drop func(Kind, string)) {
	in := map[string]bool{}
	for _, ch := range c.chains {
		for _, m := range ch.managers(c.cfg) {
			if !in[m.name()] && !m.http3 {
				in[m.name()] = true
				set(m.resource(c.cfg))
			}
		}
	}
	for name := range c.resources[Extension] {
		if strings.HasPrefix(name, httpsTable) && !in[name] {
			drop(Extension, name)
		}
	}
}

// managers are the connection managers of a chain: that of everyone first.
func (f *filterChain) managers(c *config.Collection) []manager {
	if f.cert == nil {
		return nil
	}
	all := []manager{{profile: f.profile}}
	if len(c.TrustedProxies) > 0 {
		all = append(all, manager{profile: f.profile, trusting: true})
	}
	if servesHTTP3(c) {
		all = append(all, manager{profile: f.profile, http3: true})
	}
	return all
}
