package stackfile

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/waggle-lb/waggle/watcher"
)

// services adds the services in the order of the file. Those that come in by a
// YAML merge of the section itself have no place there and follow by name.
func (s *stack) services() {
	names := s.keys("services")
	for _, name := range slices.Sorted(maps.Keys(s.project.Services)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		c, ok := s.project.Services[name]
		if !ok {
			continue // left out, and reported
		}
		full := s.full(name)
		if first, ok := s.declared[full]; ok {
			s.report(Finding{
				Severity: Error, Line: s.line("services", name),
				Reason: fmt.Sprintf("the service is declared a second time; %s declares it already, and that one counts", position(first, 0)),
				Hint:   "rename one of them, or give the files different stack names (`name:` in the file)",
			}, name)
			continue
		}
		s.declared[full] = s.document.file
		s.p.Services[full] = s.service(name, c)
	}
}

func (s *stack) service(name string, c types.ServiceConfig) *watcher.Service {
	full := s.full(name)
	svc := &watcher.Service{
		ID: full, Name: full, Order: len(s.p.Services),
		Labels: s.labels(nil), ContainerLabels: maps.Clone(map[string]string(c.Labels)),
		Mode: watcher.Replicated, Replicas: 1, EndpointMode: "vip",
		Networks: s.attachments(name, c), Ports: s.ports(name, c), Expose: s.expose(name, c),
	}
	if d := c.Deploy; d != nil {
		svc.Labels = s.labels(d.Labels)
		svc.Constraints = slices.Clone(d.Placement.Constraints)
		switch m := watcher.Mode(d.Mode); m {
		case "", watcher.Replicated, watcher.Global, watcher.ReplicatedJob, watcher.GlobalJob:
			svc.Mode = cmp.Or(m, watcher.Replicated)
		default:
			s.report(Finding{Severity: Error, Line: s.line("services", name, "deploy", "mode"), Reason: fmt.Sprintf("deploy.mode %q does not exist; the service counts as replicated", d.Mode), Hint: "use replicated, global, replicated-job or global-job"}, name)
		}
		switch {
		case d.Replicas == nil:
		case *d.Replicas < 0:
			s.report(Finding{Severity: Error, Line: s.line("services", name, "deploy", "replicas"), Reason: fmt.Sprintf("deploy.replicas is %d; one replica is assumed", *d.Replicas), Hint: "use 0 or more"}, name)
		default:
			svc.Replicas = uint64(*d.Replicas)
		}
		switch d.EndpointMode {
		case "":
		case "vip", "dnsrr":
			svc.EndpointMode = d.EndpointMode
		default:
			s.report(Finding{Severity: Error, Line: s.line("services", name, "deploy", "endpoint_mode"), Reason: fmt.Sprintf("deploy.endpoint_mode %q does not exist; the service counts as vip", d.EndpointMode), Hint: "use vip or dnsrr"}, name)
		}
	}
	for _, r := range c.Configs {
		if _, ok := s.project.Configs[r.Source]; !ok && !s.leftOut("configs", r.Source) {
			s.undeclared(name, "config", "configs", r.Source)
		}
	}
	for _, r := range c.Secrets {
		if _, ok := s.project.Secrets[r.Source]; !ok && !s.leftOut("secrets", r.Source) {
			s.undeclared(name, "secret", "secrets", r.Source)
		}
	}
	if s.plain {
		s.onPlainDocker(svc, name, c)
	}
	svc.Version = version(svc)
	return svc
}

// leftOut reports whether an element is in the file but was refused, which is reported already.
func (s *stack) leftOut(section, key string) bool {
	elements, _ := s.dict[section].(map[string]any)
	_, ok := elements[key]
	return ok
}

func (s *stack) undeclared(service, kind, section, key string) {
	s.report(Finding{
		Severity: Error, Line: s.line("services", service, section),
		Reason: fmt.Sprintf("the %s %s is not declared in this file", kind, key),
		Hint:   fmt.Sprintf("declare it under `%s:` at the top level, with `external: true` if it exists already", section),
	}, service)
}

// attachments are the IDs of the service's networks, sorted.
func (s *stack) attachments(name string, c types.ServiceConfig) (ids []string) {
	used := slices.Sorted(maps.Keys(c.Networks))
	if len(used) == 0 {
		used = []string{"default"}
	}
	for _, key := range used {
		if _, ok := s.project.Networks[key]; !ok {
			if key != "default" {
				if !s.leftOut("networks", key) {
					s.undeclared(name, "network", "networks", key)
				}
				continue
			}
			id := s.full(key)
			s.exists("network", id)
			s.p.Networks[id] = &watcher.Network{ID: id, Name: id, Labels: s.labels(nil)}
		}
		ids = append(ids, s.network(key))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (s *stack) ports(name string, c types.ServiceConfig) (ports []watcher.Port) {
	for i, p := range c.Ports {
		line := s.line("services", name, "ports", strconv.Itoa(i))
		port := watcher.Port{Protocol: strings.ToLower(cmp.Or(p.Protocol, "tcp")), Target: p.Target, HostMode: p.Mode == "host"}
		if p.Published != "" {
			first, _, _ := strings.Cut(p.Published, "-") // of a range Swarm would take one; which, nobody knows
			n, err := strconv.ParseUint(first, 10, 16)
			if err != nil {
				s.report(Finding{Severity: Error, Line: line, Reason: fmt.Sprintf("the published port %q is no port", p.Published), Hint: "use a number from 1 to 65535"}, name)
				continue
			}
			port.Published = uint32(n)
		}
		if port.Target == 0 || port.Target > 65535 {
			s.report(Finding{Severity: Error, Line: line, Reason: fmt.Sprintf("the target port %d is no port", p.Target), Hint: "use a number from 1 to 65535"}, name)
			continue
		}
		ports = append(ports, port)
	}
	return ports
}

// expose lists the TCP ports under `expose`.
func (s *stack) expose(name string, c types.ServiceConfig) (ports []uint32) {
	for _, e := range c.Expose {
		spec, protocol, _ := strings.Cut(e, "/")
		from, to, ranged := strings.Cut(spec, "-")
		first, err := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
		last := first
		if ranged && err == nil {
			last, err = strconv.ParseUint(strings.TrimSpace(to), 10, 16)
		}
		if err != nil || first == 0 || last < first {
			s.report(Finding{Severity: Error, Line: s.line("services", name, "expose"), Reason: fmt.Sprintf("expose: %q is no port", e), Hint: "use a number from 1 to 65535, or a range"}, name)
			continue
		}
		if protocol != "" && !strings.EqualFold(protocol, "tcp") {
			continue
		}
		for p := first; p <= last; p++ {
			ports = append(ports, uint32(p))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// version is a hash of what the file says of a service: files count no versions,
// and whoever caches by (ID, version) must see each change.
func version(s *watcher.Service) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q%d%q%q%q%q%d%q%v%v%q%t", s.Name, s.Order, s.Labels, s.ContainerLabels, s.Constraints, s.Mode, s.Replicas, s.Networks, s.Ports, s.Expose, s.EndpointMode, s.Plain)
	return h.Sum64()
}
