package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/secrets/ca"
)

// rogues come to the real port of a control plane, from within its network.
func rogues(t *testing.T, s *swarm) {
	victim := s.running("edge_waggle")[0]
	namespace, err := s.namespace(t.Context(), victim.node, victim.id)
	require.NoError(t, err)
	channel := func(t *testing.T, c credentials.TransportCredentials) *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:///control-plane", grpc.WithTransportCredentials(c),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return dialIn(ctx, namespace, "tcp", "127.0.0.1:18000")
			}))
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial := func(t *testing.T, c credentials.TransportCredentials) grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse] {
		conn := channel(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		t.Cleanup(cancel)
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
		if err != nil {
			require.Equal(t, codes.Unavailable, status.Code(err), "%v", err) // the handshake was refused
			return nil
		}
		return stream
	}
	ask := func(nodeID string) *discoveryv3.DeltaDiscoveryRequest {
		return &discoveryv3.DeltaDiscoveryRequest{
			Node:    &corev3.Node{Id: nodeID},
			TypeUrl: clusterType,
		}
	}
	dev := s.identity("dev")

	t.Run("dev's certificate and dev's node ID", func(t *testing.T) {
		stream := dial(t, dev)
		require.NoError(t, stream.Send(ask("dev/visitor")))
		res, err := stream.Recv()
		require.NoError(t, err)
		require.NotEmpty(t, res.Resources)
		for _, r := range res.Resources {
			require.NotContains(t, r.Name, "prod")
		}

		t.Run("and then prod's", func(t *testing.T) {
			require.NoError(t, stream.Send(ask("prod/visitor")))
			_, err := stream.Recv()
			require.Equal(t, codes.PermissionDenied, status.Code(err), "%v", err)
		})
	})
	for _, id := range []string{"prod/rogue", "prod", ""} {
		t.Run("dev's certificate and the node ID "+id, func(t *testing.T) {
			stream := dial(t, dev)
			require.NoError(t, stream.Send(ask(id)))
			_, err := stream.Recv()
			require.Contains(t, []codes.Code{codes.PermissionDenied, codes.InvalidArgument}, status.Code(err), "%v", err)
		})
	}
	for kind, ask := range kinds {
		for name, c := range strangers(t, s) {
			t.Run(name+" asks by "+kind, func(t *testing.T) {
				require.Contains(t, []codes.Code{codes.Unavailable, codes.Unauthenticated}, status.Code(ask(t.Context(), channel(t, c), "dev/rogue")))
			})
		}
		t.Run("dev's certificate and prod's node ID by "+kind, func(t *testing.T) {
			require.Contains(t, []codes.Code{codes.PermissionDenied, codes.Unimplemented}, status.Code(ask(t.Context(), channel(t, dev), "prod/rogue")))
		})
	}
	anonymous := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	for name, c := range map[string]credentials.TransportCredentials{
		"no certificate": credentials.NewTLS(anonymous),
		"no TLS":         insecure.NewCredentials(),
	} {
		t.Run(name, func(t *testing.T) {
			stream := dial(t, c)
			if stream == nil {
				return
			}
			_ = stream.Send(ask("prod/rogue")) // its error is Recv's
			_, err := stream.Recv()
			require.Contains(t, []codes.Code{codes.Unavailable, codes.Unauthenticated}, status.Code(err), "%v", err)
		})
	}
}

// identity is what the lab issued for a proxy of a collection.
func (s *swarm) identity(collection string) credentials.TransportCredentials {
	s.t.Helper()
	dir := s.dir + "/ca/" + collection
	pair, err := tls.LoadX509KeyPair(dir+"/tls.crt", dir+"/tls.key")
	require.NoError(s.t, err)
	raw, err := os.ReadFile(dir + "/ca.crt")
	require.NoError(s.t, err)
	roots := x509.NewCertPool()
	require.True(s.t, roots.AppendCertsFromPEM(raw))
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "waggle"})
}

// strangers come with certificates that prove nothing here: of another authority, and
// of ours, but ended.
func strangers(t *testing.T, s *swarm) map[string]credentials.TransportCredentials {
	t.Helper()
	load := func(dir string) credentials.TransportCredentials {
		pair, err := tls.LoadX509KeyPair(dir+"/dev/tls.crt", dir+"/dev/tls.key")
		require.NoError(t, err)
		return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	foreign := t.TempDir()
	require.NoError(t, ca.Init(foreign, time.Now()))
	_, err := ca.Issue(foreign, "dev", ca.Options{})
	require.NoError(t, err)

	ended := t.TempDir()
	for _, name := range []string{"ca.crt", "ca.key"} {
		raw, err := os.ReadFile(s.dir + "/ca/" + name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(ended+"/"+name, raw, 0o600))
	}
	_, err = ca.Issue(ended, "dev", ca.Options{Now: time.Now().Add(-time.Minute), Lifetime: 30 * time.Second})
	require.NoError(t, err)
	return map[string]credentials.TransportCredentials{"a foreign certificate": load(foreign), "a certificate that has ended": load(ended)}
}

// kinds are the ways to ask a control plane, each with a node ID.
var kinds = map[string]func(ctx context.Context, conn *grpc.ClientConn, nodeID string) error{
	"delta": func(ctx context.Context, conn *grpc.ClientConn, nodeID string) error {
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
		if err != nil {
			return err
		}
		_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: nodeID}, TypeUrl: clusterType}) // its error is Recv's
		_, err = stream.Recv()
		return err
	},
	"state of the world": func(ctx context.Context, conn *grpc.ClientConn, nodeID string) error {
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
		if err != nil {
			return err
		}
		_ = stream.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: nodeID}, TypeUrl: clusterType})
		_, err = stream.Recv()
		return err
	},
	"unary": func(ctx context.Context, conn *grpc.ClientConn, nodeID string) error {
		_, err := clusterservicev3.NewClusterDiscoveryServiceClient(conn).FetchClusters(ctx, &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: nodeID}, TypeUrl: clusterType})
		return err
	},
}

const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

// crowd has 500 rogues of every sort come at once, again and again: all are refused,
// and the control plane keeps nothing of them. The first crowd may make its heap grow,
// the others may not.
func crowd(t *testing.T, s *swarm) {
	const n = 500
	victim := s.running("edge_waggle")[0]
	namespace, err := s.namespace(t.Context(), victim.node, victim.id)
	require.NoError(t, err)
	client, err := s.inside(t.Context(), victim.node, "edge_waggle")
	require.NoError(t, err)
	figure := func(name string) float64 {
		res, err := client.Get("http://127.0.0.1:19000/metrics")
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		for l := range strings.Lines(string(body)) {
			if value, ok := strings.CutPrefix(l, name+" "); ok {
				f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				require.NoError(t, err)
				return f
			}
		}
		require.Fail(t, "no such metric", "%s", name)
		return 0
	}
	sorts := strangers(t, s)
	sorts["no certificate"] = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	sorts["no TLS"] = insecure.NewCredentials()
	sorts["another collection's node ID"] = s.identity("dev")
	names, ways := slices.Sorted(maps.Keys(sorts)), slices.Sorted(maps.Keys(kinds))

	goroutines := figure("go_goroutines")
	memory := []float64{figure("process_resident_memory_bytes")}
	for range 4 {
		refusals := map[codes.Code]int{}
		for _, code := range come(t.Context(), n, func(i int) (credentials.TransportCredentials, string) {
			return sorts[names[i%len(names)]], ways[i/len(names)%len(ways)]
		}, namespace) {
			require.Contains(t, []codes.Code{codes.PermissionDenied, codes.Unauthenticated, codes.Unavailable, codes.Unimplemented}, code)
			refusals[code]++
		}
		s.until("nothing of them is left", func() bool { return figure("go_goroutines") <= goroutines+10 })
		memory = append(memory, figure("process_resident_memory_bytes"))
		t.Logf("%d rogues: %v; memory of the control plane %.1f MiB", n, refusals, memory[len(memory)-1]/(1<<20))
	}
	require.Less(t, memory[1]-memory[0], 48.0*(1<<20), "bytes of memory for the first crowd")
	require.Less(t, memory[4]-memory[1], 16.0*(1<<20), "bytes of memory for three more")
}

// come has n clients ask at once for prod's clusters, each with credentials and in a
// way of its own, and gives what they were told.
func come(ctx context.Context, n int, as func(i int) (credentials.TransportCredentials, string), namespace string) []codes.Code {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	told := make(chan codes.Code, n)
	for i := range n {
		go func() {
			c, way := as(i)
			conn, err := grpc.NewClient("passthrough:///control-plane", grpc.WithTransportCredentials(c),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					return dialIn(ctx, namespace, "tcp", "127.0.0.1:18000")
				}))
			if err == nil {
				defer conn.Close()
				err = kinds[way](ctx, conn, "prod/rogue")
			}
			told <- status.Code(err)
		}()
	}
	var all []codes.Code
	for range n {
		all = append(all, <-told)
	}
	return all
}
