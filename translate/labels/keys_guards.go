package labels

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Guards is what section "Guards" says of a route.
type Guards struct {
	AllowIPs, DenyIPs []netip.Prefix // empty: not said

	RateLimit   *Rate
	RateLimitBy Selector // zero: all requests together
	MaxBodySize *uint64

	ExtAuth        AuthService // Service "": not said
	ExtAuthHeaders []string

	BasicAuth, APIKeys string // names of material

	JWTIssuer    string
	JWTKeys      string // a URL, or the name of a secret or config
	JWTAudiences []string

	OIDCIssuer, OIDCClient string
	OIDCSecret             string   // the name of a secret
	OIDCScopes             []string // beside openid

	CORSOrigins     []string // canonical ("https://a.example.com", "https://*.example.com"), or "*"
	CORSMethods     []string
	CORSHeaders     []string
	CORSCredentials bool
	CORSMaxAge      *time.Duration
}

// guardsKeys: who may pass.
var guardsKeys = section{title: "Guards", intro: "They stand in this order before the task, whatever the order of the labels: " +
	"addresses, CORS (which answers a browser's preflight request by itself), rate, size, `basic_auth`, `api_keys`, `oidc_*`, `jwt_*`, `ext_auth`. " +
	"All that a route has must be passed, also for the redirects that it answers.", keys: []key{
	{name: "allow_ips", class: Guard,
		value:   use(list("list of CIDRs", addressRange), func(t *target, v []netip.Prefix) { t.route.AllowIPs = v }),
		meaning: "Only these client addresses pass (the address behind `trusted_proxies`); `deny_ips` comes first. A fleet published through the ingress mesh hides addresses: an error."},
	{name: "deny_ips", class: Guard,
		value:   use(list("list of CIDRs", addressRange), func(t *target, v []netip.Prefix) { t.route.DenyIPs = v }),
		meaning: "These client addresses do not pass."},
	{name: "basic_auth", class: Guard,
		value:   use(called("secret or config in htpasswd form", object), func(t *target, v string) { t.route.BasicAuth = v }),
		meaning: "Asks for a user and password. Passwords are `{SHA}` (`htpasswd -s`): Envoy can check no other form."},
	{name: "jwt_issuer", class: Guard,
		value:   use(text, func(t *target, v string) { t.route.JWTIssuer = v }),
		meaning: "The issuer (`iss`) whose tokens pass. A token stands in `Authorization: Bearer` and reaches the task too."},
	{name: "jwt_jwks", class: Guard,
		value:   use(either("URL, config or secret", link, object), func(t *target, v string) { t.route.JWTKeys = v }),
		meaning: "The keys that tokens are checked with. The proxies fetch a URL when it is needed and every 5 minutes; over https its certificate must be one that everybody trusts."},
	{name: "jwt_audiences", class: Guard,
		value:   use(list("list", text), func(t *target, v []string) { t.route.JWTAudiences = v }),
		meaning: "The audiences (`aud`) of which a token must name one.", standardText: "any"},
	{name: "ext_auth", class: Guard,
		value: use(authService, func(t *target, v AuthService) { t.route.ExtAuth = v }),
		meaning: "Asks another service of the collection whether a request passes. It is shown the head of the request (over HTTP with its own path put before the request's) and lets it pass with 200; " +
			"any other answer is the client's. No answer within 5 seconds is a 503."},
	{name: "ext_auth_headers", class: Guard,
		value:   use(list("list of header names", shapedHeader), func(t *target, v []string) { t.route.ExtAuthHeaders = v }),
		meaning: "The headers that it may set for the task, which clients then cannot (`Cookie` and `Authorization` they still can, where it does not)."},
	{name: "oidc_issuer", class: Guard,
		value: use(issuer, func(t *target, v string) { t.route.OIDCIssuer = v }),
		meaning: "Logs users in at this OpenID provider, and lets nobody pass who is not. The control plane asks the provider where that is (`/.well-known/openid-configuration`); until it has answered, and until the proxy has its secrets, the route answers 503. " +
			"At the provider, register `https://<host><context_root>/.oidc/callback`; `<context_root>/.oidc/logout` logs out. The user's access token reaches the task as `Authorization: Bearer`, whatever the client wrote there, and `jwt_*` can check it. " +
			"The session is in cookies that browsers send over HTTPS only."},
	{name: "oidc_client_id", class: Guard,
		value:   use(clientName, func(t *target, v string) { t.route.OIDCClient = v }),
		meaning: "The client's name at the provider."},
	{name: "oidc_client_secret", class: Guard,
		value:   use(called("name of a secret", object), func(t *target, v string) { t.route.OIDCSecret = v }),
		meaning: "The client's secret at the provider. Another one ends all sessions."},
	{name: "oidc_scopes", class: Guard,
		value:   use(list("list", scope), func(t *target, v []string) { t.route.OIDCScopes = v }),
		meaning: "The scopes that are asked for, `openid` always.", standardText: "`openid`"},
	{name: "api_keys", class: Guard,
		value:   use(called("secret or config", object), func(t *target, v string) { t.route.APIKeys = v }),
		meaning: "Asks for one of these keys, one a line (`key` or `client:key`), in `X-Api-Key` or as `Authorization: Bearer`."},
	{name: "rate_limit", class: Guard,
		value: use(rate, func(t *target, v Rate) { t.route.RateLimit = &v }),
		meaning: "Requests per second or minute, per proxy; `burst` is how many may come at once (default: all of one second or minute). " +
			"Plain HTTP and HTTPS are counted apart, HTTPS for each certificate: `ssl_only` leaves one of them. " +
			"A proxy counts all limits of a collection in one place: when one of them comes, goes or changes, every one begins anew, with nothing counted. Other changes leave them alone."},
	{name: "rate_limit_by", class: Guard,
		value:   use(selector("ip", "header"), func(t *target, v Selector) { t.route.RateLimitBy = v }),
		meaning: "What the rate is counted by: each client address (of IPv6 each /64) or each value of a header; requests without it are counted together."},
	{name: "max_body_size", class: Guard,
		value:   use(size, func(t *target, v uint64) { t.route.MaxBodySize = &v }),
		meaning: "Larger requests are answered with 413, with and without Content-Length. Nothing is buffered."},
	{name: "cors_origins", class: Guard,
		value:   use(list("list of origins, `https://*.example.com`, `*`", origin), func(t *target, v []string) { t.route.CORSOrigins = v }),
		meaning: "The origins whose scripts may call. Preflight requests are answered by the proxy."},
	{name: "cors_methods", class: Guard,
		value:   use(list("list", either("", word("*"), method)), func(t *target, v []string) { t.route.CORSMethods = v }),
		meaning: "The methods that they may use.", standardText: "`GET,HEAD,POST`"},
	{name: "cors_headers", class: Guard,
		value:   use(list("list", token), func(t *target, v []string) { t.route.CORSHeaders = v }),
		meaning: "The headers that they may send."},
	{name: "cors_credentials", class: Guard, standard: "false",
		value:   use(boolean, func(t *target, v bool) { t.route.CORSCredentials = v }),
		meaning: "Whether they may send credentials; never together with the origin `*`."},
	{name: "cors_max_age", class: Guard,
		value:   use(duration, func(t *target, v time.Duration) { t.route.CORSMaxAge = &v }),
		meaning: "How long browsers keep the answer."},
}}

// origin is what browsers send as Origin, "scheme://host[:port]"; the host may
// begin with "*." for any depth below it; "*" is every origin.
var origin = kind[string]{doc: "origin", read: func(text string) (string, error) {
	const hint = "write an origin such as `https://app.example.com` or `https://*.example.com`, or `*`"
	t := strings.TrimSpace(text)
	if t == "*" {
		return t, nil
	}
	scheme, rest, found := strings.Cut(t, "://")
	if !found || scheme == "" {
		if h, err := asciiHost(strings.TrimPrefix(t, "*.")); err == nil && strings.Contains(h, ".") {
			return "", refuse("write `https://"+asciiLower(t)+"`", "has no scheme")
		}
		return "", refuse(hint, "is not an origin")
	}
	host, wild := strings.CutPrefix(rest, "*.")
	u, err := url.Parse(scheme + "://" + host)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "":
		return "", refuse(hint, "is not an origin")
	case u.Path == "/":
		return "", refuse("write `"+strings.TrimSuffix(t, "/")+"`", "has a path; browsers send none")
	case u.Path != "":
		return "", refuse("write `"+strings.TrimSuffix(t, u.Path)+"`", "has a path; browsers send none")
	}
	h := asciiLower(u.Hostname())
	if !strings.Contains(h, ":") {
		if h, err = asciiHost(u.Hostname()); err != nil {
			return "", refuse(hint, "its host %s", noteOf(err).reason)
		}
	} else {
		h = "[" + h + "]"
	}
	if wild {
		h = "*." + h
	}
	s := asciiLower(u.Scheme)
	if p := u.Port(); p != "" && !(s == "https" && p == "443" || s == "http" && p == "80") { // browsers leave these out
		if _, err := port.read(p); err != nil {
			return "", refuse(hint, "%q is not a port", p)
		}
		h += ":" + p
	}
	return s + "://" + h, nil
}}

// issuer is the URL that an OpenID provider is called by. It is compared in every
// letter, and what is asked for is put behind it.
var issuer = kind[string]{doc: "URL", read: func(text string) (string, error) {
	u, err := link.read(text)
	switch {
	case err != nil:
		return "", err
	case strings.ContainsAny(u, "?#"):
		return "", refuse("write `"+u[:strings.IndexAny(u, "?#")]+"`", "has a query or a fragment, which no issuer has")
	case strings.HasSuffix(u, "/.well-known/openid-configuration"):
		return "", refuse("write `"+strings.TrimSuffix(u, "/.well-known/openid-configuration")+"`", "is where the issuer's document is, and not the issuer")
	case len(u) > 1024:
		return "", refuse("write a shorter URL", "is %d bytes long, and at most 1024 are taken", len(u))
	}
	return u, nil
}}

// clientName is a client's name at a provider. Envoy puts it into URLs, and encodes less
// of it than would have to be.
var clientName = kind[string]{doc: "text", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	odd := strings.IndexFunc(t, func(r rune) bool { return r >= 0x80 || !unreserved(byte(r)) && !strings.ContainsRune(":/@", r) })
	switch {
	case t == "" || len(t) > 255:
		return "", refuse("write the client's name as the provider shows it", "has %d letters, and 1 to 255 are taken", len(t))
	case odd >= 0:
		return "", refuse("register the application under a name of letters, digits and `-._~:/@`", "%q is nothing that the proxies can send in a client's name", t[odd:odd+1])
	}
	return t, nil
}}

// scope is what RFC 6749 takes for one scope.
var scope = kind[string]{doc: "scope", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	if t == "" || len(t) > 255 || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return "", refuse("write scopes such as `profile, email`", "is no scope")
	}
	return t, nil
}}
