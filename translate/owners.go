package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
)

// ownerOf names who a service's hosts belong to, in words: its stack; without
// one its access label; else all such services together.
func ownerOf(s *service) string {
	if stack := s.spec.Stack(); stack != "" {
		return "stack " + stack
	}
	if access := s.spec.Labels[labels.AccessLabel]; access != "" {
		return "access label " + access
	}
	return "the services without a stack"
}

// ruling is what became of the claims to a host.
type ruling struct {
	matches  []match  // of HTTP, in the order in which they are tried
	tunnel   []*claim // of passthrough, oldest first: there is no HTTP then
	mine     []*claim // of the host's owner, oldest first
	tls      hostTLS  // what a connection must be; no certificate yet
	problems []Problem
}

// resolve says whose the host is and what of its claims holds, on plain HTTP or over
// TLS. The claims are of one host, oldest first; each one's lost is set. It depends on
// nothing but them.
func resolve(c *config.Collection, host string, claims []*claim, overTLS bool) (out ruling) {
	lose := func(loser *claim, winner *claim, reason string) {
		loser.lost = true
		l := loser.route
		p := l.problem(labels.Error, loser.key(), reason)
		p.Value = loser.value()
		p.Hint = "another host or context_root"
		if winner != nil {
			w := winner.route
			p.Winner = w.svc.spec.Name
			if w.svc != l.svc {
				told := w.problem(labels.Info, winner.key(), fmt.Sprintf("%s also claims this; it stays with this service", l.svc.spec.Name))
				told.Value, told.Winner = p.Value, p.Winner
				out.problems = append(out.problems, told)
			}
		}
		out.problems = append(out.problems, p)
	}

	// Whose is it.
	reserved, fixed := hostOwners(c, host)
	owner := ""
	owns := func(cl *claim) bool {
		switch {
		case fixed:
			return slices.Contains(reserved, cl.route.svc.spec.Stack())
		case c.ShareHosts == "any":
			return true
		}
		return ownerOf(cl.route.svc) == owner
	}
	if !fixed && len(claims) > 0 {
		owner = ownerOf(claims[0].route.svc)
	}

	byKey := map[string][]*claim{} // by what they take
	var keys []string
	add := func(cl *claim) {
		if _, ok := byKey[cl.on.key]; !ok {
			keys = append(keys, cl.on.key)
		}
		byKey[cl.on.key] = append(byKey[cl.on.key], cl)
	}
	var mine, others, vague []*claim
	for _, cl := range claims {
		cl.lost, cl.shared = false, false
		switch {
		case owns(cl):
			mine = append(mine, cl)
		case cl.route.vague, cl.hidden:
			cl.lost = true // what it would have added is not known, or is elsewhere
		default:
			others = append(others, cl)
		}
	}
	out.mine = mine
	out.problems = append(out.problems, out.tls.decide(host, mine, claims)...)
	first := lasting(mine)
	tunnelled := first != nil && first.route.label.Passthrough
	moved := redirecting(mine)
	if overTLS && (first != nil || moved != nil && moved.leadsHome()) {
		moved = nil
	}
	roots := map[string]*claim{} // of the owner
	takes := func(cl *claim) {
		if cl.on.kind == prefixPath && roots[cl.on.path] == nil {
			roots[cl.on.path] = cl
		}
	}
	for _, cl := range mine {
		passes := cl.route.label.Passthrough && cl.redirect == nil
		switch {
		case overTLS && cl.redirect != nil && moved == nil:
			cl.lost = true // a redirect is for plain HTTP where the host has more than that
		case passes && !tunnelled:
			lose(cl, first, fmt.Sprintf("%s is served as HTTP: connections to it cannot be passed through", host))
			takes(cl)
		case passes && !cl.route.broken && !cl.route.closed:
			if n := len(out.tunnel); n > 0 && cl.route.guards != out.tunnel[0].route.guards {
				lose(cl, out.tunnel[0], "the oldest service of the host has other guards")
			} else if !slices.ContainsFunc(out.tunnel, func(o *claim) bool { return o.route.svc == cl.route.svc }) {
				out.tunnel = append(out.tunnel, cl)
			} else {
				lose(cl, out.tunnel[0], "another route of the service takes the same host")
			}
		case tunnelled && cl.redirect == nil && !passes:
			lose(cl, first, fmt.Sprintf("connections to %s are passed through (ssl_passthrough): there is no HTTP on it but redirects", host))
		case cl.hidden && !overTLS:
			cl.lost = true
			takes(cl)
		case moved != nil && cl.redirect == nil:
			cl.lost = true
			if p, tell := yields(cl, moved); tell && !passes {
				out.problems = append(out.problems, p)
			}
		case moved != nil && cl.route.broken:
			cl.lost = true // its redirect holds nothing against one that works
		case cl.route.vague:
			vague = append(vague, cl)
		default:
			add(cl)
			takes(cl)
		}
	}
	guests := map[string]*claim{} // by the context root that they added
	for _, cl := range others {
		guest := guests[cl.on.path]
		switch {
		case len(mine) == 0:
			lose(cl, nil, fmt.Sprintf("host_owners gives %s to %s, which claims nothing there", host, orNone(strings.Join(reserved, ", "))))
		case moved != nil:
			lose(cl, moved, fmt.Sprintf("%s belongs to %s, which leads all of it elsewhere", host, ownerOf(moved.route.svc)))
		case !cl.on.rootOnly() || cl.redirect != nil || tunnelled || cl.route.label.Passthrough:
			lose(cl, mine[0], fmt.Sprintf("%s belongs to %s: others may add a context_root that it has not taken, and nothing else", host, ownerOf(mine[0].route.svc)))
		case roots[cl.on.path] != nil:
			lose(cl, roots[cl.on.path], fmt.Sprintf("%s belongs to %s", host, ownerOf(roots[cl.on.path].route.svc)))
		case guest != nil && ownerOf(guest.route.svc) != ownerOf(cl.route.svc):
			lose(cl, guest, fmt.Sprintf("%s belongs to %s", cl.value(), ownerOf(guest.route.svc)))
		default:
			if guest == nil {
				guests[cl.on.path] = cl
			}
			add(cl)
		}
	}

	for _, key := range keys {
		if m := share(byKey[key], lose); len(m.claims) > 0 {
			out.matches = append(out.matches, m)
		}
	}
	order(out.matches)
	out.matches = append(out.matches, lastResort(vague, byKey)...)
	return out
}

// lasting is the oldest of the owner's claims that is more than a redirect.
func lasting(mine []*claim) *claim {
	for _, cl := range mine {
		if cl.redirect == nil {
			return cl
		}
	}
	return nil
}

// redirecting is the oldest of the owner's claims that leads the host elsewhere: on
// plain HTTP that stands in place of all that there is on the host, as in Interlock.
func redirecting(mine []*claim) *claim {
	for _, cl := range mine {
		if cl.redirect != nil && !cl.route.broken {
			return cl
		}
	}
	return nil
}

// yields tells a service that a redirect of its own host stands in place of its claim.
func yields(cl, moved *claim) (Problem, bool) {
	if cl.route.broken || cl.closed() {
		return Problem{}, false // it has been told worse
	}
	p := cl.route.problem(labels.Info, cl.key(), fmt.Sprintf("on plain HTTP all of %s leads to %s (redirects of %s)", cl.host, moved.redirect.To, moved.route.svc.spec.Name))
	p.Value, p.Winner = cl.value(), moved.route.svc.spec.Name
	return p, true
}

// order sorts matches as they are tried.
func order(ms []match) {
	slices.SortFunc(ms, func(a, b match) int {
		return cmp.Or(a.on.before(b.on), a.claims[0].older(b.claims[0]), cmp.Compare(a.on.key, b.on.key))
	})
}

// lastResort gives the matches of claims of which it is not known what part of
// the host they mean: they stand behind all others, and never beside one.
func lastResort(vague []*claim, taken map[string][]*claim) []match {
	var out []match
	for _, cl := range vague {
		seen := slices.ContainsFunc(out, func(m match) bool { return m.on.key == cl.on.key })
		if len(taken[wholeHost.key]) == 0 && len(taken[cl.on.key]) == 0 && !seen {
			out = append(out, match{on: cl.on, claims: []*claim{cl}})
		}
	}
	order(out)
	return out
}

// share says which claims of one match share it; the others lose. Whoever shares has
// the guards of the oldest, and sends on the same path. A broken route claims its
// match, but never against one that works.
func share(claims []*claim, lose func(loser, winner *claim, reason string)) match {
	broken := func(c *claim) bool { return c.route.broken }
	if !claims[0].closed() && slices.ContainsFunc(claims, broken) {
		if working := slices.DeleteFunc(slices.Clone(claims), broken); len(working) > 0 {
			claims = working
		}
	}
	oldest := claims[0]
	m := match{on: oldest.on, claims: []*claim{oldest}}
	byService := map[*service]*claim{oldest.route.svc: oldest}
	for _, cl := range claims[1:] {
		works := !cl.route.broken && !oldest.route.broken
		switch same := byService[cl.route.svc]; {
		case same != nil && same.route == cl.route:
			// One route says it twice (hosts: * with default_backend).
			same.whole = same.whole || cl.whole
		case cl.redirect != nil && oldest.redirect != nil && *cl.redirect == *oldest.redirect && cl.route.label.RedirectCode == oldest.route.label.RedirectCode:
			// Two services say the same.
		case same != nil:
			lose(cl, same, "another route of the service takes the same host and path")
		case cl.alone() || oldest.alone():
			lose(cl, oldest, "an answer of the proxy's own is never shared with another service")
		case oldest.whole || cl.whole:
			lose(cl, oldest, "a default backend is never shared")
		case cl.route.label.SSLOnly != oldest.route.label.SSLOnly:
			lose(cl, oldest, "the oldest service with this host and path says otherwise about ssl_only")
		case cl.closed() != oldest.closed() || works && cl.route.guards != oldest.route.guards:
			lose(cl, oldest, "the oldest service with this host and path has other guards")
		case works && oldest.on.path != "/" && cl.route.label.ContextRootRewrite != oldest.route.label.ContextRootRewrite:
			lose(cl, oldest, "an older service with this host and path says otherwise about context_root_rewrite")
		case works && rewrites(cl.route.label) != rewrites(oldest.route.label):
			lose(cl, oldest, "an older service with this host and path says otherwise about rewrite_path or rewrite_regex")
		default:
			m.claims = append(m.claims, cl)
			byService[cl.route.svc] = cl
		}
	}
	return m
}

// hostOwners gives the stacks to which the operator gave the host, if any: the
// most specific entry of host_owners holds.
func hostOwners(c *config.Collection, host string) ([]string, bool) {
	var best []string
	length := -1
	for _, pattern := range slices.Sorted(maps.Keys(c.HostOwners)) {
		stacks := c.HostOwners[pattern]
		p := strings.ToLower(strings.TrimSuffix(pattern, "."))
		covers := p == host || p == "*"
		rank := len(p)
		if suffix, ok := strings.CutPrefix(p, "*"); ok && p != "*" && strings.HasPrefix(suffix, ".") {
			covers = covers || strings.HasSuffix(host, suffix)
		}
		if p == host {
			rank = 1 << 16
		}
		if covers && rank > length {
			best, length = stacks, rank
		}
	}
	return best, length >= 0
}
