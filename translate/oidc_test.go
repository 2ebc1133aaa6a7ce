package translate

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	oauth2v3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/oauth2/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

const issuer = "https://id.test/realms/a"

var idp = secrets.Provider{Authorization: "https://id.test/login", Token: "https://id.test:8443/token", EndSession: "https://id.test/out", HeaderOnly: true}

// login is labels of a route with oidc_….
func login(host string, more ...string) map[string]string {
	l := map[string]string{"hosts": host, "port": "80", "oidc_issuer": issuer, "oidc_client_id": "shop", "oidc_client_secret": "client"}
	for i := 0; i < len(more); i += 2 {
		l[more[i]] = more[i+1]
	}
	return l
}

// loginWorld has the client's secret, and material in which the issuer has answered.
func loginWorld() (*world, *secrets.Material) {
	w := newWorld()
	w.Configs = map[string]*watcher.Config{"client": {ID: "client", Name: "client", Data: []byte("s3cr3t\n")}}
	return w, (*secrets.Material)(nil).With(map[string]secrets.Answer{issuer: {Provider: idp, Known: true}})
}

func (w *world) buildWith(t *testing.T, cfg *config.Config, m *secrets.Material) *Builder {
	t.Helper()
	b := Build(Input{Picture: w.Picture, Config: cfg, Material: m})
	requireClosed(t, b, cfg)
	return b
}

// loginOf is what Envoy's filter is told for the first route of a host.
func loginOf(t *testing.T, b *Builder, collection, host string) *oauth2v3.OAuth2Config {
	t.Helper()
	rc := b.Resources(collection)[Routes][httpTable].Message.(*routev3.RouteConfiguration)
	i := slices.IndexFunc(rc.VirtualHosts, func(vh *routev3.VirtualHost) bool { return vh.Name == host })
	require.GreaterOrEqual(t, i, 0)
	var chain chainv3.FilterChainConfigPerRoute
	require.NotNil(t, rc.VirtualHosts[i].Routes[0].TypedPerFilterConfig["oidc"])
	require.NoError(t, rc.VirtualHosts[i].Routes[0].TypedPerFilterConfig["oidc"].UnmarshalTo(&chain))
	require.Len(t, chain.FilterChain.Filters, 3)
	var o oauth2v3.OAuth2
	require.NoError(t, chain.FilterChain.Filters[1].TypedConfig.UnmarshalTo(&o))
	return o.Config
}

func secretOf(t *testing.T, b *Builder, collection, name string) string {
	t.Helper()
	r := b.Resources(collection)[Secret][name]
	require.NotNil(t, r, "%s of %v", name, names(b, collection, Secret))
	return string(r.Message.(*tlsv3.Secret).GetGenericSecret().Secret.GetInlineBytes())
}

func TestLogin(t *testing.T) {
	w, m := loginWorld()
	w.service("a_web", login("a.test", "oidc_scopes", "email,openid"), stack("a"))
	w.service("a_app", login("a.test", "context_root", "/app"), stack("a"))
	w.service("p_web", login("a.test", "service_cluster", "prod"), stack("p"), on("prod-edge"))
	b := w.buildWith(t, testConfig(), m)
	require.Empty(t, b.Problems())
	require.Equal(t, []string{issuer}, b.Issuers())

	c := loginOf(t, b, "dev", "a.test") // the longer root comes first
	require.Equal(t, "%REQ(x-forwarded-proto)%://%REQ(:authority)%/app/.oidc/callback", c.RedirectUri)
	require.Equal(t, "/app/.oidc/logout", c.SignoutPath.GetPath().GetExact())
	require.Equal(t, "/app", c.CookieConfigs.OauthHmacCookieConfig.Path)
	require.True(t, strings.HasPrefix(c.Credentials.CookieNames.OauthHmac, "__Secure-oidc-"))
	require.Equal(t, []string{"openid"}, c.AuthScopes)
	require.Equal(t, []string{"a.test"}, c.AllowedRedirectDomains)
	require.Equal(t, oauth2v3.OAuth2Config_BASIC_AUTH, c.AuthType)
	require.Equal(t, "https://id.test:8443", c.TokenEndpoint.GetCluster())
	require.Contains(t, names(b, "dev", Cluster), "https://id.test:8443")
	require.True(t, c.ForwardBearerToken)

	require.Equal(t, []string{"oidc/a_app/client", "oidc/a_app/session", "oidc/a_web/client", "oidc/a_web/session"}, names(b, "dev", Secret))
	require.Equal(t, "s3cr3t", secretOf(t, b, "dev", "oidc/a_web/client"))
	keys := map[string]bool{}
	for collection, of := range map[string][]string{"dev": {"oidc/a_app/session", "oidc/a_web/session"}, "prod": {"oidc/p_web/session"}} {
		for _, name := range of {
			key := secretOf(t, b, collection, name)
			require.Len(t, key, 64)
			keys[key] = true
		}
	}
	require.Len(t, keys, 3, "no cookie of one is good for another")
	require.NotEqual(t, loginOf(t, b, "dev", "a.test").Credentials.CookieNames.OauthHmac, loginOf(t, b, "prod", "a.test").Credentials.CookieNames.OauthHmac)
	again := w.buildWith(t, testConfig(), m)
	require.Equal(t, secretOf(t, b, "dev", "oidc/a_web/session"), secretOf(t, again, "dev", "oidc/a_web/session"), "every replica knows it")

	rc := b.Resources("dev")[Routes][httpTable]
	for _, name := range names(b, "dev", Secret) {
		require.Contains(t, rc.Refs, Ref{Secret, name})
	}
	shown, err := json.Marshal(b.Problems())
	require.NoError(t, err)
	require.NotContains(t, string(rc.Body)+string(shown), "s3cr3t")
}

// What is known of the provider opens the route, closes it, or is kept.
func TestLoginFollowsTheProvider(t *testing.T) {
	w, m := loginWorld()
	w.service("a_web", login("a.test"), stack("a"))
	free := w.service("a_free", map[string]string{"hosts": "free.test", "port": "80"}, stack("a"))
	cfg := testConfig()
	b := w.buildWith(t, cfg, nil)
	now := func(m *secrets.Material) []Delta {
		t.Helper()
		ds := b.Build(Input{Picture: w.Picture, Config: cfg, Material: m}, watcher.Changes{Tasks: map[string]struct{}{free.ID: {}}})
		requireClosed(t, b, cfg)
		return ds
	}
	open, closed := []string{"/* -> a_web:80"}, []string{shut}
	answer := func(a secrets.Answer) *secrets.Material {
		return m.With(map[string]secrets.Answer{issuer: a})
	}

	require.Equal(t, closed, routeLines(b, "dev", "a.test"))
	requireProblem(t, b, "a_web", labels.Info, "and this is none: the route answers 503 here")
	require.Equal(t, []string{issuer}, b.Issuers(), "it is to be asked")

	now(answer(secrets.Answer{}))
	require.Equal(t, closed, routeLines(b, "dev", "a.test"))
	requireProblem(t, b, "a_web", labels.Error, "has not answered yet")

	now(answer(secrets.Answer{Failed: "answers 404 for /x"}))
	require.Equal(t, closed, routeLines(b, "dev", "a.test"))
	requireProblem(t, b, "a_web", labels.Error, "the provider answers 404 for /x: the route answers 503")
	require.Empty(t, names(b, "dev", Secret))

	require.Contains(t, changed(now(m)), "dev secrets oidc/a_web/session")
	require.Equal(t, open, routeLines(b, "dev", "a.test"))
	require.Empty(t, b.Problems())
	require.Empty(t, now(m.With(map[string]secrets.Answer{issuer: {Provider: idp, Known: true}})), "the same answer")

	require.Empty(t, now(answer(secrets.Answer{Provider: idp, Known: true, Failed: "does not answer within 10s"})), "what was good is kept")
	requireProblem(t, b, "a_web", labels.Warning, "the provider does not answer within 10s; what it said before holds")

	other := idp
	other.Token = "https://id.test/other"
	require.Equal(t, []string{"dev clusters https://id.test:443", "-dev clusters https://id.test:8443", "dev routes http"}, changed(now(answer(secrets.Answer{Provider: other, Known: true}))))
}

// A guard that cannot be built closes, and says why.
func TestLoginThatIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		labels map[string]string
		idp    secrets.Provider
		secret string
		label  string
		reason string
	}{
		{name: "no client", labels: login("a.test", "oidc_client_id", ""), label: "oidc_client_id", reason: "is missing beside com.docker.lb.oidc_issuer"},
		{name: "no secret", labels: login("a.test", "oidc_client_secret", ""), label: "oidc_client_secret", reason: "is missing beside"},
		{name: "no issuer", labels: login("a.test", "oidc_issuer", ""), label: "oidc_client_id", reason: "com.docker.lb.oidc_issuer does not say that"},
		{name: "nobody has the secret", labels: login("a.test", "oidc_client_secret", "nobody"), label: "oidc_client_secret", reason: "called nobody"},
		{name: "an empty secret", labels: login("a.test"), secret: "\n", label: "oidc_client_secret", reason: "client does not hold a client's secret"},
		{name: "two lines", labels: login("a.test"), secret: "hunter2\nhunter3", label: "oidc_client_secret", reason: "one line of ASCII"},
		{name: "plain", labels: login("a.test", "oidc_issuer", "http://id.test"), label: "oidc_issuer", reason: "it is not https"},
		{name: "this machine", labels: login("a.test", "oidc_issuer", "https://127.0.0.1"), label: "oidc_issuer", reason: "loopback"},
		{name: "metadata", labels: login("a.test", "oidc_issuer", "https://169.254.169.254"), label: "oidc_issuer", reason: "link-local"},
		{name: "itself", labels: login("a.test", "oidc_issuer", "https://10.0.0.1:18000"), label: "oidc_issuer", reason: "Waggle's own"},
		{name: "tokens in plain", labels: login("a.test"), idp: secrets.Provider{Authorization: idp.Authorization, Token: "http://id.test/token"}, label: "oidc_issuer", reason: "token_endpoint is refused: it is not https"},
		{name: "tokens from itself", labels: login("a.test"), idp: secrets.Provider{Authorization: idp.Authorization, Token: "https://localhost/token"}, label: "oidc_issuer", reason: "token_endpoint is refused: it is the proxy itself"},
		{name: "a login in plain", labels: login("a.test"), idp: secrets.Provider{Authorization: "http://id.test/", Token: idp.Token}, label: "oidc_issuer", reason: "authorization_endpoint is refused: it is not https"},
		{name: "no way back by path", labels: login("a.test", "path", "/admin"), label: "oidc_issuer", reason: "users come back from the provider to /.oidc/callback"},
		{name: "no way back by expression", labels: login("a.test", "path_regex", "/admin/.*"), label: "oidc_issuer", reason: "/.oidc/callback"},
		{name: "no way back by method", labels: login("a.test", "methods", "POST"), label: "oidc_issuer", reason: "with GET"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, m := loginWorld()
			if c.secret != "" {
				w.Configs["client"].Data = []byte(c.secret)
			}
			if c.idp.Token != "" {
				m = m.With(map[string]secrets.Answer{issuer: {Provider: c.idp, Known: true}})
			}
			for k, v := range c.labels {
				if v == "" {
					delete(c.labels, k)
				}
			}
			w.service("a_web", c.labels, stack("a"))
			cfg := testConfig()
			cfg.XDS.Address = "0.0.0.0:18000"
			b := w.buildWith(t, cfg, m)
			p := requireProblem(t, b, "a_web", labels.Error, c.reason)
			require.Equal(t, "com.docker.lb."+c.label, p.Label)
			require.NotEmpty(t, p.Hint)
			require.NotContains(t, p.Reason, "hunter")
			require.Empty(t, names(b, "dev", Secret))
			require.Len(t, b.Problems(), 1)
			for _, line := range routeLines(b, "dev", "a.test") {
				require.Contains(t, line, "503 guard_unavailable")
			}
		})
	}
	w, m := loginWorld()
	w.service("a_path", login("a.test", "path", "/admin,/.oidc/callback"), stack("a"))
	w.service("a_regex", login("b.test", "path_regex", "/(admin|.oidc)/.*", "methods", "GET,POST"), stack("a"))
	require.Empty(t, w.buildWith(t, testConfig(), m).Problems())
}

// Services share a match with the same login; the sharer's names are the oldest's.
func TestSharersHaveTheSameLogin(t *testing.T) {
	w, m := loginWorld()
	w.Configs["other"] = &watcher.Config{ID: "other", Name: "other", Data: []byte("s3cr3t")}
	w.Configs["third"] = &watcher.Config{ID: "third", Name: "third", Data: []byte("another")}
	w.service("a_1", login("a.test"), stack("a"))
	w.service("a_2", login("a.test", "oidc_client_secret", "other"), stack("a"))
	w.service("a_3", login("a.test", "oidc_client_secret", "third"), stack("a"))
	w.service("a_4", login("a.test", "oidc_scopes", "email"), stack("a"))
	w.service("a_5", map[string]string{"hosts": "a.test", "port": "80"}, stack("a"))
	b := w.buildWith(t, testConfig(), m)
	require.Equal(t, []string{"/* -> a_1:80=2 a_2:80=2"}, routeLines(b, "dev", "a.test"))
	for _, s := range []string{"a_3", "a_4", "a_5"} {
		require.Equal(t, "a_1", requireProblem(t, b, s, labels.Error, "other guards").Winner)
	}
	require.Equal(t, []string{"oidc/a_1/client", "oidc/a_1/session"}, names(b, "dev", Secret), "only what a published route names")
}

// The control plane connects nowhere where a proxy may not be sent.
func TestAddressesThatAreRefused(t *testing.T) {
	cfg := testConfig()
	cfg.XDS.Address = "0.0.0.0:18000"
	for _, c := range []struct {
		to       string
		loopback bool
		why      string
	}{
		{"127.0.0.1:443", false, "loopback"},
		{"[::1]:443", false, "loopback"},
		{"[::ffff:127.0.0.1]:443", false, "loopback"},
		{"169.254.169.254:80", true, "link-local"},
		{"[fd00:ec2::254]:80", false, "metadata"},
		{"10.0.0.1:18000", false, "Waggle's own"},
		{"127.0.0.1:18000", true, "Waggle's own"},
		{"127.0.0.1:443", true, ""},
		{"10.0.0.1:443", false, ""},
		{"203.0.113.1:443", false, ""},
	} {
		why := RefusedAddress(cfg, netip.MustParseAddrPort(c.to), c.loopback)
		if c.why == "" {
			require.Empty(t, why, c.to)
		} else {
			require.Contains(t, why, c.why, c.to)
		}
	}
}

// Whatever changes, and in whatever order: what is built step by step is what is built
// from nothing.
func TestLoginsStepByStep(t *testing.T) {
	providers := []secrets.Answer{
		{}, {Failed: "answers 404"}, {Provider: idp, Known: true}, {Provider: idp, Known: true}, {Provider: idp, Known: true, Failed: "is away"},
		{Provider: secrets.Provider{Authorization: "https://id.test/in", Token: "https://tokens.test/token"}, Known: true},
		{Provider: secrets.Provider{Authorization: "https://id.test/in", Token: "http://id.test/token"}, Known: true},
	}
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 11))
		cfg := testConfig()
		w, m := loginWorld()
		labelled := func() map[string]string {
			l := login(pick(r, "a.test", "b.test", "*.test"), "context_root", pick(r, "/", "/app", "/app"))
			l["oidc_client_secret"] = pick(r, "client", "client", "other")
			l["oidc_issuer"] = pick(r, issuer, issuer, issuer+"/2", "http://id.test")
			l["rate_limit"] = pick(r, "", "", "10/s")
			if r.IntN(4) == 0 {
				return map[string]string{"hosts": l["hosts"], "port": "80"}
			}
			return l
		}
		for i := range 6 {
			w.service(fmt.Sprintf("a_%d", i), labelled(), stack(pick(r, "a", "b")))
		}
		b := Build(Input{Picture: w.Picture, Config: cfg, Material: m})
		for range 15 {
			p := *w.Picture
			changes := watcher.Changes{}
			switch id := fmt.Sprintf("s%04d", 1+r.IntN(6)); r.IntN(3) {
			case 0:
				s := *p.Services[id]
				s.Version++
				s.Labels = map[string]string{watcher.StackLabel: s.Labels[watcher.StackLabel]}
				for k, v := range labelled() {
					s.Labels["com.docker.lb."+k] = v
				}
				p.Services = maps.Clone(p.Services)
				p.Services[id] = &s
				changes.Services = map[string]struct{}{id: {}}
			case 1:
				m = m.With(map[string]secrets.Answer{issuer: pick(r, providers...), issuer + "/2": pick(r, providers...)})
			case 2:
				p.Configs = map[string]*watcher.Config{"client": {ID: "client", Name: "client", Data: []byte(pick(r, "1", "2", ""))}}
				if r.IntN(2) == 0 {
					p.Configs["other"] = &watcher.Config{ID: "other", Name: "other", Data: []byte("3")}
				}
				changes.Shared = true
			}
			w.Picture = &p
			b.Build(Input{Picture: &p, Config: cfg, Material: m}, changes)
			requireClosed(t, b, cfg)
			fresh := Build(Input{Picture: &p, Config: cfg, Material: m})
			require.Empty(t, cmp.Diff(everything(fresh, cfg), everything(b, cfg)), "seed %d", seed)
			require.Equal(t, fresh.Issuers(), b.Issuers())
		}
	}
}
