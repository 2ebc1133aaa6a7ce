package stackfile

import (
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"
)

// sections are the parts of a stack file whose elements stand for themselves: a
// bad element costs that element.
var sections = []string{"services", "networks", "configs", "secrets", "volumes"}

// project reads the document with the Compose parser. Where that refuses the
// whole, each element is tried by itself, and what is bad is left out and reported.
func (d *document) project(ctx context.Context, dir string, env map[string]string, report func(Finding, string)) (*types.Project, error) {
	dict := d.cleaned()
	d.narrow(dict, env, report)
	p, err := compose(ctx, dict, d.file, dir, env)
	if err == nil {
		return p, nil
	}
	for _, key := range slices.Sorted(maps.Keys(dict)) {
		elements, isMap := dict[key].(map[string]any)
		if !isMap || !slices.Contains(sections, key) {
			if _, err := compose(ctx, map[string]any{key: dict[key]}, d.file, dir, env); err != nil {
				report(d.complaint(err, key), "")
				delete(dict, key)
			}
			continue
		}
		good := maps.Clone(elements)
		for _, name := range slices.Sorted(maps.Keys(elements)) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if _, err := compose(ctx, map[string]any{key: map[string]any{name: elements[name]}}, d.file, dir, env); err != nil {
				service := ""
				if key == "services" {
					service = name
				}
				report(d.complaint(err, key, name), service)
				delete(good, name)
			}
		}
		dict[key] = good
	}
	if len(dict) == 0 {
		return &types.Project{}, nil // everything was bad, and everything is reported
	}
	if p, err = compose(ctx, dict, d.file, dir, env); err != nil {
		f := d.complaint(err)
		return nil, &FileError{File: d.file, Line: f.Line, Reason: f.Reason, Hint: f.Hint, Err: err}
	}
	return p, nil
}

// cleaned is the document without what only concerns Compose or makes its parser
// talk to stderr: `version` says nothing, `name` is read elsewhere, and the old
// form of external names is put into the new one.
func (d *document) cleaned() map[string]any {
	dict := maps.Clone(d.dict)
	delete(dict, "version")
	delete(dict, "name")
	delete(dict, "include")
	for _, section := range []string{"networks", "configs", "secrets", "volumes"} {
		elements, ok := dict[section].(map[string]any)
		if !ok {
			continue
		}
		elements = maps.Clone(elements)
		for name, e := range elements {
			m, ok := e.(map[string]any)
			if !ok {
				continue
			}
			if ext, ok := m["external"].(map[string]any); ok {
				m = maps.Clone(m)
				m["external"] = true
				if n, ok := ext["name"]; ok && m["name"] == nil {
					m["name"] = n
				}
				elements[name] = m
			}
		}
		dict[section] = elements
	}
	if services, ok := dict["services"].(map[string]any); ok {
		services = maps.Clone(services)
		for name, e := range services {
			if m, ok := e.(map[string]any); ok && (m["extends"] != nil || m["profiles"] != nil) {
				m = maps.Clone(m)
				delete(m, "extends")
				delete(m, "profiles")
				services[name] = m
			}
		}
		dict["services"] = services
	}
	return dict
}

// maxPorts is how many ports a service may name: the parser makes an object of
// each port of a range, and takes seconds for the largest ones.
const maxPorts = 2048

var portRange = regexp.MustCompile(`(\d+)-(\d+)`)

// narrow takes out port lists that are too long to be meant. dict is the file's own copy.
func (d *document) narrow(dict map[string]any, env map[string]string, report func(Finding, string)) {
	services, _ := dict["services"].(map[string]any)
	for name, e := range services {
		m, _ := e.(map[string]any)
		for _, key := range []string{"ports", "expose"} {
			list, _ := m[key].([]any)
			n := len(list)
			for _, p := range list {
				text, err := interpolate(fmt.Sprint(p), env)
				if err != nil {
					continue // the parser says why
				}
				for _, r := range portRange.FindAllStringSubmatch(text, -1) {
					from, _ := strconv.Atoi(r[1])
					to, _ := strconv.Atoi(r[2])
					n += max(0, to-from)
				}
			}
			if n > maxPorts {
				report(Finding{
					Severity: Error, File: d.file, Line: d.line("services", name, key),
					Reason: fmt.Sprintf("%s names more than %d ports; none of them is read", key, maxPorts), Hint: "name the ports that are needed",
				}, name)
				m = maps.Clone(m)
				delete(m, key)
				services[name] = m
			}
		}
	}
}

var silence sync.Once

// compose runs the Compose parser on plain values. The parser may not write to
// stderr, look at the process's environment, or take the program down.
func compose(ctx context.Context, dict map[string]any, file, dir string, env map[string]string) (p *types.Project, err error) {
	// The parser's warnings go to logrus's standard logger, which nothing else in
	// this program uses; what of them matters is a Finding.
	silence.Do(func() { logrus.SetOutput(io.Discard) })
	defer func() {
		// It indexes and asserts its way through what the schema let pass: a panic
		// there is one more way to say that the input is bad.
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("the Compose parser gave up on it (%v)", r)
		}
	}()
	details := types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: file, Config: clone(dict).(map[string]any)}},
		Environment: types.Mapping{}, // the parser writes into it
	}
	return loader.LoadWithContext(ctx, details, func(o *loader.Options) {
		o.SetProjectName("stack", true) // stands for nothing: names are made in assembly.go
		o.SkipNormalization = true
		o.SkipConsistencyCheck = true
		o.SkipExtends = true
		o.SkipInclude = true
		o.SkipResolveEnvironment = true
		o.SkipResolveLabels = true
		o.Profiles = []string{"*"}
		o.Interpolate.LookupValue = lookup(env)
	})
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
}

// interpolate puts variables into one string.
func interpolate(s string, env map[string]string) (string, error) {
	silence.Do(func() { logrus.SetOutput(io.Discard) })
	return template.Substitute(s, lookup(env))
}

// clone copies mappings and lists, which the parser changes in place.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for k, e := range v {
			c[k] = clone(e)
		}
		return c
	case map[any]any: // the parser refuses keys that are no strings, with a sentence of its own
		c := make(map[any]any, len(v))
		for k, e := range v {
			c[k] = clone(e)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, e := range v {
			c[i] = clone(e)
		}
		return c
	}
	return v
}

var (
	validating = regexp.MustCompile(`^validating .*?: `)
	unknownKey = regexp.MustCompile(`additional propert(?:y|ies) (.+) not allowed$`)
	noSuchKey  = regexp.MustCompile(`^(\S+)\.(\S+) false schema$`)
	badCast    = regexp.MustCompile(`^(\S+): failed to cast to expected type: .*parsing ("[^"]*"): .*$`)
)

// complaint turns the parser's error about one element into a finding.
func (d *document) complaint(err error, path ...string) Finding {
	text, _, _ := strings.Cut(err.Error(), "\n")
	text = strings.TrimPrefix(validating.ReplaceAllString(text, ""), "error while interpolating ")
	f := Finding{Severity: Error, File: d.file, Line: d.place(text, path...), Hint: "see the Compose file reference for what is allowed there"}
	where := strings.Join(path, ".")
	switch m := unknownKey.FindStringSubmatch(text); {
	case m != nil:
		at := strings.TrimSpace(strings.TrimSuffix(text, m[0]))
		if at == "" {
			at = "the top level"
		}
		f.Reason = fmt.Sprintf("unknown key %s in %s", m[1], at)
		f.Hint = "check its spelling and indentation; keys of your own begin with x-"
	case noSuchKey.MatchString(text):
		m := noSuchKey.FindStringSubmatch(text)
		f.Reason = fmt.Sprintf("unknown key '%s' in %s", m[2], m[1])
		f.Hint = "check its spelling and indentation; keys of your own begin with x-"
	case badCast.MatchString(text):
		m := badCast.FindStringSubmatch(text)
		f.Reason, f.Hint = fmt.Sprintf("%s cannot be %s", m[1], m[2]), "write a number there"
	case strings.Contains(text, "required variable"):
		f.Reason, f.Hint = text, "set it in the environment"
	case strings.Contains(text, "invalid interpolation format"):
		f.Reason, f.Hint = strings.TrimSuffix(text, "."), "write $$ for a $ that is no variable"
	case where != "" && !strings.Contains(text, where):
		f.Reason = where + ": " + text
	default:
		f.Reason = text
	}
	f.Reason = strings.ReplaceAll(strings.TrimSpace(f.Reason), "\n", " ")
	return f
}
