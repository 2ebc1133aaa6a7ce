package labels

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
)

// parse reads labels with the usual prefixes, and checks what holds for every result.
func parse(t testing.TB, labels map[string]string, opts Options) *Service {
	t.Helper()
	s := Parse(Merge(prefixes, "shop_app", labels), "shop_app", opts)
	for _, p := range s.Problems {
		require.Equal(t, "shop_app", p.Service)
		require.Equal(t, opts.Collection, p.Collection)
		require.NotEmpty(t, p.Severity)
		require.NotEmpty(t, p.Label)
		require.NotEmpty(t, p.Reason)
		require.NotEmpty(t, p.Hint)
	}
	for _, r := range s.Routes {
		require.False(t, r.Vague && !r.Broken)
		require.False(t, s.Broken && !r.Broken)
		require.Equal(t, byte('/'), r.ContextRoot[0])
	}
	return s
}

func number(n uint32) *uint32 { return &n }

func TestEveryBuiltKey(t *testing.T) {
	s := parse(t, map[string]string{
		"com.docker.lb.hosts":                "a.example, *.b.example",
		"com.docker.lb.default_backend":      "yes",
		"com.docker.lb.context_root":         "app/",
		"com.docker.lb.context_root_rewrite": "true",
		"com.docker.lb.port":                 "8080",
		"com.docker.lb.network":              "edge",
		"com.docker.lb.backend_mode":         "vip",
		"com.docker.lb.weight":               "0",
		"com.docker.lb.service_cluster":      "dev",
		"com.docker.lb.connect_timeout":      "1s",
		"com.docker.lb.timeout":              "30",
		"com.docker.lb.idle_timeout":         "1h",
		"com.docker.lb.retries":              "0",
		"com.docker.lb.max_fails":            "0",
		"com.docker.lb.fail_timeout":         "10s",
		"com.docker.lb.websocket_endpoints":  "/ws",
		"com.docker.lb.api.hosts":            "api.example",
	}, Options{Collection: "dev"})
	require.Empty(t, cmp.Diff(&Service{
		Network: "edge", BackendMode: VIPMode,
		Routes: []*Route{{
			Traffic:     Traffic{Hosts: []string{"a.example", "*.b.example"}, DefaultBackend: true, ContextRoot: "/app", ContextRootRewrite: true},
			Destination: Destination{Port: 8080, Weight: number(0)},
			Answers:     Answers{RedirectCode: 302},
			Resilience: Resilience{
				Timeout: 30 * time.Second, IdleTimeout: time.Hour, ConnectTimeout: time.Second, Retries: 0,
				MaxFails: number(0), FailTimeout: 10 * time.Second,
				HealthInterval: 5 * time.Second, HealthTimeout: 2 * time.Second, HealthRise: 1, HealthFall: 3,
			},
			LabelPrefix: "com.docker.lb.",
			Labels: map[string]string{
				"hosts": "com.docker.lb.hosts", "default_backend": "com.docker.lb.default_backend", "context_root": "com.docker.lb.context_root",
				"context_root_rewrite": "com.docker.lb.context_root_rewrite", "port": "com.docker.lb.port", "network": "com.docker.lb.network",
				"backend_mode": "com.docker.lb.backend_mode", "weight": "com.docker.lb.weight", "service_cluster": "com.docker.lb.service_cluster",
				"connect_timeout": "com.docker.lb.connect_timeout", "timeout": "com.docker.lb.timeout", "idle_timeout": "com.docker.lb.idle_timeout",
				"retries": "com.docker.lb.retries", "max_fails": "com.docker.lb.max_fails", "fail_timeout": "com.docker.lb.fail_timeout",
				"websocket_endpoints": "com.docker.lb.websocket_endpoints",
			},
		}, {
			Name:        "api",
			Traffic:     Traffic{Hosts: []string{"api.example"}, ContextRoot: "/"},
			Answers:     Answers{RedirectCode: 302},
			Resilience:  Resilience{IdleTimeout: 10 * time.Minute, ConnectTimeout: 500 * time.Millisecond, Retries: 2, FailTimeout: 5 * time.Second, HealthInterval: 5 * time.Second, HealthTimeout: 2 * time.Second, HealthRise: 1, HealthFall: 3},
			LabelPrefix: "com.docker.lb.api.",
			Labels: map[string]string{
				"hosts": "com.docker.lb.api.hosts", "network": "com.docker.lb.network",
				"backend_mode": "com.docker.lb.backend_mode", "service_cluster": "com.docker.lb.service_cluster",
			},
		}},
	}, s, cmpopts.IgnoreUnexported(Route{})))
	require.Equal(t, "com.docker.lb.port", s.Routes[0].Label("port"))
	require.Equal(t, "com.docker.lb.api.port", s.Routes[1].Label("port"), "as its author would write it")
}

// outcome is what a table says of a route.
type outcome struct {
	Name                  string
	Hosts                 []string
	Root                  string
	Broken, Vague, Closed bool
}

func outcomes(s *Service) []outcome {
	var all []outcome
	for _, r := range s.Routes {
		all = append(all, outcome{r.Name, r.Hosts, r.ContextRoot, r.Broken, r.Vague, r.Closed})
	}
	return all
}

func TestProblems(t *testing.T) {
	a := []string{"a.example"}
	served := outcome{Hosts: a, Root: "/"}
	for _, c := range []struct {
		name   string
		labels map[string]string // added to hosts: a.example
		alone  bool              // without that one
		opts   Options
		routes []outcome
		told   []string
	}{
		{name: "nothing", alone: true},
		{name: "defaults publish nobody", alone: true, opts: Options{Defaults: map[string]string{"hosts": "x.example"}}},
		{name: "nothing wrong", routes: []outcome{served}},
		{name: "only a collection", alone: true, labels: map[string]string{"lb.service_cluster": "dev"},
			told: []string{"info lb.service_cluster=\"dev\": says nothing about which traffic is meant: the service is not published; add `lb.hosts`"}},
		{name: "no hosts", alone: true, labels: map[string]string{"lb.port": "80"},
			routes: []outcome{{Root: "/", Broken: true}},
			told:   []string{"error lb.hosts=\"\": there are no hosts, so the service takes no traffic; add `lb.hosts` or `lb.default_backend: true`"}},
		{name: "the default backend needs no hosts", alone: true, labels: map[string]string{"lb.default_backend": "1"},
			routes: []outcome{{Root: "/"}}},
		{name: "unless it is none", alone: true, labels: map[string]string{"lb.default_backend": "no"},
			routes: []outcome{{Root: "/", Broken: true}},
			told:   []string{"error lb.hosts=\"\": there are no hosts, so the service takes no traffic; add `lb.hosts` or `lb.default_backend: true`"}},
		{name: "a bad default backend is told once", alone: true, labels: map[string]string{"lb.default_backend": "treu"},
			routes: []outcome{{Root: "/", Broken: true}},
			told:   []string{"error lb.default_backend=\"treu\": is neither true nor false: the route is not served, what it claims answers 503; write `true`"}},
		{name: "a named route inherits no hosts", labels: map[string]string{"lb.api.port": "80"},
			routes: []outcome{served, {Name: "api", Root: "/", Broken: true}},
			told: []string{"error lb.api.hosts=\"\": the route `api` has no hosts, so it takes no traffic; it inherits nothing from the unnamed route; " +
				"add `lb.api.hosts` or `lb.api.default_backend: true`"}},
		{name: "nor gives the unnamed one any", alone: true, labels: map[string]string{"lb.port": "80", "lb.api.hosts": "a.example"},
			routes: []outcome{{Root: "/", Broken: true}, {Name: "api", Hosts: a, Root: "/"}},
			told: []string{"error lb.hosts=\"\": the unnamed route has no hosts, so it takes no traffic; named routes inherit nothing from it; " +
				"add `lb.hosts`, or give its labels to the named routes (`lb.<route>.port`)"}},
		{name: "an unnamed route of service-wide keys is none", alone: true, labels: map[string]string{"lb.network": "edge", "lb.api.hosts": "a.example"},
			routes: []outcome{{Name: "api", Hosts: a, Root: "/"}}},
		{name: "one bad host", alone: true, labels: map[string]string{"lb.hosts": "a.example,*b"},
			routes: []outcome{served},
			told:   []string{"error lb.hosts=\"*b\": has a wildcard that is not its whole first part: the entry is dropped; write `*` or `*.example.com`"}},
		{name: "all hosts bad", alone: true, labels: map[string]string{"lb.hosts": "a b"},
			routes: []outcome{{Root: "/", Broken: true}},
			told: []string{"error lb.hosts=\"a b\": the character ' ' cannot stand in a host: the route is not served, what it claims answers 503; " +
				"write a host such as `app.example.com`"}},
		{name: "a bad port keeps the claim", labels: map[string]string{"lb.port": "http", "lb.context_root": "/x"},
			routes: []outcome{{Hosts: a, Root: "/x", Broken: true}},
			told:   []string{"error lb.port=\"http\": is not a whole number: the route is not served, what it claims answers 503; write a whole number from 1 to 65535"}},
		{name: "a bad root claims no root", labels: map[string]string{"lb.context_root": "/a/../b"},
			routes: []outcome{{Hosts: a, Root: "/", Broken: true, Vague: true}},
			told: []string{"error lb.context_root=\"/a/../b\": has the segment `..`, which no request has after normalisation: the route is not served, what it claims answers 503; " +
				"write the path without `..`"}},
		{name: "a bad service-wide key", labels: map[string]string{"lb.backend_mode": "VIP", "lb.api.hosts": "b.example"},
			routes: []outcome{{Hosts: a, Root: "/", Broken: true}, {Name: "api", Hosts: []string{"b.example"}, Root: "/", Broken: true}},
			told:   []string{"error lb.backend_mode=\"VIP\": is none of `task`, `vip`, `host`: the service is not served, what it claims answers 503; did you mean `vip`?"}},
		{name: "a bad route name", labels: map[string]string{"lb.My_Api.hosts": "b.example"},
			routes: []outcome{served, {Name: "My_Api", Hosts: []string{"b.example"}, Root: "/", Broken: true}},
			told:   []string{"error lb.My_Api.hosts=\"b.example\": `My_Api` is not a name for a route: what it claims answers 503; call it `my-api`"}},
		{name: "comfort falls to the default", labels: map[string]string{"lb.retries": "many", "lb.weight": "-1", "lb.timeout": "-1s"},
			routes: []outcome{served},
			told: []string{
				"warning lb.weight=\"-1\": is not a whole number: the default holds; write a whole number from 0 to 1000000",
				"warning lb.timeout=\"-1s\": is negative: the default holds (0); write `1s`",
				"warning lb.retries=\"many\": is not a whole number: the default holds (2); write a whole number, 0 or more"}},
		{name: "line breaks", labels: map[string]string{"lb.context_root": "/a\r\nx: y"},
			routes: []outcome{{Hosts: a, Root: "/", Broken: true, Vague: true}},
			told:   []string{"error lb.context_root=\"/a\\\\r\\\\nx: y\": has a line break or NUL in it: the route is not served, what it claims answers 503; write it on one line"}},

		{name: "not built: match", labels: map[string]string{"lb.udp_port": "53"},
			routes: []outcome{{Hosts: a, Root: "/", Broken: true}},
			told:   []string{"error lb.udp_port=\"53\": `udp_port` is not built yet: the route is not served, what it claims answers 503; remove the label"}},
		{name: "not built: one of several values", labels: map[string]string{"lb.tls": "auto"},
			routes: []outcome{served},
			told:   []string{"error lb.tls=\"auto\": is not built yet (ACME): HTTPS of the hosts is not served, plain HTTP stays; name a certificate with `ssl_cert`, or write `local` for the development CA"}},
		{name: "what holds anyway", routes: []outcome{served}, labels: map[string]string{
			"lb.ssl_only": "false", "lb.ssl_backend": "0", "lb.ssl_passthrough": "no", "lb.ssl_backend_tls_verify": "none", "lb.tls_min_version": "1.2",
			"lb.cors_credentials": "false", "lb.protocol": "http1", "lb.priority": "0", "lb.redirect_code": "302", "lb.websocket": "true",
			"lb.lb_policy": "least_request", "lb.health_interval": "5000ms", "lb.retry_methods": "GET, HEAD, OPTIONS", "lb.websocket_endpoints": "/ws"}},
		{name: "a malformed guard", labels: map[string]string{"lb.ssl_only": "yep", "lb.rate_limit": "often", "lb.allow_ips": ","},
			routes: []outcome{{Hosts: a, Root: "/", Closed: true}},
			told: []string{
				"error lb.ssl_only=\"yep\": is neither true nor false: the route answers 503, because a guard never opens; write `true` or `false`",
				"error lb.allow_ips=\",\": is a list without entries: the route answers 503, because a guard never opens; remove the label, or name something",
				"error lb.rate_limit=\"often\": is not a rate per second (`/s`) or minute (`/m`): the route answers 503, because a guard never opens; " +
					"write a rate such as `100/s`, `600/m` or `100/s,burst=20`"}},
		{name: "a blank guard", labels: map[string]string{"lb.basic_auth": " "},
			routes: []outcome{{Hosts: a, Root: "/", Closed: true}},
			told: []string{"error lb.basic_auth=\"[redacted]\": is not the name of a secret, config or file: the route answers 503, because a guard never opens; " +
				"put the content into a secret or config and write its name"}},
		{name: "key material is not repeated", labels: map[string]string{"lb.ssl_key": "-----BEGIN PRIVATE KEY-----\nMC4C"},
			routes: []outcome{served},
			told:   []string{"error lb.ssl_key=\"[redacted]\": has a line break or NUL in it: HTTPS of the hosts is not served, plain HTTP stays; write it on one line"}},
		{name: "a name that cannot be one", labels: map[string]string{"lb.match_header": "1", "lb.set_request_header.Host": "x"},
			routes: []outcome{{Hosts: a, Root: "/", Broken: true, Vague: true}},
			told: []string{
				"error lb.match_header=\"1\": the name \"\": is blank: the route is not served, what it claims answers 503; write a name such as `X-Tenant`",
				"warning lb.set_request_header.Host=\"x\": the name \"host\": the Host header cannot be changed here: the default holds; use `rewrite_host`"}},
		{name: "redirects and ports below HTTP need no hosts", alone: true,
			labels: map[string]string{"lb.redirects": "http://a.example,https://a.example", "lb.db.tcp_port": "5432"},
			routes: []outcome{{Root: "/"}, {Name: "db", Root: "/", Broken: true}},
			told: []string{
				"error lb.db.tcp_port=\"5432\": `tcp_port` is not built yet: the route is not served, what it claims answers 503; remove the label"}},

		{name: "required overrides the label", labels: map[string]string{"lb.ssl_only": "true", "lb.api.hosts": "b.example"},
			opts:   Options{Required: map[string]string{"ssl_only": "false"}},
			routes: []outcome{served, {Name: "api", Hosts: []string{"b.example"}, Root: "/"}},
			told:   []string{"info lb.ssl_only=\"true\": the operator of the collection requires `ssl_only: false`, which holds; remove the label"}},
		{name: "required says what the label says", labels: map[string]string{"lb.ssl_only": "no"},
			opts: Options{Required: map[string]string{"ssl_only": "false"}}, routes: []outcome{served}},
		{name: "a required guard that is bad closes every route", labels: map[string]string{"lb.max_body_size": "1m", "lb.api.hosts": "b.example"},
			opts:   Options{Required: map[string]string{"max_body_size": "much"}},
			routes: []outcome{{Hosts: a, Root: "/", Closed: true}, {Name: "api", Hosts: []string{"b.example"}, Root: "/", Closed: true}},
			told: []string{
				"info lb.max_body_size=\"1m\": the operator of the collection requires `max_body_size: much`, which holds; remove the label",
				"error required: max_body_size=\"much\": is not a size: the route answers 503, because a guard never opens; write a size such as `512KiB`, `32m` or `1GB`",
				"error required: max_body_size=\"much\": is not a size: the route answers 503, because a guard never opens; write a size such as `512KiB`, `32m` or `1GB`"}},
		{name: "a bad label of comfort falls to the collection's default", labels: map[string]string{"lb.retries": "many"},
			opts:   Options{Defaults: map[string]string{"retries": "7"}},
			routes: []outcome{served},
			told:   []string{"warning lb.retries=\"many\": is not a whole number: the collection's default holds (7); write a whole number, 0 or more"}},
		{name: "hosts may come from the operator", alone: true, labels: map[string]string{"lb.port": "80"},
			opts: Options{Defaults: map[string]string{"hosts": "a.example"}}, routes: []outcome{served}},
	} {
		t.Run(c.name, func(t *testing.T) {
			labels := map[string]string{"com.docker.stack.namespace": "shop"}
			if !c.alone {
				labels["lb.hosts"] = "a.example"
			}
			for k, v := range c.labels {
				labels[k] = v
			}
			c.opts.Collection = "dev"
			s := parse(t, labels, c.opts)
			require.Empty(t, cmp.Diff(c.routes, outcomes(s)))
			require.Empty(t, cmp.Diff(c.told, told(s.Problems)))
		})
	}
}

func TestPrecedence(t *testing.T) {
	labels := map[string]string{
		"lb.hosts": "a.example", "lb.retries": "1", "lb.timeout": "1s",
		"lb.api.hosts": "b.example", "lb.api.timeout": "2s",
	}
	s := parse(t, labels, Options{
		Defaults: map[string]string{"retries": "5", "idle_timeout": "5m", "network": "edge", "port": ""},
		Required: map[string]string{"timeout": "9s", "idle_timeout": ""},
	})
	require.Equal(t, "edge", s.Network)
	unnamed, api := s.Routes[0], s.Routes[1]
	require.Equal(t, uint32(1), unnamed.Retries, "label over defaults")
	require.Equal(t, uint32(5), api.Retries, "defaults over the language, in named routes too")
	require.Equal(t, 9*time.Second, unnamed.Timeout, "required over label")
	require.Equal(t, 9*time.Second, api.Timeout)
	require.Equal(t, 5*time.Minute, api.IdleTimeout, "an empty value is not set")
	require.Equal(t, 500*time.Millisecond, api.ConnectTimeout)
	require.Equal(t, "required: timeout", api.Labels["timeout"])
	require.Equal(t, "defaults: retries", api.Labels["retries"])

	// Names of headers are compared without case here too.
	s = parse(t, map[string]string{"lb.hosts": "a.example", "lb.set_response_header.X-A": "1"},
		Options{Required: map[string]string{"set_response_header.x-a": "2"}})
	require.Len(t, s.Problems, 1)
	require.Equal(t, Info, s.Problems[0].Severity)
	require.Equal(t, []Header{{"x-a", "2"}}, s.Routes[0].ResponseHeaders.Set)
}

// A comfort value that falls back must really be the collection's.
func TestFallbackHolds(t *testing.T) {
	labels := map[string]string{"lb.hosts": "a.example", "lb.retries": "many"}
	require.Equal(t, uint32(7), parse(t, labels, Options{Defaults: map[string]string{"retries": "7"}}).Routes[0].Retries)
	require.Equal(t, uint32(2), parse(t, labels, Options{Defaults: map[string]string{"retries": "bad"}}).Routes[0].Retries)
	require.Equal(t, uint32(2), parse(t, labels, Options{}).Routes[0].Retries)
}

// Sets made by hand need not be whole.
func TestParseNeverPanics(t *testing.T) {
	for _, set := range []*Set{
		{},
		{Routes: map[string]map[string]Value{"": nil, "a": {}}},
		{Routes: map[string]map[string]Value{"": {"hosts": {Text: "a.example"}}, "b": {"network": {Text: "x"}}, "c": {"nonsense": {}}}},
	} {
		require.NotNil(t, Parse(set, "app", Options{}))
	}
}

var benchmarkLabels = map[string]string{
	"com.docker.stack.namespace": "shop", "com.docker.stack.image": "shop/app:1",
	"com.docker.lb.hosts": "app.example.com,www.example.com", "com.docker.lb.port": "8080", "com.docker.lb.network": "edge",
	"com.docker.lb.context_root": "/app", "com.docker.lb.service_cluster": "dev", "com.docker.lb.retries": "3",
	"com.docker.lb.api.hosts": "api.example.com", "com.docker.lb.api.port": "9090",
}

func BenchmarkParse(b *testing.B) {
	opts := Options{Collection: "dev", Defaults: map[string]string{"retries": "2"}}
	b.ReportAllocs()
	for b.Loop() {
		Parse(Merge(prefixes, "shop_app", benchmarkLabels), "shop_app", opts)
	}
}
