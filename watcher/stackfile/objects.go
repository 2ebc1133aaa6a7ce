package stackfile

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/waggle-lb/waggle/watcher"
)

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
		var file, variable string
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
			file, variable = o.File, o.Environment
		}
		s.p.Secrets[name] = &watcher.Secret{ID: name, Name: name, Labels: s.labels(o.Labels), File: file, Variable: variable}
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
	if _, set := s.env[o.Environment]; o.Environment != "" && !set {
		return bad(fmt.Sprintf("has its content in the variable %s, which is not set", o.Environment), "set it where waggle runs, or name a file with `file:`")
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
