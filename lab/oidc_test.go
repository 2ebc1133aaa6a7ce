package lab

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/watcher"
)

// browser is one with cookies, for which every host below example.com is the proxy.
type browser struct {
	*http.Client
	jar http.CookieJar
}

func (b *bench) browser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // what certificates are is another test's
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			if err == nil && strings.HasSuffix(host, ".example.com") {
				if addr = b.proxy("default"); port == "443" {
					addr = b.secure("default")
				}
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &browser{&http.Client{Transport: tr, Jar: jar, Timeout: deadline}, jar}
}

// visit asks for a URL and follows where that leads.
func (b *browser) visit(t require.TestingT, u string, header ...string) (*http.Response, echo.Answer) {
	req, err := http.NewRequest("GET", u, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var at echo.Answer
	if resp.Header.Get(echo.ServiceHeader) != "" {
		require.NoError(t, json.Unmarshal(raw, &at))
	}
	return resp, at
}

// stays is a browser with the same cookies that follows nothing.
func (b *browser) stays() *browser {
	c := *b.Client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{&c, b.jar}
}

// TestLogins is the whole way of a login through a real Envoy, and every way around it.
func TestLogins(t *testing.T) {
	b := benchFor(t, config.ForCollections(nil))
	idp := newFakeProvider(t)
	whole := t.Context()
	services := map[string]map[string]string{}
	client := idp.secret + "\n"
	deploy := func(t *testing.T) {
		t.Helper()
		p := &watcher.Picture{
			Services: map[string]*watcher.Service{},
			Configs: map[string]*watcher.Config{
				"client": {ID: "client", Name: "client", Data: []byte(client)},
				"keys":   {ID: "keys", Name: "keys", Data: []byte(idp.keys())},
			},
		}
		for name, labels := range services {
			s := &watcher.Service{ID: name, Name: name, Mode: watcher.Replicated, Replicas: 1, Labels: map[string]string{}}
			for k, v := range labels {
				s.Labels["com.docker.lb."+k] = v
			}
			p.Services[name] = s
		}
		b.apply(t, p)
	}
	login := func(host string, more ...string) map[string]string {
		l := map[string]string{
			"hosts": host, "port": "80", "tls": "local", "ssl_only": "true",
			"oidc_issuer": idp.issuer, "oidc_client_id": idp.client, "oidc_client_secret": "client",
		}
		for i := 0; i < len(more); i += 2 {
			l[more[i]] = more[i+1]
		}
		return l
	}
	services["web"] = login("web.example.com", "oidc_scopes", "email")
	services["app"] = login("web.example.com", "context_root", "/app", "context_root_rewrite", "true")
	services["token"] = login("token.example.com", "jwt_issuer", idp.issuer, "jwt_jwks", "keys", "jwt_audiences", "shop")
	services["other"] = map[string]string{"hosts": "other.example.com", "port": "80"}
	deploy(t)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(b.fleet[0].Log())
			t.Log(string(log), b.built().Problems())
		}
	})
	// ready waits until the provider has answered and the proxy has its secrets.
	ready := func(t *testing.T, u string) {
		t.Helper()
		require.Eventually(t, func() bool {
			resp, err := b.browser(t).stays().Get(u)
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusFound
		}, deadline, 10*time.Millisecond, "%s: %v", u, b.built().Problems())
	}
	for _, u := range []string{"https://web.example.com/", "https://web.example.com/app/", "https://token.example.com/"} {
		ready(t, u)
	}
	require.Empty(t, b.built().Problems())

	t.Run("whoever logs in is where they wanted to be", func(t *testing.T) {
		who := b.browser(t)
		resp, at := who.visit(t, "https://web.example.com/hello?x=1&y=%2F")
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "https://web.example.com/hello?x=1&y=%2F", resp.Request.URL.String())
		require.Equal(t, "/hello", at.Path)
		bearer := at.Headers.Get("Authorization")
		require.True(t, strings.HasPrefix(bearer, "Bearer ey"), bearer)
		claims := strings.Split(bearer, ".")[1]
		require.Contains(t, unb64(t, claims), `"scope":"openid email"`)

		grants := idp.granted()
		for range 5 {
			resp, at = who.stays().visit(t, "https://web.example.com/", "Authorization", "Bearer mine")
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, bearer, at.Headers.Get("Authorization"), "what the client wrote is not believed")
		}
		require.Equal(t, grants, idp.granted())
		for _, c := range cookies(who, "https://web.example.com/") {
			require.True(t, strings.HasPrefix(c.Name, "__Host-oidc-"), c.Name)
			require.NotContains(t, c.Value, strings.TrimPrefix(bearer, "Bearer "), "it is encrypted")
		}
	})

	t.Run("nobody else passes", func(t *testing.T) {
		for _, header := range [][]string{
			nil, {"Authorization", "Bearer forged"}, {"Authorization", "Basic YTpi"}, {"Cookie", "__Host-oidc-00000000-mac=x"},
			{"X-Envoy-Oauth-Status", "ok"},
		} {
			resp, _ := b.browser(t).stays().visit(t, "https://web.example.com/", header...)
			require.Equal(t, 302, resp.StatusCode, header)
			require.True(t, strings.HasPrefix(resp.Header.Get("Location"), idp.issuer+"/login?"), resp.Header)
		}
		resp, _ := b.browser(t).stays().visit(t, "https://web.example.com/api", "Sec-Fetch-Mode", "cors")
		require.Equal(t, 401, resp.StatusCode, "a script cannot log in")
		require.Equal(t, "forbidden", resp.Header.Get("X-Waggle-Reason"))
		resp, _ = b.browser(t).stays().visit(t, "https://web.example.com/.oidc/callback?code=x&state=y")
		require.NotEqual(t, 200, resp.StatusCode)
		require.Empty(t, resp.Header.Get(echo.ServiceHeader))
	})

	t.Run("a session is good for its route alone", func(t *testing.T) {
		who := b.browser(t)
		resp, at := who.visit(t, "https://web.example.com/app/x")
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "/x", at.Path)
		app := cookies(who, "https://web.example.com/app/")
		require.NotEmpty(t, app)
		require.Empty(t, cookies(who, "https://web.example.com/"), "browsers do not even send them there")

		resp, _ = who.visit(t, "https://web.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		root := cookies(who, "https://web.example.com/")
		require.NotEmpty(t, root)
		resp, _ = who.stays().visit(t, "https://web.example.com/app/")
		require.Equal(t, 200, resp.StatusCode, "both at once")

		own := prefix(t, app[0].Name, "__Secure-oidc-")
		for _, c := range root { // a thief renames them
			require.NotContains(t, c.Name, own)
		}
		thief, named := b.browser(t), prefix(t, root[0].Name, "__Host-oidc-")
		var stolen []string
		for _, c := range root {
			stolen = append(stolen, strings.Replace(c.Name, "__Host-oidc-"+named, "__Secure-oidc-"+own, 1)+"="+c.Value)
		}
		resp, _ = thief.stays().visit(t, "https://web.example.com/app/", "Cookie", strings.Join(stolen, "; "))
		require.Equal(t, 302, resp.StatusCode)
		var same []string
		for _, c := range root {
			same = append(same, c.Name+"="+c.Value)
		}
		resp, _ = thief.stays().visit(t, "https://web.example.com/", "Cookie", strings.Join(same, "; "))
		require.Equal(t, 200, resp.StatusCode, "the test is about the names")
		resp, _ = thief.stays().visit(t, "https://token.example.com/", "Cookie", strings.Join(same, "; "))
		require.Equal(t, 302, resp.StatusCode)
	})

	t.Run("the token is what jwt_* checks", func(t *testing.T) {
		resp, at := b.browser(t).visit(t, "https://token.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		require.Contains(t, at.Headers.Get("Authorization"), "Bearer ey")
	})

	t.Run("who logs out is out", func(t *testing.T) {
		who := b.browser(t)
		resp, _ := who.visit(t, "https://web.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		resp, _ = who.stays().visit(t, "https://web.example.com/.oidc/logout")
		require.Equal(t, 302, resp.StatusCode)
		require.True(t, strings.HasPrefix(resp.Header.Get("Location"), idp.issuer+"/logout"), resp.Header)
		resp, _ = who.stays().visit(t, "https://web.example.com/")
		require.Equal(t, 302, resp.StatusCode)
	})

	t.Run("a session outlives whatever else changes", func(t *testing.T) {
		who := b.browser(t)
		resp, _ := who.visit(t, "https://web.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var bad []string
		asked := 0
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, _ := who.stays().visit(t, "https://web.example.com/")
				if asked++; resp.StatusCode != 200 {
					bad = append(bad, resp.Status+" "+resp.Header.Get("X-Waggle-Reason"))
				}
			}
		})
		for _, root := range []string{"/a", "/b", "/c", "/d", "/e", "/f"} {
			services["other"]["context_root"] = root
			deploy(t)
		}
		cancel()
		wg.Wait()
		require.Empty(t, bad, "of %d", asked)
		require.Greater(t, asked, 20)
	})

	t.Run("a provider that fails harms no session, and one that says something wrong is told", func(t *testing.T) {
		who := b.browser(t)
		resp, _ := who.visit(t, "https://web.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		idp.with(func() { idp.down = true })
		defer idp.with(func() { idp.down = false })
		services["late"] = login("late.example.com", "oidc_issuer", idp.issuer+"/other", "tls", "", "ssl_only", "")
		deploy(t)
		resp, _ = who.stays().visit(t, "https://web.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		resp, _ = who.stays().visit(t, "http://late.example.com/")
		require.Equal(t, 503, resp.StatusCode)
		require.Equal(t, "guard_unavailable", resp.Header.Get("X-Waggle-Reason"))
		resp, _ = b.browser(t).visit(t, idp.issuer+"/x")
		require.Equal(t, 503, resp.StatusCode)
		delete(services, "late")
		deploy(t)
	})

	t.Run("what a provider says of itself harms nobody else", func(t *testing.T) {
		for _, c := range []struct {
			token  string
			issuer string
			status int
			reason string // of the problem
		}{
			{token: "https://nobody.invalid/token", status: 302},
			{token: "http://127.0.0.1:1/token", status: 302},
			{token: "http://[::1]:1/token?x=%00", status: 302},
			{token: "https://169.254.169.254/token", status: 503, reason: "token_endpoint is refused: it is link-local"},
			{token: "http://id.example.com/token", status: 503, reason: "token_endpoint is refused: it is not https"},
			{token: "/token", status: 503, reason: "which is not a URL"},
			{issuer: "https://id.example.com", status: 503, reason: "must be the same in every letter"},
		} {
			odd := newFakeProvider(t)
			odd.document = func(d map[string]any) {
				if c.token != "" {
					d["token_endpoint"] = c.token
				}
				if c.issuer != "" {
					d["issuer"] = c.issuer
				}
			}
			services["odd"] = login("odd.example.com", "oidc_issuer", odd.issuer, "tls", "", "ssl_only", "")
			deploy(t)
			require.Eventually(t, func() bool {
				resp, _ := b.browser(t).stays().visit(t, "http://odd.example.com/")
				return resp.StatusCode == c.status
			}, deadline, 10*time.Millisecond, "%+v", c)
			told := b.built().Problems()
			require.Equal(t, c.reason == "", len(told) == 0, "%+v", told)
			if c.reason != "" {
				require.Contains(t, told[0].Reason, c.reason)
			}
		}
		delete(services, "odd")
		deploy(t)
	})

	t.Run("a session outlives the control plane", func(t *testing.T) {
		who := b.browser(t)
		resp, _ := who.visit(t, "https://web.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		b.plane.kill()
		require.NoError(t, b.plane.again(whole))
		services["other"]["context_root"] = "/after"
		again := make(chan struct{})
		go func() {
			defer close(again)
			deploy(t)
		}()
		for waiting := true; waiting; {
			select {
			case <-again:
				waiting = false
			default:
			}
			resp, _ := who.stays().visit(t, "https://web.example.com/")
			require.Equal(t, 200, resp.StatusCode)
		}
	})

	t.Run("another secret of the client ends sessions", func(t *testing.T) {
		who := b.browser(t)
		resp, _ := who.visit(t, "https://web.example.com/")
		require.Equal(t, 200, resp.StatusCode)
		client = "another"
		idp.with(func() { idp.secret = client })
		deploy(t)
		require.Eventually(t, func() bool {
			resp, _ := who.stays().visit(t, "https://web.example.com/")
			return resp.StatusCode == 302
		}, deadline, 10*time.Millisecond)
		require.Eventually(t, func() bool {
			resp, _ := b.browser(t).visit(t, "https://web.example.com/")
			return resp.StatusCode == 200
		}, deadline, 10*time.Millisecond, "the proxy has the new one")
	})

	rejected, err := b.fleet[0].Get(t.Context(), "/stats?filter=update_rejected")
	require.NoError(t, err)
	for line := range strings.Lines(rejected) {
		require.True(t, strings.HasSuffix(line, ": 0\n"), line)
	}
	stats, err := b.fleet[0].Get(t.Context(), "/config_dump")
	require.NoError(t, err)
	require.NotContains(t, stats, "s3cr3t")
}

// cookies are those that a browser sends with a request.
func cookies(b *browser, u string) []*http.Cookie {
	to, err := url.Parse(u)
	if err != nil {
		return nil
	}
	return b.jar.Cookies(to)
}

// prefix is the part of a cookie's name that is the route's own.
func prefix(t *testing.T, name, kind string) string {
	t.Helper()
	rest, found := strings.CutPrefix(name, kind)
	require.True(t, found, name)
	own, _, _ := strings.Cut(rest, "-")
	return own
}
