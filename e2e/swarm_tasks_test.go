package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Chapters of TestSwarm about what a Swarm does to tasks, in a way that it announces
// or not. Those that it announces are shown with push and with poll.

// rolling updates all applications at once, one or two tasks after the other.
func rolling(t *testing.T, s *swarm, traffic *traffic, order string) {
	parallelism := map[string]string{"start-first": "1", "stop-first": "2"}[order]
	traffic.lossless(t, func() {
		before := taskIDs(s)
		s.update(webs, "--force", "--update-order", order, "--update-parallelism", parallelism, "--update-delay", "500ms", "--update-monitor", "1s")
		for id := range taskIDs(s) {
			require.NotContains(t, before, id, "every task is a new one")
		}
	})
}

func scaled(t *testing.T, s *swarm, traffic *traffic) {
	traffic.lossless(t, func() {
		for _, n := range []int{8, 2, 4} {
			s.scale(webs, n)
			require.Len(t, taskIDs(s), n*len(webs))
		}
	})
}

// drained takes the tasks of a node without a proxy away from it, and lets it have some again.
func drained(t *testing.T, s *swarm, traffic *traffic) {
	require.NotEmpty(t, s.on(s.spare(), webs...), "tasks on the node that is drained")
	traffic.lossless(t, func() {
		s.empty(s.spare())
		s.available(s.spare())
		s.renew()
	})
	require.NotEmpty(t, s.on(s.spare(), webs...), "tasks that have come back")
}

// renew replaces all tasks, quickly, so that Swarm spreads them over the nodes anew.
func (s *swarm) renew() {
	s.t.Helper()
	s.update(webs, "--force", "--update-order", "start-first", "--update-parallelism", "4", "--update-delay", "0s", "--update-monitor", "1s")
}

// spare is the node without a proxy.
func (s *swarm) spare() int { return s.nodes }

func (s *swarm) hostname(node int) string { return "wgl" + string(rune('0'+node)) }

// empty drains a node.
func (s *swarm) empty(node int) {
	s.t.Helper()
	s.docker("node", "update", "--availability", "drain", s.hostname(node))
	s.until("the node is empty", func() bool { return len(s.on(node, append([]string{"edge_waggle"}, webs...)...)) == 0 })
	s.until("all tasks run elsewhere", func() bool {
		return len(taskIDs(s)) == 4*len(webs) && s.settled(append([]string{"edge_waggle"}, webs...)...)
	})
}

// available ends the drain of a node.
func (s *swarm) available(node int) {
	s.t.Helper()
	s.docker("node", "update", "--availability", "active", s.hostname(node))
}

// death is when a task was killed: at some moment between the two.
type death struct{ from, to time.Time }

// killed: a task that dies without a word costs no GET, and of the POSTs, which nobody
// may send twice, those alone that it had: sent before it died, and open when it did.
func killed(t *testing.T, s *swarm, traffic *traffic) {
	quiet := traffic.begin()
	traffic.forAtLeast(t, 10*time.Second)
	usual, _ := quiet.reports("dev")

	st := traffic.begin()
	var deaths []death
	for range 3 {
		victim := s.running("dev_web")[0]
		d := death{from: time.Now()}
		s.kill(victim)
		d.to = time.Now()
		deaths = append(deaths, d)
		s.until("four tasks run again", func() bool {
			now := s.running("dev_web")
			return len(now) == 4 && !slices.Contains(now, victim)
		})
		traffic.forAtLeast(t, 7*time.Second)
	}
	for _, c := range collections {
		quick, all := st.reports(c)
		t.Logf("%-4s  %s", c, line(quick, all))
		for _, r := range st.failed(c) {
			require.Equal(t, http.MethodPost, r.method, "%s: only what may not be sent twice is lost: %v", c, r.Failure)
			require.True(t, slices.ContainsFunc(deaths, func(d death) bool {
				return !r.At.After(d.to) && !r.At.Add(r.Took).Before(d.from)
			}), "%s: was open when a task died: %v, deaths %v", c, r.Failure, deaths)
		}
		traffic.forgiven += all.Failed
		// A task had a quarter of 20 POSTs a second, most of them for some milliseconds.
		require.LessOrEqual(t, all.Failed, uint64(2*len(deaths)), "%s: more POSTs than the tasks that died can have had", c)
	}
	hit, _ := st.reports("dev")
	t.Logf("p99 of dev's quick requests: %v while its tasks died, %v before", hit.P99.Round(time.Millisecond), usual.P99.Round(time.Millisecond))
	require.LessOrEqual(t, hit.P99, max(2*usual.P99, 50*time.Millisecond))
}

// unplugged: a node that is gone from the network lets what it had hang until TCP
// gives it up; nothing hangs longer than that and one retry.
func unplugged(t *testing.T, s *swarm, traffic *traffic) {
	const (
		userTimeout = 2 * time.Second        // of a connection to a task that is silent
		retry       = 500 * time.Millisecond // to connect elsewhere, should that be in vain too
		slack       = 500 * time.Millisecond // of this machine
	)
	node := s.spare()
	require.NotEmpty(t, s.on(node, webs...), "tasks on the node that is unplugged")
	name := s.hostname(node)
	state := func() string {
		return s.docker("node", "ls", "--filter", "name="+name, "--format", "{{.Status}}")
	}
	st := traffic.begin()
	pulled := time.Now()
	s.lab("unplug", node)
	defer s.lab("plug", node)
	s.until("the Swarm has lost the node", func() bool { return state() == "Down" })
	t.Logf("the Swarm knew after %v", time.Since(pulled).Round(100*time.Millisecond))
	s.until("all tasks run elsewhere", func() bool { return s.settled(webs...) })
	traffic.forAtLeast(t, 5*time.Second)
	s.lab("plug", node)
	s.until("the node is back", func() bool { return state() == "Ready" })
	traffic.forAtLeast(t, 5*time.Second)
	for _, c := range collections {
		quick, all := st.reports(c)
		t.Logf("%-4s  %s %v", c, line(quick, all), all.Outcomes)
		for _, r := range st.failed(c) {
			t.Logf("      %s %v", r.method, r.Failure)
		}
		traffic.forgiven += all.Failed
		require.LessOrEqual(t, quick.Longest, userTimeout+retry+slack, "%s: quick requests", c)
		require.LessOrEqual(t, all.Longest, userTimeout+retry+slow+slack, "%s: those of a second", c)
	}
}
