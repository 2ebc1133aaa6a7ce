// Package bootstrap makes the file that an Envoy of a collection starts with:
// who it is, where its control plane is, and the few things that xDS cannot
// change later (statistics, limits, the admin address).
package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/waggle-lb/waggle/config"
)

// XDSCluster is the name of the static cluster that is the control plane.
const XDSCluster = "xds"

// Options is what differs between the Envoys of a Swarm.
type Options struct {
	// Collection is whose resources this Envoy is served; needed.
	Collection string
	// NodeID is "<collection>" or "<collection>/<instance>". The instance may be a
	// template that Swarm fills in: "dev/{{.Task.ID}}". Empty: the collection alone.
	NodeID string
	// Zone is the Swarm node that this Envoy runs on, by ID, or a template that Swarm
	// fills in: "{{.Node.ID}}". Services with prefer_local then get requests on that
	// node first. Empty: no node is preferred.
	Zone string
	// XDSAddress is host:port of the control plane, "waggle:18000" if empty. A name
	// is resolved each second, to as many replicas as it has.
	XDSAddress string
	// AdminAddress is loopback:port, or the absolute path of a unix socket;
	// "127.0.0.1:9901" if empty. Whoever reaches it can stop the proxy, so that
	// other addresses are refused.
	AdminAddress string
	// TLS is the identity of the channel. Nil: it has none and is not encrypted, which is
	// for a laptop, and for a control plane that was told to believe everybody.
	TLS *TLS
	// MaxConnections bounds the client connections that the proxy accepts at once,
	// DefaultMaxConnections if 0. The admin address is not counted.
	MaxConnections uint64
}

// DefaultMaxConnections is Envoy's own advice for a proxy at the edge
// (docs/configuration/best_practices/edge).
const DefaultMaxConnections = 50_000

// New makes a bootstrap. It fails where Envoy would refuse it, and where it would be unsafe.
func New(o Options) (*bootstrapv3.Bootstrap, error) {
	if !config.ValidCollection(o.Collection) {
		return nil, fmt.Errorf("bootstrap: %q is not a collection name: use lower case letters and digits, with . _ - only between them", o.Collection)
	}
	node, err := nodeID(o)
	if err != nil {
		return nil, err
	}
	xds, err := xdsCluster(o.XDSAddress)
	if err != nil {
		return nil, err
	}
	if o.TLS != nil {
		tls, err := o.TLS.complete()
		if err != nil {
			return nil, err
		}
		if xds.TransportSocket, err = tls.transportSocket(); err != nil {
			return nil, err
		}
	}
	admin, err := adminAddress(o.AdminAddress)
	if err != nil {
		return nil, err
	}
	limits, err := overloadManager(o.MaxConnections)
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: node, Cluster: o.Collection},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: ads(),
			CdsConfig: overADS(),
			LdsConfig: overADS(),
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds}},
		// Most services of a large table have no traffic at most proxies (10 000
		// services: 464 MiB and 2.6 s to start instead of 806 and 5.6, together with stats.go).
		ClusterManager:      &bootstrapv3.ClusterManager{EnableDeferredClusterCreation: true},
		DeferredStatOptions: &bootstrapv3.Bootstrap_DeferredStatOptions{EnableDeferredCreationStats: true},
		StatsConfig:         statsConfig(),
		LayeredRuntime:      runtime(),
		OverloadManager:     limits,
		Admin:               &bootstrapv3.Admin{Address: admin, IgnoreGlobalConnLimit: true},
	}
	if o.Zone != "" {
		if len(o.Zone) > 256 || unquotable(o.Zone) {
			return nil, fmt.Errorf("bootstrap: zone %q: use at most 256 printable characters without blanks, quotes and backslashes, as {{.Node.ID}}", o.Zone)
		}
		inZone(b, o.Zone)
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("bootstrap of %s: %w", node, err)
	}
	return b, nil
}

// Marshal is b as the JSON file that envoy -c reads: the same bytes for the same b.
func Marshal(b *bootstrapv3.Bootstrap) ([]byte, error) {
	out, err := marshal(b)
	if err != nil {
		return nil, fmt.Errorf("write the bootstrap of %s: %w", b.GetNode().GetId(), err)
	}
	return out, nil
}

func marshal(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer // protojson varies its blanks on purpose
	err = json.Indent(&out, raw, "", "  ")
	return out.Bytes(), err
}

// nodeID checks the node ID: the control plane takes the collection from what
// stands before its first slash.
func nodeID(o Options) (string, error) {
	if o.NodeID == "" {
		return o.Collection, nil
	}
	collection, instance, more := strings.Cut(o.NodeID, "/")
	if collection != o.Collection || more && instance == "" {
		return "", fmt.Errorf("bootstrap: node ID %q does not name collection %s: write %[2]s/<instance>", o.NodeID, o.Collection)
	}
	// Quotes would be escaped in JSON and break the template they stand in.
	if len(o.NodeID) > 256 || unquotable(instance) {
		return "", fmt.Errorf("bootstrap: node ID %q: use at most 256 printable characters without blanks, quotes and backslashes, as %s/{{.Task.ID}}", o.NodeID, o.Collection)
	}
	return o.NodeID, nil
}

// unquotable reports whether a text cannot stand in JSON as it is.
func unquotable(text string) bool {
	return strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' })
}

// selfCluster is the cluster that Envoy takes for its own: it balances by zone only
// where it knows that of its peers. One host that nobody sends to is enough, as
// services with prefer_local do not divide by shares.
const selfCluster = "self"

// inZone tells Envoy which zone it is in.
func inZone(b *bootstrapv3.Bootstrap, zone string) {
	locality := &corev3.Locality{Zone: zone}
	b.Node.Locality = locality
	b.ClusterManager.LocalClusterName = selfCluster
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, &clusterv3.Cluster{
		Name:                 selfCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: selfCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			Locality: locality,
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: socketAddress("127.0.0.1", 9), // discard
			}}}},
		}}},
	})
}

// ads is the one stream to the control plane.
func ads() *corev3.ApiConfigSource {
	return &corev3.ApiConfigSource{
		ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
		TransportApiVersion: corev3.ApiVersion_V3,
		// The node is 61 kB of extension names: once is enough.
		SetNodeOnFirstMessageOnly: true,
		GrpcServices: []*corev3.GrpcService{{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
				ClusterName: XDSCluster,
				// Envoy's own back-off grows to 30 s; a restarted control plane is found again within 2 s.
				RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
					BaseInterval: durationpb.New(200 * time.Millisecond),
					MaxInterval:  durationpb.New(2 * time.Second),
				}},
			}},
		}},
	}
}

// overADS takes a type of resource from the one stream. Without a time limit:
// after one (15 s by default) an Envoy that never reached its control plane would
// call itself ready with nothing to serve, and balancers would believe it.
func overADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
	}
}

func adminAddress(addr string) (*corev3.Address, error) {
	if addr == "" {
		addr = "127.0.0.1:9901"
	}
	if path, _ := strings.CutPrefix(addr, "unix://"); strings.HasPrefix(path, "/") {
		// The length that sun_path holds.
		if len(path) > 107 || !printable(path) {
			return nil, fmt.Errorf("bootstrap: admin address %q: the path of a unix socket has at most 107 bytes, all of them printable", addr)
		}
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: 0o600}}}, nil
	}
	host, port, err := hostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: admin address %q: %w", addr, err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("bootstrap: admin address %q is not loopback, and whoever reaches it can stop the proxy: use 127.0.0.1:PORT or the path of a unix socket", addr)
	}
	return socketAddress(host, port), nil
}

// printable says that text is UTF-8, as everything in a protobuf must be, without control characters.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// hostPort splits host:port. Port 0, any free one, is for tests and laboratories.
func hostPort(addr string) (string, uint32, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return "", 0, errors.New("write HOST:PORT")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port: use 0 to 65535", port)
	}
	return host, uint32(n), nil
}
