package translate

import (
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/waggle-lb/waggle/translate/labels"
)

// host is one host of a collection: the claims to it and what came of them.
type host struct {
	name   string
	claims []*claim // oldest first

	// Of the last build:
	plain    encoded  // of plain HTTP
	secure   encoded  // of HTTPS; often the same
	tls      hostTLS  // what it is over TLS
	clusters []string // that all of it names, each once
	problems []Problem
}

// encoded is a virtual host, and itself as a field of a route table. Without a message
// nobody has the host there.
type encoded struct {
	message  *routev3.VirtualHost
	bytes    []byte
	clusters []string        // that its routes name, sorted, each once
	secrets  []*tlsv3.Secret // that its guards need
}

func encodeHost(vh *routev3.VirtualHost) encoded {
	return encoded{message: vh, bytes: field(mustEncode(vh))}
}

// encodeRouted is encodeHost where the routes were encoded before, see virtualHost.
func encodeRouted(vh *routev3.VirtualHost, routes []byte) encoded {
	tail := hostTail
	if len(vh.ResponseHeadersToAdd) > 0 {
		tail = mustEncode(&routev3.VirtualHost{ResponseHeadersToAdd: vh.ResponseHeadersToAdd, RetryPolicy: vh.RetryPolicy})
	}
	head := appendText(nil, 1, vh.Name)
	for _, d := range vh.Domains {
		head = appendText(head, 2, d)
	}
	return encoded{message: vh, bytes: field(head, routes, tail)}
}

// hostTail is what hosts have in common, behind their routes.
var hostTail = mustEncode(&routev3.VirtualHost{RetryPolicy: standardRetries})

// insert adds a claim at the place of its age.
func (h *host) insert(c *claim) {
	i, _ := slices.BinarySearchFunc(h.claims, c, (*claim).older)
	h.claims = slices.Insert(h.claims, i, c)
}

// remove drops a claim.
func (h *host) remove(c *claim) {
	if i := slices.Index(h.claims, c); i >= 0 {
		h.claims = slices.Delete(h.claims, i, i+1)
	}
}

// virtualHost is what a host's claims come to, and its routes as fields of it, appended
// to room. Each route is checked and encoded by itself: one that Envoy would not take
// answers 503, and its neighbours stay.
func virtualHost(on side, name string, matches []match, room []byte) (vh *routev3.VirtualHost, routes []byte, clusters []string, problems []Problem) {
	vh = &routev3.VirtualHost{Name: name, Domains: domains(name), RetryPolicy: standardRetries}
	routes = room
	for _, m := range matches {
		own, names := routesOf(on, m)
		own = sparingSockets(own)
		oldest := m.claims[0].route
		next, err := appendRoutes(routes, own)
		if err != nil {
			p := oldest.problem(labels.Error, "hosts", "not built, Envoy would refuse it: "+err.Error())
			p.Value = name + m.on.String()
			problems = append(problems, p)
			bad := &routev3.Route{Name: oldest.name, Match: m.on.match(nil)}
			notBuilt.respond(bad)
			own, names = []*routev3.Route{bad}, nil
			if next, err = appendRoutes(routes, own); err != nil {
				own, next = nil, routes // not even its match can be said
			}
		}
		routes = next
		vh.Routes = append(vh.Routes, own...)
		clusters = append(clusters, names...)
		if oldest.broken || m.claims[0].closed() {
			continue
		}
		if reason := wanders(oldest.label); reason != "" && len(m.claims) > 1 {
			p := oldest.problem(labels.Warning, "sticky_sessions", reason)
			p.Value, p.Hint = name, "add hash_on, which keeps a client with one service"
			problems = append(problems, p)
		}
		for _, c := range m.claims[1:] {
			if keys := unlike(c.route.label, oldest.label); keys != "" {
				p := c.route.problem(labels.Warning, c.key(), unlikeReason(keys, oldest.svc.spec.Name))
				p.Value, p.Winner = name, oldest.svc.spec.Name
				problems = append(problems, p)
			}
		}
	}
	slices.Sort(clusters)
	return vh, routes, slices.Compact(clusters), problems
}

// appendRoutes appends routes as fields of a virtual host, if Envoy takes them all.
func appendRoutes(b []byte, routes []*routev3.Route) ([]byte, error) {
	for _, r := range routes {
		if err := r.ValidateAll(); err != nil {
			return nil, err
		}
		var err error
		if b, err = appendField(b, 3, r); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// secretsOf gives what the guards of the routes need.
func secretsOf(matches []match) []*tlsv3.Secret {
	var all []*tlsv3.Secret
	for _, m := range matches {
		if r := m.claims[0].route; !m.claims[0].closed() && !r.broken {
			all = append(all, r.secrets...)
		}
	}
	return all
}

// domains are those of a host: with the dot of the root, which some clients write.
func domains(name string) []string {
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || name == "*" {
		return []string{name}
	}
	return []string{name, name + "."}
}

// only is a host that gives one answer to everything.
func only(name string, domains []string, a answer) *routev3.VirtualHost {
	r := &routev3.Route{Name: "waggle:" + a.reason, Match: under("/")} // no service can be called like this
	a.respond(r)
	return &routev3.VirtualHost{Name: name, Domains: domains, Routes: []*routev3.Route{r}}
}

// table is the route configuration around virtual hosts: everything but them.
func table(name string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name: name,
		// The Host header may carry any port, and reaches the task as it was sent.
		IgnorePortInHostMatching: true,
		// A label may say otherwise about x-real-ip.
		MostSpecificHeaderMutationsWins: true,
		RequestHeadersToAdd: []*corev3.HeaderValueOption{
			setHeader("x-real-ip", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
		},
	}
}
