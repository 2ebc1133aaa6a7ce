package translate

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbaccfgv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	oauth2v3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/oauth2/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
)

// oidc is oidc_issuer, oidc_client_id, oidc_client_secret and oidc_scopes: users log
// in at an OpenID provider, and their session is in cookies.
//
// Envoy's filter comes with the route, in a chain of its own. What it does before its
// secrets have come is its own matter: 503 in Envoy 1.40, where it is in such a chain;
// on its own it let everyone pass (envoy-xds.md §6). So it does not stand alone: first
// nobody has an authorization, the filter gives one to those who are logged in, and
// nobody passes without.
//
// Where the provider's endpoints are is asked by the control plane (secrets.Providers).
var oidc = &httpFilter{
	name: "oidc", guard: true,
	chain: func() proto.Message { return &chainv3.FilterChainConfig{} },
	on: func(r *route) (validator, error) {
		l := r.label
		if l.OIDCIssuer == "" {
			for _, key := range []string{"oidc_client_id", "oidc_client_secret", "oidc_scopes"} {
				if err := r.needs(key, "oidc_issuer"); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}
		switch {
		case l.OIDCClient == "":
			return nil, errorAt("oidc_client_id", "write the name that the provider has given to the application", "is missing beside %s", r.key("oidc_issuer"))
		case l.OIDCSecret == "":
			return nil, errorAt("oidc_client_secret", "write the name of a secret that holds what the provider has given with it", "is missing beside %s", r.key("oidc_issuer"))
		}
		if !r.takes(r.below(callbackPath)) {
			return nil, errorAt("oidc_issuer", "add "+r.below(callbackPath)+" to what the route takes, or write `context_root`",
				"users come back from the provider to %s with GET, which the route does not take", r.below(callbackPath))
		}
		provider, err := r.provider() // before the secret, which may be on its way: both are waited for at once
		if err != nil {
			return nil, err
		}
		secret, err := r.clientSecret()
		if err != nil {
			return nil, err
		}
		token, _ := externalNamed(provider.Token) // provider has looked at it
		config := r.loginAt(provider, token)
		r.refs = append(r.refs, token.cluster())
		r.secrets = append(r.secrets,
			generic(r.oidcName("client"), formLiteral(secret)),
			generic(r.oidcName("session"), sessionKey(secret, r.svc.coll.name, routeKey(r))),
		)
		return r.loginChain(config)
	},
	// Cookies and secrets are named by the route, and their key is its own.
	identity: func(r *route) string {
		said := append([]string{r.label.OIDCIssuer, r.label.OIDCClient}, r.label.OIDCScopes...)
		for _, s := range r.secrets {
			if s.Name == r.oidcName("client") {
				said = append(said, string(mustEncode(s.GetGenericSecret())))
			}
		}
		return strings.Join(said, "\x00")
	},
}

// Paths of the guard itself, below the route's context root.
const (
	callbackPath = "/.oidc/callback"
	logoutPath   = "/.oidc/logout"
)

const (
	tokenTimeout = 5 * time.Second // for the provider to exchange a code
	// tokenLifetime is how long a token holds whose provider does not say it.
	tokenLifetime = time.Hour
)

// below is a path of the guard under the route's own root.
func (r *route) below(path string) string {
	return strings.TrimSuffix(r.label.ContextRoot, "/") + path
}

// takes reports whether the route takes a visit of a browser to the path. What it asks
// of headers and queries is its author's to know.
func (r *route) takes(path string) bool {
	l := r.label
	if len(l.Methods) > 0 && !slices.Contains(l.Methods, "GET") {
		return false
	}
	if len(l.Paths) == 0 && l.PathRegex == "" {
		return true
	}
	if slices.Contains(l.Paths, path) {
		return true
	}
	expression, err := regexp.Compile("^(?:" + l.PathRegex + ")$")
	return err == nil && l.PathRegex != "" && expression.MatchString(path)
}

// clientSecret is what the provider knows the application by.
func (r *route) clientSecret() (string, error) {
	const key = "oidc_client_secret"
	data, err := r.credentials(key, r.label.OIDCSecret)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(data), "\r\n") // as editors and echo end a file
	if secret == "" || len(secret) > 4096 || strings.ContainsFunc(secret, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "", errorAt(key, "store the client's secret and nothing else", "%s does not hold a client's secret: one line of ASCII", r.label.OIDCSecret)
	}
	return secret, nil
}

// provider is where the issuer's endpoints are.
func (r *route) provider() (secrets.Provider, error) {
	const key = "oidc_issuer"
	issuer, b := r.label.OIDCIssuer, r.svc.b
	if why := b.refusedLink(issuer); why != "" {
		return secrets.Provider{}, errorAt(key, "write the https URL of a provider that proxies and the control plane may reach", "the provider is refused: %s", why)
	}
	answer, asked := r.svc.askProvider(issuer)
	switch {
	case !asked:
		return secrets.Provider{}, &labelError{key: key, reason: "the control plane asks the provider where users log in, and this is none", assumed: true}
	case !answer.Known && answer.Failed == "":
		return secrets.Provider{}, errorAt(key, "wait a moment", "the provider is being asked where users log in, and has not answered yet")
	case !answer.Known:
		return secrets.Provider{}, errorAt(key, "look whether the control plane can reach "+strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration",
			"the provider %s", answer.Failed)
	case answer.Failed != "":
		p := r.problem(labels.Warning, key, "the provider "+answer.Failed+"; what it said before holds")
		p.Hint = "look whether it is well"
		r.svc.problems = append(r.svc.problems, p)
	}
	for _, e := range []struct{ name, url string }{
		{"token_endpoint", answer.Provider.Token}, {"authorization_endpoint", answer.Provider.Authorization}, {"end_session_endpoint", answer.Provider.EndSession},
	} {
		if e.url == "" {
			continue
		}
		if why := b.refusedLink(e.url); why != "" {
			return secrets.Provider{}, errorAt(key, "have the provider say another one", "the provider's %s is refused: %s", e.name, why)
		}
	}
	return answer.Provider, nil
}

// refusedLink says why nobody is sent to the server of a URL with something secret in
// hand, or "".
func (b *Builder) refusedLink(link string) string {
	e, ok := externalNamed(link)
	if !ok {
		return "it is not an http or https URL"
	}
	if why := b.refusedServer(e); why != "" {
		return why
	}
	if !e.tls && !onLoopback(e.host) {
		return "it is not https, and whoever is on the way could log in as anybody"
	}
	return ""
}

// onLoopback reports whether a server is this machine; then what is said to it stays here.
func onLoopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	return host == "localhost"
}

// loginAt is what Envoy's own filter does.
func (r *route) loginAt(p secrets.Provider, token external) *oauth2v3.OAuth2Config {
	l := r.label
	// What the listener found out: behind trusted proxies it is theirs to say.
	const here = "%REQ(x-forwarded-proto)%://%REQ(:authority)%"
	name, path := r.cookies()
	cookie := &oauth2v3.CookieConfig{SameSite: oauth2v3.CookieConfig_LAX, Path: path}
	c := &oauth2v3.OAuth2Config{
		StatPrefix: "oidc.",
		TokenEndpoint: &corev3.HttpUri{
			Uri: p.Token, HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: token.cluster()}, Timeout: durationpb.New(tokenTimeout),
		},
		AuthorizationEndpoint: p.Authorization,
		EndSessionEndpoint:    p.EndSession,
		RedirectUri:           here + formatLiteral(r.below(callbackPath)),
		OriginalRequestUri:    here,
		RedirectPathMatcher:   atPath(r.below(callbackPath)),
		SignoutPath:           atPath(r.below(logoutPath)),
		ForwardBearerToken:    true,
		AuthScopes:            scopes(l.OIDCScopes),
		DefaultExpiresIn:      durationpb.New(tokenLifetime),
		// A script cannot follow the way to a page where somebody types a password.
		DenyRedirectMatcher: noVisits(),
		// Browsers drop a cookie above 4 KiB, and with it the session.
		TokenCookieChunking: &oauth2v3.TokenCookieChunking{},
		Credentials: &oauth2v3.OAuth2Credentials{
			ClientId:       l.OIDCClient,
			TokenSecret:    bySDS(r.oidcName("client")),
			TokenFormation: &oauth2v3.OAuth2Credentials_HmacSecret{HmacSecret: bySDS(r.oidcName("session"))},
			CookieNames: &oauth2v3.OAuth2Credentials_CookieNames{
				BearerToken: name + "token", OauthHmac: name + "mac", OauthExpires: name + "expires", IdToken: name + "id",
				RefreshToken: name + "refresh", OauthNonce: name + "nonce", CodeVerifier: name + "verifier",
			},
		},
		CookieConfigs: &oauth2v3.CookieConfigs{
			BearerTokenCookieConfig: cookie, OauthHmacCookieConfig: cookie, OauthExpiresCookieConfig: cookie, IdTokenCookieConfig: cookie,
			RefreshTokenCookieConfig: cookie, OauthNonceCookieConfig: cookie, CodeVerifierCookieConfig: cookie,
		},
	}
	if p.HeaderOnly {
		c.AuthType = oauth2v3.OAuth2Config_BASIC_AUTH
	}
	if hosts := l.Hosts; !l.DefaultBackend && !slices.Contains(hosts, "*") {
		c.AllowedRedirectDomains = hosts
	}
	return c
}

// loginChain puts the filter between two that make it fail closed.
func (r *route) loginChain(config *oauth2v3.OAuth2Config) (validator, error) {
	const authorization = "authorization"
	chain := &chainv3.FilterChain{}
	for _, f := range []struct {
		name string
		is   validator
	}{
		{"strip", &headersv3.HeaderMutation{Mutations: &headersv3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{
			{Action: &mutationv3.HeaderMutation_Remove{Remove: authorization}},
		}}}},
		{"login", &oauth2v3.OAuth2{Config: config}},
		{"require", &rbacv3.RBAC{Rules: &rbaccfgv3.RBAC{
			Action: rbaccfgv3.RBAC_DENY,
			Policies: map[string]*rbaccfgv3.Policy{noSession: {
				Permissions: []*rbaccfgv3.Permission{{Rule: &rbaccfgv3.Permission_Header{Header: requestHeaderAbsent(authorization)}}},
				Principals:  []*rbaccfgv3.Principal{anyAddress()},
			}},
		}}},
	} {
		if err := f.is.ValidateAll(); err != nil {
			return nil, errorAt("oidc_issuer", "write other values, shorter and of plain letters", "Envoy would refuse it: %v", err)
		}
		chain.Filters = append(chain.Filters, &corev3.TypedExtensionConfig{Name: f.name, TypedConfig: mustAny(f.is)})
	}
	return &chainv3.FilterChainConfigPerRoute{FilterChain: chain}, nil
}

// noSession is how localReplies knows that nobody looked whether there is a session.
const noSession = "oidc"

// oidcName is what a secret of the route is called: no other route has the same.
func (r *route) oidcName(what string) string { return "oidc/" + routeKey(r) + "/" + what }

// cookies gives what the names of the route's cookies begin with, and the path for
// which browsers send them. The names are the route's own: two on one host do not take
// each other's away. The prefixes have browsers refuse such a cookie from plain HTTP,
// and the stricter one from a neighbouring host as well.
func (r *route) cookies() (prefix, path string) {
	sum := sha256.Sum256([]byte(r.svc.coll.name + "\x00" + routeKey(r)))
	own := "oidc-" + hex.EncodeToString(sum[:4]) + "-"
	root := r.label.ContextRoot
	if root == "/" || strings.ContainsFunc(root, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`",;<>\`, c) }) {
		return "__Host-" + own, "/"
	}
	return "__Secure-" + own, root
}

// sessionKey is what the cookies of a route are signed and encrypted with. It follows
// from the client's secret, so that every replica knows it, and it is nobody else's: no
// cookie of another route or collection is good.
func sessionKey(secret, collection, route string) string {
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "waggle oidc session\x00"+collection+"\x00"+route, sha256.Size)
	if err != nil {
		panic("translate: " + err.Error()) // only of a length that no hash can give
	}
	return hex.EncodeToString(key)
}

// formLiteral writes a client's secret as RFC 6749 has it, in the body of a request as in
// Authorization: form-encoded. Envoy's filter encodes few letters, and % and + are none
// of them.
func formLiteral(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func generic(name, value string) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: hidden(secrets.Hide([]byte(value)))}}}
}

// scopes begin with openid, without which it is not OpenID.
func scopes(said []string) []string {
	all := []string{"openid"}
	for _, s := range said {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func atPath(path string) *matcherv3.PathMatcher {
	return &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: exactly(path)}}
}

// noVisits are requests that are no visit to a page: what scripts and images of a page
// ask for. They get a 401.
func noVisits() []*routev3.HeaderMatcher {
	all := []*routev3.HeaderMatcher{requestHeaderIs("x-requested-with", exactly("XMLHttpRequest"))}
	for _, mode := range []string{"cors", "no-cors", "same-origin", "websocket"} {
		all = append(all, requestHeaderIs("sec-fetch-mode", exactly(mode)))
	}
	return all
}
