package load_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/lab/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 20 * time.Second

func server(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func start(t *testing.T, target load.Target) *load.Run {
	t.Helper()
	r, err := load.Start(t.Context(), target)
	require.NoError(t, err)
	t.Cleanup(func() { r.Stop() })
	return r
}

// eventually waits for a report since m that is what cond wants.
func eventually(t *testing.T, r *load.Run, m load.Mark, cond func(load.Report) bool) load.Report {
	t.Helper()
	var rep load.Report
	require.Eventually(t, func() bool { rep = r.Since(m); return cond(rep) }, deadline, 2*time.Millisecond)
	return rep
}

func TestRateHoldsAndAnswersAreCounted(t *testing.T) {
	var n atomic.Int64
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop.example.com" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Waggle-Service", "shop_web")
		w.Header().Set("X-Waggle-Task", []string{"shop_web.1", "shop_web.2"}[n.Add(1)%2])
	})
	began := time.Now()
	r := start(t, load.Target{Name: "dev", URL: s.URL, Host: "shop.example.com", Rate: 500, Expect: load.Service("shop_web")})
	eventually(t, r, load.Mark{}, func(rep load.Report) bool { return rep.Requests >= 100 })
	took := time.Since(began)
	rep := r.Stop()

	require.GreaterOrEqual(t, took, 190*time.Millisecond, "100 requests at 500/s are not there sooner")
	require.Zero(t, rep.Failed, "%v", rep.Failures)
	require.Equal(t, map[string]uint64{"200": rep.Requests}, rep.Outcomes)
	require.Equal(t, map[string]uint64{"shop_web": rep.Requests}, rep.Services)
	require.Equal(t, rep.Requests, rep.Tasks["shop_web.1"]+rep.Tasks["shop_web.2"])
	require.Positive(t, rep.P50)
	require.LessOrEqual(t, rep.P50, rep.P99)
	require.LessOrEqual(t, rep.P99, rep.Max)
	require.Equal(t, uint64(n.Load()), rep.Requests, "Stop waits for what is open")
	require.Equal(t, rep.Requests, r.Stop().Requests, "Stop may be called again")
}

func TestMarksSplitTheRun(t *testing.T) {
	var bad atomic.Bool
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		if bad.Load() {
			w.Header().Set("X-Waggle-Reason", "no_task")
			w.WriteHeader(503)
		}
	})
	r := start(t, load.Target{URL: s.URL, Rate: 1000})
	first := r.Mark()
	rep := eventually(t, r, first, func(rep load.Report) bool { return rep.Outcomes["200"] >= 10 })
	require.Zero(t, rep.Failed)
	require.Empty(t, rep.Failures)

	second := r.Mark()
	bad.Store(true)
	rep = eventually(t, r, second, func(rep load.Report) bool { return rep.Failed >= 40 })
	require.Equal(t, rep.Failed, rep.Outcomes["503"])
	require.Len(t, rep.Failures, 20, "the first few")
	require.Equal(t, 503, rep.Failures[0].Status)
	require.Contains(t, rep.Failures[0].String(), "status 503 (no_task), want 200")

	bad.Store(false)
	eventually(t, r, r.Mark(), func(rep load.Report) bool { return rep.Outcomes["200"] >= 10 })
	for end := time.Now().Add(deadline); ; { // what was under way may come late
		rep = eventually(t, r, r.Mark(), func(rep load.Report) bool { return rep.Outcomes["200"] >= 10 })
		if rep.Failed == 0 || time.Now().After(end) {
			break
		}
	}
	require.Zero(t, rep.Failed)
	require.Empty(t, rep.Failures, "earlier failures are not this step's")
}

func TestFailuresHaveAClass(t *testing.T) {
	slow := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	cut := server(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	half := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	other := server(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Waggle-Service", "b") })
	moved := server(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	for name, tc := range map[string]struct {
		target      load.Target
		class, text string
	}{
		"refused":           {load.Target{URL: "http://" + closed.Addr().String()}, "refused", "connection refused"},
		"timeout":           {load.Target{URL: slow.URL, Timeout: 20 * time.Millisecond}, "timeout", "Client.Timeout"},
		"closed":            {load.Target{URL: cut.URL}, "closed", "EOF"},
		"closed in body":    {load.Target{URL: half.URL}, "closed", "body: "},
		"another's answer":  {load.Target{URL: other.URL, Expect: load.Service("a")}, "wrong answer", `answered by service "b", want ["a"]`},
		"unexpected 200":    {load.Target{URL: other.URL, Expect: load.Status(503)}, "wrong answer", "status 200, want 503"},
		"redirect as it is": {load.Target{URL: moved.URL}, "302", "status 302, want 200"},
		"no room":           {load.Target{URL: slow.URL, MaxInFlight: 1, Timeout: time.Second}, "not sent", "1 requests are open already"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.target.Rate = 200
			r := start(t, tc.target)
			rep := eventually(t, r, load.Mark{}, func(rep load.Report) bool { return rep.Outcomes[tc.class] > 0 })
			require.Equal(t, rep.Requests, rep.Failed)
			require.Contains(t, rep.Failures[0].Text, tc.text)
			require.Zero(t, rep.Max, "nobody got a good answer")
			require.Positive(t, rep.Longest)
		})
	}
}

func TestMergeAddsRunsUp(t *testing.T) {
	good := server(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Waggle-Task", "a.1") })
	bad := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	var reports []load.Report
	for _, url := range []string{good.URL, good.URL, bad.URL} {
		r := start(t, load.Target{URL: url, Rate: 500})
		eventually(t, r, load.Mark{}, func(rep load.Report) bool { return rep.Requests >= 10 })
		reports = append(reports, r.Stop())
	}
	sum := load.Merge(reports...)
	require.Equal(t, reports[0].Requests+reports[1].Requests+reports[2].Requests, sum.Requests)
	require.Equal(t, reports[2].Failed, sum.Failed)
	require.Equal(t, map[string]uint64{"200": sum.Requests - sum.Failed, "500": sum.Failed}, sum.Outcomes)
	require.Equal(t, map[string]uint64{"a.1": sum.Requests - sum.Failed}, sum.Tasks)
	require.Equal(t, max(reports[0].Max, reports[1].Max), sum.Max)
	require.Equal(t, max(sum.Max, reports[2].Longest), sum.Longest)
	require.NotEmpty(t, sum.Failures)
	require.Zero(t, load.Merge().Requests)
}

func TestAddrIsDialledInstead(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop.invalid:81" {
			w.WriteHeader(400)
		}
	})
	r := start(t, load.Target{URL: "http://shop.invalid:81/", Addr: strings.TrimPrefix(s.URL, "http://"), Rate: 100})
	rep := eventually(t, r, load.Mark{}, func(rep load.Report) bool { return rep.Requests > 0 })
	require.Zero(t, rep.Failed, "%v", rep.Failures)
}

func TestOverTLSTheHostIsAskedFor(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.ServerName != "example.com" || r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	s.EnableHTTP2, s.Config.ErrorLog = true, log.New(io.Discard, "", 0) // clients that do not trust it
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig
	r := start(t, load.Target{Name: "tls", URL: s.URL, Host: "example.com:8443", TLS: &tls.Config{RootCAs: roots.RootCAs}, Rate: 10})
	eventually(t, r, load.Mark{}, func(rep load.Report) bool { return rep.Requests >= 3 })
	require.Zero(t, r.Stop().Failed)

	r = start(t, load.Target{Name: "untrusted", URL: s.URL, Rate: 10})
	eventually(t, r, load.Mark{}, func(rep load.Report) bool { return rep.Failed >= 2 })
}

func TestLoadEndsWithItsContext(t *testing.T) {
	s := server(t, func(http.ResponseWriter, *http.Request) {})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := load.Start(ctx, load.Target{URL: s.URL, Rate: 100})
	require.NoError(t, err)
	cancel()
	n := r.Stop().Requests
	require.Equal(t, n, r.Since(load.Mark{}).Requests)
}

func TestTargetsThatCannotBeAsked(t *testing.T) {
	for _, target := range []load.Target{
		{Name: "web", URL: "http://a b/", Rate: 1},
		{Name: "web", URL: "/path", Rate: 1},
		{Name: "web", URL: "http://a/", Rate: 0},
	} {
		_, err := load.Start(t.Context(), target)
		require.ErrorContains(t, err, "load target web: ")
	}
}
