package translate

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/waggle-lb/waggle/translate/labels"
)

// claim is what one route says of one host: "these requests are mine".
type claim struct {
	route *route
	host  string
	on    *condition
	// whole is set for default_backend: the claim is never shared.
	whole bool
	// redirect is set for a source of redirects: the whole host leads elsewhere.
	redirect *labels.Redirection

	// hidden is set for what its own service sends elsewhere by a redirect: on plain
	// HTTP nothing of it is left, over TLS all.
	hidden bool

	// What became of it, set by the host:
	lost   bool
	shut   bool // it asks for more than connections to the host must be
	shared bool // its weight depends on whether the service has a ready task
}

// match is the claims that share one condition of a host, oldest first.
type match struct {
	on     *condition
	claims []*claim
}

// closed reports whether a guard of the claim cannot be had: it answers 503.
func (c *claim) closed() bool { return c.route.closed || c.shut }

// older orders claims by age: the service's, then the place in the service.
func (c *claim) older(d *claim) int {
	switch {
	case c.route.svc != d.route.svc && c.route.svc.spec.Older(d.route.svc.spec):
		return -1
	case c.route.svc != d.route.svc && d.route.svc.spec.Older(c.route.svc.spec):
		return 1
	}
	return cmp.Compare(c.route.index, d.route.index)
}

// key is the label that a conflict over the claim is about.
func (c *claim) key() string {
	switch {
	case c.whole:
		return "default_backend"
	case c.redirect != nil:
		return "redirects"
	}
	return c.on.label()
}

// value names what is claimed.
func (c *claim) value() string { return c.host + c.on.String() }

// alone reports whether the claim answers by itself: it shares with nobody.
func (c *claim) alone() bool { return c.redirect != nil || c.route.answersItself() }

// answersItself reports whether no request of the route reaches a task. Such a
// route needs no port.
func (r *route) answersItself() bool {
	l := r.label
	return l.Redirect != "" || l.Respond != nil || len(l.Redirects) > 0 && len(l.Hosts) == 0 && !l.DefaultBackend
}

// maxClaims bounds what few labels can multiply to: each host of a route has each
// of its paths.
const maxClaims = 8192

// claimed is how much the service claims so far.
func (s *service) claimed() int {
	n := 0
	for _, r := range s.routes {
		n += len(r.claims)
	}
	return n
}

const hostHint = "write a host such as `app.example.com`"

// claimsOf says which matches a route wants.
func claimsOf(r *route) []*claim {
	l := r.label
	refuse := func(key, value, reason, hint string) {
		r.broken, r.vague = true, true
		p := r.problem(labels.Error, key, reason)
		p.Value, p.Hint = value, hint
		r.svc.problems = append(r.svc.problems, p)
	}
	root := cmp.Or(l.ContextRoot, "/")
	if err := pathLiteral(root); err != nil {
		refuse("context_root", root, err.Error(), "write a path such as `/app`")
		root = "/"
	}
	for _, p := range l.Paths {
		if err := pathLiteral(p); err != nil {
			refuse("path", p, err.Error(), "write a path such as `/app`")
		}
	}
	if key := cmp.Or(given("path", len(l.Paths) > 0), given("path_regex", l.PathRegex != "")); key != "" && root != "/" {
		refuse(key, "", fmt.Sprintf("`%s` and `context_root` are both said, and a route has one or the other: what it claims answers 503", key),
			"write whole paths in `"+key+"` and leave `context_root` out")
		root = "/"
	}
	if l.Redirect != "" && l.Respond != nil {
		refuse("respond", "", "`redirect` and `respond` are both said, and a route gives one answer: what it claims answers 503", "remove one of them")
	}
	conditions := conditionsOf(l)
	if n := len(l.Hosts) * len(conditions); len(conditions) > 1 && n+r.svc.claimed() > maxClaims {
		refuse("path", "", fmt.Sprintf("%d paths of %d hosts are more matches than the %d that a service may have: what it claims answers 503", len(conditions), len(l.Hosts), maxClaims),
			"write fewer of them, or `path_regex`")
	}
	if r.vague {
		conditions = []*condition{prefixed(root)}
	}

	var out []*claim
	for _, h := range l.Hosts {
		if err := domainLiteral(h); err != nil {
			p := r.problem(labels.Error, "hosts", err.Error())
			p.Value, p.Hint = h, hostHint
			r.svc.problems = append(r.svc.problems, p)
			continue
		}
		for _, on := range conditions {
			out = append(out, &claim{route: r, host: h, on: on})
		}
	}
	if l.DefaultBackend {
		out = append(out, &claim{route: r, host: "*", on: wholeHost, whole: true})
	}
	for i := range l.Redirects {
		from := &l.Redirects[i]
		if err := domainLiteral(from.From); err != nil {
			p := r.problem(labels.Error, "redirects", err.Error())
			p.Value, p.Hint = from.From, hostHint
			r.svc.problems = append(r.svc.problems, p)
			continue
		}
		out = append(out, &claim{route: r, host: from.From, on: wholeHost, redirect: from})
	}
	return out
}

func given(key string, is bool) string {
	if is {
		return key
	}
	return ""
}

// yield hides what the service claims of hosts that it sends elsewhere: on plain
// HTTP a redirect stands in place of all that the service has there.
func (s *service) yield() {
	sources := map[string]*claim{}
	for _, r := range s.routes {
		for _, c := range r.claims {
			if c.redirect != nil && sources[c.host] == nil {
				sources[c.host] = c
			}
		}
	}
	if len(sources) == 0 {
		return
	}
	for _, r := range s.routes {
		r.claims = slices.DeleteFunc(r.claims, func(c *claim) bool {
			first := sources[c.host]
			c.hidden = first != nil && c.redirect == nil
			return first != nil && c.redirect != nil && c != first && *c.redirect == *first.redirect
		})
	}
	s.routes = slices.DeleteFunc(s.routes, func(r *route) bool { return len(r.claims) == 0 })
}
