package diff

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// breaking finds what would break.
func (c *comparison) breaking() {
	for _, k := range both(c.a.hosts, c.b.hosts) {
		x, y := c.a.hosts[k], c.b.hosts[k]
		switch {
		case y == nil:
			if x.works() {
				c.broken(k, "", c.afterwards(k))
			}
			continue
		case x == nil:
			if others := c.held[k]; len(others) > 0 {
				c.broken(k, "", "already served by "+strings.Join(compact(others), ", ")+": a conflict, unless both are of one owner or the collection shares hosts")
			}
			continue
		}
		for _, r := range x.routes {
			c.route(k, r, y)
		}
	}
	for _, name := range both(c.a.endpoints, c.b.endpoints) {
		if _, still := c.b.endpoints[name]; still && c.a.endpoints[name] > 0 && c.b.endpoints[name] == 0 {
			c.broken(hostKey{}, string(name), "no task is left: 503 no_task")
		}
	}
	if !c.part {
		c.listeners()
	}
}

func (c *comparison) broken(k hostKey, route, reason string) {
	c.breaks = append(c.breaks, Break{Collection: c.name, Table: k.table, Host: k.host, Route: route, Reason: reason})
}

// works reports whether any request to the host is served.
func (h *host) works() bool {
	return slices.ContainsFunc(h.routes, func(r *route) bool { return reasonOf(r.main()) == "" })
}

// afterwards says who takes the requests of a host that nobody claims by name any more.
func (c *comparison) afterwards(k hostKey) string {
	const gone = "nobody claims this host any more"
	for rest := strings.TrimPrefix(k.host, "*."); ; {
		_, after, dotted := strings.Cut(rest, ".")
		wider := "*." + after
		if !dotted {
			wider = "*"
		}
		if h := c.b.hosts[hostKey{k.table, wider}]; h != nil && wider != k.host {
			return fmt.Sprintf("%s: its requests go to %s, %s", gone, wider, strings.Join(h.services(), ", "))
		}
		if !dotted {
			return gone + ": 503 unknown_host"
		}
		rest = after
	}
}

// route looks at what becomes of the requests of one route under a host that stays.
func (c *comparison) route(k hostKey, was *route, now *host) {
	if reasonOf(was.main()) != "" {
		return // it did not work before
	}
	is := now.route(was.name)
	if is == nil {
		// Another route may take the same requests: the service has another name now.
		i := slices.IndexFunc(now.routes, func(r *route) bool { return len(differences(r.main()["match"], was.main()["match"])) == 0 })
		if i < 0 {
			c.broken(k, was.name, c.without(was, now))
			return
		}
		is = now.routes[i]
	}
	a, b := was.main(), is.main()
	if reason := reasonOf(b); reason != "" {
		c.broken(k, was.name, fmt.Sprintf("it %s, and did: %s", does(b), does(a)))
		return
	}
	if b["route"] == nil {
		return // an answer of the proxy's own is for everybody
	}
	if text(a, "redirect", "https_redirect") == "true" && a["route"] == nil {
		c.broken(k, was.name, "plain HTTP is open: it was sent to https before")
	}
	before, after := filters(a), filters(b)
	for _, g := range c.guards {
		if before[filterName(g)] == nil || after[filterName(g)] != nil {
			continue
		}
		if g == "cors" { // browsers enforce it: without it they refuse
			c.broken(k, was.name, filterWord(g)+" is gone: scripts of other origins cannot call any more")
			continue
		}
		c.broken(k, was.name, "the guard "+filterWord(g)+" is gone: what it refused may pass")
	}
	if is.name == was.name {
		now := is.takes()
		for _, m := range was.takes() {
			if !slices.ContainsFunc(now, func(n any) bool { return covers(n, m) }) {
				c.broken(k, was.name, fmt.Sprintf("it no longer takes %s, but %s", matchText(m), matchTexts(now)))
			}
		}
	}
}

// takes lists what a route matches, without its twin for methods that may be sent twice.
func (r *route) takes() []any {
	var out []any
	for _, part := range slices.Sorted(maps.Keys(r.parts)) {
		if !strings.HasPrefix(part, "safe") && !strings.HasPrefix(part, "slash") {
			out = append(out, r.parts[part]["match"])
		}
	}
	return out
}

// covers reports whether whatever m matches n matches too, as far as is plain to see.
func covers(n, m any) bool {
	if len(differences(n, m)) == 0 {
		return true
	}
	if len(list(n, "headers")) > 0 || len(list(n, "query_parameters")) > 0 {
		return false
	}
	if text(n, "prefix") == "/" {
		return true
	}
	root := text(n, "path_separated_prefix")
	for _, p := range []string{text(m, "path_separated_prefix"), text(m, "path"), text(m, "prefix")} {
		if root != "" && (p == root || strings.HasPrefix(p, root+"/")) {
			return true
		}
	}
	return false
}

// without says what becomes of requests whose route is gone.
func (c *comparison) without(was *route, now *host) string {
	prefix := text(was.main(), "match", "path_separated_prefix")
	for _, r := range now.routes {
		root := text(r.main(), "match", "path_separated_prefix")
		if text(r.main(), "match", "prefix") == "/" || root != "" && (prefix == root || strings.HasPrefix(prefix, root+"/")) {
			return "this route is gone: its requests go to " + r.name + " (" + r.does() + ")"
		}
	}
	return "this route is gone: 404 no_route"
}

// matchText is what a route takes, in short.
func matchText(match any) string {
	var parts []string
	for _, l := range leaves(match) {
		if !strings.HasSuffix(l.path, ".name") {
			parts = append(parts, l.value)
		}
	}
	return strings.Join(parts, " ")
}

func matchTexts(matches []any) string {
	var parts []string
	for _, m := range matches {
		parts = append(parts, matchText(m))
	}
	return strings.Join(parts, ", ")
}

// listeners looks for ports that nobody listens on any more.
func (c *comparison) listeners() {
	ports := func(s *state) []string {
		var out []string
		for _, l := range s.tree["listeners"] {
			if p := text(l, "address", "socket_address", "port_value"); p != "" && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
		slices.Sort(out)
		return out
	}
	now := ports(c.b)
	for _, p := range ports(c.a) {
		if len(now) > 0 && !slices.Contains(now, p) {
			c.broken(hostKey{}, "", "nothing listens on port "+p+" any more")
		}
	}
}

func compact(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}
