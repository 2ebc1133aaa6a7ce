package translate

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
)

// Nobody passes while the secrets of a login are missing, however long that is.
func TestLoginWithoutItsSecretsIsClosed(t *testing.T) {
	w, m := loginWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	s := w.service("a_web", login("a.test"), stack("a"), scaled(0))
	w.backend(t, s, 1, echo("web"))
	n := w.service("a_next", map[string]string{"hosts": "next.test", "port": "80"}, stack("a"), scaled(0))
	w.backend(t, n, 1, echo("next"))
	b := w.buildWith(t, testConfig(), m)
	require.Empty(t, b.Problems())
	file := staticBootstrap(t, b, "dev")
	arrive := secretsByFile(t, b, file)
	p := runEnvoy(t, file)
	// A filter that lets everyone pass would do no more than one that is not there.
	without := withoutLogin(t, file)

	begun := http.Header{"Authorization": {"Bearer forged"}, "Cookie": {loginOf(t, b, "dev", "a.test").Credentials.CookieNames.OauthHmac + "=x"}}
	closed := func() {
		t.Helper()
		for _, h := range []http.Header{nil, begun, {"Sec-Fetch-Mode": {"cors"}}} {
			for _, path := range []string{"/", "/.oidc/callback?code=x&state=y"} {
				r := p.do(t, "GET", "http://a.test"+path, h, "")
				require.NotContains(t, r.body, "web", "nobody passes")
				require.Contains(t, []int{302, 401, 503}, r.StatusCode)
				if path == "/" {
					require.Equal(t, 503, r.StatusCode, r.body)
					require.Equal(t, "guard_unavailable", r.Header.Get(ReasonHeader), r.body)
				}
			}
		}
	}
	closed()
	require.Equal(t, 200, p.do(t, "GET", "http://next.test/", nil, "").StatusCode)
	for _, h := range []http.Header{nil, begun} {
		r := without.do(t, "GET", "http://a.test/", h, "")
		require.Equal(t, 503, r.StatusCode, r.body)
		require.Equal(t, "guard_unavailable", r.Header.Get(ReasonHeader))
	}
	require.Equal(t, 200, without.do(t, "GET", "http://next.test/", nil, "").StatusCode)
	later := time.NewTimer(secretFetchTimeout + 500*time.Millisecond) // nobody waits for them any more
	defer later.Stop()
	for waiting := true; waiting; {
		select {
		case <-later.C:
			waiting = false
		default:
		}
		closed()
	}
	arrive("client")
	closed()
	arrive("session")
	require.Eventually(t, func() bool {
		r := p.do(t, "GET", "http://a.test/", nil, "")
		return r.StatusCode == 302 && strings.HasPrefix(r.Header.Get("Location"), idp.Authorization+"?")
	}, 10*time.Second, 10*time.Millisecond)
	r := p.do(t, "GET", "http://a.test/x?y=z", begun, "")
	require.Equal(t, 302, r.StatusCode)
	to, err := url.Parse(r.Header.Get("Location"))
	require.NoError(t, err)
	require.Equal(t, "http://a.test/.oidc/callback", to.Query().Get("redirect_uri"))
	require.Equal(t, "openid", to.Query().Get("scope"))
	require.Equal(t, "shop", to.Query().Get("client_id"))
}

// secretsByFile has a bootstrap read the secrets of dev from files, which are empty until
// arrive puts one there.
func secretsByFile(t *testing.T, b *Builder, bootstrap string) (arrive func(what string)) {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, url.PathEscape(name)) }
	edit(t, bootstrap, bootstrap, func(v map[string]any) bool {
		name, ok := v["name"].(string)
		if v["staticResources"] != nil {
			v["node"] = map[string]any{"id": "dev", "cluster": "dev"} // who asks for secrets must say
		}
		if !ok || v["sdsConfig"] == nil {
			return false
		}
		require.NoError(t, os.WriteFile(path(name), []byte(`{"resources":[]}`), 0o600))
		v["sdsConfig"] = map[string]any{
			"pathConfigSource": map[string]any{"path": path(name)}, "resourceApiVersion": "V3", "initialFetchTimeout": secretFetchTimeout.String(),
		}
		return true
	})
	return func(what string) {
		t.Helper()
		for name, r := range b.Resources("dev")[Secret] {
			if !strings.HasSuffix(name, "/"+what) {
				continue
			}
			body, err := protojson.Marshal(mustAny(r.Message))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path(name)+".new", []byte(`{"resources":[`+string(body)+`]}`), 0o600))
			require.NoError(t, os.Rename(path(name)+".new", path(name)))
		}
	}
}

// withoutLogin runs a bootstrap without Envoy's own filter.
func withoutLogin(t *testing.T, bootstrap string) *proxy {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.json")
	edit(t, bootstrap, file, func(v map[string]any) bool {
		filters, _ := v["filters"].([]any)
		n := len(filters)
		if n != 3 {
			return false
		}
		v["filters"] = slices.DeleteFunc(filters, func(f any) bool { return f.(map[string]any)["name"] == "login" })
		return len(v["filters"].([]any)) < n
	})
	return runEnvoy(t, file)
}

// edit changes every object of a bootstrap for which f returns true, at least one.
func edit(t *testing.T, from, to string, f func(map[string]any) bool) {
	t.Helper()
	raw, err := os.ReadFile(from)
	require.NoError(t, err)
	var tree any
	require.NoError(t, json.Unmarshal(raw, &tree))
	edited := 0
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if f(v) {
				edited++
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(tree)
	require.Positive(t, edited)
	raw, err = json.Marshal(tree)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, raw, 0o600))
}
