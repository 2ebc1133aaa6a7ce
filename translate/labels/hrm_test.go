package labels

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

const mesh = "com.docker.ucp.mesh.http"

// Each row of the reference's table of HRM keys, and what is wrong with them.
func TestHRM(t *testing.T) {
	for _, c := range []struct {
		name   string
		labels map[string]string
		routes map[string]string // route -> "key=value …", sorted
		broken []string
		told   []string
	}{
		{name: "one route", labels: map[string]string{mesh: "external_route=http://app.example.com,internal_port=8080"},
			routes: map[string]string{"hrm": "hosts=app.example.com port=8080"}},
		{name: "several", labels: map[string]string{mesh + ".8080": "external_route=http://a.example,internal_port=8080", mesh + ".Admin_UI": "internal_port=9090, external_route=http://B.example./"},
			routes: map[string]string{"hrm-8080": "hosts=a.example port=8080", "hrm-admin-ui": "hosts=b.example port=9090"}},
		{name: "no port", labels: map[string]string{mesh + ".1": "external_route=http://a.example"}, routes: map[string]string{"hrm-1": "hosts=a.example"}},
		{name: "blank host", labels: map[string]string{mesh: "external_route=http://,internal_port=80"}, routes: map[string]string{"hrm": "default_backend=true port=80"}},
		{name: "sni", labels: map[string]string{mesh: "external_route=sni://tls.example,internal_port=8443"}, routes: map[string]string{"hrm": "hosts=tls.example port=8443 ssl_passthrough=true"}},
		{name: "sticky", labels: map[string]string{mesh: "external_route=http://a.example,internal_port=80,sticky_sessions=session,include_forwarded_for=true"},
			routes: map[string]string{"hrm": "hosts=a.example port=80 sticky_session_cookie=session"}},
		{name: "forwarded for is always on", labels: map[string]string{mesh: "external_route=http://a.example,include_forwarded_for=false"},
			routes: map[string]string{"hrm": "hosts=a.example"},
			told:   []string{`info com.docker.ucp.mesh.http="false": X-Forwarded-For is always sent; remove include_forwarded_for`}},
		{name: "redirect", labels: map[string]string{mesh + ".1": "external_route=http://old.example,redirect=https://new.example", mesh + ".2": "external_route=http://,redirect=sni://new.example"},
			routes: map[string]string{"hrm-1": "redirect_code=301 redirects=old.example,https://new.example", "hrm-2": "default_backend=true redirect=https://new.example redirect_code=301"}},
		{name: "redirect of plain HTTP alone", labels: map[string]string{mesh: "external_route=http://a.example,internal_port=80,redirect=https://a.example"},
			routes: map[string]string{"hrm": "hosts=a.example port=80 redirect_code=301 redirects=a.example,https://a.example"}},
		{name: "bad redirect", labels: map[string]string{mesh: "external_route=http://old.example,redirect=new.example"},
			routes: map[string]string{"hrm": "hosts=old.example"}, broken: []string{"hrm"},
			told: []string{`error com.docker.ucp.mesh.http="new.example": redirect is not a URL: the route is not served, its host answers 503; write ` + "`redirect=https://app.example.com`"}},
		{name: "http only", labels: map[string]string{mesh: "external_route=sni://a.example,sticky_sessions=x"}, routes: map[string]string{"hrm": "hosts=a.example ssl_passthrough=true"},
			told: []string{`warning com.docker.ucp.mesh.http="x": sticky_sessions does nothing for TLS that is passed through (sni://); remove it`}},
		{name: "no scheme", labels: map[string]string{mesh: "external_route=a.example,internal_port=80"}, routes: map[string]string{"hrm": "hosts=a.example port=80"}, broken: []string{"hrm"},
			told: []string{`error com.docker.ucp.mesh.http="a.example": external_route has no scheme: the route is not served, its host answers 503; write ` + "`external_route=http://a.example`"}},
		{name: "https", labels: map[string]string{mesh: "external_route=https://a.example"}, routes: map[string]string{"hrm": "hosts=a.example"}, broken: []string{"hrm"},
			told: []string{`error com.docker.ucp.mesh.http="https://a.example": HRM did not end TLS, and external_route is http or sni: the route is not served, its host answers 503; write ` +
				"`external_route=sni://a.example` to pass TLS through, or `com.docker.lb.hosts` with `com.docker.lb.ssl_cert`"}},
		{name: "a path", labels: map[string]string{mesh: "external_route=http://a.example/app"}, routes: map[string]string{"hrm": "hosts=a.example"}, broken: []string{"hrm"},
			told: []string{`error com.docker.ucp.mesh.http="http://a.example/app": external_route has a path: the route is not served, its host answers 503; write ` +
				"`com.docker.lb.hosts` with `com.docker.lb.context_root: /app`"}},
		{name: "a port", labels: map[string]string{mesh: "external_route=http://a.example:8080"}, routes: map[string]string{"hrm": "hosts=a.example"},
			told: []string{`warning com.docker.ucp.mesh.http="http://a.example:8080": a host takes requests whatever the port in their Host header is; the port is dropped; write ` + "`external_route=http://a.example`"}},
		{name: "no host to be made out", labels: map[string]string{mesh + ".1": "external_route=ftp://a.example", mesh + ".2": "external_route=http://a..b", mesh + ".3": "internal_port=80", mesh + ".4": ""},
			routes: map[string]string{},
			told: []string{
				`error com.docker.ucp.mesh.http.1="ftp://a.example": "ftp" is no scheme of external_route, so it takes no traffic; write http:// or sni://`,
				`error com.docker.ucp.mesh.http.2="http://a..b": external_route: "a..b" has an empty part between two dots, so it takes no traffic; write a host such as ` + "`app.example.com`",
				`error com.docker.ucp.mesh.http.3="internal_port=80": has no external_route, so it takes no traffic; write ` + "`external_route=http://app.example.com,internal_port=8080`"}},
		{name: "odd parts", labels: map[string]string{mesh: "external_route=http://a.example,,internal_prot=80,sticky,internal_port=80,internal_port=81"},
			routes: map[string]string{"hrm": "hosts=a.example port=80"},
			told: []string{
				`warning com.docker.ucp.mesh.http="internal_prot=80": ` + "`internal_prot` is not a key of HRM labels; did you mean `internal_port`?",
				`warning com.docker.ucp.mesh.http="sticky": has no equals sign, and is left out; write ` + "`external_route=http://app.example.com,internal_port=8080`",
				`warning com.docker.ucp.mesh.http="internal_port=81": internal_port is said twice, and ` + "`80` holds; use a label of its own for each route"}},
		{name: "beside the new labels", labels: map[string]string{"com.docker.lb.hosts": "a.example", "com.docker.lb.port": "80", mesh: "external_route=http://b.example,internal_port=80"},
			routes: map[string]string{"": "hosts=a.example port=80", "hrm": "hosts=b.example port=80"}},
		{name: "the same host twice", labels: map[string]string{"com.docker.lb.hosts": "a.example", mesh + ".1": "external_route=http://A.example", mesh + ".2": "external_route=http://b.example", mesh + ".3": "external_route=sni://b.example"},
			routes: map[string]string{"": "hosts=a.example", "hrm-2": "hosts=b.example"},
			told: []string{
				`warning com.docker.ucp.mesh.http.1="http://A.example": ` + "`com.docker.lb.hosts` says the same host for this service, and holds; remove one of the two",
				`warning com.docker.ucp.mesh.http.3="sni://b.example": ` + "`com.docker.ucp.mesh.http.2` says the same host for this service, and holds; remove one of the two"}},
		{name: "the same host, another path", labels: map[string]string{"com.docker.lb.hosts": "a.example", "com.docker.lb.context_root": "/app", mesh: "external_route=http://a.example"},
			routes: map[string]string{"": "context_root=/app hosts=a.example", "hrm": "hosts=a.example"}},
		{name: "names that meet", labels: map[string]string{mesh + ".a.b": "external_route=http://a.example", mesh + ".a-b": "external_route=http://b.example", "lb.hrm.hosts": "c.example", mesh: "external_route=http://d.example"},
			routes: map[string]string{"hrm": "hosts=c.example", "hrm-2": "hosts=d.example", "hrm-a-b": "hosts=b.example", "hrm-a-b-2": "hosts=a.example"},
			told: []string{
				`warning com.docker.ucp.mesh.http="external_route=http://d.example": ` + "the route `hrm` is taken by `lb.hrm.hosts`, so this one is called `hrm-2`; change the end of one of the two labels",
				`warning com.docker.ucp.mesh.http.a.b="external_route=http://a.example": ` + "the route `hrm-a-b` is taken by `com.docker.ucp.mesh.http.a-b`, so this one is called `hrm-a-b-2`; change the end of one of the two labels"}},
		{name: "keys that HRM had not join its route", labels: map[string]string{mesh + ".1": "external_route=http://a.example,internal_port=80", "com.docker.lb.hrm-1.allow_ips": "10.0.0.0/8", "com.docker.lb.hrm-1.port": "81"},
			routes: map[string]string{"hrm-1": "allow_ips=10.0.0.0/8 hosts=a.example port=81"},
			told:   []string{`warning com.docker.ucp.mesh.http.1="80": ` + "`com.docker.lb.hrm-1.port` says `81`, and holds; remove one of the two"}},
		{name: "not HRM", labels: map[string]string{"com.docker.ucp.mesh.https": "external_route=http://a.example", "com.docker.ucp.mesh": "x"}, routes: map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := Merge(prefixes, "shop_app", c.labels)
			got, broken := map[string]string{}, []string(nil)
			for _, name := range sortedKeys(set.Routes) {
				var keys []string
				for _, k := range sortedKeys(set.Routes[name]) {
					keys = append(keys, k+"="+set.Routes[name][k].Text)
				}
				got[name] = strings.Join(keys, " ")
				if set.HRM[name].Broken {
					broken = append(broken, name)
				}
			}
			require.Empty(t, cmp.Diff(c.routes, got))
			require.Equal(t, c.broken, broken)
			require.Empty(t, cmp.Diff(c.told, told(set.Problems)))
			require.Empty(t, cmp.Diff(set, Merge(prefixes, "shop_app", c.labels)))
			for _, r := range Parse(set, "shop_app", Options{}).Routes {
				require.Equal(t, set.HRM[r.Name].Broken, r.Broken, "%s of %v", r.Name, c.labels)
			}
		})
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// What a route lacks is told in HRM's words, what HRM has no word for in the new ones.
func TestHRMLabelsOfProblems(t *testing.T) {
	s := Parse(Merge(prefixes, "app", map[string]string{mesh + ".1": "external_route=http://a.example,sticky_sessions=a b"}), "app", Options{})
	require.Len(t, s.Routes, 1)
	r := s.Routes[0]
	require.Equal(t, mesh+".1=…,internal_port", r.Label("port"))
	require.Equal(t, mesh+".1", r.Label("hosts"))
	require.Equal(t, "com.docker.lb.hrm-1.timeout", r.Label("timeout"))
	require.Equal(t, []string{`warning com.docker.ucp.mesh.http.1="a b": the character ' ' cannot stand in a name: the default holds; write a name of letters, digits and hyphens`}, told(s.Problems))
}

func TestHRMLimits(t *testing.T) {
	many := map[string]string{}
	for i := range maxRoutes + 9 {
		many[fmt.Sprint(mesh, ".", i)] = fmt.Sprintf("external_route=http://h%d.example,internal_port=80", i)
	}
	set := Merge(prefixes, "app", many)
	require.True(t, set.Broken)
	require.Len(t, set.Routes, maxRoutes)
	for _, r := range Parse(set, "app", Options{}).Routes {
		require.True(t, r.Broken)
	}
	set = Merge(prefixes, "app", map[string]string{mesh + ".1": "external_route=http://a.example", mesh + ".2": "external_route=http://b.example," + strings.Repeat("x", maxBytes)})
	require.True(t, set.Broken)
	require.Len(t, set.Routes, 1, "what fits still holds its host")
}

func FuzzHRM(f *testing.F) {
	f.Add("external_route=http://a.example,internal_port=80", "8080", "external_route=sni://,redirect=https://b", "hosts=a.example")
	f.Add("external_route=http://a.example:80/x,sticky_sessions=a;b", "..", "external_route=http://*.b\xff", "hrm.hosts=x")
	f.Fuzz(func(t *testing.T, one, suffix, two, line string) {
		key, value, _ := strings.Cut(line, "=")
		lbls := map[string]string{mesh: one, mesh + "." + suffix: two, "com.docker.lb." + key: value}
		set := Merge(prefixes, "app", lbls)
		require.Empty(t, cmp.Diff(set, Merge(prefixes, "app", lbls)))
		for name, from := range set.HRM {
			require.True(t, validRoute(name), name)
			require.True(t, strings.HasPrefix(from.Label, mesh))
			require.True(t, set.claims(name))
		}
		s := Parse(set, "app", Options{})
		for _, r := range s.Routes {
			if set.HRM[r.Name].Broken {
				require.True(t, r.Broken)
			}
		}
	})
}
