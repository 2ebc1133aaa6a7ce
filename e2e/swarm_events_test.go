package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/lab/load"
)

// Chapters of TestSwarm about what a Swarm does to its tasks, and about the channel.

// pushed: sooner or later every control plane gets its tasks by push, and none of them
// believes a node ID.
func pushed(t *testing.T, s *swarm) {
	var statuses []api.Status
	s.until("tasks come by push", func() bool {
		statuses = s.statuses()
		return len(statuses) == 2 && !slices.ContainsFunc(statuses, func(st api.Status) bool { return !st.Ready || st.Source.Via != "swarmkit" })
	})
	for _, st := range statuses {
		require.False(t, st.Insecure)
		require.Equal(t, "auto", st.Source.Name)
		require.Empty(t, st.Source.Fallback)
	}
}

// rotated gives the Swarm a new authority. Certificates that a manager renews while it
// runs lack what gRPC wants (ALPN); push must come back all the same, to control planes
// that were there and to those that start later.
func rotated(t *testing.T, s *swarm, traffic *traffic) {
	traffic.lossless(t, func() {
		s.docker("swarm", "ca", "--rotate", "--quiet")
		s.until("all nodes have certificates of the new authority", func() bool {
			return strings.Count(s.docker("node", "ls", "--format", "{{.TLSStatus}} {{.Status}}"), "Ready Ready") == len(s.edges)
		})
		pushed(t, s)
		s.update([]string{"edge_waggle"}, "--force")
		pushed(t, s)
	})
}

// polled deploys the variant whose control planes have no socket and run as nobody, and
// has a rolling update go over it.
func polled(t *testing.T, s *swarm, traffic *traffic) {
	traffic.lossless(t, func() {
		platform := func() {
			out, err := s.script(t.Context(), "platform", "WGL_STACK=stack.yml stack-readonly-proxy.yml")
			require.NoError(t, err, out)
		}
		platform()
		again := false
		s.until("control planes without a socket run", func() bool {
			// Docker deploys services in any order: a control plane that comes before its
			// proxy cannot run, and Swarm goes back. Then the proxy is there (README.md).
			if state := s.docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", "edge_waggle"); !again && state == "rollback_completed" && s.settled("edge_docker") {
				again = true
				t.Log("rolled back: deployed again, now that the proxy runs")
				platform()
			}
			now := s.running("edge_waggle")
			for _, c := range now {
				user, err := s.try(t.Context(), c.node, "inspect", "--format", "{{.Config.User}}", c.id)
				if err != nil || user != "65532:65532" {
					return false // or it has just gone
				}
			}
			return len(now) == 2 && s.settled("edge_waggle", "edge_docker")
		})
		for _, st := range s.statuses() {
			require.True(t, st.Ready)
			require.Equal(t, "engine", st.Source.Via)
		}
		s.update(webs, "--force", "--update-order", "start-first", "--update-parallelism", "1", "--update-delay", "1s", "--update-monitor", "1s")
	})
}

// drained takes a node's tasks away from it and has them come back. The node's own
// proxy goes too, so its collection is not asked meanwhile; the others, which have
// tasks there, must lose nothing.
func drained(t *testing.T, s *swarm, traffic *traffic, whole *swarm) {
	const collection = "test"
	node := s.edges[collection].node
	name := "wgl" + string(rune('0'+node))
	require.NotEmpty(t, s.on(node, "dev_web", "prod_web"), "tasks on the node that is drained")

	traffic.without(t, whole, collection, func() {
		traffic.lossless(t, func() {
			s.docker("node", "update", "--availability", "drain", name)
			s.until("the node is empty", func() bool { return len(s.on(node, append(webs, "edge_envoy-"+collection)...)) == 0 })
			s.until("all tasks run elsewhere", func() bool { return len(taskIDs(s)) == 4*len(webs) && s.settled(webs...) })
			s.docker("node", "update", "--availability", "active", name)
			s.eventually(collection, "web."+collection+".example.com", answer{status: http.StatusOK, service: collection + "_web"})
		})
	})
}

// killed: a task that dies without a word costs no GET, and of the POSTs, which nobody
// may send twice, those alone that it had.
func killed(t *testing.T, s *swarm, traffic *traffic) {
	const slow, rate = 200 * time.Millisecond, 20
	posts := startLoad(t, load.Target{
		Name: "POST", Method: http.MethodPost, Rate: rate,
		URL: "http://" + s.edges["dev"].address + "/?delay=" + slow.String(), Host: "web.dev.example.com", Expect: load.Service("dev_web"),
	})
	gets := startLoad(t, load.Target{
		Name: "slow GET", Rate: rate,
		URL: "http://" + s.edges["dev"].address + "/?delay=1s", Host: "web.dev.example.com", Expect: load.Service("dev_web"),
	})
	traffic.lossless(t, func() {
		for range 3 {
			mark := posts.Mark()
			victim := s.running("dev_web")[0]
			_, err := s.try(t.Context(), victim.node, "kill", "-s", "KILL", victim.id)
			require.NoError(t, err)
			s.until("four tasks run again", func() bool {
				now := s.running("dev_web")
				for _, c := range now {
					if c.id == victim.id {
						return false
					}
				}
				return len(now) == 4
			})
			// It had a quarter of 20 requests a second for 0.2 s: one; never all that were open.
			require.LessOrEqual(t, posts.Since(mark).Failed, uint64(4), "POSTs that failed: %v", posts.Since(mark).Failures)
		}
	})
	for _, run := range []*load.Run{posts, gets} {
		r := run.Stop()
		t.Logf("%-8s  %5d requests in %5.1fs  %d failed  p50 %v  p99 %v  max %v", run.Target().Name, r.Requests, r.Elapsed.Seconds(), r.Failed,
			r.P50.Round(time.Millisecond), r.P99.Round(time.Millisecond), r.Max.Round(time.Millisecond))
		require.LessOrEqual(t, r.Failed, uint64(3*4))
		if run == gets {
			require.Zero(t, r.Failed, "GETs of 1 s: %v", r.Failures)
		}
	}
}

// restarted kills the control planes one after the other in the middle of a rolling
// update of dev. The new ones tell the other collections' proxies nothing that they have:
// what they say to a proxy that comes back is less than its listener alone would be.
func restarted(t *testing.T, s *swarm, traffic *traffic) {
	before := map[string]int{}
	for _, c := range collections[1:] {
		before[c] = s.received(c)
	}
	defer func() {
		for _, c := range collections[1:] {
			sent := s.received(c) - before[c]
			t.Logf("%-4s  its proxy was sent %d bytes, and %d until then", c, sent, before[c])
			require.Less(t, sent, 1500, "%s: bytes from the new control planes", c)
		}
	}()
	traffic.lossless(t, func() {
		updated := make(chan error, 1)
		go func() {
			_, err := s.try(context.WithoutCancel(t.Context()), 1, "service", "update", "--quiet", "--detach=false", "--force",
				"--update-order", "start-first", "--update-parallelism", "1", "--update-delay", "2s", "--update-monitor", "1s", "dev_web")
			updated <- err
		}()
		for _, victim := range s.running("edge_waggle") {
			_, err := s.try(t.Context(), victim.node, "kill", "-s", "KILL", victim.id)
			require.NoError(t, err)
			s.until("two control planes run", func() bool {
				now := s.running("edge_waggle")
				return len(now) == 2 && now[0].id != victim.id && now[1].id != victim.id && s.settled("edge_waggle")
			})
		}
		require.NoError(t, <-updated)
	})
}

// rogues come to the real port of a control plane, from within its network.
func rogues(t *testing.T, s *swarm) {
	victim := s.running("edge_waggle")[0]
	namespace, err := s.namespace(t.Context(), victim.node, victim.id)
	require.NoError(t, err)
	dial := func(t *testing.T, c credentials.TransportCredentials) grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse] {
		conn, err := grpc.NewClient("passthrough:///control-plane", grpc.WithTransportCredentials(c),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return dialIn(ctx, namespace, "tcp", "127.0.0.1:18000")
			}))
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
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
			TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
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

// received is how many bytes, without those of TLS, a collection's proxy had from control planes.
func (s *swarm) received(collection string) int {
	s.t.Helper()
	out := s.envoyAdmin(collection, "/stats?filter=^cluster.xds.upstream_cx_rx_bytes_total$")
	_, number, _ := strings.Cut(strings.TrimSpace(out), ": ")
	n, err := strconv.Atoi(number)
	require.NoError(s.t, err, out)
	return n
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

// statuses are what waggle status says in every control plane.
func (s *swarm) statuses() []api.Status {
	s.t.Helper()
	var found []api.Status
	for _, c := range s.running("edge_waggle") {
		out, err := s.try(s.t.Context(), c.node, "exec", c.id, "/waggle", "status", "--config", "/etc/waggle/waggle.yml", "--format", "json")
		require.NoError(s.t, err)
		var o struct{ Replicas []struct{ Status api.Status } }
		require.NoError(s.t, json.Unmarshal([]byte(out), &o))
		require.Len(s.t, o.Replicas, 1)
		found = append(found, o.Replicas[0].Status)
	}
	return found
}

// container is a task's, on its node.
type container struct {
	node int
	id   string
}

// running are the containers of services that run, on all nodes.
func (s *swarm) running(services ...string) []container {
	s.t.Helper()
	var found []container
	for node := range len(s.edges) {
		found = append(found, s.on(node+1, services...)...)
	}
	return found
}

// on are those on one node.
func (s *swarm) on(node int, services ...string) []container {
	s.t.Helper()
	var found []container
	for _, service := range services {
		ids, err := s.try(s.t.Context(), node, "ps", "-q", "--no-trunc", "--filter", "label=com.docker.swarm.service.name="+service)
		require.NoError(s.t, err)
		for _, id := range strings.Fields(ids) {
			found = append(found, container{node, id})
		}
	}
	return found
}

// settled says whether services have as many tasks as they want.
func (s *swarm) settled(services ...string) bool {
	s.t.Helper()
	for _, service := range services {
		have, want, _ := strings.Cut(s.docker("service", "ls", "--filter", "name="+service, "--format", "{{.Replicas}}"), "/")
		if have != want {
			return false
		}
	}
	return true
}

// until waits for a condition of the Swarm.
func (s *swarm) until(what string, condition func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		require.True(s.t, time.Now().Before(deadline), "gave up waiting until %s", what)
		select {
		case <-s.t.Context().Done():
			require.NoError(s.t, s.t.Context().Err())
		case <-tick.C:
		}
	}
}

func startLoad(t *testing.T, target load.Target) *load.Run {
	t.Helper()
	run, err := load.Start(context.WithoutCancel(t.Context()), target)
	require.NoError(t, err)
	t.Cleanup(func() { run.Stop() })
	return run
}
