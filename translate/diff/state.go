package diff

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// state is one collection as it is served.
type state struct {
	tree      Tree
	hosts     map[hostKey]*host
	clusters  map[string]any
	endpoints map[clusterName]int
}

type clusterName string

func (n clusterName) key() string { return string(n) }

// hostKey is a host in a route table; hosts of plain HTTP come first.
type hostKey struct{ table, host string }

func (k hostKey) key() string { return k.table + "\x00" + k.host }

// host is one virtual host.
type host struct {
	name   string
	routes []*route // in their order; twins and helpers of a route are with it
}

func (h *host) list() []*route {
	if h == nil {
		return nil
	}
	return h.routes
}

func (h *host) route(name string) *route {
	for _, r := range h.list() {
		if r.name == name {
			return r
		}
	}
	return nil
}

// services are those that answer under the host.
func (h *host) services() []string {
	out := []string{}
	for _, r := range h.list() {
		for _, s := range r.services() {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return out
}

// route is what its author knows as one route: several of Envoy's.
type route struct {
	name string
	// parts by what they are for: "" is the route itself.
	parts map[string]map[string]any
}

func (r *route) main() map[string]any {
	if m := r.parts[""]; m != nil {
		return m
	}
	for _, k := range slices.Sorted(maps.Keys(r.parts)) {
		return r.parts[k]
	}
	return nil
}

func (r *route) services() []string {
	action := dict(r.main(), "route")
	var out []string
	for _, c := range list(dict(action, "weighted_clusters"), "clusters") {
		out = append(out, serviceOf(text(c, "name")))
	}
	if c := text(action, "cluster"); c != "" {
		out = append(out, serviceOf(c))
	}
	if len(out) == 0 {
		if s := serviceOf(r.name); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// serviceOf is the service in the name of a route or cluster; "" for the proxy's own.
func serviceOf(name string) string {
	if strings.HasPrefix(name, "waggle:") {
		return ""
	}
	if i := strings.IndexAny(name, "/#:"); i >= 0 {
		return name[:i]
	}
	return name
}

func read(t Tree) *state {
	s := &state{tree: t, hosts: map[hostKey]*host{}, clusters: t["clusters"], endpoints: map[clusterName]int{}}
	for table, config := range t["routes"] {
		for _, v := range list(config, "virtual_hosts") {
			h := &host{name: text(v, "name")}
			for _, e := range list(v, "routes") {
				h.add(withRetries(e, dict(v, "retry_policy")))
			}
			if len(h.services()) > 0 {
				s.hosts[hostKey{table, h.name}] = h
			}
		}
	}
	for name, assignment := range t["endpoints"] {
		n := 0
		for _, group := range list(assignment, "endpoints") {
			n += len(list(group, "lb_endpoints"))
		}
		s.endpoints[clusterName(name)] = n
	}
	return s
}

// withRetries gives a route that sends requests on the retry policy that holds for
// it, as far as labels say it: its own, else its host's.
func withRetries(e any, hosts map[string]any) any {
	m, _ := e.(map[string]any)
	action := maps.Clone(dict(m, "route"))
	if action == nil {
		return e
	}
	policy := hosts
	if own, has := action["retry_policy"].(map[string]any); has {
		policy = own
	}
	said := map[string]any{"num_retries": json.Number("0")}
	for _, k := range []string{"num_retries", "retry_on", "per_try_timeout"} {
		if v, has := policy[k]; has {
			said[k] = v
		}
	}
	action["retry_policy"] = said
	m = maps.Clone(m)
	m["route"] = action
	return m
}

// add puts one of Envoy's routes to the route that it belongs to.
func (h *host) add(e any) {
	m, _ := e.(map[string]any)
	name, part, _ := strings.Cut(text(m, "name"), "#")
	r := h.route(name)
	if r == nil {
		r = &route{name: name, parts: map[string]map[string]any{}}
		h.routes = append(h.routes, r)
	}
	if from := text(m, "match", "path"); from != "" && text(m, "redirect", "path_redirect") == from+"/" {
		part = "slash"
	}
	for base, n := part, 2; r.parts[part] != nil; n++ {
		part = fmt.Sprintf("%s %d", base, n)
	}
	r.parts[part] = m
}

// only keeps what belongs to some services, and gives who else has which host.
func (s *state) only(mine func(string) bool) (*state, map[hostKey][]string) {
	held := map[hostKey][]string{}
	out := &state{tree: s.tree, hosts: map[hostKey]*host{}, clusters: map[string]any{}, endpoints: map[clusterName]int{}}
	for k, h := range s.hosts {
		kept := &host{name: h.name}
		for _, r := range h.routes {
			if mine(serviceOf(r.name)) {
				kept.routes = append(kept.routes, r)
			} else {
				held[k] = append(held[k], serviceOf(r.name))
			}
		}
		if len(kept.routes) > 0 {
			out.hosts[k] = kept
		}
	}
	for name, c := range s.clusters {
		if mine(serviceOf(name)) {
			out.clusters[name] = c
		}
	}
	for name, n := range s.endpoints {
		if mine(serviceOf(string(name))) {
			out.endpoints[name] = n
		}
	}
	return out, held
}

// Reading plain JSON values: what is not there is empty.

func at(v any, path ...string) any {
	for _, k := range path {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func dict(v any, path ...string) map[string]any {
	m, _ := at(v, path...).(map[string]any)
	return m
}

func list(v any, path ...string) []any {
	l, _ := at(v, path...).([]any)
	return l
}

func text(v any, path ...string) string {
	switch x := at(v, path...).(type) {
	case string:
		return x
	case json.Number:
		return x.String()
	case float64, bool:
		return fmt.Sprint(x)
	}
	return ""
}
