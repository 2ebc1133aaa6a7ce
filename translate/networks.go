package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// FleetLabel marks a service as the Envoy fleet of a collection: its networks
// are the ones on which that collection's proxies reach tasks.
const FleetLabel = "waggle.fleet"

// reach is how the tasks of one service are reached. It depends on the service,
// the configuration and the networks, not on tasks.
type reach struct {
	mode     labels.BackendMode
	networks []string // IDs, in order of preference
	any      bool     // nothing says which: every non-ingress network of the task, first by name
	hostOnly bool     // label network: bridge
	broken   bool     // the label names what is not there
}

// networkNames finds networks by name. Names may be used twice (the node-local
// ones are, on every node): all of them count, in the order of their IDs.
type networkNames struct {
	byName map[string][]*watcher.Network
	byID   map[string]*watcher.Network
}

func newNetworkNames(p *watcher.Picture) networkNames {
	n := networkNames{byName: make(map[string][]*watcher.Network, len(p.Networks)), byID: p.Networks}
	for _, nw := range p.Networks {
		n.byName[nw.Name] = append(n.byName[nw.Name], nw)
	}
	for _, l := range n.byName {
		slices.SortFunc(l, func(a, b *watcher.Network) int { return cmp.Compare(a.ID, b.ID) })
	}
	return n
}

// usable gives the IDs of the networks of that name that may hold endpoints.
func (n networkNames) usable(name string) []string {
	var ids []string
	for _, nw := range n.byName[name] {
		if !nw.Ingress {
			ids = append(ids, nw.ID)
		}
	}
	return ids
}

// sorted gives the non-ingress ones of ids by name, then ID.
func (n networkNames) sorted(ids []string) []string {
	var out []string
	for _, id := range ids {
		if nw := n.byID[id]; nw != nil && !nw.Ingress && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(n.byID[a].Name, n.byID[b].Name), cmp.Compare(a, b))
	})
	return out
}

func (n networkNames) name(id string) string {
	if nw := n.byID[id]; nw != nil {
		return nw.Name
	}
	return id
}

func (n networkNames) names(ids []string) string {
	var out []string
	for _, id := range ids {
		out = append(out, n.name(id))
	}
	return strings.Join(out, ", ")
}

// reachOf finds how a service's tasks are reached. fleet holds the networks of
// the collection's own proxies, in order, if any service says it is one of them.
func reachOf(p *watcher.Picture, n networkNames, c *config.Collection, fleet []string, svc *service) (reach, []Problem) {
	s, l := svc.spec, svc.parsed
	r := reach{mode: l.BackendMode}
	if r.mode == "" {
		r.mode = labels.TaskMode
	}
	problem := func(sev labels.Severity, key, value, reason, hint string) Problem {
		return svc.problem(sev, labelOf(l, key), value, reason, hint)
	}

	if p.Loopback {
		var ps []Problem
		if r.mode != labels.TaskMode {
			ps = append(ps, problem(labels.Info, "backend_mode", string(r.mode), "here tasks have loopback addresses alone: behaves as task", ""))
			r.mode = labels.TaskMode
		}
		r.any = true
		return r, ps
	}

	switch {
	case l.Network == "bridge":
		r.mode, r.hostOnly = labels.HostMode, true
		return r, nil

	case l.Network != "":
		ids := n.usable(l.Network)
		if stack := s.Stack(); stack != "" {
			if own := n.usable(stack + "_" + l.Network); len(own) > 0 {
				ids = own
			}
		}
		if len(ids) == 0 {
			r.broken = true
			return r, []Problem{problem(labels.Error, "network", l.Network, "there is no such network", n.nearest(l.Network, s.Networks))}
		}
		if len(c.Networks) > 0 {
			allowed := collectionNetworks(n, c)
			if ids = slices.DeleteFunc(ids, func(id string) bool { return !slices.Contains(allowed, id) }); len(ids) == 0 {
				r.broken = true
				return r, []Problem{problem(labels.Error, "network", l.Network, fmt.Sprintf("the proxies of collection %s are not on this network", svc.coll.name), svc.theirs(n, allowed))}
			}
		}
		r.networks = ids
		if r.mode != labels.HostMode && len(s.Networks) > 0 && !intersects(ids, s.Networks) {
			r.broken = true
			return r, []Problem{problem(labels.Error, "network", l.Network, "the service is not on this network", svc.toJoin(l.Network)+"; its own are "+orNone(n.names(n.sorted(s.Networks))))}
		}
		var ps []Problem
		if len(c.Networks) == 0 && len(fleet) > 0 && !intersects(ids, fleet) {
			ps = append(ps, problem(labels.Warning, "network", l.Network, fmt.Sprintf("no proxy of collection %s is on this network", svc.coll.name), svc.theirs(n, fleet)))
		}
		return r, ps

	case len(c.Networks) > 0:
		r.networks = collectionNetworks(n, c)
	case len(fleet) > 0:
		r.networks = fleet
	default:
		r.any = true
		own := n.sorted(s.Networks)
		if len(own) == 0 || r.mode == labels.HostMode || p.Static && len(own) == 1 {
			return r, nil // a file knows no proxies, and of one network there is nothing to choose
		}
		return r, []Problem{problem(labels.Info, "network", "", fmt.Sprintf("nothing says on which networks the proxies of collection %s are: network %s is taken, the first of the service by name", c.Name, n.name(own[0])), "set networks of the collection, or label network")}
	}
	return r, nil
}

// collectionNetworks gives the networks of the operator's file that exist, in its order.
func collectionNetworks(n networkNames, c *config.Collection) []string {
	var ids []string
	for _, name := range c.Networks {
		ids = append(ids, n.usable(name)...)
	}
	return ids
}

// candidates gives the networks to look for an address on, best first, of a task
// (or service) that is on the given ones.
func (r reach) candidates(n networkNames, on []string) []string {
	if r.any {
		return n.sorted(on)
	}
	return r.networks
}

func intersects(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
