package e2e

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
)

// Chapters of TestSwarm about what a Swarm does to its tasks, and about the channel.

// polled deploys the variant whose control planes have no socket and run as nobody.
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
	})
}

// restarted kills the control planes one after the other in the middle of a rolling
// update of dev.
func restarted(t *testing.T, s *swarm, traffic *traffic) {
	unsaid(t, s, collections[1:], func() {
		traffic.lossless(t, func() {
			updated := make(chan error, 1)
			go func() {
				_, err := s.try(context.WithoutCancel(t.Context()), 1, "service", "update", "--quiet", "--detach=false", "--force",
					"--update-order", "start-first", "--update-parallelism", "1", "--update-delay", "2s", "--update-monitor", "1s", "dev_web")
				updated <- err
			}()
			for _, victim := range s.running("edge_waggle") {
				s.kill(victim)
				s.until("two control planes run", func() bool {
					now := s.running("edge_waggle")
					return len(now) == 2 && now[0].id != victim.id && now[1].id != victim.id && s.settled("edge_waggle")
				})
			}
			require.NoError(t, <-updated)
		})
	})
}

// away kills every control plane, and has none come back for half a minute.
func away(t *testing.T, s *swarm, traffic *traffic) {
	unsaid(t, s, collections, func() {
		traffic.lossless(t, func() {
			victims := s.running("edge_waggle")
			s.docker("service", "scale", "--detach", "edge_waggle=0")
			for _, victim := range victims {
				_, _ = s.try(t.Context(), victim.node, "kill", "-s", "KILL", victim.id) // Swarm may have been quicker
			}
			s.until("no control plane runs", func() bool { return len(s.running("edge_waggle")) == 0 })
			traffic.forAtLeast(t, 30*time.Second)
			require.Empty(t, s.running("edge_waggle"))
			s.scale([]string{"edge_waggle"}, 2)
			pushed(t, s)
			for _, c := range collections {
				s.until(c+"'s proxy is connected", func() bool { return s.connected(c) })
			}
		})
	})
}

// unsaid requires that new control planes tell proxies nothing that they have: what
// they say to one that comes back is less than its listener alone would be.
func unsaid(t *testing.T, s *swarm, to []string, happens func()) {
	t.Helper()
	before := map[string]int{}
	for _, c := range to {
		before[c] = s.received(c)
	}
	happens()
	for _, c := range to {
		sent := s.received(c) - before[c]
		t.Logf("%-4s  its proxy was sent %d bytes, and %d until then", c, sent, before[c])
		require.Less(t, sent, 1500, "%s: bytes from the new control planes", c)
	}
}

// connected says whether a collection's proxy has a control plane.
func (s *swarm) connected(collection string) bool {
	s.t.Helper()
	return strings.Contains(s.envoyAdmin(collection, "/stats?filter=^control_plane.connected_state$"), ": 1")
}

// kill ends a container without a word.
func (s *swarm) kill(c container) {
	s.t.Helper()
	_, err := s.try(s.t.Context(), c.node, "kill", "-s", "KILL", c.id)
	require.NoError(s.t, err)
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

// statuses are what waggle status says in every control plane that can be asked.
func (s *swarm) statuses() []api.Status {
	s.t.Helper()
	var found []api.Status
	for _, c := range s.running("edge_waggle") {
		out, err := s.try(s.t.Context(), c.node, "exec", c.id, "/waggle", "status", "--config", "/etc/waggle/waggle.yml", "--format", "json")
		if err != nil {
			continue // it has only just begun, or ends
		}
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
	for node := range s.nodes {
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
