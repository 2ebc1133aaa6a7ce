package diff_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/diff"
)

// tree is a collection whose plain HTTP has one host with these routes.
func tree(t *testing.T, host string, routes ...string) map[string]diff.Tree {
	t.Helper()
	text := fmt.Sprintf(`{"listeners":{"http":{"address":{"socket_address":{"port_value":80}}}},
		"routes":{"http":{"virtual_hosts":[{"name":%q,"routes":[%s]},{"name":"*","routes":[{"name":"waggle:unknown_host","match":{"prefix":"/"},"direct_response":{"status":503}}]}]}},
		"clusters":{},"endpoints":{}}`, host, strings.Join(routes, ","))
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var out diff.Tree
	require.NoError(t, d.Decode(&out), text)
	return map[string]diff.Tree{"dev": out}
}

func forward(name, match, filters string) string {
	return fmt.Sprintf(`{"name":%q,"match":%s,"route":{"cluster":"%s:80"},"typed_per_filter_config":{%s}}`, name, match, strings.Split(name, "/")[0], filters)
}

const (
	everything = `{"prefix":"/"}`
	api        = `{"path_separated_prefix":"/api"}`
	notBuilt   = `"direct_response":{"status":503},"response_headers_to_add":[{"header":{"key":"x-waggle-reason","value":"not_built"}}]`
)

// Each row is what a change of one host's routes breaks.
func TestBreaks(t *testing.T) {
	closed := func(name, match string) string {
		return fmt.Sprintf(`{"name":%q,"match":%s,%s}`, name, match, notBuilt)
	}
	for _, c := range []struct {
		name     string
		old, new map[string]diff.Tree
		want     []string
	}{
		{name: "nothing", old: tree(t, "a", forward("s", everything, "")), new: tree(t, "a", forward("s", everything, ""))},
		{name: "a host goes", old: tree(t, "a.b.c", forward("s", everything, "")), new: tree(t, "x", forward("s", everything, "")),
			want: []string{"a.b.c : nobody claims this host any more: 503 unknown_host"}},
		{name: "a wildcard takes over", old: tree(t, "a.b.c", forward("s", everything, "")), new: tree(t, "*.c", forward("o", everything, "")),
			want: []string{"a.b.c : nobody claims this host any more: its requests go to *.c, o"}},
		{name: "the default backend takes over", old: tree(t, "a.b", forward("s", everything, "")), new: tree(t, "*", forward("o", everything, "")),
			want: []string{"a.b : nobody claims this host any more: its requests go to *, o"}},
		{name: "a host goes that did not work", old: tree(t, "a", closed("s", everything)), new: tree(t, "x", forward("s", everything, ""))},
		{name: "an answer becomes an error", old: tree(t, "a", forward("s", everything, "")), new: tree(t, "a", closed("s", everything)),
			want: []string{"a s: it answers 503 (not_built), and did: forwards to s:80"}},
		{name: "an error becomes an answer", old: tree(t, "a", closed("s", everything)), new: tree(t, "a", forward("s", everything, ""))},
		{name: "a route goes", old: tree(t, "a", forward("s/api", api, ""), forward("s", everything, "")), new: tree(t, "a", forward("s", everything, "")),
			want: []string{"a s/api: this route is gone: its requests go to s (forwards to s:80)"}},
		{name: "the last route of a path goes", old: tree(t, "a", forward("s/api", api, ""), forward("s", everything, "")), new: tree(t, "a", forward("s/api", api, "")),
			want: []string{"a s: this route is gone: 404 no_route"}},
		{name: "a route has another name", old: tree(t, "a", forward("s", everything, "")), new: tree(t, "a", forward("o", everything, ""))},
		{name: "a route has another name, and does not work", old: tree(t, "a", forward("s", everything, "")), new: tree(t, "a", closed("o", everything)),
			want: []string{"a s: it answers 503 (not_built), and did: forwards to s:80"}},
		{name: "a guard goes", old: tree(t, "a", forward("s", everything, `"guard":{},"shape":{}`)), new: tree(t, "a", forward("s", everything, "")),
			want: []string{"a s: the guard guard is gone: what it refused may pass"}},
		{name: "a guard goes with a name", old: tree(t, "a", forward("s", everything, `"guard":{}`)), new: tree(t, "a", forward("o", everything, "")),
			want: []string{"a s: the guard guard is gone: what it refused may pass"}},
		{name: "a guard comes", old: tree(t, "a", forward("s", everything, "")), new: tree(t, "a", forward("s", everything, `"guard":{}`))},
		{name: "a path changes", old: tree(t, "a", forward("s", api, "")), new: tree(t, "a", forward("s", `{"path_separated_prefix":"/v2"}`, "")),
			want: []string{"a s: it no longer takes /api, but /v2"}},
		{name: "a path widens", old: tree(t, "a", forward("s", `{"path_separated_prefix":"/api/v1"}`, "")), new: tree(t, "a", forward("s", api, ""))},
		{name: "one of two paths goes", old: tree(t, "a", forward("s", `{"path":"/x"}`, ""), forward("s", `{"path":"/y"}`, "")), new: tree(t, "a", forward("s", `{"path":"/x"}`, "")),
			want: []string{"a s: it no longer takes /y, but /x"}},
		{name: "a header is asked for", old: tree(t, "a", forward("s", everything, "")), new: tree(t, "a", forward("s", `{"prefix":"/","headers":[{"name":"x-a","string_match":{"exact":"1"}}]}`, "")),
			want: []string{"a s: it no longer takes /, but 1 /"}},
		{name: "cors goes", old: tree(t, "a", forward("s", everything, `"cors":{}`)), new: tree(t, "a", forward("s", everything, "")),
			want: []string{"a s: cors_origins is gone: scripts of other origins cannot call any more"}},
		{name: "a collection goes", old: tree(t, "a", forward("s", everything, "")),
			want: []string{"a : nobody claims this host any more: 503 unknown_host"}},
		{name: "a collection comes", new: tree(t, "a", forward("s", everything, ""))},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := diff.Compare(c.old, c.new, diff.Options{Guards: []string{"guard", "cors"}})
			var got []string
			for _, b := range r.Breaks {
				require.Equal(t, "dev", b.Collection)
				got = append(got, b.Host+" "+b.Route+": "+b.Reason)
			}
			require.Equal(t, c.want, got)
			var text strings.Builder
			require.NoError(t, r.Text(&text))
			require.Equal(t, c.want != nil, strings.Contains(text.String(), "Would break"))
		})
	}
}

// A route is several of Envoy's: what all of them say alike is told once.
func TestTwins(t *testing.T) {
	twins := func(timeout string) []string {
		return []string{
			fmt.Sprintf(`{"name":"s#safe","match":%s,"route":{"cluster":"s:80","timeout":%q}}`, everything, timeout),
			fmt.Sprintf(`{"name":"s","match":%s,"route":{"cluster":"s:80","timeout":%q}}`, everything, timeout),
		}
	}
	r := diff.Compare(tree(t, "a", twins("0s")...), tree(t, "a", twins("5s")...), diff.Options{})
	require.Equal(t, []diff.Field{{Field: "timeout", Old: "0s", New: "5s"}}, r.Collections[0].Routes.Changed[0].Changes)
	require.Empty(t, r.Breaks)
}

// Whatever the shape of what is compared: no panic, and nothing changes from a state to itself.
func FuzzCompare(f *testing.F) {
	f.Add(`{"routes":{"http":{"virtual_hosts":[{"name":"a","routes":[{"name":"s#x","match":{"prefix":"/"},"route":{}}]}]}}}`, `{"endpoints":{"s:80":{"endpoints":[{"lb_endpoints":[{}]}]}}}`)
	f.Add(`{"routes":{"http":[1],"x":{"virtual_hosts":[[],3,{"routes":[null,{"redirect":{}}]}]}},"listeners":{"a":null}}`, `{"clusters":{"a:1":[[{"entries":[1]}]]}}`)
	f.Fuzz(func(t *testing.T, one, two string) {
		var a, b diff.Tree
		if json.Unmarshal([]byte(one), &a) != nil || json.Unmarshal([]byte(two), &b) != nil {
			return
		}
		x, y := map[string]diff.Tree{"c": a}, map[string]diff.Tree{"c": b}
		for _, o := range []diff.Options{{}, {Guards: []string{"g"}, Mine: func(s string) bool { return strings.HasPrefix(s, "s") }}} {
			r := diff.Compare(x, y, o)
			require.NoError(t, r.Text(&strings.Builder{}))
			_, err := json.Marshal(r)
			require.NoError(t, err)
		}
		same := diff.Compare(x, x, diff.Options{Guards: []string{"g"}})
		require.Empty(t, same.Collections)
		require.Empty(t, same.Breaks)
	})
}
