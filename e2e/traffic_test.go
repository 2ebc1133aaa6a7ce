package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/lab/load"
)

// traffic is the load on all collections. Each has, on connections that are kept
// open, requests that may be sent twice and some that may not, quick ones and one in
// twenty that takes a second.
type traffic struct {
	of map[string][]*load.Run // by collection, as mix has them
	// forgiven counts the failed requests that a chapter has accounted for.
	forgiven uint64
}

// mix is what each collection is asked.
var mix = []struct {
	method string
	rate   float64 // per second
	slow   bool
}{
	{http.MethodGet, 95, false},
	{http.MethodPost, 19, false},
	{http.MethodGet, 5, true},
	{http.MethodPost, 1, true},
}

const (
	rate = 120 // requests per second on each collection, all at once: the sum of mix
	slow = time.Second
)

func startTraffic(t *testing.T, s *swarm) *traffic {
	tr := &traffic{of: map[string][]*load.Run{}}
	for _, c := range collections {
		tr.of[c] = startMix(t, s, c, s.edges[c].address)
	}
	return tr
}

// startMix asks the service of a collection at an address.
func startMix(t *testing.T, s *swarm, collection, address string) []*load.Run {
	t.Helper()
	var runs []*load.Run
	for _, m := range mix {
		target := load.Target{
			Name: collection + " " + m.method, Method: m.method, Rate: m.rate,
			URL: "http://" + address + "/", Host: "web." + collection + ".example.com",
			Expect: load.Service(collection + "_web"),
		}
		if m.slow {
			target.Name, target.URL = target.Name+" slow", target.URL+"?delay="+slow.String()
		}
		runs = append(runs, startLoad(t, target))
	}
	return runs
}

func startLoad(t *testing.T, target load.Target) *load.Run {
	t.Helper()
	run, err := load.Start(context.WithoutCancel(t.Context()), target)
	require.NoError(t, err)
	t.Cleanup(func() { run.Stop() })
	return run
}

// without runs what happens while some collections are not asked. whole is the
// Swarm of the whole test, because the load outlives the chapter.
func (tr *traffic) without(t *testing.T, whole *swarm, these []string, happens func()) {
	t.Helper()
	var failed uint64
	for _, c := range these {
		for _, run := range tr.of[c] {
			failed += run.Stop().Failed
		}
		delete(tr.of, c)
	}
	require.LessOrEqual(t, failed, tr.forgiven, "requests that failed, beyond those that chapters have accounted for")
	tr.forgiven -= failed
	happens()
	for _, c := range these {
		tr.of[c] = startMix(whole.t, whole, c, whole.edges[c].address)
	}
}

// stretch is a part of the load, from one moment to another.
type stretch struct {
	tr    *traffic
	began time.Time
	marks map[*load.Run]load.Mark
}

func (tr *traffic) begin() *stretch {
	st := &stretch{tr: tr, began: time.Now(), marks: map[*load.Run]load.Mark{}}
	for _, runs := range tr.of {
		for _, run := range runs {
			st.marks[run] = run.Mark()
		}
	}
	return st
}

// reports of one collection since the stretch began.
func (st *stretch) reports(collection string) (quick, all load.Report) {
	var q, a []load.Report
	for i, run := range st.tr.of[collection] {
		r := run.Since(st.marks[run])
		if a = append(a, r); !mix[i].slow {
			q = append(q, r)
		}
	}
	return load.Merge(q...), load.Merge(a...)
}

// lost is a request that failed.
type lost struct {
	load.Failure
	method string
}

// failed are the requests of a collection that failed since the stretch began.
func (st *stretch) failed(collection string) []lost {
	var all []lost
	for _, run := range st.tr.of[collection] {
		for _, f := range run.Since(st.marks[run]).Failures {
			all = append(all, lost{f, run.Target().Method})
		}
	}
	return all
}

// line says what became of a collection's requests.
func line(quick, all load.Report) string {
	return fmt.Sprintf("%6d requests in %5.1fs  %d failed  quick ones: p50 %v  p99 %v  longest %v; all: longest %v", all.Requests, all.Elapsed.Seconds(), all.Failed,
		quick.P50.Round(time.Millisecond), quick.P99.Round(time.Millisecond), quick.Longest.Round(time.Millisecond), all.Longest.Round(time.Millisecond))
}

// lossless runs what happens, and requires that meanwhile every request of every
// collection was answered by the right service, at the rate that was asked for.
func (tr *traffic) lossless(t *testing.T, happens func()) {
	t.Helper()
	st := tr.begin()
	happens()
	took := time.Since(st.began)
	for _, c := range collections {
		if len(tr.of[c]) == 0 {
			continue
		}
		quick, all := st.reports(c)
		t.Logf("%-4s  %s", c, line(quick, all))
		if all.Failed > 0 {
			t.Errorf("%s: %d of %d requests failed, %v:\n%s", c, all.Failed, all.Requests, all.Outcomes, failures(all))
			tr.forgiven += all.Failed // once is enough
		}
		if took > 5*time.Second {
			require.GreaterOrEqual(t, float64(all.Requests)/took.Seconds(), 100.0, "%s: requests per second", c)
		}
	}
}

func failures(r load.Report) string {
	var texts []string
	for _, f := range r.Failures {
		texts = append(texts, f.String())
	}
	return strings.Join(texts, "\n")
}

// forAtLeast waits until load has run for d, measured by the requests that finished, and reports on that time.
func (tr *traffic) forAtLeast(t *testing.T, d time.Duration) map[string]load.Report {
	t.Helper()
	want := uint64(d.Seconds() * rate)
	st := tr.begin()
	reports := map[string]load.Report{}
	require.Eventually(t, func() bool {
		for c := range tr.of {
			if _, all := st.reports(c); all.Requests >= want {
				reports[c] = all
			}
		}
		return len(reports) == len(tr.of)
	}, d+patience, 50*time.Millisecond)
	return reports
}

// altogether stops the load and requires that nothing failed between the chapters either.
func (tr *traffic) altogether(t *testing.T) {
	t.Helper()
	var lost uint64
	for _, c := range collections {
		var all []load.Report
		for _, run := range tr.of[c] {
			all = append(all, run.Stop())
		}
		r := load.Merge(all...)
		t.Logf("%-4s  %6d requests in %5.1fs  %d failed", c, r.Requests, r.Elapsed.Seconds(), r.Failed)
		lost += r.Failed
	}
	require.LessOrEqual(t, lost, tr.forgiven, "requests that failed, beyond those that chapters have accounted for")
}
