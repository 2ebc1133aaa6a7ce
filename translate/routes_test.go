package translate

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

func TestShares(t *testing.T) {
	type svc struct {
		weight   string
		replicas uint64
		ready    bool
	}
	for name, c := range map[string]struct {
		services []svc
		want     string
	}{
		"desired replicas":                     {[]svc{{"", 4, true}, {"", 1, true}}, "/* -> s0:80=4 s1:80=1"},
		"weight":                               {[]svc{{"90", 4, true}, {"10", 9, true}}, "/* -> s0:80=90 s1:80=10"},
		"a missing weight beside a given one":  {[]svc{{"", 4, true}, {"25", 1, true}}, "/* -> s0:80=100 s1:80=25"},
		"0 takes none":                         {[]svc{{"0", 4, true}, {"", 1, true}}, "/* -> s0:80=0 s1:80=100"},
		"no ready task takes none":             {[]svc{{"", 4, true}, {"", 3, false}}, "/* -> s0:80=4 s1:80=0"},
		"none has a ready task: shares stay":   {[]svc{{"", 4, false}, {"", 1, false}}, "/* -> s0:80=4 s1:80=1"},
		"the one that takes all has no task":   {[]svc{{"0", 4, true}, {"7", 1, false}}, "/* -> s0:80=0 s1:80=7"},
		"all say 0":                            {[]svc{{"0", 4, true}, {"0", 1, true}}, "/* -> 503 no_task"},
		"scaled to nothing":                    {[]svc{{"", 0, false}, {"", 0, false}}, "/* -> s0:80=1 s1:80=1"},
		"one scaled to nothing":                {[]svc{{"", 0, false}, {"", 3, true}}, "/* -> s0:80=0 s1:80=3"},
		"alone":                                {[]svc{{"", 3, true}}, "/* -> s0:80"},
		"alone with a weight":                  {[]svc{{"7", 3, true}}, "/* -> s0:80"},
		"alone with no task":                   {[]svc{{"", 0, false}}, "/* -> s0:80"},
		"alone with 0":                         {[]svc{{"0", 3, true}}, "/* -> 503 no_task"},
		"more replicas than anybody could run": {[]svc{{"", math.MaxUint64, true}, {"", 1, true}}, "/* -> s0:80=1000000 s1:80=1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			for i, s := range c.services {
				lbls := map[string]string{"hosts": "a.test", "port": "80"}
				if s.weight != "" {
					lbls["weight"] = s.weight
				}
				spec := w.service(fmt.Sprint("s", i), lbls, scaled(0))
				spec.Replicas = s.replicas
				if s.ready {
					w.task(spec, 1)
				}
			}
			b := w.build(t, testConfig())
			require.Equal(t, []string{c.want}, routeLines(b, "dev", "a.test"))
		})
	}
}

// The sum of the weights must fit into 32 bits, and nobody is rounded to nothing.
func TestSharesOfVeryMany(t *testing.T) {
	w := newWorld()
	for i := range 4400 {
		weight := "1000000"
		if i == 0 {
			weight = "1"
		}
		w.service(fmt.Sprint("s", i), map[string]string{"hosts": "a.test", "port": "80", "weight": weight}, scaled(1))
	}
	b := w.build(t, testConfig()) // checks the sum
	vh := tableOf(b.Resources("dev"))["a.test"]
	for _, c := range vh.Routes[1].GetRoute().GetWeightedClusters().GetClusters() {
		require.Positive(t, c.Weight.GetValue())
	}
}

func TestContextRoots(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "a.test", "port": "80", "context_root": "/app", "context_root_rewrite": "true"})
	w.service("x_bad", map[string]string{"hosts": "a.test", "port": "none", "context_root": "/app/bad", "context_root_rewrite": "true"})
	w.service("x_root", map[string]string{"hosts": "a.test", "port": "80", "context_root_rewrite": "true"})
	b := w.build(t, testConfig())
	require.Equal(t, []string{
		"/app/bad -> 503 not_built",
		"=/app -> MOVED_PERMANENTLY /app/", "/app/* -> rewrite / x_web:80",
		"/* -> x_root:80",
	}, routeLines(b, "dev", "a.test"))
}

// Few labels could multiply to more than any machine holds.
func TestHostsTimesPathsAreBounded(t *testing.T) {
	list := func(form string, n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(form, i))
		}
		return strings.Join(all, ",")
	}
	w := newWorld()
	w.service("x_bad", map[string]string{
		"hosts": "a.test", "port": "80", "many.port": "80", "many.hosts": list("h%d.test", 90), "many.path": list("/%d", 90),
		"more.port": "80", "more.hosts": list("m%d.test", 90), "more.path": list("/%d", 2),
	})
	w.service("x_hosts", map[string]string{"hosts": list("x%d.test", 2500), "port": "80"})
	w.service("x_good", map[string]string{"hosts": "good.test", "port": "80"})
	b := w.build(t, testConfig())
	require.Equal(t, []string{"/* -> x_bad:80"}, routeLines(b, "dev", "a.test"))
	require.Equal(t, []string{"=/0 -> x_bad:80", "=/1 -> x_bad:80", "=/10 -> x_bad:80"}, routeLines(b, "dev", "h0.test")[:3])
	require.Equal(t, []string{"/* -> 503 not_built"}, routeLines(b, "dev", "m0.test"))
	require.Equal(t, []string{"/* -> x_hosts:80"}, routeLines(b, "dev", "x2499.test"))
	require.Equal(t, []string{"/* -> x_good:80"}, routeLines(b, "dev", "good.test"))
	require.Len(t, b.Problems(), 1)
	p := requireProblem(t, b, "x_bad", labels.Error, "2 paths of 90 hosts are more matches than the 8192 that a service may have")
	require.Equal(t, "com.docker.lb.more.path", p.Label)
}

func TestRouteSettings(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "a.test", "port": "80",
		"once.hosts": "a.test", "once.port": "80", "once.context_root": "/once", "once.retries": "0",
		"slow.hosts": "a.test", "slow.port": "80", "slow.context_root": "/slow", "slow.retries": "5", "slow.timeout": "30s", "slow.idle_timeout": "1h"})
	b := w.build(t, testConfig())
	vh := tableOf(b.Resources("dev"))["a.test"]
	require.Equal(t, "connect-failure,refused-stream,reset-before-request", vh.RetryPolicy.RetryOn)
	require.EqualValues(t, 2, vh.RetryPolicy.NumRetries.GetValue())
	require.Equal(t, "envoy.retry_host_predicates.previous_hosts", vh.RetryPolicy.RetryHostPredicate[0].Name)

	var order []string
	byName := map[string]*routev3.Route{}
	for _, r := range vh.Routes {
		order = append(order, r.Name)
		byName[r.Name] = r
	}
	require.Equal(t, []string{"x_web/once", "x_web/slow#safe", "x_web/slow", "x_web#safe", "x_web"}, order)

	def := byName["x_web"]
	require.Nil(t, def.GetRoute().RetryPolicy, "the host's")
	require.Equal(t, time.Duration(0), def.GetRoute().Timeout.AsDuration())
	require.NotNil(t, def.GetRoute().Timeout, "without it Envoy would say 15 s")
	require.Equal(t, 10*time.Minute, def.GetRoute().IdleTimeout.AsDuration())
	require.Empty(t, def.RequestHeadersToAdd)

	safe := byName["x_web#safe"]
	require.Equal(t, "GET|HEAD|OPTIONS", safe.Match.Headers[0].GetStringMatch().GetSafeRegex().GetRegex())
	require.Equal(t, "x-envoy-retry-on", safe.RequestHeadersToAdd[0].Header.Key)
	require.Equal(t, "reset", safe.RequestHeadersToAdd[0].Header.Value)

	require.Empty(t, byName["x_web/once"].GetRoute().RetryPolicy.RetryOn, "an empty policy, or the host's would hold")
	require.EqualValues(t, 5, byName["x_web/slow"].GetRoute().RetryPolicy.NumRetries.GetValue())
	require.Equal(t, 30*time.Second, byName["x_web/slow#safe"].GetRoute().Timeout.AsDuration())
	require.Equal(t, time.Hour, byName["x_web/slow"].GetRoute().IdleTimeout.AsDuration())
}

func TestSharersHaveRouteSettingsInCommon(t *testing.T) {
	w := newWorld()
	w.service("x_old", map[string]string{"hosts": "a.test", "port": "80"})
	w.service("x_new", map[string]string{"hosts": "a.test", "port": "80", "timeout": "3s"})
	b := w.build(t, testConfig())
	p := requireProblem(t, b, "x_new", labels.Warning, "timeout")
	require.Equal(t, "x_old", p.Winner)
	require.Empty(t, problemsOf(b, "x_old"))
}

func TestPort(t *testing.T) {
	tcp := func(targets ...uint32) (ps []watcher.Port) {
		for _, p := range targets {
			ps = append(ps, watcher.Port{Protocol: "tcp", Target: p, Published: p})
		}
		return ps
	}
	for name, c := range map[string]struct {
		port   string
		ports  []watcher.Port
		expose []uint32
		want   string
		reason string
	}{
		"said":                  {port: "8080", ports: tcp(80, 8080), want: "/* -> web:8080"},
		"said, and exposed":     {port: "8080", ports: tcp(80), expose: []uint32{8080}, want: "/* -> web:8080"},
		"said, and not shown":   {port: "8080", ports: tcp(80), want: "/* -> web:8080", reason: "has 80 under ports, and not this one"},
		"the only published":    {ports: tcp(80), want: "/* -> web:80"},
		"the only distinct one": {ports: tcp(80, 80), expose: []uint32{81}, want: "/* -> web:80"},
		"udp does not count":    {ports: append(tcp(80), watcher.Port{Protocol: "udp", Target: 53}), want: "/* -> web:80"},
		"expose":                {expose: []uint32{8080}, want: "/* -> web:8080", reason: "a Swarm does not carry"},
		"several":               {ports: tcp(80, 443), want: "/* -> 503 not_built", reason: "several under ports: 80, 443"},
		"several under expose":  {expose: []uint32{80, 443}, want: "/* -> 503 not_built", reason: "several under expose: 80, 443"},
		"none":                  {want: "/* -> 503 not_built", reason: "publishes none"},
		"bad":                   {port: "70000", ports: tcp(80), want: "/* -> 503 not_built", reason: "65535"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			lbls := map[string]string{"hosts": "a.test"}
			if c.port != "" {
				lbls["port"] = c.port
			}
			w.service("web", lbls, func(s *watcher.Service) { s.Ports, s.Expose = c.ports, c.expose })
			b := w.build(t, testConfig())
			require.Equal(t, []string{c.want}, routeLines(b, "dev", "a.test"))
			if c.reason == "" {
				require.Empty(t, b.Problems())
			} else {
				require.Len(t, b.Problems(), 1)
				require.Contains(t, b.Problems()[0].Reason+b.Problems()[0].Hint, c.reason)
				require.Equal(t, "com.docker.lb.port", b.Problems()[0].Label)
			}
		})
	}
}
