package translate

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// routesOf gives the routes of one match, in the order in which they are tried,
// and the clusters that they name.
func routesOf(m match) (routes []*routev3.Route, clusters []string) {
	oldest := m.claims[0].route
	only := func(a answer) ([]*routev3.Route, []string) {
		r := &routev3.Route{Name: oldest.name, Match: under(m.root)}
		a.respond(r)
		return []*routev3.Route{r}, nil
	}
	switch {
	case oldest.closed:
		return only(closed)
	case oldest.broken:
		return only(notBuilt)
	}
	shares := weigh(m.claims)
	if shares == nil {
		return only(noTask)
	}
	for _, s := range shares {
		s.claim.shared = len(shares) > 1
		clusters = append(clusters, s.claim.route.backend.name)
	}
	clusters = append(clusters, oldest.refs...)

	rewrite := oldest.label.ContextRootRewrite && m.root != "/"
	if rewrite {
		routes = append(routes, guarded(slash(oldest.name, m.root), oldest))
	}
	twice, twiceHeaders := sentTwice(oldest.label)
	forward := func(name string, safe bool) {
		r := &routev3.Route{Name: name, Match: under(m.root)}
		if rewrite {
			r.Match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: m.root + "/"}}
		}
		if safe {
			r.Match.Headers = []*routev3.HeaderMatcher{methodIs(twice)}
			r.RequestHeadersToAdd = twiceHeaders
		}
		r.Action = &routev3.Route_Route{Route: forwardAction(oldest, shares, rewrite, r.Match)}
		routes = append(routes, guarded(r, oldest))
	}
	if twice != "" {
		forward(oldest.name+SafeSuffix, true)
	}
	forward(oldest.name, false)
	return routes, clusters
}

// under matches a context root segment by segment: /app and /app/x, not /apple.
func under(root string) *routev3.RouteMatch {
	if root == "/" {
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	}
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: root}}
}

// slash sends exactly /app to /app/: relative links of the page would miss else.
func slash(name, root string) *routev3.Route {
	return &routev3.Route{
		Name:  name,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: root}},
		Action: &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{
			PathRewriteSpecifier: &routev3.RedirectAction_PathRedirect{PathRedirect: root + "/"},
			ResponseCode:         routev3.RedirectAction_MOVED_PERMANENTLY,
		}},
	}
}

func methodIs(methods string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{
		Name: ":method",
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: methods}},
		}},
	}
}
