package translate

import (
	"cmp"
	"maps"
	"slices"
)

// RouteState is what became of a route.
type RouteState string

// The states of a route.
const (
	Live   RouteState = "live"   // requests go to tasks
	Broken RouteState = "broken" // a label is bad: what it claims answers 503
	Closed RouteState = "closed" // a guard is missing: it answers 503
	Lost   RouteState = "lost"   // another service holds everything that it claims
)

// ServiceView is one service of a collection, for status, the API and tables.
type ServiceView struct {
	Name       string
	Collection string // "": published nowhere
	Routes     []RouteView
	Endpoints  int // addresses that requests may go to, over all ports
}

// RouteView is one route of a service.
type RouteView struct {
	Name    string   // "stack_service" or "stack_service/route"
	Hosts   []string // that it has
	Lost    []string // that it claims and another service has
	Path    string   // context root
	Cluster string   // "" unless requests go to tasks
	State   RouteState
}

// Services gives what became of every service with labels of ours, sorted by
// collection, then name.
func (b *Builder) Services() []ServiceView {
	var out []ServiceView
	for _, id := range slices.Sorted(maps.Keys(b.services)) {
		s := b.services[id]
		if s.coll == nil && len(s.problems) == 0 || s.coll != nil && len(s.routes) == 0 {
			continue
		}
		out = append(out, s.view())
	}
	slices.SortStableFunc(out, func(x, y ServiceView) int {
		return cmp.Or(cmp.Compare(x.Collection, y.Collection), cmp.Compare(x.Name, y.Name))
	})
	return out
}

func (s *service) view() ServiceView {
	v := ServiceView{Name: s.spec.Name}
	if s.coll != nil {
		v.Collection = s.coll.name
	}
	for _, be := range s.backends { // but of those that a missing guard closed
		if slices.ContainsFunc(s.routes, func(r *route) bool { return r.backend == be }) {
			v.Endpoints += len(be.found.list)
		}
	}
	for _, r := range s.routes {
		rv := RouteView{Name: r.name, Path: cmp.Or(r.claims[0].on.String(), "/"), State: Live}
		for _, cl := range r.claims {
			if cl.lost {
				rv.Lost = append(rv.Lost, cl.host)
			} else {
				rv.Hosts = append(rv.Hosts, cl.host)
			}
		}
		switch {
		case r.closed:
			rv.State = Closed
		case r.broken:
			rv.State = Broken
		case len(rv.Hosts) == 0:
			rv.State = Lost
		case r.backend != nil:
			rv.Cluster = r.backend.name
		}
		v.Routes = append(v.Routes, rv)
	}
	return v
}
