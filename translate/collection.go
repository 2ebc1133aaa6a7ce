package translate

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
)

// collection is what is built of one collection.
type collection struct {
	name  string
	cfg   *config.Collection
	fleet []string // networks of its proxies, as FleetLabel says
	// hidden names the service that is its fleet, where that is published through the
	// ingress mesh: then no address of a client reaches a proxy.
	hidden string
	// noCollector says why its traces are sent nowhere, see tracing.go.
	noCollector string
	// extensions is what routes bring to shared filters, by filter and routeKey.
	extensions map[string]map[string]proto.Message

	// material is what it has on disk; listed are the certificates of its directories,
	// listedBy the same by the names that they are for.
	material       *secrets.Material
	listed         []*certificate
	listedBy       map[string]*certificate
	listedProblems []Problem
	reading        bool // no proxy gets what is built
	// standard is the certificate for connections that no other is for; nil: none.
	standard         *certificate
	standardProblems []Problem
	chains           []*filterChain
	brought          map[string]bool // names of certificates that labels brought

	hosts     map[string]*host
	published ordered[*host]      // that somebody has
	backends  map[string]*backend // of its services, by cluster name
	refs      map[string]int      // how many hosts name a cluster
	needs     map[string]*needs   // of each route table

	room      []byte // to encode hosts and endpoints in, one after the other
	resources Resources
	sweep     bool // resources are of an earlier build: what is not built again goes

	// To do at finish:
	dirty    map[string]struct{} // hosts to build again
	extended map[string]bool     // shared filters that may be different
	secret   bool                // secrets may be different
	rechain  bool                // filter chains of TLS may be different
	touched  map[string]bool     // endpoints that may be new, gone or different; true: their clusters too
	fresh    bool                // nothing is built yet
}

func newCollection(name string, cfg *config.Collection) *collection {
	c := &collection{
		name: name, cfg: cfg, fresh: true,
		hosts: map[string]*host{}, backends: map[string]*backend{}, refs: map[string]int{}, needs: map[string]*needs{},
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
	if !c.fresh && len(c.dirty) == 0 && len(c.touched) == 0 && len(c.extended) == 0 && !c.rechain && !c.secret {
		return nil
	}
	changes := make([]Change, 0, 2*len(c.touched)+1)
	built := map[Ref]struct{}{} // for the sweep
	set := func(r *Resource) {
		if c.sweep {
			built[Ref{r.Kind, r.Name}] = struct{}{}
		}
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

	plainChanged, secureChanged := c.fresh, c.fresh
	// In the order of the tables, so that their bytes lie together in memory.
	for _, name := range slices.Sorted(maps.Keys(c.dirty)) {
		plain, secure := c.buildHost(c.hosts[name])
		plainChanged, secureChanged = plainChanged || plain, secureChanged || secure
	}
	rechained := c.fresh || c.rechain
	if rechained {
		c.chains, c.secret = c.filterChains(), true
	}
	made := clusters{}
	for name, whole := range c.touched {
		if m := c.outside(name); m != nil {
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
			r := made.resource(name, be.settings)
			if be.secret != nil {
				r.Refs = []Ref{{Secret, be.secret.Name}}
			}
			set(r)
		}
		set(assignment(name, c.endpoints(be), be.settings.fallback != "", &c.room))
	}
	if plainChanged {
		set(c.table())
	}
	// Which hosts a table of HTTPS sends away depends on all that there are.
	if rechained || secureChanged || plainChanged && len(c.chains) > 0 {
		c.buildSecureTables(set, drop)
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
		refs := collectorRefs(c.cfg)
		for _, f := range sharedFilters() {
			refs = append(refs, Ref{Extension, f.name})
		}
		set(&Resource{Kind: Listener, Name: m.Name, Message: m, Body: mustEncode(m), Refs: append(refs, Ref{Routes, httpTable})})
	}
	if rechained {
		c.buildManagers(set, drop)
		c.buildSecureListeners(set, drop)
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
	c.fresh, c.sweep, c.secret, c.rechain = false, false, false, false
	clear(c.dirty)
	clear(c.touched)
	clear(c.extended)
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return changes
}

// buildHost builds one host and reports whether its virtual hosts in the table of plain
// HTTP and in that of HTTPS are others than before.
func (c *collection) buildHost(h *host) (plainChanged, secureChanged bool) {
	before := *h
	h.plain, h.secure, h.tls, h.clusters, h.problems = encoded{}, encoded{}, hostTLS{}, nil, nil
	if len(h.claims) == 0 {
		delete(c.hosts, h.name)
	} else {
		c.settle(h)
	}
	if is, was := h.plain.bytes != nil, before.plain.bytes != nil; is != was {
		c.rechain = c.rechain || c.brought[h.name]
		if is {
			c.published.put(h.name, h)
		} else {
			c.published.drop(h.name)
		}
	}
	c.secret = c.secret || len(before.plain.secrets)+len(before.secure.secrets)+len(h.plain.secrets)+len(h.secure.secrets) > 0 || h.tls.cert != before.tls.cert || h.tls.authority != before.tls.authority
	c.rechain = c.rechain || !h.tls.same(&before.tls)
	for _, name := range h.clusters {
		c.refs[name]++
		c.touch(name, true)
	}
	for _, name := range before.clusters {
		c.touch(name, true)
		if c.refs[name]--; c.refs[name] == 0 {
			delete(c.refs, name)
		}
	}
	c.needsOf(httpTable).add(&h.plain)
	c.needsOf(httpTable).drop(&before.plain)
	if h.tls.served() {
		c.needsOf(h.tls.profile.table()).add(&h.secure)
	}
	if before.tls.served() {
		c.needsOf(before.tls.profile.table()).drop(&before.secure)
	}
	return !bytes.Equal(before.plain.bytes, h.plain.bytes), !bytes.Equal(before.secure.bytes, h.secure.bytes)
}

// settle says what of a host's claims holds, and what comes of it.
func (c *collection) settle(h *host) {
	tell := func(ps []Problem) { h.problems = append(h.problems, ps...) }
	// Over TLS it is the same, but where something leads elsewhere on plain HTTP alone.
	var over ruling
	live := map[*claim]bool{}
	leads := slices.ContainsFunc(h.claims, func(cl *claim) bool { return cl.redirect != nil || cl.hidden })
	if leads {
		over = resolve(c.cfg, h.name, h.claims, true)
		for _, cl := range h.claims {
			live[cl] = !cl.lost
		}
	}
	on := resolve(c.cfg, h.name, h.claims, false)
	if !leads {
		over = on
	}
	tell(on.problems)

	h.tls = over.tls
	if len(on.tunnel) > 0 {
		h.tls.tunnel = c.tunnel(on.tunnel)
		for _, w := range h.tls.tunnel {
			h.clusters = append(h.clusters, w.claim.route.backend.name)
		}
		h.tls.profile = profile{}
	} else if len(over.mine) > 0 {
		cert, err := c.certify(h.name, over.mine)
		if h.tls.cert = cert; err != nil {
			tell([]Problem{over.mine[0].route.problem(labels.Error, "tls", err.Error())})
		}
		if h.tls.strict() && cert == nil {
			h.tls.closed = true
			tell(uncertified(over.mine))
		}
	}
	if h.tls.closed {
		for _, cl := range h.claims {
			cl.shut = true
		}
	}

	plain, routes, names, problems := virtualHost(side{cfg: c.cfg, onward: h.tls.strict()}, h.name, on.matches, c.room[:0])
	tell(problems)
	c.room = routes
	h.clusters = append(h.clusters, names...)
	switch {
	case len(on.matches) > 0:
		h.plain = encodeRouted(plain, routes)
		h.plain.clusters, h.plain.secrets = names, secretsOf(on.matches)
	case len(on.tunnel) > 0: // a wildcard must not take it
		h.plain = encodeHost(only(h.name, domains(h.name), unknownHost))
	}
	if h.tls.served() {
		for cl, is := range live {
			cl.lost = cl.lost && !is
		}
		if leads {
			tell(over.problems)
		}
		vh, secureNames := h.plain.message, h.plain.clusters
		if hsts := hstsOf(over.mine); hsts != "" || differs(h.claims, h.tls.profile) {
			secure, _, names, problems := virtualHost(side{cfg: c.cfg, tls: true}, h.name, over.matches, nil)
			tell(problems)
			if vh = secure; hsts != "" {
				vh.ResponseHeadersToAdd = []*corev3.HeaderValueOption{setHeader("strict-transport-security", formatLiteral(hsts))}
			}
			secureNames = names
			h.clusters = append(h.clusters, names...)
		}
		if len(over.matches) > 0 {
			h.secure = encodeHost(onConnectionsOf(vh, c.covering(h)))
			h.secure.clusters, h.secure.secrets = secureNames, secretsOf(over.matches)
		}
	}
	slices.Sort(h.clusters)
	h.clusters = slices.Compact(h.clusters)
}

// differs reports whether a host is something else over TLS than on plain HTTP.
func differs(claims []*claim, p profile) bool {
	return p.strict() || slices.ContainsFunc(claims, func(cl *claim) bool { return cl.redirect != nil || cl.hidden || cl.route.label.SSLOnly })
}
