package compose

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"github.com/waggle-lb/waggle/watcher"
)

// Compose's own labels. Both generations of it set them.
const (
	projectLabel = "com.docker.compose.project"
	serviceLabel = "com.docker.compose.service"
	numberLabel  = "com.docker.compose.container-number"
	oneoffLabel  = "com.docker.compose.oneoff"
)

// picture is what a list says, but for containers that events know to be leaving or
// to have ended since.
func picture(inv *inventory, leaving, ended map[string]time.Time) *watcher.Picture {
	p := &watcher.Picture{
		Services: map[string]*watcher.Service{}, Tasks: map[string][]*watcher.Task{},
		Nodes:    map[string]*watcher.Node{inv.node.ID: &inv.node},
		Networks: make(map[string]*watcher.Network, len(inv.networks)),
		Configs:  map[string]*watcher.Config{}, Secrets: map[string]*watcher.Secret{},
	}
	byName := make(map[string]string, len(inv.networks))
	for id, n := range inv.networks {
		p.Networks[id] = &watcher.Network{ID: id, Name: n.Name, Ingress: n.Ingress, Labels: n.Labels}
		byName[n.Name] = id
	}
	a := attachments{byName: byName, byID: make(map[string]container.Summary, len(inv.containers))}
	services := map[string][]container.Summary{}
	for _, c := range inv.containers {
		a.byID[c.ID] = c
		id := identityOf(c).id
		services[id] = append(services[id], c)
	}
	for id, containers := range services {
		slices.SortFunc(containers, inv.older)
		p.Services[id] = service(containers, inv, a)
		var tasks []*watcher.Task
		for _, c := range containers {
			t := task(c, id, inv.node, a)
			if _, over := ended[c.ID]; over || t.State > watcher.Running {
				continue
			}
			if _, going := leaving[c.ID]; going {
				t.Desired = watcher.Shutdown
			}
			if t.Desired == watcher.Running || t.Leaving() {
				tasks = append(tasks, t)
			}
		}
		if len(tasks) > 0 {
			slices.SortFunc(tasks, func(a, b *watcher.Task) int { return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.ID, b.ID)) })
			p.Tasks[id] = tasks
		}
	}
	return p
}

func (inv *inventory) older(a, b container.Summary) int {
	return cmp.Or(inv.created(a).Compare(inv.created(b)), cmp.Compare(a.ID, b.ID))
}

// created is when a container was made. A list tells the second, which several
// services that came up together share.
func (inv *inventory) created(c container.Summary) time.Time {
	if f := inv.fixed[c.ID]; f != nil && !f.created.IsZero() {
		return f.created
	}
	return time.Unix(c.Created, 0).UTC()
}

// identity says whose a container is.
type identity struct {
	id, name, stack string
}

// identityOf keeps services apart whose full names are the same: "a_b" of "c" and
// "a" of "b_c" have IDs of their own, and translation tells the younger one.
func identityOf(c container.Summary) identity {
	project, service := c.Labels[projectLabel], c.Labels[serviceLabel]
	if project != "" && service != "" {
		return identity{project + "/" + service, project + "_" + service, project}
	}
	name := short(c.ID)
	for _, n := range c.Names {
		// Names with a second slash are what other containers call it (links).
		if n = strings.TrimPrefix(n, "/"); n != "" && !strings.Contains(n, "/") {
			name = n
			break
		}
	}
	return identity{"/" + name, name, ""}
}

// service is what its containers say, oldest first: the newest says what is wanted,
// because Compose makes a new one for each change; the oldest says how old it is.
func service(containers []container.Summary, inv *inventory, a attachments) *watcher.Service {
	newest := containers[len(containers)-1]
	is, fixed := identityOf(newest), inv.fixed[newest.ID]
	s := &watcher.Service{
		ID: is.id, Name: is.name, CreatedAt: inv.created(containers[0]),
		Labels: maps.Clone(newest.Labels),
		Mode:   watcher.Replicated, EndpointMode: "dnsrr", // there are no virtual addresses
		Plain:    true,
		Networks: a.networks(newest),
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	delete(s.Labels, watcher.StackLabel) // the project is the stack, and nothing else
	if is.stack != "" {
		s.Labels[watcher.StackLabel] = is.stack
	}
	if fixed != nil {
		s.Ports, s.Expose = fixed.ports, fixed.expose
	}
	for _, c := range containers {
		if wanted(c) {
			s.Replicas++
		}
	}
	s.Version = version(s)
	return s
}

// version is a hash of what the containers say of a service: Docker counts none,
// and whoever caches by (ID, version) must see each change.
func version(s *watcher.Service) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q%d%q%d%q%v%v", s.Name, s.CreatedAt.UnixNano(), s.Labels, s.Replicas, s.Networks, s.Ports, s.Expose)
	return h.Sum64()
}

func task(c container.Summary, service string, node watcher.Node, a attachments) *watcher.Task {
	t := &watcher.Task{
		ID: c.ID, ServiceID: service, NodeID: node.ID, Slot: 1,
		State: state(c), Desired: watcher.Running,
		Addresses: a.addresses(c), HostNetwork: a.host(c).HostConfig.NetworkMode == network.NetworkHost,
	}
	if n, err := strconv.Atoi(c.Labels[numberLabel]); err == nil && n > 0 {
		t.Slot = n
	}
	for _, p := range c.Ports {
		if p.PublicPort == 0 || !reachable(p.IP, node) {
			continue
		}
		h := watcher.HostPort{Protocol: strings.ToLower(p.Type), Target: uint32(p.PrivatePort), Published: uint32(p.PublicPort)}
		if !slices.Contains(t.Ports, h) { // once for IPv4, once for IPv6
			t.Ports = append(t.Ports, h)
		}
	}
	slices.SortFunc(t.Ports, func(a, b watcher.HostPort) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Published, b.Published))
	})
	return t
}

// reachable reports whether a port published at this address of the machine is
// reached at the node's: those on loopback are for the machine alone.
func reachable(ip string, node watcher.Node) bool {
	a, err := netip.ParseAddr(ip)
	return ip == "" || err == nil && (a.IsUnspecified() || a.Unmap() == node.Addr)
}

func state(c container.Summary) watcher.TaskState {
	switch c.State {
	case container.StateRunning:
		if healthy(c) {
			return watcher.Running
		}
		return watcher.Starting
	case container.StateCreated:
		return watcher.ReadyToGo
	case container.StateRestarting, container.StatePaused:
		return watcher.Starting
	}
	return watcher.Complete
}

// healthy reads the end of the status, the only place where a list tells of health
// checks: "Up 5 seconds (health: starting)", "Up 2 hours (unhealthy)".
func healthy(c container.Summary) bool {
	return !strings.HasSuffix(c.Status, "(unhealthy)") && !strings.HasSuffix(c.Status, "(health: starting)")
}

// running reports whether the container has a process.
func running(c container.Summary) bool {
	return c.State == container.StateRunning || c.State == container.StatePaused
}

// wanted reports whether the container runs or is about to.
func wanted(c container.Summary) bool { return state(c) <= watcher.Running }

// attachments finds the networks and addresses of containers.
type attachments struct {
	byName map[string]string // IDs of networks
	byID   map[string]container.Summary
}

// host is the container whose network c has: its own, or (network_mode:
// service:NAME) another's.
func (a attachments) host(c container.Summary) container.Summary {
	if id, ok := strings.CutPrefix(c.HostConfig.NetworkMode, "container:"); ok {
		if other, ok := a.byID[id]; ok {
			return other
		}
	}
	return c
}

// networks are the IDs of the networks a container is, or will be, attached to, sorted.
func (a attachments) networks(c container.Summary) (ids []string) {
	for _, at := range a.of(c) {
		ids = append(ids, at.network)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (a attachments) addresses(c container.Summary) (addresses []watcher.Address) {
	for _, at := range a.of(c) {
		ip := address(at.settings.IPAddress)
		if !ip.IsValid() {
			ip = address(at.settings.GlobalIPv6Address)
		}
		if ip.IsValid() {
			addresses = append(addresses, watcher.Address{Network: at.network, Addr: ip})
		}
	}
	return addresses
}

type attachment struct {
	network  string // ID
	settings *network.EndpointSettings
}

func (a attachments) of(c container.Summary) (all []attachment) {
	c = a.host(c)
	if c.NetworkSettings == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		e := c.NetworkSettings.Networks[name]
		if e == nil {
			continue
		}
		id := e.NetworkID
		if id == "" { // before it first starts
			id = a.byName[name]
		}
		if id != "" {
			all = append(all, attachment{id, e})
		}
	}
	return all
}
