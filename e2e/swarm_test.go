package e2e

import (
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/lab/load"
)

const rate = 120 // requests per second on each collection, all at once

var (
	collections = []string{"dev", "test", "prod"}
	webs        = []string{"dev_web", "test_web", "prod_web"} // the service that each of them publishes, 4 tasks
)

// TestSwarm tells the whole story on one Swarm, because bringing one up takes longer
// than each of its chapters. From the first chapter to the last every collection is
// under load, and every chapter says what became of the requests meanwhile.
func TestSwarm(t *testing.T) {
	s := startSwarm(t, "testdata/stacks")
	traffic := startTraffic(t, s)

	t.Run("every collection answers at full rate", func(t *testing.T) {
		s := s.at(t)
		for i, c := range collections {
			s.eventually(c, "web."+c+".example.com", answer{status: http.StatusOK, service: webs[i]})
		}
		traffic.lossless(t, func() {
			for _, r := range traffic.forAtLeast(t, 10*time.Second) {
				require.Len(t, r.Tasks, 4, "the tasks that answered: %v", r.Tasks)
			}
		})
	})

	t.Run("collections know nothing of each other", func(t *testing.T) {
		s := s.at(t)
		traffic.lossless(t, func() { isolation(t, s) })
	})

	for _, order := range []string{"start-first", "stop-first"} {
		t.Run("rolling update "+order+" loses nothing", func(t *testing.T) {
			s := s.at(t)
			traffic.lossless(t, func() {
				before := taskIDs(s)
				s.update(webs, "--force", "--update-order", order, "--update-parallelism", "1", "--update-delay", "1s", "--update-monitor", "1s")
				for id := range taskIDs(s) {
					require.NotContains(t, before, id, "every task is a new one")
				}
			})
		})
	}

	t.Run("scaling from 4 to 8 to 2 loses nothing", func(t *testing.T) {
		s := s.at(t)
		traffic.lossless(t, func() {
			s.scale(webs, 8)
			require.Len(t, taskIDs(s), 8*len(webs))
			s.scale(webs, 2)
			require.Len(t, taskIDs(s), 2*len(webs))
			traffic.forAtLeast(t, 5*time.Second) // until the last of those that leave has really ended
			s.scale(webs, 4)
		})
	})

	t.Run("replacing the control plane during a rolling update loses nothing", func(t *testing.T) {
		s := s.at(t)
		traffic.lossless(t, func() {
			s.update(append([]string{"edge_waggle"}, webs...), "--force", "--update-order", "start-first")
		})
	})

	t.Run("without any control plane nothing is lost", func(t *testing.T) {
		s := s.at(t)
		traffic.lossless(t, func() {
			s.scale([]string{"edge_waggle"}, 0)
			traffic.forAtLeast(t, 5*time.Second)
			s.scale([]string{"edge_waggle"}, 2)
		})
	})

	t.Run("tasks come by push", func(t *testing.T) { pushed(t, s.at(t)) })

	t.Run("push outlives the Swarm's authority", func(t *testing.T) { rotated(t, s.at(t), traffic) })

	t.Run("both control planes killed during a rolling update, nothing lost", func(t *testing.T) { restarted(t, s.at(t), traffic) })

	t.Run("a killed task costs no GET", func(t *testing.T) { killed(t, s.at(t), traffic) })

	t.Run("a drained node loses nothing", func(t *testing.T) { drained(t, s.at(t), traffic, s) })

	t.Run("rogues are refused", func(t *testing.T) {
		s := s.at(t)
		traffic.lossless(t, func() { rogues(t, s) })
	})

	t.Run("polling through a read-only proxy loses nothing", func(t *testing.T) { polled(t, s.at(t), traffic) })

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

	t.Run("serve says why it cannot run", func(t *testing.T) { serveCannotRun(t, s.at(t)) })
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

// traffic is the load on all collections.
type traffic struct {
	runs []*load.Run
}

func startTraffic(t *testing.T, s *swarm) *traffic {
	tr := &traffic{}
	for _, c := range collections {
		tr.runs = append(tr.runs, startLoad(t, s.target(c)))
	}
	return tr
}

// target is the service of a collection that is under load throughout.
func (s *swarm) target(collection string) load.Target {
	return load.Target{
		Name:   collection,
		URL:    "http://" + s.edges[collection].address + "/",
		Host:   "web." + collection + ".example.com",
		Rate:   rate,
		Expect: load.Service(collection + "_web"),
	}
}

// without runs what happens while one collection is not asked.
func (tr *traffic) without(t *testing.T, s *swarm, collection string, happens func()) {
	t.Helper()
	i := slices.Index(collections, collection)
	r := tr.runs[i].Stop()
	require.Zero(t, r.Failed, "%s: %v", collection, r.Outcomes)
	all := tr.runs
	tr.runs = slices.Delete(slices.Clone(all), i, i+1)
	happens()
	tr.runs = all
	tr.runs[i] = startLoad(s.t, s.target(collection)) // s: of the whole test
}

// lossless runs what happens, and requires that meanwhile every request of every
// collection was answered by the right service, at the rate that was asked for.
func (tr *traffic) lossless(t *testing.T, happens func()) {
	t.Helper()
	marks := make([]load.Mark, len(tr.runs))
	for i, run := range tr.runs {
		marks[i] = run.Mark()
	}
	began := time.Now()
	happens()
	took := time.Since(began)
	for i, run := range tr.runs {
		r := run.Since(marks[i])
		t.Logf("%-4s  %6d requests in %5.1fs  %d failed  p50 %v  p99 %v  max %v", run.Target().Name, r.Requests, took.Seconds(), r.Failed,
			r.P50.Round(time.Millisecond), r.P99.Round(time.Millisecond), r.Max.Round(time.Millisecond))
		if r.Failed > 0 {
			var texts []string
			for _, f := range r.Failures {
				texts = append(texts, f.String())
			}
			t.Errorf("%s: %d of %d requests failed, %v:\n%s", run.Target().Name, r.Failed, r.Requests, r.Outcomes, strings.Join(texts, "\n"))
		}
		if took > 5*time.Second {
			require.GreaterOrEqual(t, r.Rate(), 100.0, "%s: requests per second", run.Target().Name)
		}
	}
}

// forAtLeast waits until load has run for d, measured by the requests that finished, and reports on that time.
func (tr *traffic) forAtLeast(t *testing.T, d time.Duration) []load.Report {
	t.Helper()
	want := uint64(d.Seconds() * rate)
	marks := make([]load.Mark, len(tr.runs))
	for i, run := range tr.runs {
		marks[i] = run.Mark()
	}
	var reports []load.Report
	require.Eventually(t, func() bool {
		reports = nil
		for i, run := range tr.runs {
			if r := run.Since(marks[i]); r.Requests >= want {
				reports = append(reports, r)
			}
		}
		return len(reports) == len(tr.runs)
	}, patience, 50*time.Millisecond)
	return reports
}

// altogether stops the load and requires that nothing failed between the chapters either.
func (tr *traffic) altogether(t *testing.T) {
	t.Helper()
	for _, run := range tr.runs {
		r := run.Stop()
		t.Logf("%-4s  %6d requests in %5.1fs  %d failed", run.Target().Name, r.Requests, r.Elapsed.Seconds(), r.Failed)
		require.Zero(t, r.Failed, "%s: %v", run.Target().Name, r.Outcomes)
	}
}
