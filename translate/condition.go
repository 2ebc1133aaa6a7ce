package translate

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/waggle-lb/waggle/translate/labels"
)

// condition is which requests of a host a route takes. Two routes with conditions
// of the same key want the same requests.
type condition struct {
	kind     pathKind
	path     string // of exact and prefix the path ("/" takes everything), of regex the expression
	methods  []string
	headers  []labels.NamedMatcher
	query    []labels.NamedMatcher
	priority int32

	key string
}

// pathKind says how a path is compared, in the order in which routes are tried.
type pathKind uint8

const (
	exactPath pathKind = iota
	regexPath
	prefixPath
)

// wholeHost is what a route takes that says nothing of it.
var wholeHost = prefixed("/")

// prefixed takes a context root.
func prefixed(root string) *condition {
	return &condition{kind: prefixPath, path: root, key: root}
}

// conditionsOf gives what a route takes: one condition for each path.
func conditionsOf(l *labels.Route) []*condition {
	plain := len(l.Methods)+len(l.Headers)+len(l.Query) == 0 && l.Priority == 0
	if plain && len(l.Paths) == 0 && l.PathRegex == "" {
		if l.ContextRoot == "" || l.ContextRoot == "/" {
			return []*condition{wholeHost}
		}
		return []*condition{prefixed(l.ContextRoot)}
	}
	var out []*condition
	add := func(kind pathKind, path string) {
		c := &condition{kind: kind, path: path, methods: l.Methods, headers: l.Headers, query: l.Query, priority: l.Priority}
		c.key = c.canonical()
		out = append(out, c)
	}
	for _, p := range l.Paths {
		add(exactPath, p)
	}
	if l.PathRegex != "" {
		add(regexPath, l.PathRegex)
	}
	if len(out) == 0 {
		add(prefixPath, cmp.Or(l.ContextRoot, "/"))
	}
	return out
}

// canonical tells conditions apart. That of a context root alone is the root.
func (c *condition) canonical() string {
	if c.kind == prefixPath && c.matchers() == 0 && c.priority == 0 {
		return c.path
	}
	return fmt.Sprintf("%d %q %q %+v %+v %d", c.kind, c.path, c.methods, c.headers, c.query, c.priority)
}

// matchers counts what a condition asks for beside the path.
func (c *condition) matchers() int {
	n := len(c.headers) + len(c.query)
	if len(c.methods) > 0 {
		n++
	}
	return n
}

// rootOnly reports whether it takes a context root and asks for nothing else: all
// that those may add to a host who do not own it.
func (c *condition) rootOnly() bool {
	return c.kind == prefixPath && c.matchers() == 0 && c.priority == 0
}

// before orders the matches of a host: the higher priority, exact paths, then
// expressions, then prefixes, the longest first, then who asks for more. What
// is equal by all that is left to age.
func (c *condition) before(d *condition) int {
	return cmp.Or(
		-cmp.Compare(c.priority, d.priority),
		cmp.Compare(c.kind, d.kind),
		c.byPath(d),
		-cmp.Compare(c.matchers(), d.matchers()),
	)
}

// byPath compares paths of one kind. Exact paths, and prefixes of one length, never
// take the same request: their order is that of the text.
func (c *condition) byPath(d *condition) int {
	switch c.kind {
	case regexPath:
		return 0
	case prefixPath:
		return cmp.Or(-cmp.Compare(len(c.path), len(d.path)), cmp.Compare(c.path, d.path))
	default:
		return cmp.Compare(c.path, d.path)
	}
}

// String names what the condition takes, as problems show it behind the host.
func (c *condition) String() string {
	text := c.path
	switch {
	case c.kind == regexPath:
		text = "~" + c.path
	case c.kind == prefixPath && c.path == "/":
		text = ""
	}
	var more []string
	if len(c.methods) > 0 {
		more = append(more, strings.Join(c.methods, "|"))
	}
	for _, m := range c.headers {
		more = append(more, "header "+m.Name)
	}
	for _, m := range c.query {
		more = append(more, "query "+m.Name)
	}
	if len(more) > 0 {
		text = cmp.Or(text, "/") + " (" + strings.Join(more, ", ") + ")"
	}
	return text
}

// label is the key that a conflict over the condition is about.
func (c *condition) label() string {
	switch {
	case c.kind == exactPath:
		return "path"
	case c.kind == regexPath:
		return "path_regex"
	case c.path != "/":
		return "context_root"
	}
	return "hosts"
}

// match is the condition in Envoy's words. only, where it is not empty, narrows it
// to some methods; the condition's own are then not asked for again.
func (c *condition) match(only []string) *routev3.RouteMatch {
	var m *routev3.RouteMatch
	switch c.kind {
	case exactPath:
		m = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: c.path}}
	case regexPath:
		m = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: c.path}}}
	default:
		m = under(c.path)
	}
	methods := c.methods
	if len(only) > 0 {
		methods = only
	}
	if len(methods) > 0 {
		m.Headers = append(m.Headers, methodIs(methods))
	}
	for _, h := range c.headers {
		m.Headers = append(m.Headers, headerIs(h))
	}
	for _, q := range c.query {
		m.QueryParameters = append(m.QueryParameters, queryIs(q))
	}
	return m
}

// some gives those of the methods that the condition takes.
func (c *condition) some(methods []string) []string {
	if len(c.methods) == 0 {
		return methods
	}
	return slices.DeleteFunc(slices.Clone(methods), func(m string) bool { return !slices.Contains(c.methods, m) })
}

// headerIs: a request without the header is none that has another value, unless
// it must not be there at all.
func headerIs(n labels.NamedMatcher) *routev3.HeaderMatcher {
	h := &routev3.HeaderMatcher{Name: n.Name, InvertMatch: n.Negated && !n.Present}
	if n.Present {
		h.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: !n.Negated}
	} else {
		h.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: textIs(n.Matcher)}
		// "not this value" is true of no value.
		h.TreatMissingHeaderAsEmpty = n.Negated
	}
	return h
}

func queryIs(n labels.NamedMatcher) *routev3.QueryParameterMatcher {
	q := &routev3.QueryParameterMatcher{Name: n.Name}
	if n.Present {
		q.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: !n.Negated}
	} else {
		q.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: textIs(n.Matcher)}
	}
	return q
}

func textIs(m labels.Matcher) *matcherv3.StringMatcher {
	if m.Regex != "" {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Regex}}}
	}
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: m.Exact}}
}

var everyPath = &routev3.RouteMatch_Prefix{Prefix: "/"}

// under matches a context root segment by segment: /app and /app/x, not /apple.
func under(root string) *routev3.RouteMatch {
	if root == "/" {
		return &routev3.RouteMatch{PathSpecifier: everyPath}
	}
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: root}}
}

func methodIs(methods []string) *routev3.HeaderMatcher {
	if slices.Equal(methods, defaultRetryMethods) {
		return standardMethods
	}
	return newMethodMatcher(methods)
}

func newMethodMatcher(methods []string) *routev3.HeaderMatcher {
	quoted := make([]string, len(methods))
	for i, m := range methods {
		quoted[i] = regexp.QuoteMeta(m)
	}
	return &routev3.HeaderMatcher{
		Name: ":method",
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: strings.Join(quoted, "|")}},
		}},
	}
}
