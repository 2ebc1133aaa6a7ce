package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
)

// Chapters of TestSwarm about managers: what happens to push where the control socket
// comes, goes and changes its certificates.

// pushed: sooner or later every control plane gets its tasks by push, and none of them
// believes a node ID.
func pushed(t *testing.T, s *swarm) {
	t.Helper()
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

// promoted makes a worker a manager, whose control socket negotiates no ALPN, and has
// a control plane run there.
func promoted(t *testing.T, s *swarm, traffic *traffic) {
	traffic.lossless(t, func() {
		s.promote(s.spare(), webs...)
		pushed(t, s)
	})
}

// promote makes a node a manager, and has control planes run on it: all are replaced,
// and at the same moment the tasks of other services.
func (s *swarm) promote(node int, others ...string) {
	s.t.Helper()
	s.docker("node", "promote", s.hostname(node))
	s.until("the node is a manager", func() bool {
		return s.docker("node", "ls", "--filter", "name="+s.hostname(node), "--format", "{{.Status}} {{.ManagerStatus}}") == "Ready Reachable"
	})
	s.replace(append(others, "edge_waggle")...)
	s.until("a control plane runs there", func() bool { return len(s.on(node, "edge_waggle")) > 0 && s.settled("edge_waggle") })
}

// replace has services have new tasks, one after the other, without the pauses that
// deploy/stack.yml makes for people.
func (s *swarm) replace(services ...string) {
	s.t.Helper()
	s.update(services, "--force", "--update-order", "start-first", "--update-parallelism", "1", "--update-delay", "500ms", "--update-monitor", "1s")
}

// demote makes it a worker again: its control plane has to go.
func (s *swarm) demote(node int) {
	s.t.Helper()
	s.until("the node is demoted", func() bool {
		_, err := s.try(s.t.Context(), 1, "node", "demote", s.hostname(node)) // refused while the managers are out of step
		return err == nil
	})
	s.until("its control plane runs elsewhere", func() bool {
		return len(s.on(node, "edge_waggle")) == 0 && len(s.running("edge_waggle")) == 2 && s.settled("edge_waggle")
	})
}

// rotated gives the Swarm a new authority. Certificates that a manager renews while it
// runs lack what gRPC wants (ALPN); push must come back all the same, to control planes
// that were there and to those that start later.
func rotated(t *testing.T, s *swarm, traffic *traffic) {
	traffic.lossless(t, func() {
		s.docker("swarm", "ca", "--rotate", "--quiet")
		s.until("all nodes have certificates of the new authority", func() bool {
			return strings.Count(s.docker("node", "ls", "--format", "{{.TLSStatus}} {{.Status}}"), "Ready Ready") == s.nodes
		})
		pushed(t, s)
		s.replace("edge_waggle")
		pushed(t, s)
	})
}

// restartedDocker restarts the dockerd of one of two managers: meanwhile there is no
// quorum, so the Swarm says nothing, to nobody. Its tasks were taken away before.
func restartedDocker(t *testing.T, s *swarm, traffic *traffic) {
	traffic.lossless(t, func() {
		s.empty(s.spare())
		s.lab("restart", s.spare())
		s.until("the managers agree again", func() bool {
			out, err := s.try(t.Context(), 1, "node", "ls", "--filter", "name="+s.hostname(s.spare()), "--format", "{{.Status}} {{.ManagerStatus}}")
			return err == nil && strings.HasPrefix(out, "Ready ") && !strings.Contains(out, "Unreachable")
		})
		pushed(t, s)
	})
}

// recreated: a manager that was demoted and is promoted again makes its control
// socket anew.
func recreated(t *testing.T, s *swarm, traffic *traffic) {
	traffic.lossless(t, func() {
		s.demote(s.spare())
		s.available(s.spare())
		s.promote(s.spare())
		pushed(t, s)
		s.demote(s.spare())
		pushed(t, s)
		s.renew()
	})
	require.NotEmpty(t, s.on(s.spare(), webs...), "tasks on the node")
}
