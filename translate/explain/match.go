package explain

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waggle-lb/waggle/translate/labels"
)

// visited is what the routes of a virtual host say to a request.
type visited struct {
	route *routev3.Route // the first that matches; nil: none
	why   []string
	lost  []Loser
}

// visit walks routes in their order: the first that matches takes the request.
func visit(routes []*routev3.Route, q *request) visited {
	var v visited
	// To their author several routes of one name are one: those for the methods that
	// may be sent twice (#safe), and the one that adds a slash to a context root.
	var losers []loser
	at := map[string]int{}
	for _, r := range routes {
		l := loser{route: r, reason: mismatch(r.GetMatch(), q)}
		switch {
		case l.reason == "" && v.route == nil:
			v.route = r
			continue
		case l.reason == "":
			l.also, l.reason = behind(r, v.route, routes)
		}
		i, told := at[title(r)]
		switch {
		case !told:
			at[title(r)] = len(losers)
			losers = append(losers, l)
		case l.says() > losers[i].says():
			losers[i] = l
		}
	}
	matching, longest := 1, true
	for _, l := range losers {
		if v.route != nil && title(l.route) == title(v.route) {
			continue
		}
		if l.also != notAlso {
			matching++
			longest = longest && l.also == byLength
		}
		v.lost = append(v.lost, Loser{Service: strings.Join(servicesOf(l.route), ", "), Route: title(l.route), Reason: l.reason})
	}
	if v.route != nil {
		v.why = reasons(v.route, routes, q, matching, longest)
	}
	return v
}

// loser is a route that does not get the request.
type loser struct {
	route  *routev3.Route
	reason string
	also   also
}

// also says of a route that matches too why another took the request.
type also int

const (
	notAlso  also = iota // it does not match
	byLength             // the other's prefix is longer
	byOrder
)

// says ranks the reasons of routes of one name by how much they tell.
func (l loser) says() int {
	switch {
	case l.also != notAlso:
		return 2
	case l.route.GetMatch().GetPath() == "":
		return 1
	}
	return 0
}

// title is the name of a route as its author knows it.
func title(r *routev3.Route) string {
	name, _, _ := strings.Cut(r.GetName(), "#")
	return name
}

// prefixOf is the prefix that a route takes, "" if it takes none.
func prefixOf(m *routev3.RouteMatch) string {
	if p := m.GetPathSeparatedPrefix(); p != "" {
		return p
	}
	return m.GetPrefix()
}

// pathWords names what a route takes, in the words of the labels.
func pathWords(m *routev3.RouteMatch) string {
	switch s := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Path:
		return "path " + s.Path
	case *routev3.RouteMatch_SafeRegex:
		return "path_regex " + s.SafeRegex.GetRegex()
	}
	if root := strings.TrimSuffix(prefixOf(m), "/"); root != "" {
		return "context_root " + root
	}
	return "context_root /"
}

// mismatch says why a route does not match a request, "" if it does.
func mismatch(m *routev3.RouteMatch, q *request) string {
	path, fold := bare(q.path), func(s string) string { return s }
	if m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue() {
		fold = strings.ToLower
	}
	switch s := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		if !strings.HasPrefix(fold(path), fold(s.Prefix)) {
			return fmt.Sprintf("path %s is not under %s", path, pathWords(m))
		}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		if rest, ok := strings.CutPrefix(fold(path), fold(s.PathSeparatedPrefix)); !ok || rest != "" && rest[0] != '/' {
			return fmt.Sprintf("path %s is not under %s", path, pathWords(m))
		}
	case *routev3.RouteMatch_Path:
		if fold(path) != fold(s.Path) {
			return fmt.Sprintf("path %s is not %s", path, s.Path)
		}
	case *routev3.RouteMatch_SafeRegex:
		if ok, err := fullMatch(s.SafeRegex.GetRegex(), path); err != nil {
			return err.Error()
		} else if !ok {
			return fmt.Sprintf("path %s does not match path_regex %s", path, s.SafeRegex.GetRegex())
		}
	}
	if name := unread(m); name != "" {
		return "the route also asks for " + name + ", which explain does not read"
	}
	for _, h := range m.GetHeaders() {
		if reason := headerMismatch(h, q); reason != "" {
			return reason
		}
	}
	for _, p := range m.GetQueryParameters() {
		value, there := q.query(p.GetName())
		what := "query parameter " + p.GetName()
		switch s := p.GetQueryParameterMatchSpecifier().(type) {
		case *routev3.QueryParameterMatcher_PresentMatch:
			if there != s.PresentMatch {
				return what + presence(there)
			}
		case *routev3.QueryParameterMatcher_StringMatch:
			if reason := stringMismatch(s.StringMatch, value, there, what); reason != "" {
				return reason
			}
		default:
			if !there {
				return what + presence(there)
			}
		}
	}
	return ""
}

// unread names a matcher that this package does not know, "" if there is none.
func unread(m *routev3.RouteMatch) string {
	known := map[protoreflect.Name]bool{
		"prefix": true, "path": true, "safe_regex": true, "path_separated_prefix": true,
		"case_sensitive": true, "headers": true, "query_parameters": true,
	}
	name := ""
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !known[f.Name()] {
			name = string(f.Name())
		}
		return name == ""
	})
	return name
}

// headerMismatch follows Envoy's HeaderUtility: a header that is missing matches
// nothing but "not present", also under invert_match, unless it counts as empty.
func headerMismatch(h *routev3.HeaderMatcher, q *request) string {
	value, there := q.value(h.GetName())
	what := "header " + h.GetName()
	if h.GetName() == ":method" {
		what = "method"
	}
	if p, ok := h.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch); ok || h.GetHeaderMatchSpecifier() == nil {
		wanted := !ok || p.PresentMatch
		if (there == wanted) == h.GetInvertMatch() {
			return what + presence(there)
		}
		return ""
	}
	if !there && !h.GetTreatMissingHeaderAsEmpty() {
		return what + presence(false)
	}
	var reason string
	switch s := h.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_StringMatch:
		reason = stringMismatch(s.StringMatch, value, true, what)
	case *routev3.HeaderMatcher_RangeMatch:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < s.RangeMatch.GetStart() || n >= s.RangeMatch.GetEnd() {
			reason = fmt.Sprintf("%s is %q, not a number from %d and below %d", what, value, s.RangeMatch.GetStart(), s.RangeMatch.GetEnd())
		}
	default:
		return what + " is matched in a way that explain does not read"
	}
	switch {
	case !h.GetInvertMatch():
		return reason
	case reason == "":
		return fmt.Sprintf("%s is %q, which this route leaves out", what, value)
	}
	return ""
}

func presence(there bool) string {
	if there {
		return " is there, and must not be"
	}
	return " is missing"
}

// stringMismatch says why a value is not what a matcher wants, "" if it is.
func stringMismatch(m *matcherv3.StringMatcher, value string, there bool, what string) string {
	if !there {
		return what + " is missing"
	}
	fold := func(s string) string { return s }
	if m.GetIgnoreCase() {
		fold = strings.ToLower
	}
	var ok bool
	var wanted string
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		ok, wanted = fold(value) == fold(p.Exact), fmt.Sprintf("not %q", p.Exact)
	case *matcherv3.StringMatcher_Prefix:
		ok, wanted = strings.HasPrefix(fold(value), fold(p.Prefix)), fmt.Sprintf("and does not begin with %q", p.Prefix)
	case *matcherv3.StringMatcher_Suffix:
		ok, wanted = strings.HasSuffix(fold(value), fold(p.Suffix)), fmt.Sprintf("and does not end with %q", p.Suffix)
	case *matcherv3.StringMatcher_Contains:
		ok, wanted = strings.Contains(fold(value), fold(p.Contains)), fmt.Sprintf("and does not hold %q", p.Contains)
	case *matcherv3.StringMatcher_SafeRegex:
		var err error
		if ok, err = fullMatch(p.SafeRegex.GetRegex(), value); err != nil {
			return err.Error()
		}
		wanted = "and does not match " + p.SafeRegex.GetRegex()
	default:
		return what + " is matched in a way that explain does not read"
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s is %q, %s", what, value, wanted)
}

// fullMatch matches as Envoy does: the whole text, byte by byte.
func fullMatch(expr, text string) (bool, error) {
	re, err := regexp.Compile(labels.BytesAsText(expr)) // as it is: what is quoted by \Q need not end
	if err != nil {
		return false, fmt.Errorf("the expression %s cannot be read", expr)
	}
	re.Longest()
	text = labels.BytesAsText(text)
	found := re.FindStringIndex(text)
	return found != nil && found[0] == 0 && found[1] == len(text), nil
}
