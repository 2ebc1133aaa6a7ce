package e2e

import (
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	collections = []string{"dev", "test", "prod"}
	webs        = []string{"dev_web", "test_web", "prod_web"} // the service that each of them publishes, 4 tasks
)

// TestSwarm tells the whole story on one Swarm, because bringing one up takes longer
// than each of its chapters. From the first chapter to the last every collection is
// under load, and every chapter says what became of the requests meanwhile.
func TestSwarm(t *testing.T) {
	s := startSwarm(t, "testdata/stacks", 4)
	s.record = startRecord(t, s)
	traffic := startTraffic(t, s)
	chapter := func(name string, f func(t *testing.T, s *swarm)) {
		t.Run(name, func(t *testing.T) { f(t, s.at(t)) })
	}
	// Everything that a Swarm announces about its tasks, by either way to learn of it.
	announced := func(by string) {
		for range rounds() {
			for _, order := range []string{"start-first", "stop-first"} {
				chapter("rolling update "+order+" loses nothing by "+by, func(t *testing.T, s *swarm) { rolling(t, s, traffic, order) })
			}
			chapter("scaling from 4 to 8 to 2 to 4 loses nothing by "+by, func(t *testing.T, s *swarm) { scaled(t, s, traffic) })
			chapter("a drained node loses nothing by "+by, func(t *testing.T, s *swarm) { drained(t, s, traffic) })
		}
	}

	chapter("every collection answers at full rate", func(t *testing.T, s *swarm) {
		for i, c := range collections {
			s.eventually(c, "web."+c+".example.com", answer{status: http.StatusOK, service: webs[i]})
		}
		traffic.lossless(t, func() {
			for c, r := range traffic.forAtLeast(t, 5*time.Second) {
				require.Len(t, r.Tasks, 4, "the tasks of %s that answered: %v", c, r.Tasks)
			}
		})
	})
	chapter("collections know nothing of each other", func(t *testing.T, s *swarm) {
		traffic.lossless(t, func() { isolation(t, s) })
	})

	chapter("tasks come by push", pushed)
	announced("push")
	for range rounds() {
		chapter("both control planes killed during a rolling update, nothing lost", func(t *testing.T, s *swarm) { restarted(t, s, traffic) })
		chapter("without any control plane for half a minute nothing is lost", func(t *testing.T, s *swarm) { away(t, s, traffic) })
		chapter("a killed task costs no GET", func(t *testing.T, s *swarm) { killed(t, s, traffic) })
	}
	chapter("task changes reach Envoy", func(t *testing.T, at *swarm) { latency(t, at, traffic, s) })

	chapter("push from a promoted manager, control planes and tasks replaced at once", func(t *testing.T, s *swarm) { promoted(t, s, traffic) })
	chapter("push outlives the Swarm's authority", func(t *testing.T, s *swarm) { rotated(t, s, traffic) })
	chapter("push outlives a restart of Docker", func(t *testing.T, s *swarm) { restartedDocker(t, s, traffic) })
	chapter("push outlives the control socket", func(t *testing.T, s *swarm) { recreated(t, s, traffic) })

	chapter("a node that is unplugged", func(t *testing.T, s *swarm) { unplugged(t, s, traffic) })
	chapter("one proxy of two replaced loses nothing", func(t *testing.T, at *swarm) { replaced(t, at, traffic, s) })
	chapter("rogues are refused", func(t *testing.T, s *swarm) {
		traffic.lossless(t, func() {
			rogues(t, s)
			crowd(t, s)
		})
	})

	chapter("couriers bring secrets that nobody mounted", func(t *testing.T, s *swarm) { couriered(t, s, traffic) })
	chapter("polling through a read-only proxy", func(t *testing.T, s *swarm) { polled(t, s, traffic) })
	announced("poll")

	t.Run("a bad label harms its own service alone", func(t *testing.T) {
		s := s.at(t)
		traffic.lossless(t, func() {
			s.deploy("bad", "bad-labels.yml")
			s.eventually("dev", "right.dev.example.com", answer{status: http.StatusOK, service: "bad_right"})
			s.eventually("dev", "wrong.dev.example.com", answer{status: http.StatusServiceUnavailable, reason: "not_built"})
		})
	})

	t.Run("a host belongs to who had it first", func(t *testing.T) {
		s := s.at(t)
		// The load on dev's host accepts answers of its owner only.
		traffic.lossless(t, func() {
			s.deploy("thief", "thief.yml")
			s.eventually("dev", "thief.dev.example.com", answer{status: http.StatusOK, service: "thief_thief"})
			traffic.forAtLeast(t, 3*time.Second)
		})
	})

	t.Run("a removed service is unknown again", func(t *testing.T) {
		s := s.at(t)
		traffic.lossless(t, func() {
			s.docker("stack", "rm", "bad", "thief")
			s.eventually("dev", "right.dev.example.com", unknownHost)
			s.eventually("dev", "thief.dev.example.com", unknownHost)
		})
	})

	t.Run("altogether", func(t *testing.T) { traffic.altogether(t) })
	chapter("no key or password is in what all of this wrote", unseen)

	t.Run("serve says why it cannot run", func(t *testing.T) { serveCannotRun(t, s.at(t)) })
}

// soaking is whether make soak runs this: for hours, to find what happens seldom.
func soaking() bool { return os.Getenv("WAGGLE_SOAK") != "" }

// rounds is how often the chapters are told that lose something seldom, if at all.
func rounds() int {
	if soaking() {
		return 10
	}
	return 1
}

// unknownHost is the proxy's own answer for a host that nobody of its collection claims.
var unknownHost = answer{status: http.StatusServiceUnavailable, reason: "unknown_host"}

// isolation: no collection knows another's hosts, clusters or endpoints, and a host
// that all of them have is another service in each.
func isolation(t *testing.T, s *swarm) {
	addresses := map[string][]string{}
	for i, c := range collections {
		addresses[c] = s.addresses(webs[i], c+"-edge")
		require.Len(t, addresses[c], 4, "tasks of %s", webs[i])
	}
	for i, own := range collections {
		got, err := s.get(own, "shop.example.com")
		require.NoError(t, err)
		require.Equal(t, webs[i], got.service, "who has shop.example.com in %s", own)

		dump := s.envoyAdmin(own, "/config_dump?include_eds") + s.envoyAdmin(own, "/clusters")
		has := func(word string) bool {
			return regexp.MustCompile(`\b` + regexp.QuoteMeta(word) + `\b`).MatchString(dump)
		}
		for _, word := range append([]string{"web." + own + ".example.com", webs[i]}, addresses[own]...) {
			require.True(t, has(word), "%s's dump lacks its own %s", own, word)
		}
		for j, other := range collections {
			if other == own {
				continue
			}
			got, err := s.get(own, "web."+other+".example.com")
			require.NoError(t, err)
			require.Equal(t, unknownHost, got, "%s's host asked of %s", other, own)

			for _, word := range append([]string{"web." + other + ".example.com", webs[j]}, addresses[other]...) {
				require.False(t, has(word), "%s's dump has %s, which is %s's", own, word, other)
			}
		}
	}
}

// serveCannotRun starts control planes that cannot run on this Swarm: each says in
// one sentence what is wrong and what to do, and ends with exit code 2.
func serveCannotRun(t *testing.T, s *swarm) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct {
		name string
		env  []string
		says []string
	}{
		{
			"on a worker",
			[]string{"WAGGLE_SWARM_HOST=" + s.socket(2)},
			[]string{"manager"},
		},
		{
			"with the port of the proxies taken",
			[]string{"WAGGLE_SWARM_HOST=" + s.socket(1), "WAGGLE_XDS_ADDRESS=" + taken.Addr().String()},
			[]string{taken.Addr().String(), "taken"},
		},
		{
			"with the admin port taken",
			[]string{"WAGGLE_SWARM_HOST=" + s.socket(1), "WAGGLE_XDS_ADDRESS=127.0.0.1:0", "WAGGLE_ADMIN_ADDRESS=" + taken.Addr().String()},
			[]string{taken.Addr().String(), "taken"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := waggle(t, append(c.env, "WAGGLE_XDS_INSECURE=true"), "serve")
			out.cannotRun(t, c.says...)
		})
	}
}

// at is s for a subtest, so that what fails there fails there.
func (s *swarm) at(t *testing.T) *swarm {
	sub := *s
	sub.t = t
	return &sub
}

func taskIDs(s *swarm) map[string]bool {
	ids := map[string]bool{}
	args := append([]string{"service", "ps", "-q", "--filter", "desired-state=running"}, webs...)
	for _, id := range strings.Fields(s.docker(args...)) {
		ids[id] = true
	}
	return ids
}
