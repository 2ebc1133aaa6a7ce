package translate

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/translate/labels"
)

// upstreamTLS is how TLS is spoken to tasks. It is compared with ==.
type upstreamTLS struct {
	on   bool
	name string // that the handshake asks for and the certificate is checked for: a host, or an IP address; "" where none is known
	// authorities is who may have issued the certificate: "" anybody at all, systemCA,
	// or the name of the secret that has them.
	authorities string
}

// systemCA stands for the authorities of the proxy's own image.
const systemCA = "system"

// taskTLS is what the labels of a route say about TLS to its tasks, and the secret that
// it needs. What cannot be had closes the route: nothing is ever sent to a task in the
// clear, or unchecked, where its labels ask for more.
func (r *route) taskTLS() (u upstreamTLS, authorities *tlsv3.Secret, err error) {
	l := r.label
	verify := l.SSLBackendVerify
	if verify == "none" {
		verify = ""
	}
	if !l.SSLBackend {
		for _, key := range []string{given("ssl_backend_tls_verify", verify != ""), given("ssl_backend_sni", l.SSLBackendSNI != "")} {
			if key != "" && err == nil {
				err = r.needs(key, "ssl_backend")
			}
		}
		return upstreamTLS{}, nil, err
	}
	u = upstreamTLS{on: true, name: l.SSLBackendSNI}
	if u.name == "" {
		u.name = firstExact(l.Hosts)
	}
	switch verify {
	case "":
		return u, nil, nil
	case "system":
		u.authorities = systemCA
	default:
		if authorities, err = r.authorities("ssl_backend_tls_verify", verify); err != nil {
			return u, nil, err
		}
		u.authorities = authorities.Name
	}
	if u.name == "" {
		return u, nil, errorAt("ssl_backend_tls_verify", "add "+r.key("ssl_backend_sni")+": the name that the task's certificate is for",
			"checks for which name a certificate is, and no exact host says that")
	}
	return u, authorities, nil
}

// suits is an error where the tasks of another service, which stands in for this one,
// would be spoken to with less than that service asks for, or could not be.
func (u upstreamTLS) suits(be *backend) error {
	switch t := be.settings.tls; {
	case t.on && !u.on:
		return errorAt("failover", "give both services the same ssl_backend", "service %s wants TLS to its tasks (ssl_backend), and would be spoken to as this one is", be.svc.name)
	case !t.on && u.on:
		return errorAt("failover", "give both services the same ssl_backend", "service %s has no TLS to its tasks, and would be spoken to as this one is (ssl_backend)", be.svc.name)
	case t.authorities != "" && t.authorities != u.authorities:
		return errorAt("failover", "give both services the same ssl_backend_tls_verify", "service %s wants the certificates of its tasks to be checked by others, and would be spoken to as this one is", be.svc.name)
	}
	return nil
}

// context is TLS as Envoy speaks it to tasks.
func (u upstreamTLS) context(protocols ...string) *tlsv3.UpstreamTlsContext {
	name, kind := u.name, tlsv3.SubjectAltNameMatcher_DNS
	if _, err := netip.ParseAddr(name); err == nil {
		kind = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	}
	own := &tlsv3.CommonTlsContext{
		AlpnProtocols: protocols,
		// Of itself Envoy speaks nothing newer than 1.2 to servers.
		TlsParams: &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
	}
	t := &tlsv3.UpstreamTlsContext{CommonTlsContext: own}
	if kind == tlsv3.SubjectAltNameMatcher_DNS {
		t.Sni = name // an address is no server name (RFC 6066)
	}
	if u.authorities == "" {
		return t // without a validation context nothing is checked (envoy-tls.md §8)
	}
	check := &tlsv3.CertificateValidationContext{
		MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{SanType: kind, Matcher: exactly(name)}},
	}
	if u.authorities == systemCA { // its own word for them, system_root_certs, checks nothing
		check.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: systemRoots}}
		own.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: check}
		return t
	}
	own.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         check,
			ValidationContextSdsSecretConfig: bySDS(u.authorities),
		},
	}
	return t
}

// secureSocket is TLS between TCP and HTTP. Where the two agree on a protocol, Envoy
// says itself which ones it speaks.
func (u upstream) secureSocket() *corev3.TransportSocket {
	var protocols []string
	switch u.protocol {
	case h2c:
		protocols = []string{"h2"}
	case "":
		protocols = []string{"http/1.1"}
	}
	return socket("envoy.transport_sockets.tls", u.tls.context(protocols...))
}

func socket(name string, m proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(m)}}
}

// spokenTo is how TLS is spoken to a port of a service that another one names with key:
// as its own routes do. Where it asks for TLS and none of them has it, it is not asked
// in the clear instead.
func (s *service) spokenTo(key string, set *labels.Set, o labels.Options, port uint32) (upstreamTLS, *tlsv3.Secret, error) {
	for _, be := range s.backends {
		if be.port == port {
			return be.settings.tls, be.secret, nil
		}
	}
	if labels.AsksForTLS(set, o) {
		return upstreamTLS{}, nil, errorAt(key, "give "+s.name+" a route to the port, or look at the problems of those that it has",
			"service %s wants TLS to its tasks (ssl_backend), and has no route to port %d that tells how", s.name, port)
	}
	return upstreamTLS{}, nil, nil
}
