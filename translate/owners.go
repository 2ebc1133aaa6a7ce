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

// claim is what one route says of one host: "these paths are mine".
type claim struct {
	route *route
	host  string
	root  string // context root, "/" for everything
	// whole is set for default_backend: the claim is never shared.
	whole bool

	// What became of it, set by the host:
	lost   bool
	shared bool // its weight depends on whether the service has a ready task
}

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

// match is the claims that share one match of a host, oldest first.
type match struct {
	root   string
	claims []*claim
}

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

// resolve says whose the host is and what of its claims holds. The claims are of
// one host, oldest first; each one's lost is set. It depends on nothing but them.
func resolve(c *config.Collection, host string, claims []*claim) ([]match, []Problem) {
	var problems []Problem
	lose := func(loser *claim, winner *claim, reason string) {
		loser.lost = true
		l := loser.route
		p := l.problem(labels.Error, loser.labelKey(), reason)
		p.Value = host
		if loser.root != "/" {
			p.Value += loser.root
		}
		p.Hint = "another host or context_root"
		if winner != nil {
			w := winner.route
			p.Winner = w.svc.spec.Name
			if w.svc != l.svc {
				told := w.problem(labels.Info, winner.labelKey(), fmt.Sprintf("%s also claims this; it stays with this service", l.svc.spec.Name))
				told.Value, told.Winner = p.Value, p.Winner
				problems = append(problems, told)
			}
		}
		problems = append(problems, p)
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

	byRoot := map[string][]*claim{}
	var roots []string
	add := func(cl *claim) {
		if _, ok := byRoot[cl.root]; !ok {
			roots = append(roots, cl.root)
		}
		byRoot[cl.root] = append(byRoot[cl.root], cl)
	}
	var others, vague []*claim
	owned := false
	for _, cl := range claims {
		cl.lost, cl.shared = false, false
		mine := owns(cl)
		owned = owned || mine
		switch {
		case cl.route.vague && mine:
			vague = append(vague, cl)
		case cl.route.vague:
			cl.lost = true // what it would have added is not known
		case mine:
			add(cl)
		default:
			others = append(others, cl)
		}
	}
	guests := map[string]string{} // context root -> the other owner who added it
	for _, cl := range others {
		who := ownerOf(cl.route.svc)
		taken := byRoot[cl.root]
		guest, isGuest := guests[cl.root]
		switch {
		case !owned:
			lose(cl, nil, fmt.Sprintf("host_owners gives %s to %s, which claims nothing there", host, orNone(strings.Join(reserved, ", "))))
		case len(taken) > 0 && (!isGuest || guest != who):
			lose(cl, taken[0], fmt.Sprintf("%s belongs to %s", host, ownerOf(taken[0].route.svc)))
		default:
			guests[cl.root] = who
			add(cl)
		}
	}

	var out []match
	for _, root := range roots {
		if m := share(root, byRoot[root], lose); len(m.claims) > 0 {
			out = append(out, m)
		}
	}
	// Longest first: two roots of the same length never match the same path.
	slices.SortFunc(out, func(a, b match) int {
		return cmp.Or(-cmp.Compare(len(a.root), len(b.root)), cmp.Compare(a.root, b.root))
	})
	return append(out, lastResort(vague, byRoot)...), problems
}

// lastResort gives the matches of claims of which it is not known what part of
// the host they mean: they stand behind all others, and never beside one.
func lastResort(vague []*claim, taken map[string][]*claim) []match {
	var out []match
	for _, cl := range vague {
		seen := slices.ContainsFunc(out, func(m match) bool { return m.root == cl.root })
		if len(taken["/"]) == 0 && len(taken[cl.root]) == 0 && !seen {
			out = append(out, match{root: cl.root, claims: []*claim{cl}})
		}
	}
	slices.SortFunc(out, func(a, b match) int {
		return cmp.Or(-cmp.Compare(len(a.root), len(b.root)), cmp.Compare(a.root, b.root))
	})
	return out
}

// share says which claims of one match share it; the others lose. Whoever shares
// has the guards of the oldest, and the path that the first working one sends on.
func share(root string, claims []*claim, lose func(loser, winner *claim, reason string)) match {
	oldest := claims[0]
	m := match{root: root, claims: []*claim{oldest}}
	byService := map[*service]*claim{oldest.route.svc: oldest}
	var first *claim // that works
	if !oldest.route.broken {
		first = oldest
	}
	for _, cl := range claims[1:] {
		works := !cl.route.broken
		switch same := byService[cl.route.svc]; {
		case same != nil && same.route == cl.route:
			// One route says it twice (hosts: * with default_backend).
			same.whole = same.whole || cl.whole
		case same != nil:
			lose(cl, same, "another route of the service takes the same host and path")
		case oldest.whole || cl.whole:
			lose(cl, oldest, "a default backend is never shared")
		case cl.route.closed != oldest.route.closed || cl.route.guards != oldest.route.guards && works && !oldest.route.broken:
			lose(cl, oldest, "the oldest service with this host and path has other guards")
		case works && first != nil && root != "/" && cl.route.label.ContextRootRewrite != first.route.label.ContextRootRewrite:
			lose(cl, first, "an older service with this host and path says otherwise about context_root_rewrite")
		case works && first != nil && rewrites(cl.route.label) != rewrites(first.route.label):
			lose(cl, first, "an older service with this host and path says otherwise about rewrite_path or rewrite_regex")
		default:
			m.claims = append(m.claims, cl)
			byService[cl.route.svc] = cl
			if works && first == nil {
				first = cl
			}
		}
	}
	// A broken route claims its match, but never against one that works.
	if first != nil && !oldest.route.closed {
		m.claims = slices.DeleteFunc(m.claims, func(c *claim) bool { return c.route.broken })
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

// labelKey is the label that a conflict over the claim is about.
func (c *claim) labelKey() string {
	if c.whole {
		return "default_backend"
	}
	if c.root != "/" {
		return "context_root"
	}
	return "hosts"
}
