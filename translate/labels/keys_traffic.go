package labels

import "strings"

// Traffic is what section "Which traffic" says of a route.
type Traffic struct {
	Hosts          []string // normalised: lower case, punycode, no trailing dot or port; "*.x", "*" as they are; no duplicates
	DefaultBackend bool

	ContextRoot        string // starts with "/"; "/" takes everything; no trailing "/" otherwise
	ContextRootRewrite bool

	Paths     []string // exact, normalised, sorted; with PathRegex: either of them
	PathRegex string   // RE2 over the whole path

	Methods  []string       // sorted; none: any
	Headers  []NamedMatcher // all must match; sorted by name, which is lower case
	Query    []NamedMatcher // the same for query parameters
	Priority int32
}

// A NamedMatcher is what the header or query parameter of that name must be.
type NamedMatcher struct {
	Name string
	Matcher
}

// trafficKeys: which traffic a route takes.
var trafficKeys = section{title: "Which traffic", keys: []key{
	{name: "hosts", class: Match, interlock: true, standardText: "required, or `default_backend`",
		value:   useHosts(func(t *target, v []string) { t.route.Hosts = v }),
		meaning: "The hosts of the route: exact before wildcard (longest suffix first) before `*`. Case is folded, IDN becomes punycode, a trailing dot and (with a warning) a port are dropped; a bad entry drops that entry."},
	{name: "default_backend", class: Match, interlock: true, standard: "false",
		value:   use(boolean, func(t *target, v bool) { t.route.DefaultBackend = v }),
		meaning: "Takes every host that nobody claimed; once per collection, never shared."},
	{name: "context_root", class: Match, interlock: true, narrows: true, standard: "/",
		value:   use(pathPrefix, func(t *target, v string) { t.route.ContextRoot = v }),
		meaning: "Takes a path prefix, segment by segment: `/app` takes `/app` and `/app/x`, not `/apple`. Services may share a host with different roots; the longest wins."},
	{name: "context_root_rewrite", class: Match, interlock: true, standard: "false",
		value:   use(boolean, func(t *target, v bool) { t.route.ContextRootRewrite = v }),
		meaning: "Strips the context root before the task sees the path; `/app` answers 301 to `/app/`."},
	{name: "path", class: Match, narrows: true, value: use(list("list of exact paths", path), func(t *target, v []string) { t.route.Paths = set(v) }),
		meaning: "Takes these paths only, and nothing below them; with `path_regex`: either. Not beside a `context_root`. A service has at most 8192 pairs of host and path."},
	{name: "path_regex", class: Match, narrows: true, value: use(regex, func(t *target, v string) { t.route.PathRegex = v }),
		meaning: "Takes paths that the whole pattern matches."},
	{name: "methods", class: Match, narrows: true, standardText: "any", value: use(methods, func(t *target, v []string) { t.route.Methods = v }),
		meaning: "Takes these methods only."},
	{name: "match_header", takes: headerName, class: Match, narrows: true, value: warned(useNamed(match, func(t *target, name string, v Matcher) {
		t.route.Headers = append(t.route.Headers, NamedMatcher{asciiLower(name), v})
	}), neverSeen),
		meaning: "Takes requests with this header; all such labels of a route must match. A request without the header matches `!…` only of `!*`."},
	{name: "match_query", takes: parameterName, class: Match, narrows: true, value: warned(useNamed(match, func(t *target, name string, v Matcher) {
		t.route.Query = append(t.route.Query, NamedMatcher{name, v})
	}), escaped),
		meaning: "Takes requests with this query parameter; all such labels of a route must match. Names and values are compared as they stand in the URL, where a blank is `%20`."},
	{name: "priority", class: Match, standard: "0", value: use(integer, func(t *target, v int32) { t.route.Priority = v }),
		meaning: "Higher comes first; among equals exact before regex before longer prefix, then more matchers, then age."},
	{name: "service_cluster", class: None, interlock: true, serviceWide: true, standardText: "access label, placement constraint, then the default collection",
		value:   accept(collectionName),
		meaning: "The collection that publishes the service."},
}}

// neverSeen tells of headers that no request has when routes are looked at.
func neverSeen(header, _ string) (reason, hint string) {
	switch l := asciiLower(header); {
	case strings.Contains(l, "_"):
		return "no request has this header: the proxy drops those with an underscore in their name", "send and match `" + strings.ReplaceAll(header, "_", "-") + "`"
	case strings.HasPrefix(l, "x-envoy-"):
		return "no request has this header: what clients tell the proxy itself is dropped", "name another header"
	case l == "connection" || l == "proxy-connection" || l == "keep-alive":
		return "no request has this header: it is between two ends of one connection", "name another header"
	}
	return "", ""
}

// escaped tells of parameters that no URL has as they are written.
func escaped(name, text string) (reason, hint string) {
	if sent := escapeText(name); sent != name {
		return "no request has this parameter: names are compared as they stand in the URL", "write `" + sent + "`"
	}
	value := strings.TrimSpace(text)
	if sent := escapeText(value); sent != value && !strings.HasPrefix(strings.TrimPrefix(value, "!"), "~") {
		return "no request has this value: values are compared as they stand in the URL", "write `" + sent + "`"
	}
	return "", ""
}
