// Package diff says what changes for users between two translations, and what would
// break. It reads the generated resources in the form in which they are shown
// (package render, the API), so that what it says is what is served.
package diff

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Tree is the resources of one collection: kind, then name, then the resource as
// plain JSON values with numbers as json.Number.
type Tree = map[string]map[string]any

// Report is what changes from one state to another.
type Report struct {
	Collections []Collection `json:"collections"` // those in which something changes, by name
	Breaks      []Break      `json:"breaks"`
}

// Collection is what changes in one.
type Collection struct {
	Name      string          `json:"name"`
	Hosts     Hosts           `json:"hosts"`
	Routes    Routes          `json:"routes"`
	Clusters  []Changed       `json:"clusters"` // that both have, and that differ
	Shared    []Changed       `json:"shared"`   // filters and listeners, which the collection has once
	Endpoints EndpointsChange `json:"endpoints"`
}

// Hosts are hosts by what becomes of them.
type Hosts struct {
	Added   []Host      `json:"added"`
	Removed []Host      `json:"removed"`
	Changed []HostOwner `json:"changed"` // other services answer
}

// Host is one host of one route table.
type Host struct {
	Table    string   `json:"table"`
	Host     string   `json:"host"`
	Services []string `json:"services"`
}

// HostOwner is a host that changes hands.
type HostOwner struct {
	Table string   `json:"table"`
	Host  string   `json:"host"`
	Old   []string `json:"old"`
	New   []string `json:"new"`
}

// Routes are routes by what becomes of them.
type Routes struct {
	Added   []Route        `json:"added"`
	Removed []Route        `json:"removed"`
	Changed []ChangedRoute `json:"changed"`
}

// Route is one route under one host, and what it does in words.
type Route struct {
	Table string `json:"table"`
	Host  string `json:"host"`
	Route string `json:"route"`
	Does  string `json:"does"`
}

// ChangedRoute is a route that both states have.
type ChangedRoute struct {
	Table   string  `json:"table"`
	Host    string  `json:"host"`
	Route   string  `json:"route"`
	Changes []Field `json:"changes"`
}

// Changed is a named thing that both states have.
type Changed struct {
	Name    string  `json:"name"`
	Changes []Field `json:"changes"`
}

// Field is one value that differs; "" is none.
type Field struct {
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

// EndpointsChange counts the addresses behind all clusters.
type EndpointsChange struct {
	Old      int       `json:"old"`
	New      int       `json:"new"`
	Clusters []Counted `json:"clusters"` // whose number differs
}

// Counted is the number of addresses behind one cluster.
type Counted struct {
	Cluster string `json:"cluster"`
	Old     int    `json:"old"`
	New     int    `json:"new"`
}

// Break is a request that worked and would not, or one that was refused and would pass.
type Break struct {
	Collection string `json:"collection"`
	Table      string `json:"table"`
	Host       string `json:"host"`
	Route      string `json:"route"`
	Reason     string `json:"reason"`
}

// Options say how to look.
type Options struct {
	// Guards are the filters that decide who may pass.
	Guards []string
	// Mine, where it is set, tells the services that the new state is about: of the old
	// one only these are compared. The new state is then a part of what would run.
	Mine func(service string) bool
}

// Compare says what changes from old to new, by collection.
func Compare(old, new map[string]Tree, o Options) *Report {
	r := &Report{Collections: []Collection{}, Breaks: []Break{}}
	names := maps.Clone(old)
	if names == nil {
		names = map[string]Tree{}
	}
	maps.Copy(names, new)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, b := read(old[name]), read(new[name])
		held := map[hostKey][]string{}
		if o.Mine != nil {
			a, held = a.only(o.Mine)
		}
		c := comparison{name: name, a: a, b: b, held: held, guards: o.Guards, part: o.Mine != nil}
		out := Collection{Name: name}
		out.Hosts = c.hosts()
		out.Routes = c.routes()
		out.Clusters = c.clusters()
		out.Shared = c.shared()
		out.Endpoints = c.endpoints()
		c.breaking()
		if !out.empty() {
			r.Collections = append(r.Collections, out)
		}
		r.Breaks = append(r.Breaks, c.breaks...)
	}
	return r
}

func (c Collection) empty() bool {
	return len(c.Hosts.Added)+len(c.Hosts.Removed)+len(c.Hosts.Changed)+len(c.Routes.Added)+len(c.Routes.Removed)+len(c.Routes.Changed)+
		len(c.Clusters)+len(c.Shared)+len(c.Endpoints.Clusters) == 0
}

// comparison is one collection on its way.
type comparison struct {
	name   string
	a, b   *state
	held   map[hostKey][]string // who else has a host, beside the services compared
	guards []string
	part   bool
	breaks []Break
}

func (c *comparison) hosts() Hosts {
	out := Hosts{Added: []Host{}, Removed: []Host{}, Changed: []HostOwner{}}
	for _, k := range both(c.a.hosts, c.b.hosts) {
		x, y := c.a.hosts[k], c.b.hosts[k]
		switch {
		case x == nil:
			out.Added = append(out.Added, Host{k.table, k.host, y.services()})
		case y == nil:
			out.Removed = append(out.Removed, Host{k.table, k.host, x.services()})
		case disjoint(x.services(), y.services()):
			out.Changed = append(out.Changed, HostOwner{k.table, k.host, x.services(), y.services()})
		}
	}
	return out
}

func (c *comparison) routes() Routes {
	out := Routes{Added: []Route{}, Removed: []Route{}, Changed: []ChangedRoute{}}
	for _, k := range both(c.a.hosts, c.b.hosts) {
		x, y := c.a.hosts[k], c.b.hosts[k]
		for _, r := range x.list() {
			if y.route(r.name) == nil {
				out.Removed = append(out.Removed, Route{k.table, k.host, r.name, r.does()})
			}
		}
		for _, r := range y.list() {
			was := x.route(r.name)
			if was == nil {
				out.Added = append(out.Added, Route{k.table, k.host, r.name, r.does()})
			} else if fields := changes(was, r); len(fields) > 0 {
				out.Changed = append(out.Changed, ChangedRoute{k.table, k.host, r.name, fields})
			}
		}
	}
	return out
}

func (c *comparison) clusters() []Changed {
	out := []Changed{}
	for _, name := range slices.Sorted(maps.Keys(c.a.clusters)) {
		if b, there := c.b.clusters[name]; there {
			if fields := named(differences(c.a.clusters[name], b), clusterWords); len(fields) > 0 {
				out = append(out, Changed{name, fields})
			}
		}
	}
	return out
}

// shared compares what a collection has once. In a part of what would run, the
// entries of others are missing: nothing can be said.
func (c *comparison) shared() []Changed {
	out := []Changed{}
	if c.part {
		return out
	}
	for _, kind := range []string{"listeners", "extensions"} {
		a, b := c.a.tree[kind], c.b.tree[kind]
		for _, name := range slices.Sorted(maps.Keys(a)) {
			if y, there := b[name]; there {
				if fields := named(differences(a[name], y), sharedWords); len(fields) > 0 {
					out = append(out, Changed{strings.TrimSuffix(kind, "s") + " " + name, fields})
				}
			}
		}
	}
	return out
}

func (c *comparison) endpoints() EndpointsChange {
	out := EndpointsChange{Clusters: []Counted{}}
	for _, name := range both(c.a.endpoints, c.b.endpoints) {
		n := Counted{string(name), c.a.endpoints[name], c.b.endpoints[name]}
		out.Old += n.Old
		out.New += n.New
		if n.Old != n.New {
			out.Clusters = append(out.Clusters, n)
		}
	}
	return out
}

// both lists the keys of either map, sorted.
func both[K interface {
	comparable
	key() string
}, V any](a, b map[K]V) []K {
	all := maps.Clone(a)
	if all == nil {
		all = map[K]V{}
	}
	maps.Copy(all, b)
	return slices.SortedFunc(maps.Keys(all), func(x, y K) int { return cmp.Compare(x.key(), y.key()) })
}

func disjoint(a, b []string) bool {
	return len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
