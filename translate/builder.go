package translate

import (
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// Builder remembers what it built, so that the next Build costs what changed. It
// is not for concurrent use. Its result is a function of the last Input alone:
// the way there leaves no trace.
type Builder struct {
	cfg      *config.Config
	picture  *watcher.Picture
	material *secrets.Material
	networks networkNames
	ownPorts map[uint32]bool // of the control plane, see onNode

	services    map[string]*service            // by ID; those with labels of ours only
	names       map[string]map[string]struct{} // IDs by service name, of all services
	fleets      map[string]map[string]struct{} // IDs by the collection that FleetLabel names
	collections map[string]*collection
	wanted      map[string]map[string]struct{}    // IDs of services by the name of another that they refer to
	referred    map[string]map[*referred]struct{} // by the ID of the service that is referred to
	cache       *labels.Cache
	cacheSize   int

	problems      []Problem
	problemsStale bool
}

// NewBuilder makes a Builder that has built nothing.
func NewBuilder() *Builder { return &Builder{} }

// Build from nothing.
func Build(in Input) *Builder {
	b := NewBuilder()
	b.Build(in, watcher.Changes{All: true})
	return b
}

// Build brings what was built to the new input and gives what changed by it, for
// each collection with changes, sorted by name. changes says what differs between
// this picture and that of the last Build; another *config.Config, and the first
// Build, mean that everything may. Collections that the configuration has no more
// are forgotten without a Delta: whoever runs their proxies decides about them.
func (b *Builder) Build(in Input, changes watcher.Changes) []Delta {
	if in.Picture == nil || in.Config == nil {
		return nil // nothing is known: what was built stays
	}
	switch {
	case b.picture == nil || in.Config != b.cfg || changes.All,
		b.picture.Static != in.Picture.Static, b.picture.Loopback != in.Picture.Loopback,
		changes.Shared && !sameNetworks(b.picture, in.Picture):
		b.all(in)
	default:
		looked, before := changes.Shared || in.Material != b.material, b.material
		b.picture, b.material = in.Picture, in.Material
		b.networks.byID = in.Picture.Networks
		b.some(changes, looked, before)
	}
	return b.finish()
}

// all builds everything. What comes out the same stays the same resource.
func (b *Builder) all(in Input) {
	old := b.collections
	b.cfg, b.picture, b.material = in.Config, in.Picture, in.Material
	b.networks = newNetworkNames(in.Picture)
	b.ownPorts = controlPorts(in.Config)
	b.services = make(map[string]*service, len(in.Picture.Services))
	b.names = make(map[string]map[string]struct{}, len(in.Picture.Services))
	b.fleets = map[string]map[string]struct{}{}
	b.wanted, b.referred = map[string]map[string]struct{}{}, map[string]map[*referred]struct{}{}
	b.problemsStale = true
	if n := len(in.Picture.Services); b.cache == nil || b.cacheSize < n {
		b.cacheSize = n + n/2 + 64
		b.cache = labels.NewCache(b.cacheSize)
	}
	b.collections = make(map[string]*collection, len(in.Config.Collections))
	for name, cfg := range in.Config.Collections {
		c := newCollection(name, cfg)
		if o := old[name]; o != nil {
			c.resources = o.resources
			c.sweep = true
		}
		c.list(in.Material)
		b.collections[name] = c
	}
	for _, s := range in.Picture.Services {
		add(b.names, s.Name, s.ID)
		if f := s.Labels[FleetLabel]; f != "" {
			add(b.fleets, f, s.ID)
		}
	}
	for _, c := range b.collections {
		c.reading = b.elsewhere()
		c.setStandard(b)
		c.fleet, c.hidden = b.fleetNetworks(c.name), b.hiddenBy(c.name)
		c.collect(b)
	}
	for id := range in.Picture.Services {
		b.place(id)
	}
	for id := range in.Picture.Services {
		b.link(id)
	}
}

// some builds what the changes touch. objects says that secrets, configs or files
// may be others than those of before: services that asked for one are read again.
func (b *Builder) some(changes watcher.Changes, objects bool, before *secrets.Material) {
	dirty := map[string]struct{}{} // IDs of services to read again
	if objects {
		for id, s := range b.services {
			if s.stale(before) {
				dirty[id] = struct{}{}
				maps.Copy(dirty, b.wanted[s.spec.Name]) // its clusters may come or go
			}
		}
		for _, c := range b.collections {
			c.list(b.material)
			c.setStandard(b)
		}
		b.problemsStale = true // those of the collections' own certificates too
	}
	fleets := map[string]struct{}{}
	for id := range changes.Services {
		dirty[id] = struct{}{}
		if old := b.services[id]; old != nil {
			b.forgetName(old.spec.Name, id, dirty)
			maps.Copy(dirty, b.wanted[old.spec.Name])
		}
		for f, ids := range b.fleets {
			if _, ok := ids[id]; ok {
				delete(ids, id)
				fleets[f] = struct{}{}
			}
		}
		if s := b.picture.Services[id]; s != nil {
			add(b.names, s.Name, id)
			maps.Copy(dirty, b.names[s.Name])
			maps.Copy(dirty, b.wanted[s.Name])
			if f := s.Labels[FleetLabel]; f != "" {
				add(b.fleets, f, id)
				fleets[f] = struct{}{}
			}
		}
	}
	for f := range fleets {
		if c := b.collections[f]; c != nil {
			now, hidden := b.fleetNetworks(f), b.hiddenBy(f)
			if !slices.Equal(now, c.fleet) || hidden != c.hidden {
				c.fleet, c.hidden = now, hidden
				for id, s := range b.services {
					if s.coll == c {
						dirty[id] = struct{}{}
					}
				}
			}
		}
	}
	for id := range dirty {
		b.remove(id)
	}
	for id := range dirty {
		b.place(id)
	}
	for id := range dirty {
		b.link(id)
	}

	refresh := changes.Tasks
	if changes.Nodes {
		refresh = nil
		for _, s := range b.services {
			b.refresh(s)
		}
	}
	for id := range refresh {
		if s := b.services[id]; s != nil {
			b.refresh(s)
		}
	}
}

// forgetName takes a service out of the index of names, and marks those that had the same one.
func (b *Builder) forgetName(name, id string, dirty map[string]struct{}) {
	ids := b.names[name]
	delete(ids, id)
	if len(ids) == 0 {
		delete(b.names, name)
	}
	maps.Copy(dirty, ids)
}

// remove takes a service, and what it claims, out of its collection.
func (b *Builder) remove(id string) {
	s := b.services[id]
	if s == nil {
		return
	}
	delete(b.services, id)
	b.problemsStale = true
	if s.coll == nil {
		return
	}
	b.unrefer(s)
	for _, r := range s.routes {
		s.coll.retract(r)
		for _, cl := range r.claims {
			s.coll.unclaim(cl)
		}
	}
	for _, be := range s.backends {
		if s.coll.backends[be.name] == be {
			delete(s.coll.backends, be.name)
		}
		s.coll.touch(be.name, true)
	}
}

// place reads a service of the picture and puts what it claims into its collection,
// but for what depends on other services: see link.
func (b *Builder) place(id string) {
	spec := b.picture.Services[id]
	if spec == nil {
		return
	}
	set := b.cache.Set(b.cfg.LabelPrefixes, spec)
	misplaced := labels.Misplaced(b.cfg.LabelPrefixes, spec)
	s := &service{b: b, spec: spec, name: spec.Name, problems: misplaced}
	b.services[id] = s
	if len(misplaced) > 0 {
		b.problemsStale = true
	}
	if len(set.Routes) == 0 && len(set.Problems) == 0 {
		return // says nothing to us
	}
	b.problemsStale = true

	nowhere := func(ps ...Problem) {
		s.problems = append(s.problems, set.Problems...)
		s.problems = append(s.problems, ps...)
	}
	if err := nameLiteral(spec.Name); err != nil || spec.Name == "" {
		nowhere(s.problem(labels.Error, "", "", "the service has no name that can be shown: not published", "give it a name of letters, digits, `-`, `_` and `.`"))
		return
	}
	if first := b.firstOfName(spec.Name); first != spec {
		p := s.problem(labels.Error, "", "", "an older service has the same name: not published", "give it another name")
		p.Winner = first.Name
		nowhere(p)
		return
	}
	cfg, ps := place(b.cfg, spec, set)
	if cfg == nil {
		nowhere(ps...)
		return
	}
	c := b.collections[collectionName(b.cfg, cfg)]
	s.coll = c
	s.parsed = b.cache.Service(b.cfg.LabelPrefixes, spec, c.labelOptions())
	s.problems = append(s.problems, ps...)
	s.problems = append(s.problems, s.parsed.Problems...)
	if len(s.parsed.Routes) == 0 {
		return
	}
	var rp []Problem
	s.reach, rp = reachOf(b.picture, b.networks, cfg, c.fleet, s)
	s.problems = append(s.problems, rp...)
	s.plan(b.networks)
	for _, be := range s.backends {
		c.backends[be.name] = be
		c.touch(be.name, true)
		be.found = endpointsOf(b.picture, b.networks, b.ownPorts, s, be.port)
	}
	for _, r := range s.routes {
		for _, cl := range r.claims {
			c.claim(cl)
		}
	}
}

// link adds what a placed service takes from others.
func (b *Builder) link(id string) {
	if s := b.services[id]; s != nil && s.coll != nil {
		s.link()
	}
}

// refresh finds the endpoints of a service again. Routes are touched only where
// a share of a match goes from or to no ready task.
func (b *Builder) refresh(s *service) {
	b.refreshReferred(s)
	for _, be := range s.backends {
		was := be.found
		be.found = endpointsOf(b.picture, b.networks, b.ownPorts, s, be.port)
		s.coll.touch(be.name, false)
		if !slices.Equal(was.problems, be.found.problems) {
			b.problemsStale = true
		}
		if was.ready == be.found.ready {
			continue
		}
		for _, r := range s.routes {
			for _, cl := range r.claims {
				if r.backend == be && cl.shared {
					s.coll.dirty[cl.host] = struct{}{}
				}
			}
		}
	}
}

// finish builds hosts, clusters and tables of every collection that was touched.
func (b *Builder) finish() []Delta {
	var out []Delta
	for _, name := range slices.Sorted(maps.Keys(b.collections)) {
		c := b.collections[name]
		if len(c.dirty) > 0 {
			b.problemsStale = true
		}
		if changes := c.finish(); len(changes) > 0 {
			out = append(out, Delta{Collection: name, Changes: changes})
		}
	}
	return out
}

// firstOfName is the oldest of the services of one name.
func (b *Builder) firstOfName(name string) *watcher.Service {
	var first *watcher.Service
	for id := range b.names[name] {
		if s := b.picture.Services[id]; s != nil && (first == nil || s.Older(first)) {
			first = s
		}
	}
	return first
}

// fleetNetworks gives the networks of the services that are the collection's
// fleet: the oldest one's first, so that a newcomer with the label changes
// nothing for those who are reached already.
func (b *Builder) fleetNetworks(name string) []string {
	var fleet []*watcher.Service
	for id := range b.fleets[name] {
		fleet = append(fleet, b.picture.Services[id])
	}
	slices.SortFunc(fleet, func(x, y *watcher.Service) int {
		if x.Older(y) {
			return -1
		}
		return 1
	})
	var out []string
	for _, s := range fleet {
		for _, id := range b.networks.sorted(s.Networks) {
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

// hiddenBy names a service of the collection's fleet that is published through the
// ingress mesh, which puts an address of its own in place of the client's.
func (b *Builder) hiddenBy(name string) string {
	via := ""
	for id := range b.fleets[name] {
		s := b.picture.Services[id]
		mesh := slices.ContainsFunc(s.Ports, func(p watcher.Port) bool { return p.Published != 0 && !p.HostMode })
		if mesh && (via == "" || s.Name < via) {
			via = s.Name
		}
	}
	return via
}

// Problems gives everything wrong with any service, sorted. It must not be changed.
func (b *Builder) Problems() []Problem {
	if !b.problemsStale {
		return b.problems
	}
	var all []Problem
	for _, s := range b.services {
		all = append(all, s.problems...)
		for _, be := range s.backends {
			all = append(all, be.found.problems...)
		}
	}
	for _, refs := range b.referred {
		for r := range refs {
			all = append(all, r.problems...)
			all = append(all, r.backend.found.problems...)
		}
	}
	for _, c := range b.collections {
		all = append(append(all, c.listedProblems...), c.standardProblems...)
		for _, h := range c.hosts {
			all = append(all, h.problems...)
		}
	}
	b.problems, b.problemsStale = sortProblems(all), false
	return b.problems
}

// Resources gives everything that a collection is served; nil maps if there is
// no such collection. The maps are the caller's own, the resources are not.
func (b *Builder) Resources(collection string) Resources {
	var out Resources
	if c := b.collections[collection]; c != nil {
		for k := range out {
			out[k] = maps.Clone(c.resources[k])
		}
	}
	return out
}

func sameNetworks(a, b *watcher.Picture) bool {
	return maps.EqualFunc(a.Networks, b.Networks, func(x, y *watcher.Network) bool {
		return x == y || x.Name == y.Name && x.Ingress == y.Ingress
	})
}

// controlPorts are the ports of the control plane itself.
func controlPorts(cfg *config.Config) map[uint32]bool {
	out := map[uint32]bool{}
	addrs := []string{cfg.XDS.Address, cfg.Admin.Address}
	if c := cfg.Swarm.Courier; c != nil {
		addrs = append(addrs, c.Listen)
	}
	for _, addr := range addrs {
		if _, port, err := net.SplitHostPort(addr); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
				out[uint32(n)] = true
			}
		}
	}
	return out
}

func collectionName(cfg *config.Config, c *config.Collection) string {
	for name, have := range cfg.Collections {
		if have == c {
			return name
		}
	}
	return c.Name
}

func add(m map[string]map[string]struct{}, key, id string) {
	if m[key] == nil {
		m[key] = map[string]struct{}{}
	}
	m[key][id] = struct{}{}
}
