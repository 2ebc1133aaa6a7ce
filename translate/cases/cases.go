// Package cases reads the examples of the label language: for each key and rule a
// stack file that runs as it is, with what is asked of it and what must come back
// in a block x-case. The label reference shows them, the golden test of translate
// projects them, and the lab's test sends their requests through a real Envoy.
package cases

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"
)

// Case is one example.
type Case struct {
	// Name is the path of the file below the directory of all cases, without its
	// ending ("answers/redirect_code"); Stack the name under which it is deployed.
	Name, Stack, File string

	Keys     []string       `yaml:"keys"`   // that it explains, the one it is shown under first; none: it is about a rule
	Shows    string         `yaml:"shows"`  // one sentence
	Config   map[string]any `yaml:"config"` // keys of the collection
	Requests []Request      `yaml:"requests"`
	Problems []Problem      `yaml:"problems"` // all that its services have

	// Labels of the first service of the file, as written, for the reference.
	Labels yaml.Node `yaml:"-"`
}

// Request is one request, and what must come back.
type Request struct {
	Ask     string            `yaml:"ask"` // "METHOD URL"
	Headers map[string]string `yaml:"headers"`
	Body    string            `yaml:"body"`
	Times   int               `yaml:"times"` // asked so often; 0 is once
	Soon    bool              `yaml:"soon"`  // asked until it gives this, so many times in a row: what the proxy finds out by itself a moment later
	Gives   Answer            `yaml:"gives"`
}

// Method and URL of the request.
func (r Request) Method() string { m, _, _ := strings.Cut(r.Ask, " "); return m }

// URL is what is asked for.
func (r Request) URL() string { _, u, _ := strings.Cut(r.Ask, " "); return strings.TrimSpace(u) }

// Answer is what must come back. What is not named is not compared, but the reason.
type Answer struct {
	Status   int               `yaml:"status"`
	Service  string            `yaml:"service"`  // who answered, without the stack
	Reason   string            `yaml:"reason"`   // x-waggle-reason; "" = absent
	Location string            `yaml:"location"` // of a redirect
	Headers  map[string]string `yaml:"headers"`  // "" = absent
	Body     string            `yaml:"body"`
	Seen     Seen              `yaml:"seen"`
}

// Seen is what reached the task.
type Seen struct {
	Method  string            `yaml:"method"`
	Host    string            `yaml:"host"`
	Path    string            `yaml:"path"`
	Query   string            `yaml:"query"`
	Headers map[string]string `yaml:"headers"` // "" = absent
}

// Problem is one that must be told. Reason is a part of it; the others are compared where they are given.
type Problem struct {
	Severity string `yaml:"severity"`
	Service  string `yaml:"service"` // without the stack
	Label    string `yaml:"label"`
	Value    string `yaml:"value"`
	Reason   string `yaml:"reason"`
	Hint     string `yaml:"hint"`
	Winner   string `yaml:"winner"` // without the stack
}

// Load reads every case below dir, in the order of their names.
func Load(dir string) ([]Case, error) {
	var all []Case
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(file) != ".yml" {
			return err
		}
		name, err := filepath.Rel(dir, strings.TrimSuffix(file, ".yml"))
		if err != nil {
			return err
		}
		c, err := read(file, filepath.ToSlash(name))
		if err != nil {
			return fmt.Errorf("case %s: %w", name, err)
		}
		all = append(all, c)
		return nil
	})
	return all, err
}

func read(file, name string) (Case, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return Case{}, err
	}
	var doc struct {
		Case     yaml.Node `yaml:"x-case"`
		Services yaml.Node `yaml:"services"`
	}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return Case{}, err
	}
	if doc.Case.IsZero() {
		return Case{}, errors.New("has no block x-case")
	}
	block, err := yaml.Marshal(&doc.Case)
	if err != nil {
		return Case{}, err
	}
	c := Case{Name: name, File: file, Stack: strings.NewReplacer("/", "-", "_", "-").Replace(path.Dir(name) + "-" + path.Base(name))}
	dec := yaml.NewDecoder(bytes.NewReader(block))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		return Case{}, err
	}
	for _, r := range c.Requests {
		if r.Method() == "" || !strings.Contains(r.URL(), "://") {
			return Case{}, fmt.Errorf("%q is not a method and a URL", r.Ask)
		}
		if r.Gives.Status == 0 {
			return Case{}, fmt.Errorf("%q does not say which status it gives", r.Ask)
		}
	}
	if c.Shows == "" {
		return Case{}, errors.New("does not say what it shows")
	}
	if len(doc.Services.Content) > 1 {
		c.Labels = labels(doc.Services.Content[1])
	}
	return c, nil
}

// labels of a service of a stack file.
func labels(service *yaml.Node) yaml.Node {
	var s struct {
		Deploy struct {
			Labels yaml.Node `yaml:"labels"`
		} `yaml:"deploy"`
	}
	_ = service.Decode(&s) // without labels there is nothing to show
	return s.Deploy.Labels
}
