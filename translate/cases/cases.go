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
	"time"

	"gopkg.in/yaml.v3"
)

// Case is one example.
type Case struct {
	// Name is the path of the file below the directory of all cases, without its
	// ending ("answers/redirect_code"); Stack the name under which it is deployed.
	Name, Stack, File string

	Keys     []string        `yaml:"keys"`   // that it explains, the one it is shown under first; none: it is about a rule
	Shows    string          `yaml:"shows"`  // one sentence
	Config   map[string]any  `yaml:"config"` // keys of the collection; ${CERTS} is put in
	Certs    map[string]Cert `yaml:"certs"`  // by name, with "/" in directories; see package certs
	Requests []Request       `yaml:"requests"`
	Problems []Problem       `yaml:"problems"` // all that its services have

	// Labels of the first service of the file, as written, for the reference.
	Labels yaml.Node `yaml:"-"`
}

// Cert is a certificate that is made for the case: ${CERTS}/<name>.pem and <name>.key.
type Cert struct {
	Names   []string  `yaml:"names"`   // hosts
	Subject string    `yaml:"subject"` // common name; "": the last part of its own
	CA      bool      `yaml:"ca"`      // an authority
	By      string    `yaml:"by"`      // which authority issues it, or "itself"; "": the development authority, "local-ca"
	From    time.Time `yaml:"from"`    // zero: long ago
	Until   time.Time `yaml:"until"`   // zero: long from now
}

// Request is one request, and what must come back. https is asked as a browser would:
// HTTP/2 or 1.1 as the two agree, the server's certificate checked.
type Request struct {
	Ask     string            `yaml:"ask"` // "METHOD URL"
	Headers map[string]string `yaml:"headers"`
	Body    string            `yaml:"body"`
	Times   int               `yaml:"times"` // asked so often; 0 is once
	Soon    bool              `yaml:"soon"`  // asked until it gives this, so many times in a row: what the proxy finds out by itself a moment later
	Gives   Answer            `yaml:"gives"`

	// Of https:
	SNI        string `yaml:"sni"`         // "": the URL's host; "none": no name
	ClientCert string `yaml:"client_cert"` // which of the certs the client shows
	Trust      string `yaml:"trust"`       // which of the certs it trusts; "": the development authority; "none": it does not look
	TLS        string `yaml:"tls"`         // the newest version that it speaks: "1.2"
	Protocol   string `yaml:"protocol"`    // "http1", "h2": the only one that it speaks
}

// Method and URL of the request.
func (r Request) Method() string { m, _, _ := strings.Cut(r.Ask, " "); return m }

// URL is what is asked for.
func (r Request) URL() string { _, u, _ := strings.Cut(r.Ask, " "); return strings.TrimSpace(u) }

// Refused is an answer that never comes: the connection ends in the handshake. A case
// writes it as a word.
const Refused = "refused"

// Answer is what must come back. What is not named is not compared, but the reason.
type Answer struct {
	Refused  bool              `yaml:"-"`
	Status   int               `yaml:"status"`
	Service  string            `yaml:"service"`  // who answered, without the stack
	Reason   string            `yaml:"reason"`   // x-waggle-reason; "" = absent
	Location string            `yaml:"location"` // of a redirect
	Headers  map[string]string `yaml:"headers"`  // "" = absent
	Body     string            `yaml:"body"`
	Seen     Seen              `yaml:"seen"`

	// Of https:
	TLS         string   `yaml:"tls"`         // version: "1.3"
	Protocol    string   `yaml:"protocol"`    // "HTTP/2.0"
	Certificate []string `yaml:"certificate"` // names of what the server shows
}

// UnmarshalYAML takes the word [Refused], or the fields.
func (a *Answer) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value != Refused {
			return fmt.Errorf("line %d: %q is not an answer: write {status: …}, or %s", n.Line, n.Value, Refused)
		}
		a.Refused = true
		return nil
	}
	type fields Answer // without this method
	return strict(n, (*fields)(a))
}

// Seen is what reached the task.
type Seen struct {
	Method  string            `yaml:"method"`
	Host    string            `yaml:"host"`
	Path    string            `yaml:"path"`
	Query   string            `yaml:"query"`
	Headers map[string]string `yaml:"headers"` // "" = absent

	TLS        string `yaml:"tls"`         // version: "1.3"; "none": plain
	ServerName string `yaml:"server_name"` // that the proxy asked for; "none": it asked for none
	Protocol   string `yaml:"protocol"`    // "HTTP/1.1"
}

// Any reports whether anything is said about what reached the task.
func (s Seen) Any() bool {
	return s.Method+s.Host+s.Path+s.Query+s.TLS+s.ServerName+s.Protocol != "" || len(s.Headers) > 0
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
	c := Case{Name: name, File: file, Stack: strings.NewReplacer("/", "-", "_", "-").Replace(path.Dir(name) + "-" + path.Base(name))}
	if err := strict(&doc.Case, &c); err != nil {
		return Case{}, err
	}
	for _, r := range c.Requests {
		if r.Method() == "" || !strings.Contains(r.URL(), "://") {
			return Case{}, fmt.Errorf("%q is not a method and a URL", r.Ask)
		}
		if r.Gives.Status == 0 && !r.Gives.Refused {
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

// strict decodes, and takes no field that it does not know.
func strict(n *yaml.Node, into any) error {
	block, err := yaml.Marshal(n)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(block))
	dec.KnownFields(true)
	return dec.Decode(into)
}

// ConfigIn is what the case says of its collection, with the directory of its
// certificates put in.
func (c Case) ConfigIn(dir string) map[string]any {
	return putIn(c.Config, dir).(map[string]any)
}

func putIn(v any, dir string) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "${CERTS}", dir)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = putIn(v[i], dir)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = putIn(v[k], dir)
		}
		return out
	}
	return v
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
