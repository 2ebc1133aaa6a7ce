package translate

import (
	"cmp"
	"net/url"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/waggle-lb/waggle/config"
)

// side is one of the two tables that a host may be in: plain HTTP, or HTTPS.
type side struct {
	cfg *config.Collection
	tls bool
	// onward sends all of plain HTTP to HTTPS: the host's profile asks for that.
	onward bool
}

// routesOf gives the routes of one match, in the order in which they are tried,
// and the clusters that they name.
func routesOf(on side, m match) (routes []*routev3.Route, clusters []string) {
	oldest := m.claims[0].route
	only := func(does func(*routev3.Route)) ([]*routev3.Route, []string) {
		r := &routev3.Route{Name: oldest.name, Match: m.on.match(nil)}
		does(r)
		return []*routev3.Route{guarded(r, oldest)}, oldest.refs // its guards may ask somebody
	}
	switch l := oldest.label; {
	case m.claims[0].closed():
		return only(closed.respond)
	case oldest.broken:
		return only(notBuilt.respond)
	case m.claims[0].redirect != nil: // before ssl_only: the source may have no HTTPS at all
		return only(func(r *routev3.Route) { onto(r, m.claims[0].redirect.To, l.RedirectCode) })
	case !on.tls && (l.SSLOnly || on.onward):
		return only(func(r *routev3.Route) { toHTTPS(r, m.claims[0].host, on.cfg.HTTPSPublicPort) })
	case l.Redirect != "":
		return only(func(r *routev3.Route) { to(r, l.Redirect, l.RedirectCode) })
	case l.Respond != nil:
		return only(func(r *routev3.Route) {
			r.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: l.Respond.Status, Body: inline(l.Respond.Text)}}
		})
	}
	shares := weigh(m.claims)
	if shares == nil {
		return only(noTask.respond)
	}
	for _, s := range shares {
		s.claim.shared = len(shares) > 1
		clusters = append(clusters, s.claim.route.backend.name)
	}
	clusters = append(clusters, oldest.refs...)
	if oldest.mirror != "" {
		clusters = append(clusters, oldest.mirror)
	}

	rewrite := oldest.label.ContextRootRewrite && m.on.kind == prefixPath && m.on.path != "/"
	if rewrite {
		routes = append(routes, guarded(slash(oldest.name, m.on), oldest))
	}
	requests := m.on.match(nil)
	if rewrite {
		requests.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.on.path + "/"}
	}
	action := &routev3.Route_Route{Route: forwardAction(oldest, shares, rewrite, requests)}
	twice, again := sentTwice(oldest.label)
	if twice = m.on.some(twice); len(twice) > 0 {
		safe := m.on.match(twice)
		safe.PathSpecifier = requests.PathSpecifier
		routes = append(routes, guarded(&routev3.Route{Name: oldest.name + SafeSuffix, Match: safe, Action: action, RequestHeadersToAdd: again}, oldest))
		if len(twice) == len(m.on.methods) {
			return routes, clusters // there are no others
		}
	}
	return append(routes, guarded(&routev3.Route{Name: oldest.name, Match: requests, Action: action}, oldest)), clusters
}

// slash sends exactly /app to /app/: relative links of the page would miss else.
func slash(name string, on *condition) *routev3.Route {
	m := on.match(nil)
	m.PathSpecifier = &routev3.RouteMatch_Path{Path: on.path}
	return &routev3.Route{
		Name:  name,
		Match: m,
		Action: &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{
			PathRewriteSpecifier: &routev3.RedirectAction_PathRedirect{PathRedirect: on.path + "/"},
			ResponseCode:         routev3.RedirectAction_MOVED_PERMANENTLY,
		}},
	}
}

// toHTTPS sends a request to the same place over TLS. The port of plain HTTP, which
// the Host header may carry, must not go along: it is dropped with the host where
// that is known, and overwritten where a wildcard stands.
func toHTTPS(r *routev3.Route, host string, port uint32) {
	a := &routev3.RedirectAction{
		SchemeRewriteSpecifier: &routev3.RedirectAction_HttpsRedirect{HttpsRedirect: true},
		ResponseCode:           routev3.RedirectAction_PERMANENT_REDIRECT,
		PortRedirect:           port,
	}
	if !strings.HasPrefix(host, "*") {
		if a.HostRedirect = host; port == 443 {
			a.PortRedirect = 0
		}
	}
	r.Action = &routev3.Route_Redirect{Redirect: a}
}

// onto sends a request to a URL followed by its own path and query.
func onto(r *routev3.Route, target string, code uint32) {
	a, u := redirection(target, code)
	if path := strings.TrimSuffix(u.EscapedPath(), "/"); path != "" {
		a.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: path + "/"}
	}
	r.Action = &routev3.Route_Redirect{Redirect: a}
}

// to sends a request to a URL: to its path, if it has one, else to the request's own.
// A query of the URL stands in place of the request's; so does a fragment, for what
// came behind it would be part of it.
func to(r *routev3.Route, target string, code uint32) {
	a, u := redirection(target, code)
	path := u.EscapedPath()
	if u.RawQuery != "" {
		path = cmp.Or(path, "/") + "?" + u.RawQuery
	}
	if u.Fragment != "" {
		path = cmp.Or(path, "/") + "#" + u.EscapedFragment()
		a.StripQuery = u.RawQuery == ""
	}
	if path != "" {
		a.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: path}
	}
	r.Action = &routev3.Route_Redirect{Redirect: a}
}

// redirection leads to the scheme, host and port of a URL, which labels have checked.
func redirection(target string, code uint32) (*routev3.RedirectAction, *url.URL) {
	u, err := url.Parse(target)
	if err != nil {
		u = &url.URL{}
	}
	a := &routev3.RedirectAction{
		SchemeRewriteSpecifier: &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: u.Scheme},
		HostRedirect:           u.Hostname(),
		ResponseCode:           redirectCodes[code],
	}
	if strings.Contains(a.HostRedirect, ":") {
		a.HostRedirect = "[" + a.HostRedirect + "]"
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		a.PortRedirect = uint32(port)
	}
	return a, u
}

var redirectCodes = map[uint32]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY,
	302: routev3.RedirectAction_FOUND,
	303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT,
	308: routev3.RedirectAction_PERMANENT_REDIRECT,
}
