package translate

import (
	"bytes"
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/config"
)

// collection is what is built of one collection.
type collection struct {
	name  string
	cfg   *config.Collection
	fleet []string // networks of its proxies, as FleetLabel says
	// hidden names the service that is its fleet, where that is published through the
	// ingress mesh: then no address of a client reaches a proxy.
	hidden string
	// extensions is what routes bring to shared filters, by filter and routeKey.
	extensions map[string]map[string]proto.Message

	hosts     map[string]*host
	published ordered[*host]      // that somebody has
	backends  map[string]*backend // of its services, by cluster name
	refs      map[string]int      // how many hosts name a cluster
	needed    ordered[Ref]        // clusters that a host names

	resources Resources
	sweep     bool // resources are of an earlier build: what is not built again goes

	// To do at finish:
	dirty    map[string]struct{} // hosts to build again
	extended map[string]bool     // shared filters that may be different
	secret   bool                // secrets may be different
	touched  map[string]bool     // endpoints that may be new, gone or different; true: their clusters too
	fresh    bool                // nothing is built yet
}

func newCollection(name string, cfg *config.Collection) *collection {
	c := &collection{
		name: name, cfg: cfg, fresh: true,
		hosts: map[string]*host{}, backends: map[string]*backend{}, refs: map[string]int{},
		dirty: map[string]struct{}{}, touched: map[string]bool{},
		extensions: map[string]map[string]proto.Message{}, extended: map[string]bool{},
	}
	for k := range c.resources {
		c.resources[k] = map[string]*Resource{}
	}
	return c
}

func (c *collection) claim(cl *claim) {
	h := c.hosts[cl.host]
	if h == nil {
		h = &host{name: cl.host}
		c.hosts[cl.host] = h
	}
	h.insert(cl)
	c.dirty[cl.host] = struct{}{}
}

func (c *collection) unclaim(cl *claim) {
	if h := c.hosts[cl.host]; h != nil {
		h.remove(cl)
		c.dirty[cl.host] = struct{}{}
	}
}

// touch notes that the endpoints of a cluster may change at finish, or the whole of it.
func (c *collection) touch(cluster string, whole bool) {
	c.touched[cluster] = c.touched[cluster] || whole
}

// finish builds what is dirty and gives what changed by it.
func (c *collection) finish() []Change {
	if !c.fresh && len(c.dirty) == 0 && len(c.touched) == 0 && len(c.extended) == 0 {
		return nil
	}
	var changes []Change
	built := map[Ref]struct{}{}
	set := func(r *Resource) {
		ref := Ref{r.Kind, r.Name}
		built[ref] = struct{}{}
		if old := c.resources[r.Kind][r.Name]; old != nil && bytes.Equal(old.Body, r.Body) {
			return
		}
		c.resources[r.Kind][r.Name] = r
		changes = append(changes, Change{r.Kind, r.Name, r})
	}
	drop := func(k Kind, name string) {
		if _, ok := c.resources[k][name]; ok {
			delete(c.resources[k], name)
			changes = append(changes, Change{Kind: k, Name: name})
		}
	}

	tableChanged := c.fresh
	for name := range c.dirty {
		if c.buildHost(c.hosts[name]) {
			tableChanged = true
		}
	}
	for name, whole := range c.touched {
		if e, outside := externalNamed(name); outside && c.refs[name] > 0 {
			m := newExternalCluster(e)
			set(&Resource{Kind: Cluster, Name: name, Message: m, Body: mustEncode(m)})
			continue
		}
		be := c.backends[name]
		if whole {
			// Whether its secret is another, or nobody's any more, is seen there.
			c.secret = c.secret || len(c.resources[Secret]) > 0 || be != nil && be.secret != nil
		}
		if be == nil || c.refs[name] == 0 {
			drop(Cluster, name)
			drop(Endpoints, name)
			continue
		}
		// Names and numbers were checked where they came from: what is left to go
		// wrong is a mistake of ours, and tests look for it.
		if whole {
			m := newCluster(name, be.settings)
			r := &Resource{Kind: Cluster, Name: name, Message: m, Body: mustEncode(m), EDS: true}
			if be.secret != nil {
				r.Refs = []Ref{{Secret, be.secret.Name}}
			}
			set(r)
		}
		e := assignment(name, c.endpoints(be), be.settings.fallback != "")
		set(&Resource{Kind: Endpoints, Name: name, Message: e, Body: mustEncode(e)})
	}
	if tableChanged {
		set(c.table())
	}
	if c.secret || c.fresh {
		c.buildSecrets(set, drop)
	}
	for _, f := range sharedFilters() {
		if c.fresh || c.extended[f.name] {
			set(c.extension(f))
		}
	}
	if c.fresh && c.cfg.HTTPPort != 0 {
		m := newHTTPListener(c.cfg)
		var refs []Ref
		for _, f := range sharedFilters() {
			refs = append(refs, Ref{Extension, f.name})
		}
		set(&Resource{Kind: Listener, Name: m.Name, Message: m, Body: mustEncode(m), Refs: append(refs, Ref{Routes, httpTable})})
	}
	if c.sweep {
		for k := range c.resources {
			for name := range c.resources[k] {
				if _, ok := built[Ref{Kind(k), name}]; !ok {
					drop(Kind(k), name)
				}
			}
		}
	}
	c.fresh, c.sweep, c.secret = false, false, false
	clear(c.dirty)
	clear(c.touched)
	clear(c.extended)
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return changes
}

// buildHost builds one virtual host and reports whether the table changes by it.
func (c *collection) buildHost(h *host) bool {
	before, clusters, held := h.bytes, h.clusters, h.secrets
	h.message, h.bytes, h.clusters, h.secrets, h.problems = nil, nil, nil, nil, nil
	if len(h.claims) == 0 {
		delete(c.hosts, h.name)
	} else {
		matches, problems := resolve(c.cfg, h.name, h.claims)
		h.problems = problems
		if len(matches) > 0 {
			vh, names, problems := virtualHost(c.cfg, h.name, matches)
			h.problems = append(h.problems, problems...)
			h.message, h.bytes, h.clusters = vh, field(mustEncode(vh)), names
			h.secrets = secretsOf(matches)
		}
	}
	if is, was := h.bytes != nil, before != nil; is != was {
		if is {
			c.published.put(h.name, h)
		} else {
			c.published.drop(h.name)
		}
	}
	c.secret = c.secret || len(held)+len(h.secrets) > 0
	for _, name := range h.clusters {
		if c.refs[name]++; c.refs[name] == 1 {
			c.needed.put(name, Ref{Cluster, name})
		}
		c.touch(name, true)
	}
	for _, name := range clusters {
		c.touch(name, true)
		if c.refs[name]--; c.refs[name] == 0 {
			delete(c.refs, name)
			c.needed.drop(name)
		}
	}
	return !bytes.Equal(before, h.bytes)
}
