package stackfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/waggle-lb/waggle/watcher"
)

// assembly puts the stacks of several files together.
type assembly struct {
	stack    string // option: the name of every stack
	p        *watcher.Picture
	findings []placed
	declared map[string]string // service's full name → file that declared it first
	assumed  map[string]placed // external objects by kind and name, unless some file declares them
	data     []string          // further files that were read
}

// placed is a finding with the number of its file, for the order of the report.
type placed struct {
	Finding
	file int
}

func newAssembly(stack string) *assembly {
	return &assembly{
		stack: stack,
		p: &watcher.Picture{
			Static:   true,
			Services: map[string]*watcher.Service{},
			Tasks:    map[string][]*watcher.Task{},
			Nodes:    map[string]*watcher.Node{},
			Networks: map[string]*watcher.Network{},
			Configs:  map[string]*watcher.Config{},
			Secrets:  map[string]*watcher.Secret{},
		},
		declared: map[string]string{},
		assumed:  map[string]placed{},
	}
}

// picture is the result, and the findings by file, line and service.
func (a *assembly) picture() (*watcher.Picture, []Finding) {
	all := slices.Concat(a.findings, slices.Collect(maps.Values(a.assumed)))
	slices.SortStableFunc(all, func(x, y placed) int {
		return cmp.Or(cmp.Compare(x.file, y.file), cmp.Compare(x.Line, y.Line), cmp.Compare(x.Service, y.Service), cmp.Compare(x.Reason, y.Reason))
	})
	var fs []Finding
	for _, f := range all {
		if !slices.Contains(fs, f.Finding) {
			fs = append(fs, f.Finding)
		}
	}
	return a.p, fs
}

// stack is one file on its way into the assembly.
type stack struct {
	*assembly
	*document
	number  int    // of the file
	name    string // of the stack
	env     map[string]string
	project *types.Project
}

// file adds one stack file.
func (a *assembly) file(ctx context.Context, number int, name string, content []byte, env map[string]string) error {
	d, err := parse(name, content)
	if err != nil {
		return err
	}
	s := &stack{assembly: a, document: d, number: number, env: env}
	own, _ := d.dict["name"].(string)
	if own, err = interpolate(own, env); err != nil {
		s.report(Finding{Severity: Error, Line: d.line("name"), Reason: "name: " + err.Error(), Hint: "write the stack's name out, or give it with --stack"}, "")
	}
	s.name = stackName(a.stack, own, name)

	dir := "."
	if name != "-" {
		dir = filepath.Dir(name)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return &FileError{File: name, Reason: "has no directory to take paths from: " + err.Error(), Hint: "change to a directory that exists", Err: err}
	}
	if s.project, err = d.project(ctx, dir, env, s.report); err != nil {
		return err
	}
	s.notes()
	s.networks()
	s.configs()
	s.secrets()
	s.services()
	return nil
}

// report adds a finding of this file; service is the name in the file.
func (s *stack) report(f Finding, service string) {
	f.File = s.document.file
	if service != "" {
		f.Service = s.full(service)
	}
	s.findings = append(s.findings, placed{f, s.number})
}

// full is the name that something of this stack has in the Swarm.
func (s *stack) full(name string) string { return s.name + "_" + name }

// notes reports what the file says that a Swarm does not do, where routing depends on it.
func (s *stack) notes() {
	s.unset(s.env, func(name string, line int) {
		s.report(Finding{Severity: Warning, Line: line, Reason: fmt.Sprintf("the variable %s is not set and counts as empty", name), Hint: "set it in the environment, or write a default: ${" + name + ":-value}"}, "")
	})
	if s.more {
		s.report(Finding{Severity: Warning, Reason: "only the first YAML document of the file is read", Hint: "put the others into files of their own"}, "")
	}
	if s.dict["include"] != nil {
		s.report(Finding{Severity: Error, Line: s.line("include"), Reason: "a Swarm does not know `include`; what it names is not read", Hint: "name the files themselves, each with -f"}, "")
	}
	services, _ := s.dict["services"].(map[string]any)
	if len(services) == 0 {
		s.report(Finding{Severity: Warning, Line: s.line("services"), Reason: "the file has no services", Hint: "add them under `services:`"}, "")
	}
	for name, v := range services {
		m, _ := v.(map[string]any)
		for _, n := range []struct {
			key, reason, hint string
			severity          Severity
		}{
			{"extends", "a Swarm does not know `extends`; what it names is not read", "write the service out, or use YAML anchors (<<: *base)", Error},
			{"profiles", "a Swarm does not know `profiles`: the service is deployed always", "leave them out, or keep the service in a file of its own", Warning},
			{"scale", "a Swarm ignores `scale`", "use deploy.replicas", Warning},
			{"network_mode", "a Swarm ignores `network_mode`", "use networks", Warning},
			{"label_file", "a Swarm does not know `label_file`; its labels are not read", "write the labels into deploy.labels", Error},
		} {
			if m[n.key] != nil {
				s.report(Finding{Severity: n.severity, Line: s.line("services", name, n.key), Reason: n.reason, Hint: n.hint}, name)
			}
		}
	}
}

func (s *stack) networks() {
	for key, n := range s.project.Networks {
		id := s.network(key)
		if bool(n.External) {
			s.assume("network", key, id, "networks")
			if s.p.Networks[id] == nil {
				s.p.Networks[id] = &watcher.Network{ID: id, Name: id, Ingress: id == "ingress"}
			}
			continue
		}
		s.exists("network", id)
		s.p.Networks[id] = &watcher.Network{ID: id, Name: id, Labels: s.labels(n.Labels)}
	}
}

// network is the real name of one of the file's networks; it is its ID too.
func (s *stack) network(key string) string {
	n := s.project.Networks[key]
	switch {
	case n.Name != "":
		return n.Name
	case bool(n.External):
		return key
	}
	return s.full(key)
}

// object is the real name of one of the file's configs or secrets.
func (s *stack) object(key string, o types.FileObjectConfig) string {
	switch {
	case o.Name != "":
		return o.Name
	case bool(o.External):
		return key
	}
	return s.full(key)
}

func (s *stack) configs() {
	for key, c := range s.project.Configs {
		o := types.FileObjectConfig(c)
		name := s.object(key, o)
		if bool(o.External) {
			s.assume("config", key, name, "configs")
			if s.p.Configs[name] == nil {
				s.p.Configs[name] = &watcher.Config{ID: name, Name: name}
			}
			continue
		}
		if data, ok := s.content("config", "configs", key, o); ok {
			s.exists("config", name)
			s.p.Configs[name] = &watcher.Config{ID: name, Name: name, Labels: s.labels(o.Labels), Data: data}
		}
	}
}

func (s *stack) secrets() {
	for key, c := range s.project.Secrets {
		o := types.FileObjectConfig(c)
		name := s.object(key, o)
		switch {
		case bool(o.External), o.Driver != "":
			s.assume("secret", key, name, "secrets")
			if s.p.Secrets[name] != nil {
				continue
			}
		default:
			// A secret's file is looked for and not read: pictures never hold a secret's data.
			if !s.there("secret", "secrets", key, o) {
				continue
			}
			s.exists("secret", name)
		}
		s.p.Secrets[name] = &watcher.Secret{ID: name, Name: name, Labels: s.labels(o.Labels)}
	}
}

// assume notes an object that must already exist in the Swarm.
func (s *stack) assume(kind, key, name, section string) {
	id := kind + " " + name
	if _, ok := s.assumed[id]; ok || s.declared[id] != "" {
		return
	}
	s.assumed[id] = placed{Finding{
		Severity: Info, File: s.document.file, Line: s.line(section, key),
		Reason: fmt.Sprintf("the %s %s is external and assumed to exist", kind, name),
	}, s.number}
}

// exists notes that a file declares an object that another may call external.
func (s *stack) exists(kind, name string) {
	id := kind + " " + name
	s.declared[id] = s.document.file
	delete(s.assumed, id)
}

// there reports whether an object has a source that can be read, and says so where it has not.
func (s *stack) there(kind, section, key string, o types.FileObjectConfig) bool {
	bad := func(reason, hint string) bool {
		s.report(Finding{Severity: Error, Line: s.line(section, key), Reason: fmt.Sprintf("the %s %s %s", kind, key, reason), Hint: hint}, "")
		return false
	}
	switch {
	case o.Content != "" || o.Environment != "":
		s.report(Finding{
			Severity: Warning, Line: s.line(section, key), Hint: "put it into a file and name that with `file:`",
			Reason: fmt.Sprintf("the %s %s has its content here or in a variable, which `docker stack deploy` refuses", kind, key),
		}, "")
		return true
	case o.File == "":
		return bad("has neither `file:` nor `external: true`", "say where it comes from")
	}
	s.data = append(s.data, o.File)
	switch st, err := os.Stat(o.File); {
	case err != nil:
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return bad(fmt.Sprintf("cannot be read from %s: %v", o.File, err), "check the path; it is taken from the stack file's directory")
	case !st.Mode().IsRegular():
		return bad(fmt.Sprintf("cannot be read from %s: not a regular file", o.File), "name a file")
	case st.Size() > maxConfig:
		return bad(fmt.Sprintf("is larger than %d kB, the most that a Swarm takes", maxConfig>>10), "make it smaller")
	}
	return true
}

// content reads a config.
func (s *stack) content(kind, section, key string, o types.FileObjectConfig) ([]byte, bool) {
	if !s.there(kind, section, key, o) {
		return nil, false
	}
	switch {
	case o.Content != "":
		return []byte(o.Content), true
	case o.Environment != "":
		return []byte(s.env[o.Environment]), true
	}
	f, err := os.Open(o.File)
	if err == nil {
		defer f.Close()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, maxConfig)); err == nil {
			return data, true
		}
	}
	s.report(Finding{Severity: Error, Line: s.line(section, key), Reason: fmt.Sprintf("the %s %s: %v", kind, key, err), Hint: "check the file's permissions"}, "")
	return nil, false
}

// labels are an object's own labels and the one that `docker stack deploy` adds.
func (s *stack) labels(own types.Labels) map[string]string {
	l := make(map[string]string, len(own)+1)
	maps.Copy(l, own)
	l[watcher.StackLabel] = s.name
	return l
}

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
	fmt.Fprintf(h, "%q%d%q%q%q%q%d%q%v%v%q", s.Name, s.Order, s.Labels, s.ContainerLabels, s.Constraints, s.Mode, s.Replicas, s.Networks, s.Ports, s.Expose, s.EndpointMode)
	return h.Sum64()
}
