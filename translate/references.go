package translate

import (
	"fmt"
	"slices"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// Labels name other services: to mirror to, to fail over to, to ask who may pass.
// Such a service may have no route of its own; it is reached by the same rules as
// any other. Whoever refers to a service is built again when one of that name
// comes, changes or goes, and not when its tasks do.

// referred is a cluster that is there because services refer to it: none of the
// routes of its own service has one like it.
type referred struct {
	backend  *backend
	users    map[string]struct{} // IDs of the services that refer to it
	problems []Problem           // why it cannot be reached well
}

// refer finds the cluster of another service of the same collection: of the port,
// or (0) of its own port label, or of the only port that it shows. The name is
// looked for in the service's own stack first, then as it is written. protocol
// is what the other side must be spoken to in; "" is what its own labels say.
//
// What is returned may be kept by its name alone: it is replaced when its service
// is built again. Whoever puts the name into an Envoy route adds it to route.refs,
// so that the cluster is served with the table. The error is of errorAt.
func (s *service) refer(key, name string, port uint32, protocol string) (*backend, error) {
	spec := s.lookUp(name)
	if spec == nil {
		return nil, errorAt(key, "the name of a service of collection "+s.coll.name, "there is no service %q", name)
	}
	b, set := s.b, s.b.cache.Set(s.b.cfg.LabelPrefixes, spec)
	if err := nameLiteral(spec.Name); err != nil {
		return nil, errorAt(key, "the name of another service", "service %q has no name that can be shown", name)
	}
	switch cfg, told := place(b.cfg, spec, set); {
	case spec.Mode.Job():
		return nil, errorAt(key, "the name of a service that keeps running", "service %s is a job, which runs to its end", spec.Name)
	case cfg == nil && len(told) > 0 && told[0].Severity == labels.Error:
		return nil, errorAt(key, "label it "+clusterKey+": "+s.coll.name, "service %s is in no collection: %s", spec.Name, told[0].Reason)
	case cfg != nil && cfg != s.coll.cfg:
		return nil, errorAt(key, "label it "+clusterKey+": "+s.coll.name, "service %s belongs to collection %s, not to this one", spec.Name, collectionName(b.cfg, cfg))
	}

	t := b.services[spec.ID]
	own := t != nil && t.coll == s.coll && len(t.routes) > 0
	if !own {
		t = &service{b: b, spec: spec, name: spec.Name, coll: s.coll}
		t.parsed = b.cache.Service(b.cfg.LabelPrefixes, spec, s.coll.labelOptions())
	}
	if port == 0 {
		if port = portReferredTo(t, set, s.coll.labelOptions()); port == 0 {
			return nil, errorAt(key, fmt.Sprintf("give service %s the label %s: the port that it listens on", spec.Name, labelOf(t.parsed, "port")),
				"service %s does not say which port is meant", spec.Name)
		}
	}
	for _, be := range t.backends {
		if be.port == port && (protocol == "" || be.settings.protocol == protocol) {
			return be, nil
		}
	}
	secured, authorities, err := t.spokenTo(key, set, s.coll.labelOptions(), port)
	if err != nil {
		return nil, err
	}
	cluster := fmt.Sprintf("%s:%d", spec.Name, port)
	settings := upstreamOf(&labels.Route{Destination: labels.Destination{SSLBackend: secured.on}})
	settings.tls = secured
	if protocol != "" {
		settings.protocol = protocol
		cluster += "+" + protocol // no route of the service is called like this
	}
	be, err := s.referTo(key, t, own, cluster, port, settings)
	if err == nil {
		be.secret = authorities
	}
	return be, err
}

// referTo finds or makes a cluster that no route of its service has.
func (s *service) referTo(key string, t *service, own bool, name string, port uint32, settings upstream) (*backend, error) {
	b := s.b
	for r := range b.referred[t.spec.ID] {
		if r.backend.name == name && r.backend.svc.coll == s.coll {
			s.uses(r)
			return r.backend, nil
		}
	}
	r := &referred{users: map[string]struct{}{}}
	if !own {
		t.reach, r.problems = reachOf(b.picture, b.networks, s.coll.cfg, s.coll.fleet, t)
	}
	if t.reach.broken || t.parsed.Broken {
		return nil, errorAt(key, "look at the problems of "+t.name, "service %s cannot be reached: its labels are wrong", t.name)
	}
	r.backend = &backend{svc: t, name: name, port: port, settings: settings}
	r.backend.found = endpointsOf(b.picture, b.networks, b.ownPorts, t, port)
	if b.referred[t.spec.ID] == nil {
		b.referred[t.spec.ID] = map[*referred]struct{}{}
	}
	b.referred[t.spec.ID][r] = struct{}{}
	s.coll.backends[name] = r.backend
	s.coll.touch(name, true)
	s.uses(r)
	return r.backend, nil
}

// referOn finds the services that the route's own labels name. One that is
// missing costs the label's effect.
func (r *route) referOn() {
	if l := r.label; l.IPHash || l.HashOn.What == "ip" {
		key := "hash_on"
		if l.IPHash {
			key = "ip_hash"
		}
		if err := r.seesClients(key); err != nil {
			r.lacks(err, false)
		}
	}
	if m := r.label.Mirror; m.Service != "" && m.Percent > 0 {
		if be, err := r.svc.refer("mirror", m.Service, 0, ""); err != nil {
			r.lacks(err, false)
		} else {
			r.mirror = be.name
		}
	}
	if name := r.label.Failover; name != "" {
		be, err := r.svc.refer("failover", name, 0, "")
		if err == nil && be.svc.spec == r.svc.spec {
			err = errorAt("failover", "the name of another service", "a service cannot stand in for itself")
		}
		if err == nil {
			err = r.backend.settings.tls.suits(be)
		}
		if err != nil {
			r.lacks(err, false)
		} else {
			r.backend.settings.fallback = be.name
		}
	}
}

func (s *service) uses(r *referred) {
	if _, already := r.users[s.spec.ID]; !already {
		r.users[s.spec.ID] = struct{}{}
		s.refers = append(s.refers, r)
	}
}

// lookUp finds the service that a name means, and remembers that it was asked for.
func (s *service) lookUp(name string) *watcher.Service {
	names := []string{name}
	if stack := s.spec.Stack(); stack != "" {
		names = []string{stack + "_" + name, name}
	}
	var found *watcher.Service
	for _, n := range names {
		s.wants = append(s.wants, n)
		add(s.b.wanted, n, s.spec.ID)
		if found == nil {
			found = s.b.firstOfName(n)
		}
	}
	return found
}

// portReferredTo is the port of a service to which a label refers without saying
// one: its own label's, else the only one that it shows; 0 where there is none.
func portReferredTo(t *service, set *labels.Set, o labels.Options) uint32 {
	if len(t.backends) > 0 {
		return t.backends[0].port
	}
	if port := labels.PortOf(set, o); port != 0 {
		return port
	}
	if found, _ := shownPorts(t.spec); len(found) == 1 && found[0] <= 65535 {
		return found[0]
	}
	return 0
}

// unrefer forgets what a service refers to.
func (b *Builder) unrefer(s *service) {
	for _, n := range s.wants {
		if delete(b.wanted[n], s.spec.ID); len(b.wanted[n]) == 0 {
			delete(b.wanted, n)
		}
	}
	for _, r := range s.refers {
		if delete(r.users, s.spec.ID); len(r.users) > 0 {
			continue
		}
		be := r.backend
		if s.coll.backends[be.name] == be {
			delete(s.coll.backends, be.name)
		}
		s.coll.touch(be.name, true)
		id := be.svc.spec.ID
		if delete(b.referred[id], r); len(b.referred[id]) == 0 {
			delete(b.referred, id)
		}
	}
}

// refreshReferred finds the endpoints of a service again where others refer to it.
func (b *Builder) refreshReferred(s *service) {
	for r := range b.referred[s.spec.ID] {
		be := r.backend
		was := be.found
		be.found = endpointsOf(b.picture, b.networks, b.ownPorts, be.svc, be.port)
		be.svc.coll.touch(be.name, false)
		if !slices.Equal(was.problems, be.found.problems) {
			b.problemsStale = true
		}
	}
	for id := range b.wanted[s.spec.Name] {
		for _, be := range b.services[id].backends {
			if be.settings.fallback != "" { // to this service, or it costs a comparison
				be.svc.coll.touch(be.name, false)
			}
		}
	}
}
