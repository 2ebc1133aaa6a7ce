package stackfile

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/waggle-lb/waggle/watcher"
)

// assembly puts the stacks of several files together.
type assembly struct {
	stack    string // option: the name of every stack
	plain    *bool  // option: whether the files are for a plain Docker; nil: each tells
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

func newAssembly(stack string, plain *bool) *assembly {
	return &assembly{
		stack: stack, plain: plain,
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
	plain   bool   // for a plain Docker
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
	if a.plain != nil {
		s.plain = *a.plain
	} else {
		s.plain = isPlain(name, d.dict)
	}
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
		reason := "a Swarm does not know `include`; what it names is not read"
		if s.plain {
			reason = "`include` is not followed here; what it names is not read"
		}
		s.report(Finding{Severity: Error, Line: s.line("include"), Reason: reason, Hint: "name the files themselves, each with -f"}, "")
	}
	if s.plain && s.assembly.plain == nil {
		s.report(Finding{Severity: Info, Line: s.line("services"), Reason: "this is read as a Compose project for a plain Docker: the labels of its containers count", Hint: "for a Swarm, move them under `deploy.labels`"}, "")
	}
	services, _ := s.dict["services"].(map[string]any)
	if len(services) == 0 {
		s.report(Finding{Severity: Warning, Line: s.line("services"), Reason: "the file has no services", Hint: "add them under `services:`"}, "")
	}
	notes := swarmNotes
	if s.plain {
		notes = plainNotes
	}
	for name, v := range services {
		m, _ := v.(map[string]any)
		for _, n := range notes {
			if m[n.key] != nil {
				s.report(Finding{Severity: n.severity, Line: s.line("services", name, n.key), Reason: n.reason, Hint: n.hint}, name)
			}
		}
	}
}

// note is what is told of a key of a service.
type note struct {
	key, reason, hint string
	severity          Severity
}

// swarmNotes are about keys that a Swarm does not know, plainNotes about those that
// are not read here although Compose does.
var (
	swarmNotes = []note{
		{"extends", "a Swarm does not know `extends`; what it names is not read", "write the service out, or use YAML anchors (<<: *base)", Error},
		{"profiles", "a Swarm does not know `profiles`: the service is deployed always", "leave them out, or keep the service in a file of its own", Warning},
		{"scale", "a Swarm ignores `scale`", "use deploy.replicas", Warning},
		{"network_mode", "a Swarm ignores `network_mode`", "use networks", Warning},
		{"label_file", "a Swarm does not know `label_file`; its labels are not read", "write the labels into deploy.labels", Error},
	}
	plainNotes = []note{
		{"extends", "`extends` is not followed here; what it names is not read", "give what `docker compose config` prints", Error},
		{"network_mode", "`network_mode` is not read here: the service counts as on the default network", "use networks", Warning},
		{"label_file", "`label_file` is not read here", "give what `docker compose config` prints", Error},
	}
)
