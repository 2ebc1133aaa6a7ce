package engine

import (
	"net"
	"net/netip"
	"strings"

	"github.com/docker/docker/api/types/swarm"

	"github.com/waggle-lb/waggle/watcher"
)

// service is Docker's service in our words. Replicas of a global one is left at 0: see loop.countGlobal.
func service(v swarm.Service) *watcher.Service {
	s := &watcher.Service{
		ID: v.ID, Name: v.Spec.Name, Version: v.Version.Index, CreatedAt: v.CreatedAt.UTC(),
		Labels: v.Spec.Labels, EndpointMode: string(swarm.ResolutionModeVIP),
	}
	switch m := v.Spec.Mode; {
	case m.Global != nil:
		s.Mode = watcher.Global
	case m.ReplicatedJob != nil:
		s.Mode = watcher.ReplicatedJob
		s.Replicas = deref(m.ReplicatedJob.MaxConcurrent, 1)
	case m.GlobalJob != nil:
		s.Mode = watcher.GlobalJob
	default:
		s.Mode, s.Replicas = watcher.Replicated, 1
		if m.Replicated != nil {
			s.Replicas = deref(m.Replicated.Replicas, 1)
		}
	}
	t := v.Spec.TaskTemplate
	if t.ContainerSpec != nil {
		s.ContainerLabels = t.ContainerSpec.Labels
	}
	if t.Placement != nil {
		s.Constraints = t.Placement.Constraints
	}
	networks := t.Networks
	if len(networks) == 0 {
		networks = v.Spec.Networks //nolint:staticcheck // where services of before Docker 17.06 have them
	}
	for _, n := range networks {
		s.Networks = append(s.Networks, n.Target)
	}
	if e := v.Spec.EndpointSpec; e != nil {
		if e.Mode != "" {
			s.EndpointMode = string(e.Mode)
		}
		s.Ports = ports(e.Ports, v.Endpoint.Ports)
	}
	for _, ip := range v.Endpoint.VirtualIPs {
		if a := watcher.ParseAddress(ip.Addr); a.IsValid() {
			s.VIPs = append(s.VIPs, watcher.VIP{Network: ip.NetworkID, Addr: a})
		}
	}
	return s
}

func deref(n *uint64, def uint64) uint64 {
	if n == nil {
		return def
	}
	return *n
}

// ports are the ports of a specification, with the numbers that Swarm chose where it left them open.
func ports(spec, chosen []swarm.PortConfig) (ps []watcher.Port) {
	for _, p := range spec {
		published := p.PublishedPort
		for _, c := range chosen {
			if published == 0 && c.TargetPort == p.TargetPort && c.Protocol == p.Protocol && c.PublishMode == p.PublishMode {
				published = c.PublishedPort
			}
		}
		ps = append(ps, watcher.Port{
			Protocol: protocol(string(p.Protocol)), Target: p.TargetPort, Published: published,
			HostMode: p.PublishMode == swarm.PortConfigPublishModeHost,
		})
	}
	return ps
}

func protocol(p string) string {
	if p == "" {
		return "tcp"
	}
	return strings.ToLower(p)
}

// node is Docker's node in our words. Only a node that Swarm has given up is down:
// "disconnected" looks for another manager while its tasks run, and "unknown" is
// what every node is after a change of leader.
func node(v swarm.Node) *watcher.Node {
	n := &watcher.Node{
		ID: v.ID, Hostname: v.Description.Hostname, Labels: v.Spec.Labels,
		Addr: reachable(v.Status.Addr), Down: v.Status.State == swarm.NodeStateDown,
	}
	// A manager that advertises nothing else tells where it listens.
	if !n.Addr.IsValid() && v.ManagerStatus != nil {
		host, _, err := net.SplitHostPort(v.ManagerStatus.Addr)
		if err != nil {
			host = v.ManagerStatus.Addr
		}
		n.Addr = reachable(host)
	}
	return n
}

// reachable is an address that another machine can use, else the zero Addr.
func reachable(s string) netip.Addr {
	if a := watcher.ParseAddress(s); a.IsValid() && !a.IsLoopback() {
		return a
	}
	return netip.Addr{}
}
