package translate

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/config"
)

// systemRoots is where Envoy's images keep the authorities that everybody trusts.
// Envoy's own word for them, system_root_certs, verifies nothing (envoy-tls.md §7).
const systemRoots = "/etc/ssl/certs/ca-certificates.crt"

// externalConnectTimeout is longer than that of tasks: these are far away.
const externalConnectTimeout = 5 * time.Second

// external is a server outside of the Swarm that proxies ask (an identity provider) or tell (a collector
// of traces).
// Its cluster is named by its origin, "https://id.example.com:443", and follows
// from that name alone.
type external struct {
	tls  bool
	host string // a name, or an IP address
	port uint32
}

func (e external) cluster() string {
	scheme, host := "http", e.host
	if e.tls {
		scheme = "https"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return scheme + "://" + host + ":" + strconv.Itoa(int(e.port))
}

// externalNamed is the server with that cluster; false for clusters of services.
func externalNamed(cluster string) (external, bool) {
	if !strings.HasPrefix(cluster, "http://") && !strings.HasPrefix(cluster, "https://") {
		return external{}, false
	}
	u, err := url.Parse(cluster)
	if err != nil || u.Hostname() == "" {
		return external{}, false
	}
	e := external{tls: u.Scheme == "https", host: strings.ToLower(u.Hostname()), port: 80}
	if e.tls {
		e.port = 443
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return external{}, false
		}
		e.port = uint32(n)
	}
	return e, true
}

// outside gives the cluster of a server outside of the Swarm that the collection's
// resources name; nil where the name is of no such server.
func (c *collection) outside(cluster string) *clusterv3.Cluster {
	if c.refs[cluster] == 0 {
		return nil
	}
	if e, ok := collector(c.cfg); ok && cluster == collectorCluster(e) {
		return newCollectorCluster(e, c.noCollector)
	}
	if e, ok := externalNamed(cluster); ok {
		return newExternalCluster(e)
	}
	return nil
}

// refusedServer says why a proxy may not be sent to that server, or "".
func (b *Builder) refusedServer(e external) string {
	host := strings.TrimSuffix(e.host, ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		if why := refused(addr, b.picture.Loopback); why != "" {
			return why
		}
		if b.ownPorts[e.port] {
			return "the port is one of Waggle's own"
		}
		return ""
	}
	switch last := host[strings.LastIndexByte(host, '.')+1:]; {
	case last == "localhost" && !b.picture.Loopback:
		return "it is the proxy itself"
	case last != "" && strings.Trim(last, "0123456789") == "", strings.HasPrefix(last, "0x"):
		return "it is neither a name nor a complete address" // resolvers know more forms of 127.0.0.1
	case host == "metadata" || host == "instance-data" || strings.HasSuffix(host, ".internal") && strings.HasPrefix(host, "metadata."):
		return "it is a cloud's metadata service"
	}
	return ""
}

// RefusedAddress says why the control plane may not connect to an address to which a
// label led it, or "": the rules for proxies, and whatever name was resolved to it.
// loopback is watcher.Picture's.
func RefusedAddress(cfg *config.Config, to netip.AddrPort, loopback bool) string {
	if why := refused(to.Addr(), loopback); why != "" {
		return why
	}
	if controlPorts(cfg)[uint32(to.Port())] {
		return "the port is one of Waggle's own"
	}
	return ""
}

// newExternalCluster is resolved by the proxies. Over TLS the certificate must be
// good for the host.
func newExternalCluster(e external) *clusterv3.Cluster {
	name := e.cluster()
	c := &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
		DnsLookupFamily:               clusterv3.Cluster_V4_PREFERRED,
		ConnectTimeout:                durationpb.New(externalConnectTimeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: e.host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: e.port},
				}}},
			}}}},
		}}},
	}
	if !e.tls {
		return c
	}
	san := &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_DNS, Matcher: exactly(e.host)}
	sni := e.host
	if _, err := netip.ParseAddr(e.host); err == nil {
		san.SanType, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, ""
	}
	c.TransportSocket = &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(&tlsv3.UpstreamTlsContext{
			Sni: sni,
			CommonTlsContext: &tlsv3.CommonTlsContext{ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{
					TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: systemRoots}},
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{san},
				},
			}},
		})},
	}
	return c
}
