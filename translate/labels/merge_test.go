package labels

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var prefixes = []string{"com.docker.lb", "lb"}

// told is a problem as tables write it.
func told(problems []Problem) []string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, fmt.Sprintf("%s %s=%q: %s; %s", p.Severity, p.Label, p.Value, p.Reason, p.Hint))
	}
	return lines
}

func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name     string
		prefixes []string // the usual ones if nil
		labels   map[string]string
		routes   map[string]map[string]Value
		told     []string
	}{
		{name: "nothing"},
		{name: "foreign labels", labels: map[string]string{"traefik.enable": "true", "com.docker.lbx.hosts": "a", "com.docker.lb": "a", "hosts": "a"}},
		{name: "two labels",
			labels: map[string]string{"com.docker.lb.hosts": "a.example", "com.docker.lb.port": "80"},
			routes: map[string]map[string]Value{"": {"hosts": {"com.docker.lb.hosts", "a.example"}, "port": {"com.docker.lb.port", "80"}}}},
		{name: "named route, short prefix",
			labels: map[string]string{"lb.api.hosts": "a.example"},
			routes: map[string]map[string]Value{"api": {"hosts": {"lb.api.hosts", "a.example"}}}},
		{name: "a route may be called like an ordinary key",
			labels: map[string]string{"lb.hosts.port": "80"},
			routes: map[string]map[string]Value{"hosts": {"port": {"lb.hosts.port", "80"}}}},
		{name: "names swallow the rest",
			labels: map[string]string{"lb.match_header.X.Tenant.Id": "a", "lb.api.match_query.Q.r": "b"},
			routes: map[string]map[string]Value{
				"":    {"match_header.x.tenant.id": {"lb.match_header.X.Tenant.Id", "a"}},
				"api": {"match_query.Q.r": {"lb.api.match_query.Q.r", "b"}}}},
		{name: "header names are compared without case",
			labels: map[string]string{"lb.match_header.x-a": "2", "lb.match_header.X-A": "1", "lb.match_header.X-a": "1"},
			routes: map[string]map[string]Value{"": {"match_header.x-a": {"lb.match_header.X-A", "1"}}},
			told: []string{
				"warning lb.match_header.X-a=\"1\": header names are compared without case: `lb.match_header.X-A` says the same and holds; remove one of the two",
				"warning lb.match_header.x-a=\"2\": header names are compared without case: `lb.match_header.X-A` says the same and holds; remove one of the two"}},
		{name: "parameter names are not",
			labels: map[string]string{"lb.match_query.a": "2", "lb.match_query.A": "1"},
			routes: map[string]map[string]Value{"": {"match_query.a": {"lb.match_query.a", "2"}, "match_query.A": {"lb.match_query.A", "1"}}}},
		{name: "the first prefix holds",
			labels: map[string]string{"com.docker.lb.port": "80", "lb.port": "81", "com.docker.lb.hosts": "a.example", "lb.hosts": "a.example"},
			routes: map[string]map[string]Value{"": {"port": {"com.docker.lb.port", "80"}, "hosts": {"com.docker.lb.hosts", "a.example"}}},
			told:   []string{"warning lb.port=\"81\": `com.docker.lb.port` says `80`, and the first prefix holds; remove one of the two"}},
		{name: "whichever that is", prefixes: []string{"lb.", "com.docker.lb"},
			labels: map[string]string{"com.docker.lb.port": "80", "lb.port": "81"},
			routes: map[string]map[string]Value{"": {"port": {"lb.port", "81"}}},
			told:   []string{"warning com.docker.lb.port=\"80\": `lb.port` says `81`, and the first prefix holds; remove one of the two"}},
		{name: "empty is not set",
			labels: map[string]string{"com.docker.lb.port": "", "lb.port": "81", "lb.api.hosts": "", "lb.api.network": ""},
			routes: map[string]map[string]Value{"": {"port": {"lb.port", "81"}}}},
		{name: "the longest prefix is meant", prefixes: []string{"com.docker", "com.docker.lb"},
			labels: map[string]string{"com.docker.lb.port": "80", "com.docker.api.port": "81"},
			routes: map[string]map[string]Value{"": {"port": {"com.docker.lb.port", "80"}}, "api": {"port": {"com.docker.api.port", "81"}}}},
		{name: "unknown keys",
			labels: map[string]string{
				"com.docker.lb.contextroot": "/", "com.docker.lb.api.prot": "80", "com.docker.lb.Port": "80", "com.docker.lb.whatever": "x",
				"com.docker.lb.": "x", "com.docker.lb.hosts.1": "a", "com.docker.lb.match_headers.X-A": "a", "com.docker.lb.api.v1.nothing": "x"},
			told: []string{
				"warning com.docker.lb.=\"x\": nothing stands after the prefix; the keys are listed in docs/labels.md",
				"warning com.docker.lb.Port=\"80\": `Port` is not a known key; did you mean `port`?",
				"warning com.docker.lb.api.prot=\"80\": `prot` is not a known key; did you mean `port`?",
				"warning com.docker.lb.api.v1.nothing=\"x\": `v1.nothing` is not a known key; the keys are listed in docs/labels.md",
				"warning com.docker.lb.contextroot=\"/\": `contextroot` is not a known key; did you mean `context_root`?",
				"warning com.docker.lb.hosts.1=\"a\": `hosts` takes no name, and `1` is no key of a route called `hosts`; write `com.docker.lb.hosts`",
				"warning com.docker.lb.match_headers.X-A=\"a\": `match_headers` is not a known key; did you mean `match_header.X-A`?",
				"warning com.docker.lb.whatever=\"x\": `whatever` is not a known key; the keys are listed in docs/labels.md"}},
		{name: "unknown short ones may be another product's", labels: map[string]string{"lb.foo": "x", "lb.a.b.c": "x"}},
		{name: "unless a known key is there",
			labels: map[string]string{"lb.prot": "80", "com.docker.lb.hosts": "a.example"},
			routes: map[string]map[string]Value{"": {"hosts": {"com.docker.lb.hosts", "a.example"}}},
			told:   []string{"warning lb.prot=\"80\": `prot` is not a known key; did you mean `port`?"}},
		{name: "service-wide keys in a named route",
			labels: map[string]string{"lb.api.network": "edge", "lb.api.service_cluster": "dev", "lb.network": "front"},
			routes: map[string]map[string]Value{"": {"network": {"lb.network", "front"}}},
			told: []string{
				"error lb.api.network=\"edge\": `network` holds for the whole service and cannot be set for one route; it is ignored; write `lb.network`",
				"error lb.api.service_cluster=\"dev\": `service_cluster` holds for the whole service and cannot be set for one route; it is ignored; write `lb.service_cluster`"}},
		{name: "a route called like a key that takes a name",
			labels: map[string]string{"lb.match_header.hosts": "a.example", "lb.match_query.port": "80"},
			routes: map[string]map[string]Value{"": {"match_header.hosts": {"lb.match_header.hosts", "a.example"}, "match_query.port": {"lb.match_query.port", "80"}}},
			told:   []string{"warning lb.match_header.hosts=\"a.example\": this is read as `match_header` of the name `hosts`: a route may not be called `match_header`; if a route is meant, give it another name"}},
		{name: "invalid route names keep what they claim",
			labels: map[string]string{"lb.My_Api.hosts": "a.example", "lb.api.v1.hosts": "b.example", "lb..hosts": "c.example"},
			routes: map[string]map[string]Value{
				"My_Api": {"hosts": {"lb.My_Api.hosts", "a.example"}}, "api.v1": {"hosts": {"lb.api.v1.hosts", "b.example"}}, ".": {"hosts": {"lb..hosts", "c.example"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.prefixes
			if p == nil {
				p = prefixes
			}
			set := Merge(p, "shop_app", c.labels)
			if c.routes == nil {
				c.routes = map[string]map[string]Value{}
			}
			require.Empty(t, cmp.Diff(c.routes, set.Routes))
			require.Empty(t, cmp.Diff(c.told, told(set.Problems)))
			require.False(t, set.Broken)
			for _, p := range set.Problems {
				require.Equal(t, "shop_app", p.Service)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	set := Merge(prefixes, "app", map[string]string{
		"lb.service_cluster": "dev", "lb.network": "edge", "lb.api.hosts": "a.example", "lb.match_header.X-A": "1",
		AccessLabel: "/Shared/dev",
	})
	require.Equal(t, "/Shared/dev", set.AccessLabel)
	for _, c := range []struct {
		route, key, want string
	}{
		{"", "network", "edge"},
		{"api", "network", "edge"},
		{"api", "hosts", "a.example"},
		{"", "hosts", ""},
		{"none", "hosts", ""},
		{"", "match_header.x-A", "1"},
		{"", "nonsense", ""},
	} {
		v, ok := set.Lookup(c.route, c.key)
		require.Equal(t, c.want != "", ok, c)
		require.Equal(t, c.want, v.Text, c)
	}
	v, ok := set.ServiceCluster()
	require.True(t, ok)
	require.Equal(t, Value{"lb.service_cluster", "dev"}, v)
	require.False(t, set.Empty())
	require.True(t, Merge(prefixes, "app", map[string]string{"lb.service_cluster": "dev"}).Empty())
	require.True(t, Merge(prefixes, "app", nil).Empty())
}

func TestTooManyRoutes(t *testing.T) {
	labels := map[string]string{"lb.hosts": "main.example"}
	for i := range maxRoutes - 1 {
		labels[fmt.Sprintf("lb.r%03d.hosts", i)] = fmt.Sprintf("h%d.example", i)
	}
	s := parse(t, labels, Options{})
	require.Empty(t, s.Problems)
	require.Len(t, s.Routes, maxRoutes)

	// The route too many may be the one that guards a part of another: all close.
	labels["lb.zz.hosts"] = "z.example"
	s = parse(t, labels, Options{})
	require.Equal(t, []string{"error lb.hosts=\"main.example\": the service has 65 routes, and at most 64 are read: all of them answer 503; " +
		"split the service, or put several hosts into one route"}, told(s.Problems))
	require.True(t, s.Broken)
	require.Len(t, s.Routes, maxRoutes)
	for _, r := range s.Routes {
		require.True(t, r.Broken)
	}
}

func TestTooManyBytes(t *testing.T) {
	labels := map[string]string{
		"lb.hosts": "main.example", "lb.admin.hosts": "main.example", "lb.admin.context_root": "/admin", "lb.admin.basic_auth": "users",
	}
	used := 0
	for k, v := range labels {
		used += len(k) + len(v)
	}
	const filler = "lb.set_response_header.A"
	labels[filler] = strings.Repeat("x", maxBytes-used-len(filler))
	labels["foreign"] = strings.Repeat("x", maxBytes)
	require.False(t, parse(t, labels, Options{}).Broken)

	labels[filler] += "x"
	s := parse(t, labels, Options{})
	require.Equal(t, []string{"error lb.admin.basic_auth=\"users\": the labels of the service take 65537 bytes, and at most 65536 are read: its routes answer 503; " +
		"write fewer or shorter labels"}, told(s.Problems))
	require.True(t, s.Broken)
	require.Len(t, s.Routes, 2)
	require.Equal(t, []string{"main.example"}, s.Routes[0].Hosts)
	require.Equal(t, "/admin", s.Routes[1].ContextRoot)
	require.True(t, s.Routes[0].Broken && s.Routes[1].Broken)

	labels["lb.hosts"] = strings.Repeat("h", maxBytes)
	require.Len(t, parse(t, labels, Options{}).Routes, 1, "a value beyond the limit is not read")
	require.Empty(t, Merge(prefixes, "app", map[string]string{"lb.foreign": strings.Repeat("x", maxBytes)}).Problems)
}

func TestShown(t *testing.T) {
	require.Equal(t, "a", shown("a"))
	require.Equal(t, `a\r\nb\x00`, shown("a\r\nb\x00"))
	require.Equal(t, strings.Repeat("x", 200)+"…", shown(strings.Repeat("x", 10000)))
	require.Equal(t, strings.Repeat("ü", 100)+"…", shown(strings.Repeat("ü", 10000)))
	require.Equal(t, "a\uFFFD", shown("a\xff"))
}
