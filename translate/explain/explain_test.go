package explain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
)

// handmade is a table with everything that explain reads, more than labels can say today.
func handmade(t testing.TB) translate.Resources {
	t.Helper()
	raw, err := os.ReadFile("testdata/handmade.json")
	require.NoError(t, err)
	var file struct {
		Listeners, Routes map[string]json.RawMessage
		Endpoints         map[string]int
	}
	require.NoError(t, json.Unmarshal(raw, &file))
	var res translate.Resources
	for k := range res {
		res[k] = map[string]*translate.Resource{}
	}
	put := func(k translate.Kind, name string, m proto.Message) {
		res[k][name] = &translate.Resource{Kind: k, Name: name, Message: m}
	}
	for name, text := range file.Listeners {
		l := &listenerv3.Listener{}
		require.NoError(t, protojson.Unmarshal(text, l))
		put(translate.Listener, name, l)
	}
	for name, text := range file.Routes {
		r := &routev3.RouteConfiguration{}
		require.NoError(t, protojson.Unmarshal(text, r))
		put(translate.Routes, name, r)
	}
	for name, n := range file.Endpoints {
		put(translate.Cluster, name, &clusterv3.Cluster{Name: name})
		put(translate.Endpoints, name, assignment(name, n))
	}
	return res
}

// assignment has n endpoints, numbered by slot.
func assignment(name string, n int) *endpointv3.ClusterLoadAssignment {
	group := &endpointv3.LocalityLbEndpoints{}
	for slot := 1; slot <= n; slot++ {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
				Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: fmt.Sprintf("192.0.2.%d", slot), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80},
				}},
			}}},
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{translate.MetadataKey: {Fields: map[string]*structpb.Value{
				"slot": structpb.NewNumberValue(float64(slot)), "node": structpb.NewStringValue("alpha"), "task": structpb.NewStringValue(fmt.Sprint("t", slot)),
			}}}},
		})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{group}}
}

func header(lines ...string) http.Header {
	h := http.Header{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h[name] = append(h[name], value)
	}
	return h
}

func TestExplain(t *testing.T) {
	res := handmade(t)
	for _, tt := range []struct {
		name, method, url string
		header            http.Header
		want              string // action status reason route service cluster location
		because           string // a part of one of the sentences
	}{
		{"root, shared", "", "http://shop.example.com", nil, "forward shop_web shop_web2 shop_web2:80", "shared by weight: shop_web2 80 %, shop_web 20 %"},
		{"host in capitals with port", "", "http://SHOP.example.com:8081/", nil, "forward shop_web shop_web2 shop_web2:80", "host shop.example.com is claimed exactly"},
		{"no scheme", "", "shop.example.com/api", nil, "forward shop_api#safe shop_api shop_api:8080", "longest context_root /api of 2 matches"},
		{"Host header", "", "http://10.0.0.1/api", header("Host: shop.example.com"), "forward shop_api#safe shop_api shop_api:8080", "the Host header says shop.example.com"},
		{"safe method", "GET", "http://shop.example.com/api/x", nil, "forward shop_api#safe shop_api shop_api:8080", "GET is a safe method: also retried after a reset"},
		{"other method", "POST", "http://shop.example.com/api/x", nil, "forward shop_api shop_api shop_api:8080", "POST may not be sent twice"},
		{"method matcher", "PUT", "http://shop.example.com/api/x", nil, "forward shop_upload shop_upload shop_upload:80", "context_root /api comes first of 3 matches"},
		{"segment-wise", "", "http://shop.example.com/apis", nil, "forward shop_web shop_web2 shop_web2:80", "context_root / takes every path"},
		{"exact path", "", "http://shop.example.com/pay?x=1", nil, "forward shop_pay/card shop_pay shop_pay:8443/card", "path /pay comes first of 2 matches"},
		{"regex", "", "http://shop.example.com/v12/pay", nil, "forward shop_pay/regex shop_pay shop_pay:8443", "path_regex /v[0-9]+/pay"},
		{"regex is anchored", "", "http://shop.example.com/v12/payx", nil, "forward shop_web shop_web2 shop_web2:80", ""},
		{"header", "", "http://shop.example.com/api", header("X-Beta: yes"), "forward shop_beta shop_beta shop_beta:80", "header x-beta is as the route wants it"},
		{"header twice", "", "http://shop.example.com/api", header("X-Beta: yes", "X-Beta: yes"), "forward shop_api#safe shop_api shop_api:8080", ""},
		{"header with underscore", "", "http://shop.example.com/api/v2", header("User-Agent: Robot", "x_hello: 1"), "forward shop_api#safe shop_api shop_api:8080", ""},
		{"query present", "", "http://shop.example.com/api?debug", nil, "forward shop_debug shop_debug shop_debug:80", "query parameter debug"},
		{"query value", "", "http://shop.example.com/api?a=1&v=23", nil, "forward shop_query shop_query shop_query:80", ""},
		{"inverted", "", "http://shop.example.com/api/v2", header("User-Agent: curl"), "forward shop_nobots shop_api shop_api:9000", ""},
		{"inverted without the header", "", "http://shop.example.com/api/v2", nil, "forward shop_api#safe shop_api shop_api:8080", ""},
		{"inverted, left out", "", "http://shop.example.com/api/v2", header("User-Agent: GoogleBot"), "forward shop_api#safe shop_api shop_api:8080", ""},
		{"slash is added", "", "http://shop.example.com/app?q=1", nil, "redirect 301 shop_app shop_app http://shop.example.com/app/?q=1", ""},
		{"root is stripped", "", "http://shop.example.com/app/x/y?q=1", nil, "forward shop_app shop_app shop_app:80", "the task sees the path /x/y?q=1"},
		{"rewritten", "", "http://shop.example.com/old/abc/d", nil, "forward shop_rewrite shop_app shop_app:80", "the task sees the path /new/abc/d"},
		{"no task", "", "http://shop.example.com/empty", nil, "forward 503 no_task shop_empty shop_empty shop_empty:80", "shop_empty has no running task"},
		{"respond", "", "http://shop.example.com/gone", nil, "respond 503 shop_gone shop_gone", ""},
		{"closed", "", "http://shop.example.com/closed", nil, "reject 503 guard_unavailable shop_closed shop_closed", "A guard is missing."},
		{"case", "", "http://shop.example.com/cASEx", nil, "forward shop_case shop_app shop_app:80", ""},
		{"dots", "", "http://paths.example.com/a/../b/./c/x", nil, "forward paths_ab paths_bc paths_bc:80", "the path is matched as /b/c/x"},
		{"escaped letters", "", "http://paths.example.com/%61", nil, "forward paths_root paths_a paths_a:80", "the path is matched as /a"},
		{"slashes", "", "http://paths.example.com//b///c", nil, "forward paths_ab paths_bc paths_bc:80", ""},
		{"escaped slash", "", "http://paths.example.com/b%2fc?x=%2f", nil, "redirect 307 /b/c?x=%2f", "escaped slash"},
		{"NUL", "", "http://paths.example.com/a%00b", nil, "reject 400", ""},
		{"no route", "", "http://paths.example.com/zzz", nil, "reject 404 no_route", "has no route for GET /zzz"},
		{"wildcard", "", "http://x.y.example.com/", nil, "forward wild_one wild_one wild_one:80", "covered by *.example.com of wild_one"},
		{"longest wildcard", "", "http://x.shop.example.com/", nil, "forward wild_two wild_two wild_two:80", "the longest wildcard of 2 that match"},
		{"trailing dot", "", "http://shop.example.com./api", nil, "forward shop_api#safe shop_api shop_api:8080", ""},
		{"unknown host", "", "http://nowhere.test/x", nil, "reject 503 unknown_host waggle:unknown_host", "nobody claims host nowhere.test"},
		{"the wildcard's own name", "", "http://example.com/", nil, "reject 503 unknown_host waggle:unknown_host", ""},
		{"address", "", "http://[2001:db8::1]:8080/", nil, "forward six_web shop_app shop_app:80", ""},
		{"other script", "", "http://bücher.example.com/", nil, "forward wild_one wild_one wild_one:80", "asked for as xn--bcher-kva.example.com"},
		{"fragment", "", "http://shop.example.com/pay#top", nil, "forward shop_pay/card shop_pay shop_pay:8443/card", "stays with the client"},
		{"redirect to another port", "", "http://go.example.com:80/s/x?y", nil, "redirect 308 go_https go_https https://go.example.com:8443/s/x?y", ""},
		{"redirect drops the port of the scheme", "", "http://go.example.com:80/t", nil, "redirect 301 go_plain go_plain https://go.example.com/t", ""},
		{"redirect keeps another port", "", "http://go.example.com:8081/t", nil, "redirect 301 go_plain go_plain https://go.example.com:8081/t", ""},
		{"redirect to another host", "", "http://go.example.com/h?a=b", nil, "redirect 302 go_host go_host http://other.example.com/h?a=b", ""},
		{"redirect without the query", "", "http://go.example.com/q?a=b", nil, "redirect 303 go_strip go_strip http://go.example.com/z", ""},
		{"redirect with its own query", "", "http://go.example.com/p?a=b", nil, "redirect 307 go_query go_query http://go.example.com/z?x=1", ""},
		{"redirect of a prefix", "", "http://go.example.com/from/x?a=b", nil, "redirect 301 go_prefix go_prefix http://go.example.com/to/x?a=b", ""},
		{"TLS alone", "", "http://tls.example.com/x", nil, "redirect 301 https://tls.example.com/x", ""},
		{"https", "", "https://shop.example.com/", nil, "reject", "no listener of collection dev serves https"},
		{"tunnel", "CONNECT", "http://shop.example.com/", nil, "reject 404", "tunnels"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Explain(res, Request{Collection: "dev", Method: tt.method, URL: tt.url, Header: tt.header}, nil)
			require.NoError(t, err)
			require.Equal(t, tt.want, summary(a), "%q", a.Because)
			require.Contains(t, strings.Join(a.Because, "\n"), tt.because)
		})
	}
}

// summary is an answer's parts, those that say something, in one line.
func summary(a *Answer) string {
	parts := []string{string(a.Action)}
	if a.Status != 0 {
		parts = append(parts, fmt.Sprint(a.Status))
	}
	for _, s := range []string{a.Reason, a.Route, a.Service, a.Cluster, a.Location} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " ")
}

func TestQuestionsThatAreNone(t *testing.T) {
	res := handmade(t)
	for _, tt := range []struct{ method, url, want string }{
		{"", "", "names no host"},
		{"", "http:///x", "names no host"},
		{"", "ftp://shop.example.com/", "ftp is not served here"},
		{"", "http://shop.example.com/a b", "write %20"},
		{"", "http://shop.exa mple.com/", "is not a host"},
		{"GE T", "http://shop.example.com/", "is not an HTTP method"},
	} {
		_, err := Explain(res, Request{Collection: "dev", Method: tt.method, URL: tt.url}, nil)
		require.ErrorContains(t, err, tt.want, "%s %s", tt.method, tt.url)
	}
	_, err := Explain(res, Request{URL: "http://a/", Header: http.Header{"X Y": {"1"}}}, nil)
	require.ErrorContains(t, err, "is not the name of a header")
}

func TestLost(t *testing.T) {
	res := handmade(t)
	problems := []translate.Problem{
		{Severity: labels.Error, Service: "thief_web", Collection: "dev", Value: "shop.example.com/api", Winner: "shop_api", Reason: "the host belongs to stack shop"},
		{Severity: labels.Info, Service: "shop_api", Collection: "dev", Value: "shop.example.com/api", Winner: "shop_api", Reason: "thief_web also claims this"},
		{Severity: labels.Error, Service: "thief_web", Collection: "prod", Value: "shop.example.com", Winner: "x", Reason: "another collection"},
		{Severity: labels.Error, Service: "thief_web", Collection: "dev", Value: "shop.example.common", Winner: "x", Reason: "another host"},
		{Severity: labels.Error, Service: "shop_empty", Collection: "dev", Label: "com.docker.lb.network", Value: "x", Reason: "there is no such network", Hint: "write dev-edge"},
	}
	a, err := Explain(res, Request{Collection: "dev", URL: "http://shop.example.com/api/x"}, problems)
	require.NoError(t, err)
	require.Equal(t, []Loser{
		{"shop_pay", "shop_pay/card", "path /api/x is not /pay"},
		{"shop_pay", "shop_pay/regex", "path /api/x does not match path_regex /v[0-9]+/pay"},
		{"shop_beta", "shop_beta", "header x-beta is missing"},
		{"shop_debug", "shop_debug", "query parameter debug is missing"},
		{"shop_query", "shop_query", "query parameter v is missing"},
		{"shop_upload", "shop_upload", `method is "GET", and does not match PUT|PATCH`},
		{"shop_api", "shop_nobots", "path /api/x is not under context_root /api/v2"},
		{"shop_hello", "shop_hello", "path /api/x is not under context_root /api/v2"},
		{"shop_app", "shop_app", "path /api/x is not under context_root /app"},
		{"shop_app", "shop_rewrite", "path /api/x is not under context_root /old"},
		{"shop_empty", "shop_empty", "path /api/x is not under context_root /empty"},
		{"shop_gone", "shop_gone", "path /api/x is not under context_root /gone"},
		{"shop_closed", "shop_closed", "path /api/x is not under context_root /closed"},
		{"shop_app", "shop_case", "path /api/x is not under context_root /Case"},
		{"shop_web, shop_web2", "shop_web", "context_root / matches too, but /api is longer"},
		{"thief_web", "", "its claim of shop.example.com/api is held by shop_api: the host belongs to stack shop"},
	}, a.Lost)

	a, err = Explain(res, Request{Collection: "dev", URL: "http://shop.example.com/empty"}, problems)
	require.NoError(t, err)
	require.Contains(t, a.Because, `com.docker.lb.network "x": there is no such network; write dev-edge`)
}

func TestEndpoints(t *testing.T) {
	res := handmade(t)
	cla := res[translate.Endpoints]["shop_api:8080"].Message.(*endpointv3.ClusterLoadAssignment)
	cla.Endpoints[0].LbEndpoints[1].HealthStatus = corev3.HealthStatus_DRAINING
	cla.Endpoints = append(cla.Endpoints, &endpointv3.LocalityLbEndpoints{Priority: 1, LbEndpoints: assignment("", 1).Endpoints[0].LbEndpoints})
	a, err := Explain(res, Request{Collection: "dev", URL: "http://shop.example.com/api"}, nil)
	require.NoError(t, err)
	require.Equal(t, []Target{
		{Address: "192.0.2.1:80", Task: "t1", Node: "alpha", Slot: 1},
		{Address: "192.0.2.3:80", Task: "t3", Node: "alpha", Slot: 3},
		{Address: "192.0.2.1:80", Task: "t1", Node: "alpha", Slot: 1, Priority: 1},
	}, a.Endpoints)

	delete(res[translate.Cluster], "shop_api:8080")
	a, err = Explain(res, Request{Collection: "dev", URL: "http://shop.example.com/api"}, nil)
	require.NoError(t, err)
	require.Equal(t, "forward 503 unreachable shop_api#safe shop_api shop_api:8080", summary(a))
}

// The names of the answer are a promise (INTERFACES.md).
func TestJSON(t *testing.T) {
	a, err := Explain(handmade(t), Request{Collection: "dev", URL: "http://nowhere.test/"}, nil)
	require.NoError(t, err)
	raw, err := json.Marshal(a)
	require.NoError(t, err)
	require.JSONEq(t, `{"collection":"dev","request":{"method":"GET","url":"http://nowhere.test/","host":"nowhere.test","path":"/"},
		"virtual_host":"*","route":"waggle:unknown_host","service":"","cluster":"","endpoints":[],"action":"reject","status":503,"reason":"unknown_host","location":"",
		"because":["nobody claims host nowhere.test",
		"the proxy answers 503 by itself: No service is published under this host."],"lost":[]}`, string(raw))
}

func TestText(t *testing.T) {
	res := handmade(t)
	text := func(url string) string {
		a, err := Explain(res, Request{Collection: "dev", URL: url}, []translate.Problem{
			{Severity: labels.Error, Service: "thief_web", Collection: "dev", Value: "go.example.com", Winner: "go_host", Reason: "the host belongs to stack go"},
		})
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, a.Text(&b))
		return b.String()
	}
	require.Equal(t, `GET http://paths.example.com/b/./c in collection dev

  → paths_bc
  virtual host paths.example.com, route paths_ab

  paths_bc:80
    192.0.2.1:80  node alpha  slot 1

Because
  - the path is matched as /b/c
  - host paths.example.com is claimed exactly by paths_a, paths_bc
  - context_root /b/c takes the path /b/c

Not taken
  - paths_root (paths_a): path /b/c is not under context_root /a
`, text("http://paths.example.com/b/./c"))
	require.Contains(t, text("http://shop.example.com/"), "  → shop_web2 or shop_web\n")
	require.Contains(t, text("http://shop.example.com/empty"), "  ✗ 503 (no_task): meant for shop_empty, which cannot take it\n")
	require.Contains(t, text("http://shop.example.com/empty"), "\n    no running task\n")
	require.Contains(t, text("http://shop.example.com/gone"), "  → 503, answered by the proxy\n")
	require.Contains(t, text("http://go.example.com/t"), "  → 301, on to https://go.example.com/t\n")
	require.Contains(t, text("http://go.example.com/t"), "  - thief_web: its claim of go.example.com is held by go_host")
	require.Contains(t, text("http://nowhere.test/"), "  ✗ 503 (unknown_host), answered by the proxy\n")
	require.Contains(t, text("https://shop.example.com/"), "  ✗ refused\n")
}

// What this package does not read is said, never guessed.
func TestUnread(t *testing.T) {
	res := handmade(t)
	table := res[translate.Routes]["http"].Message.(*routev3.RouteConfiguration)
	route := table.VirtualHosts[1].Routes[0]
	route.Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	a, err := Explain(res, Request{Collection: "dev", URL: "http://paths.example.com/a"}, nil)
	require.NoError(t, err)
	require.Equal(t, "the route also asks for grpc, which explain does not read", a.Lost[0].Reason)

	route.Match.Grpc = nil
	route.Action = &routev3.Route_NonForwardingAction{}
	_, err = Explain(res, Request{Collection: "dev", URL: "http://paths.example.com/a"}, nil)
	require.ErrorContains(t, err, `route "paths_root" does something that explain does not read`)
}

func FuzzExplain(f *testing.F) {
	res := handmade(f)
	for _, url := range []string{"http://shop.example.com/api", "[::1]:80/..%2f%2e%2e//", "http://a:b@c:99999999999/%", "https://?x#y", "*", "http://x/%zz%0", "http://\x80/"} {
		f.Add("GET", url, "X-Beta", "yes")
	}
	f.Fuzz(func(t *testing.T, method, url, name, value string) {
		a, err := Explain(res, Request{Collection: "dev", Method: method, URL: url, Header: http.Header{name: {value}}}, nil)
		if err != nil {
			require.Nil(t, a)
			return
		}
		require.NoError(t, a.Text(&bytes.Buffer{}))
		_, err = json.Marshal(a)
		require.NoError(t, err)
	})
}

func TestExpressionsMatchTheWholeText(t *testing.T) {
	for _, c := range []struct {
		expression, text string
		want             bool
	}{
		{`/v[0-9]+`, "/v1", true}, {`/v[0-9]+`, "/v1/", false}, {`/v[0-9]+`, "x/v1", false}, {`a|ab`, "ab", true}, {`a*?`, "aaa", true},
		{`\Q/a.b`, "/a.b", true}, {`\Q/a.b`, "/axb", false}, {`(?m)^a$`, "a\na", false}, {``, "", true}, {`é`, "é", true}, {`.`, "é", false}, {`\xc3.`, "é", true}, {`.`, "\xff", true},
	} {
		got, err := fullMatch(c.expression, c.text)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%q %q", c.expression, c.text)
	}
}
