package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// MetadataKey is where endpoints say which task they are.
const MetadataKey = "waggle"

// endpoint is one address of a service, before it is Envoy's.
type endpoint struct {
	addr     netip.AddrPort
	node     string // ID, or "" where there is none
	nodeName string
	slot     int
	task     string
	priority uint32
}

// endpoints are the addresses of one backend, and whether any of them is of a
// task that is there to stay.
type endpoints struct {
	list     []endpoint
	ready    bool
	problems []Problem
}

// endpointsOf finds the addresses of one port of a service.
//
// A task counts while it runs and is wanted. One that Swarm wants gone leaves at
// once: for 2–3 s it still answers what it has. Tasks of a node that is down are
// used only where no other is left, and so are leaving ones.
func endpointsOf(p *watcher.Picture, n networkNames, own map[uint32]bool, svc *service, port uint32) endpoints {
	if svc.reach.broken {
		return endpoints{}
	}
	a := addresser{picture: p, networks: n, own: own, svc: svc, port: port}
	if p.Static {
		return a.static()
	}
	var ready, readyDown, leaving, leavingDown []*watcher.Task
	for _, t := range p.Tasks[svc.spec.ID] {
		node := p.Nodes[t.NodeID]
		down := node != nil && node.Down
		switch {
		case t.Ready() && !down:
			ready = append(ready, t)
		case t.Ready():
			readyDown = append(readyDown, t)
		case t.Leaving() && !down:
			leaving = append(leaving, t)
		case t.Leaving():
			leavingDown = append(leavingDown, t)
		}
	}
	if svc.reach.mode == labels.VIPMode {
		return a.vip(len(ready) > 0, len(readyDown)+len(leaving) > 0)
	}

	first, second := a.tasks(ready), a.tasks(readyDown)
	out := endpoints{ready: len(first) > 0}
	if len(first) == 0 {
		first = a.tasks(leaving)
	}
	if len(first) == 0 {
		first, second = second, nil
	}
	if len(first) == 0 {
		first = a.tasks(leavingDown)
	}
	for i := range second {
		second[i].priority = 1
	}
	out.list = distinct(append(first, second...))
	out.problems = a.problems
	if len(out.list) == 0 && len(ready) > 0 && len(out.problems) == 0 {
		out.problems = append(out.problems, a.noCommonNetwork())
	}
	return out
}

// distinct drops what would be the same address twice (Envoy counts it once).
func distinct(list []endpoint) []endpoint {
	seen := make(map[netip.AddrPort]bool, len(list))
	return slices.DeleteFunc(list, func(e endpoint) bool {
		if seen[e.addr] {
			return true
		}
		seen[e.addr] = true
		return false
	})
}

// addresser finds addresses for one port of one service.
type addresser struct {
	picture  *watcher.Picture
	networks networkNames
	own      map[uint32]bool // ports of the control plane itself
	svc      *service
	port     uint32
	problems []Problem
}

func (a *addresser) problem(sev labels.Severity, key, value, reason, hint string) Problem {
	return a.svc.problem(sev, labelOf(a.svc.parsed, key), value, reason, hint)
}

// noCommonNetwork is the problem of a service whose tasks no proxy can reach.
func (a *addresser) noCommonNetwork() Problem {
	r := a.svc.reach
	switch {
	case r.mode == labels.HostMode:
		return a.problem(labels.Error, "port", fmt.Sprint(a.port), fmt.Sprintf("no task has port %d published on a node whose address is known", a.port), a.svc.toPublish(a.port))
	case r.any:
		return a.problem(labels.Error, "network", "", "no task has an address on a network (ingress does not count)", a.svc.toJoin()+"; or publish the port: "+a.svc.toPublish(a.port))
	case len(r.networks) == 0 && a.picture.Static: // what exists beside the file is not known
		missing := a.networks.missing(a.svc.coll.cfg)
		return a.problem(labels.Error, "network", "", "no task has an address on a network of the proxies: "+strings.Join(missing, ", "), a.svc.toJoin(missing...)+"; or publish the port: "+a.svc.toPublish(a.port))
	case len(r.networks) == 0:
		return a.problem(labels.Error, "network", "", "no task has an address on a network of the proxies: there is none called "+strings.Join(a.networks.missing(a.svc.coll.cfg), ", "),
			"create it, or correct `networks` of the collection")
	default:
		return a.problem(labels.Error, "network", "", "no task has an address on a network of the proxies: "+a.networks.names(r.networks), a.svc.toJoin(a.networks.name(r.networks[0]))+"; or publish the port: "+a.svc.toPublish(a.port))
	}
}

func (a *addresser) tasks(list []*watcher.Task) []endpoint {
	out := make([]endpoint, 0, len(list))
	for _, t := range list {
		addr, ok := a.task(t)
		if !ok {
			continue
		}
		e := endpoint{addr: addr, slot: t.Slot, task: t.ID, node: t.NodeID, nodeName: t.NodeID}
		if node := a.picture.Nodes[t.NodeID]; node != nil && node.Hostname != "" {
			e.nodeName = node.Hostname
		}
		out = append(out, e)
	}
	return out
}

// task finds the one address of a task.
func (a *addresser) task(t *watcher.Task) (netip.AddrPort, bool) {
	if a.picture.Loopback { // the lab: as if published on the node
		if addr, ok := a.onNode(t); ok {
			return addr, true
		}
	}
	if a.svc.reach.mode == labels.HostMode {
		return a.onNode(t)
	}
	on := make([]string, 0, len(t.Addresses))
	for _, ad := range t.Addresses {
		on = append(on, ad.Network)
	}
	candidates := a.svc.reach.candidates(a.networks, on)
	if a.picture.Loopback {
		candidates = on
	}
	common := false
	for _, id := range candidates {
		for _, ad := range t.Addresses {
			if ad.Network != id {
				continue
			}
			common = true
			if a.allowed(ad.Addr) {
				return netip.AddrPortFrom(ad.Addr.Unmap(), uint16(a.port)), true
			}
		}
	}
	if common {
		return netip.AddrPort{}, false
	}
	return a.onNode(t) // only where there is no common network
}

// onNode is a task's address at its node: the port really published there, or
// the container's own where the task is on the node's network.
func (a *addresser) onNode(t *watcher.Task) (netip.AddrPort, bool) {
	port := uint32(0)
	for _, hp := range t.Ports {
		if hp.Target == a.port && hp.Protocol == "tcp" && hp.Published > 0 && hp.Published <= 65535 {
			port = hp.Published
			break
		}
	}
	if port == 0 && t.HostNetwork {
		if a.own[a.port] {
			a.add(a.problem(labels.Error, "port", fmt.Sprint(a.port), "this is a port of the control plane on the node's own network", "let one of the two listen on another port"))
			return netip.AddrPort{}, false
		}
		port = a.port
	}
	if port == 0 {
		return netip.AddrPort{}, false
	}
	node := a.picture.Nodes[t.NodeID]
	if node == nil || !node.Addr.IsValid() {
		a.add(a.problem(labels.Error, "backend_mode", "", fmt.Sprintf("no address is known of node %s, where the task has its port", t.NodeID), "advertise an address that the proxies can reach"))
		return netip.AddrPort{}, false
	}
	if !a.allowed(node.Addr) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(node.Addr.Unmap(), uint16(port)), true
}

// vip is the service's virtual address: one endpoint for all tasks.
func (a *addresser) vip(ready, some bool) endpoints {
	addr, ok := a.vipAddress()
	switch {
	case !ok:
		if len(a.problems) == 0 {
			a.add(a.problem(labels.Error, "backend_mode", "vip", "the service has no virtual address on a network of the proxies", "attach it to one of them"))
		}
		return endpoints{problems: a.problems}
	case !ready && !some:
		return endpoints{problems: a.problems}
	}
	return endpoints{list: []endpoint{{addr: addr, task: a.svc.spec.Name}}, ready: ready, problems: a.problems}
}

func (a *addresser) vipAddress() (netip.AddrPort, bool) {
	on := make([]string, 0, len(a.svc.spec.VIPs))
	for _, v := range a.svc.spec.VIPs {
		on = append(on, v.Network)
	}
	for _, id := range a.svc.reach.candidates(a.networks, on) {
		for _, v := range a.svc.spec.VIPs {
			if v.Network == id && a.allowed(v.Addr) {
				return netip.AddrPortFrom(v.Addr.Unmap(), uint16(a.port)), true
			}
		}
	}
	return netip.AddrPort{}, false
}

// static draws endpoints for a service that was only read from a file: one per
// slot, 192.0.2.<slot>.
func (a *addresser) static() endpoints {
	s, r := a.svc.spec, a.svc.reach
	port := a.port
	switch {
	case r.mode == labels.HostMode:
		port = a.staticHostPort()
	case len(s.Networks) > 0 && !intersects(r.candidates(a.networks, s.Networks), s.Networks):
		if port = a.staticHostPort(); port == 0 {
			return endpoints{problems: []Problem{a.noCommonNetwork()}}
		}
	}
	if port == 0 {
		return endpoints{}
	}
	n := min(replicas(s), 254)
	if r.mode == labels.VIPMode {
		n = min(n, 1)
	}
	out := endpoints{ready: n > 0}
	for slot := 1; slot <= int(n); slot++ {
		out.list = append(out.list, endpoint{
			addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(slot)}), uint16(port)),
			slot: slot,
			task: fmt.Sprintf("%s.%d", s.Name, slot),
		})
	}
	return out
}

func (a *addresser) staticHostPort() uint32 {
	for _, p := range a.svc.spec.Ports {
		if p.HostMode && p.Protocol == "tcp" && p.Target == a.port {
			if p.Published > 0 && p.Published <= 65535 {
				return p.Published
			}
			return p.Target // Swarm chooses; the file cannot know
		}
	}
	if a.svc.onHostNetwork(a.networks) {
		return a.port
	}
	return 0
}

func (a *addresser) add(p Problem) {
	if !slices.Contains(a.problems, p) {
		a.problems = append(a.problems, p)
	}
}

// allowed refuses addresses at which the proxy would find itself, its machine's
// metadata service or nobody in particular.
func (a *addresser) allowed(addr netip.Addr) bool {
	reason := refused(addr, a.picture.Loopback)
	if reason == "" {
		return true
	}
	a.add(a.problem(labels.Error, "network", addr.String(), "a task's address is refused: "+reason, a.svc.toJoin()))
	return false
}

// refused says why an address may not be an endpoint, or "".
func refused(addr netip.Addr, loopback bool) string {
	addr = addr.Unmap()
	switch {
	case !addr.IsValid():
		return "it is not an address"
	case addr.Zone() != "":
		return "it belongs to one machine's interface"
	case addr.IsUnspecified():
		return "it is unspecified"
	case addr.IsLoopback():
		if loopback {
			return ""
		}
		return "it is a loopback address"
	case addr.IsLinkLocalUnicast(), addr.IsLinkLocalMulticast(), addr.IsInterfaceLocalMulticast():
		return "it is link-local" // and with it 169.254.169.254
	case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "it is a multicast address"
	case slices.Contains(metadataServices, addr):
		return "it is a cloud's metadata service"
	case addr.Is4() && addr.As4()[0] == 0:
		return "it is of this network only"
	}
	return ""
}

// metadataServices are those of clouds that are not link-local.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("192.0.0.192"),
}

// endpoints are those of a backend and, for when none of them is healthy, those
// of the service that stands in for it. They are priorities of one cluster, not
// clusters of an aggregate: then a session's cookie, retries and the ejection of
// the very last task work across both, and nothing waits when either has none.
func (c *collection) endpoints(be *backend) []endpoint {
	instead := c.backends[be.settings.fallback]
	if instead == nil {
		return be.found.list
	}
	var list []endpoint
	if be.found.ready || !instead.found.ready {
		list = slices.Clone(be.found.list)
	} // else a task that leaves need not hold out to its end
	for _, e := range instead.found.list {
		e.priority += StandInPriority
		list = append(list, e)
	}
	return distinct(list)
}

// StandInPriority comes behind a service's own tasks (0) and those of its nodes that are down (1).
const StandInPriority = 2
