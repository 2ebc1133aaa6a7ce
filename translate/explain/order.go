package explain

import (
	"cmp"
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/waggle-lb/waggle/translate"
)

// reasons says why a route takes the request. matching counts the routes of the host
// that match it, this one included; longest says that its prefix alone put it first.
func reasons(r *routev3.Route, all []*routev3.Route, q *request, matching int, longest bool) []string {
	m := r.GetMatch()
	if serviceOf(r.GetName()) == "" { // the proxy's own
		return nil
	}
	var why []string
	path := pathWords(m)
	if slashes(r) {
		path = "context_root " + m.GetPath()
	}
	switch {
	case matching > 1 && longest:
		why = append(why, fmt.Sprintf("longest %s of %d matches", path, matching))
	case matching > 1:
		why = append(why, fmt.Sprintf("%s comes first of %d matches", path, matching))
	case prefixOf(m) == "/":
		why = append(why, path+" takes every path")
	default:
		why = append(why, path+" takes the path "+bare(q.path))
	}
	for _, h := range m.GetHeaders() {
		if h.GetName() != ":method" {
			why = append(why, "header "+h.GetName()+" is as the route wants it")
		}
	}
	for _, p := range m.GetQueryParameters() {
		why = append(why, "query parameter "+p.GetName()+" is as the route wants it")
	}
	if strings.HasSuffix(r.GetName(), translate.SafeSuffix) {
		return append(why, q.method+" is a safe method: also retried after a reset")
	}
	for _, twin := range all {
		if r.GetRoute() != nil && twin != r && twin.GetName() == r.GetName()+translate.SafeSuffix {
			why = append(why, q.method+" may not be sent twice: retried only where no task can have seen it")
			break
		}
	}
	return why
}

// behind says why a route that matches too does not take the request. The order is
// that of the labels: priority, exact path, expression, longer prefix, more matchers, age.
// Priorities are not in the table, but what stands before what tells of them.
func behind(r, winner *routev3.Route, all []*routev3.Route) (also, string) {
	mine, theirs := rankOf(r, all), rankOf(winner, all)
	too := pathWords(r.GetMatch()) + " matches too, but "
	higher := title(winner) + " has a higher priority"
	if r.GetDirectResponse() != nil && reasonOf(r.GetResponseHeadersToAdd()) != "" {
		// It is not built, and perhaps the last resort of the host, whatever its priority.
		higher = title(winner) + " stands before it"
	}
	switch {
	case theirs.kind < mine.kind:
		return byOrder, too + pathWords(winner.GetMatch()) + " is more exact"
	case theirs.kind > mine.kind || theirs.length < mine.length:
		return byOrder, too + higher
	case theirs.length > mine.length:
		return byLength, too + strings.TrimSuffix(cmp.Or(prefixOf(winner.GetMatch()), winner.GetMatch().GetPath()), "/") + " is longer"
	case len(theirs.asks) > len(mine.asks):
		return byOrder, too + title(winner) + " asks for more (" + strings.Join(theirs.asks, ", ") + ")"
	case len(theirs.asks) < len(mine.asks):
		return byOrder, too + higher
	}
	return byOrder, too + title(winner) + " is older, or has a higher priority"
}

// rank is what of a route decides about its place, but for priority and age.
type rank struct {
	kind   int // of the path: 0 exact, 1 expression, 2 prefix
	length int // of the prefix
	asks   []string
}

func rankOf(r *routev3.Route, all []*routev3.Route) rank {
	// That it is for the methods that may be sent twice is nothing that its author asked for.
	if twin := strings.TrimSuffix(r.GetName(), translate.SafeSuffix); twin != r.GetName() {
		for _, other := range all {
			if other.GetName() == twin && pathWords(other.GetMatch()) == pathWords(r.GetMatch()) {
				r = other
				break
			}
		}
	}
	var k rank
	switch path := r.GetMatch().GetPath(); {
	case path != "" && slashes(r):
		k.kind, k.length = 2, len(path)
	case path != "":
		k.kind = 0
	case r.GetMatch().GetSafeRegex() != nil:
		k.kind = 1
	default:
		k.kind, k.length = 2, len(strings.TrimSuffix(prefixOf(r.GetMatch()), "/"))
	}
	for _, h := range r.GetMatch().GetHeaders() {
		if h.GetName() == ":method" {
			k.asks = append(k.asks, "methods")
		} else {
			k.asks = append(k.asks, "header "+h.GetName())
		}
	}
	for _, p := range r.GetMatch().GetQueryParameters() {
		k.asks = append(k.asks, "query parameter "+p.GetName())
	}
	return k
}

// slashes reports whether a route is the one that adds its slash to a context root.
func slashes(r *routev3.Route) bool {
	a := r.GetRedirect()
	return a != nil && a.GetHostRedirect() == "" && a.GetSchemeRewriteSpecifier() == nil && a.GetPathRedirect() == r.GetMatch().GetPath()+"/"
}
