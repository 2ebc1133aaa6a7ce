package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// service is what the builder knows of one service. It is made anew whenever the
// service, the configuration or the networks change; only its endpoints, and what
// hosts say of its claims, change in place.
type service struct {
	b      *Builder // that made it
	spec   *watcher.Service
	name   string          // valid UTF-8
	coll   *collection     // nil: published nowhere
	parsed *labels.Service // nil where nothing was read
	reach  reach
	routes []*route
	// backends in the order of the routes that named them.
	backends []*backend
	// refers is what it refers to, wants the names under which it looked for that.
	refers  []*referred
	wants   []string
	named   []named       // of secrets, configs and files that it asked for
	issuers []askedIssuer // OpenID providers that it asked about
	// dated is set where it has certificates: they depend on the day, too.
	dated bool
	// problems of the service alone; those of hosts are with the hosts.
	problems []Problem
}

// route is one route of a service.
type route struct {
	svc    *service
	label  *labels.Route
	index  int
	name   string // "stack_service" or "stack_service/route"
	broken bool   // class M: answers 503 not_built
	closed bool   // class G: answers 503 guard_unavailable
	// vague, with broken: which part of its hosts it wants is not known. It then
	// answers only what no other route of the host takes.
	vague bool
	// backend is where requests go; nil where the route is broken or closed.
	backend *backend
	claims  []*claim

	// refs are the clusters beside its own that the route names whatever it does:
	// whom its guards ask.
	refs   []string
	mirror string // the cluster that gets copies of what it sends on, "" where there is none
	// secrets is what its guards need by SDS, with names of its own (see routeKey).
	secrets []*tlsv3.Secret

	// tls is what it says about TLS of its hosts.
	tls securing

	// filters is what HTTP filters do for the route, by their name; guards tells
	// routes with different guards apart.
	filters map[string]*anyMessage
	guards  string
	// request and response are what it does with headers.
	request, response headerChanges
	// shares is what it brings to filters that all routes share, metadata what they
	// must know of it.
	shares   map[string]proto.Message
	metadata map[string]*structpb.Value
}

// backend is one cluster: a port of a service with its upstream settings.
type backend struct {
	svc      *service
	name     string
	port     uint32
	settings upstream
	secret   *tlsv3.Secret // that the cluster names; nil where it names none
	found    endpoints
}

// labelOptions is what the operator of the collection says about labels.
func (c *collection) labelOptions() labels.Options {
	return labels.Options{Collection: c.name, Defaults: c.cfg.Defaults, Required: c.cfg.Required}
}

func (s *service) problem(sev labels.Severity, label, value, reason, hint string) Problem {
	p := Problem{Severity: sev, Service: s.spec.Name, Label: label, Value: value, Reason: reason, Hint: hint}
	if s.coll != nil {
		p.Collection = s.coll.name
	}
	return p
}

// problem is one about a key of the route.
func (r *route) problem(sev labels.Severity, key, reason string) Problem {
	return r.svc.problem(sev, r.key(key), "", reason, "")
}

// key is a key of the route as its author wrote it, or would write it.
func (r *route) key(key string) string { return r.label.Label(key) }

// labelOf is a service-wide key as its author wrote it, or would write it.
func labelOf(l *labels.Service, key string) string {
	if l == nil || len(l.Routes) == 0 {
		return key
	}
	r := l.Routes[0]
	if written, ok := r.Labels[key]; ok {
		return written
	}
	if r.Name != "" {
		return strings.TrimSuffix(r.LabelPrefix, r.Name+".") + key
	}
	return r.LabelPrefix + key
}

// onHostNetwork reports whether the service runs on its nodes' own network.
func (s *service) onHostNetwork(n networkNames) bool {
	return slices.ContainsFunc(s.spec.Networks, func(id string) bool { return n.name(id) == "host" })
}

// plan reads what the labels say into routes, backends and claims. It knows of no
// other service: what refers to one waits for link.
func (s *service) plan(n networkNames) {
	for i, l := range s.parsed.Routes {
		r := &route{svc: s, label: l, index: i, name: s.name, broken: l.Broken || s.parsed.Broken || s.reach.broken, vague: l.Vague, closed: l.Closed}
		if l.Name != "" {
			r.name += "/" + valid(l.Name)
		}
		r.claims = claimsOf(r)
		if len(r.claims) == 0 {
			continue
		}
		s.routes = append(s.routes, r)
		r.secure()
		if l.Passthrough {
			r.tunnels()
		}
		if r.broken || r.closed || r.answersItself() {
			continue
		}
		if r.checkDestination(); r.broken {
			continue
		}
		secured, authorities, err := r.taskTLS()
		if err != nil {
			r.lacks(err, true)
			continue
		}
		port, ok := s.portOf(r, n)
		if !ok {
			r.broken = true
			continue
		}
		r.backend = s.backendOf(r, port, secured)
		r.backend.secret = authorities
	}
	s.yield()
}

// link does what may refer to other services, all of which are planned: filters,
// mirrors, failover.
func (s *service) link() {
	for _, r := range s.routes {
		if r.broken || r.closed {
			continue
		}
		if r.switchOn(); r.closed {
			r.backend = nil
			continue
		}
		r.shapeHeaders()
		if r.backend != nil {
			r.referOn()
		}
	}
}

// portOf finds the container port of a route: what port says, else the only
// distinct TCP port under ports (or expose).
func (s *service) portOf(r *route, n networkNames) (uint32, bool) {
	port := r.label.Port
	if port == 0 {
		found, where := shownPorts(s.spec)
		switch len(found) {
		case 1:
			port = found[0]
			if where == "expose" && s.coll != nil && !s.spec.Plain {
				s.problems = append(s.problems, s.problem(labels.Warning, r.key("port"), "",
					fmt.Sprintf("port %d is only under expose, which a Swarm does not carry", port), fmt.Sprintf("%s: %d", r.key("port"), port)))
			}
		case 0:
			p := r.problem(labels.Error, "port", "no port is said, and the service publishes none")
			p.Hint = r.key("port") + ": the port that the container listens on"
			s.problems = append(s.problems, p)
			return 0, false
		default:
			p := r.problem(labels.Error, "port", fmt.Sprintf("no port is said, and the service has several under %s: %s", where, numbers(found)))
			p.Hint = fmt.Sprintf("%s: %d", r.key("port"), found[0])
			s.problems = append(s.problems, p)
			return 0, false
		}
	}
	if port == 0 || port > 65535 {
		p := r.problem(labels.Error, "port", "is not a port")
		p.Value, p.Hint = fmt.Sprint(port), "1 to 65535"
		s.problems = append(s.problems, p)
		return 0, false
	}
	if !s.reachesPort(r, port, n) {
		return 0, false
	}
	s.showsPort(r)
	return port, true
}

// shownPorts gives the distinct TCP ports that a service shows, and under which
// key of its file: those that it publishes, else those that it exposes.
func shownPorts(s *watcher.Service) (ports []uint32, where string) {
	for _, p := range s.Ports {
		if p.Protocol == "tcp" || p.Protocol == "" {
			ports = append(ports, p.Target)
		}
	}
	if where = "ports"; len(ports) == 0 {
		ports, where = slices.Clone(s.Expose), "expose"
	}
	slices.Sort(ports)
	return slices.Compact(ports), where
}

// reachesPort reports whether the backend mode can lead to the port.
func (s *service) reachesPort(r *route, port uint32, n networkNames) bool {
	switch s.reach.mode {
	case labels.HostMode:
		hostPort := slices.ContainsFunc(s.spec.Ports, func(p watcher.Port) bool {
			return p.HostMode && p.Target == port && (p.Protocol == "tcp" || p.Protocol == "")
		})
		if hostPort || s.onHostNetwork(n) {
			return true
		}
		key, value := "backend_mode", "host"
		if s.reach.hostOnly {
			key, value = "network", "bridge"
		}
		s.problems = append(s.problems, s.problem(labels.Error, labelOf(s.parsed, key), value,
			fmt.Sprintf("the service does not publish port %d with mode: host", port),
			s.toPublish(port)))
		return false
	case labels.VIPMode:
		switch {
		case s.spec.Plain:
			s.problems = append(s.problems, s.problem(labels.Error, labelOf(s.parsed, "backend_mode"), "vip",
				"a plain Docker has no virtual addresses", "write `task`"))
			return false
		case s.spec.EndpointMode == "dnsrr":
			s.problems = append(s.problems, s.problem(labels.Error, labelOf(s.parsed, "backend_mode"), "vip",
				"the service has no virtual address under endpoint_mode dnsrr", "endpoint_mode: vip, or backend_mode task"))
			return false
		}
	}
	return true
}

func numbers(n []uint32) string {
	s := make([]string, len(n))
	for i, v := range n {
		s[i] = fmt.Sprint(v)
	}
	return strings.Join(s, ", ")
}

// backendOf finds or makes the cluster of a route. The first route to a port
// gives it the plain name, further settings on the same port are named by the
// route that brought them.
func (s *service) backendOf(r *route, port uint32, secured upstreamTLS) *backend {
	name, settings := fmt.Sprintf("%s:%d", s.name, port), upstreamOf(r.label)
	settings.tls = secured
	for _, b := range s.backends {
		if b.port == port && b.settings == settings {
			return b
		}
		if b.name == name {
			name = fmt.Sprintf("%s:%d/%s", s.name, port, r.label.Name)
		}
	}
	b := &backend{svc: s, name: name, port: port, settings: settings}
	s.backends = append(s.backends, b)
	return b
}

// replicas is how many tasks are wanted, as a share among those with the same match.
func replicas(s *watcher.Service) uint64 {
	n := s.Replicas
	if n == 0 && s.Mode == watcher.Global {
		n = 1 // on how many nodes is not known
	}
	return min(n, maxReplicas)
}

// maxReplicas bounds what a file may claim; Swarm itself would not get there.
const maxReplicas = 1_000_000

func sortProblems(ps []Problem) []Problem {
	slices.SortFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Collection, b.Collection), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Label, b.Label),
			cmp.Compare(a.Value, b.Value), cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Reason, b.Reason),
			cmp.Compare(a.Winner, b.Winner), cmp.Compare(a.Hint, b.Hint),
		)
	})
	return slices.Compact(ps)
}
