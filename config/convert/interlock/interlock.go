// Package interlock turns Interlock's config.toml into waggle.yml: every extension
// becomes a collection, every option a key, or a notice of one sentence that says
// what to do instead. An option that it does not know costs a notice, never the file.
//
// What UCP printed as defaults counts as not said: a fleet of Envoys has better ones.
package interlock

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"gopkg.in/yaml.v3"
)

// Nearest gives the candidate that a misspelt word was most likely meant to be, "" if none is near.
type Nearest func(word string, candidates []string) string

// Document is a config.toml as waggle.yml.
type Document struct {
	YAML []byte
	// Lines gives, for the key paths that were set ("collections.dev.http_port"),
	// the line of config.toml that says so.
	Lines   map[string]int
	Notices []Notice // in the order of the file
}

// Notice is an option that does not become a key, or not as it was written.
type Notice struct {
	Line   int // 0: about the whole file
	Key    string
	Text   string
	WayOut string
	// Lost: Interlock did something by it that no key does.
	Lost bool
}

// Error is something for which the file cannot be used.
type Error struct {
	Line   int // 0 where none is to blame
	Key    string
	Reason string
	WayOut string
}

func (e *Error) Error() string { return e.Key + ": " + e.Reason }

// Convert reads a config.toml. The error joins *Errors.
func Convert(data []byte, nearest Nearest) (*Document, error) {
	tree, lines, err := parse(data)
	if err != nil {
		return nil, err
	}
	c := &converter{
		nearest: nearest, lines: lines, clusters: map[string]string{},
		doc: &Document{Lines: map[string]int{}},
	}
	var extensions []entry
	c.each("", nil, tree, coreOptions, nil, func(e entry) bool {
		if !strings.EqualFold(e.name, "Extensions") {
			return false
		}
		table, ok := e.value.(map[string]any)
		if !ok {
			c.fail(e.line, "Extensions", "this is a list, as Interlock 1 had it", "write each extension as a table, [Extensions.<name>]")
			return true
		}
		for _, name := range c.inOrder(e.path, table) {
			extensions = append(extensions, c.entry(e.path, name, table[name]))
		}
		return true
	})
	for _, e := range extensions {
		c.extension(e)
	}
	if len(c.file.order) == 0 && len(c.errs) == 0 {
		c.notice(Notice{Key: "Extensions", Text: "there is no extension, so there is one collection, default", WayOut: "write [Extensions.default]"})
		c.add(&collection{name: "default", Default: true, ShareHosts: "any"}, 0)
	}
	if len(c.errs) > 0 {
		return c.doc, errors.Join(c.errs...)
	}
	slices.SortStableFunc(c.doc.Notices, func(a, b Notice) int { return cmp.Compare(a.Line, b.Line) })
	c.doc.YAML, err = c.file.yaml()
	return c.doc, err
}

// converter is one file on its way.
type converter struct {
	nearest  Nearest
	lines    map[string]int
	clusters map[string]string // collection -> the extension that has it
	file     file
	doc      *Document
	errs     []error
}

// maxNotices bounds how much is said about one file.
const maxNotices = 500

func (c *converter) notice(n Notice) {
	if len(c.doc.Notices) < maxNotices {
		c.doc.Notices = append(c.doc.Notices, n)
	}
}

func (c *converter) fail(line int, key, reason, wayOut string) {
	c.errs = append(c.errs, &Error{Line: line, Key: key, Reason: reason, WayOut: wayOut})
}

// entry is one key of the file.
type entry struct {
	name  string
	path  []string // itself included
	line  int
	value any
}

func (c *converter) entry(parent []string, name string, v any) entry {
	path := append(slices.Clone(parent), name)
	return entry{name: name, path: path, line: c.lines[pathKey(path)], value: v}
}

// inOrder lists the keys of a table as the file has them.
func (c *converter) inOrder(parent []string, table map[string]any) []string {
	names := make([]string, 0, len(table))
	for n := range table {
		names = append(names, n)
	}
	line := func(n string) int { return c.lines[pathKey(append(slices.Clone(parent), n))] }
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(line(a), line(b)), strings.Compare(a, b)) })
	return names
}

// each reads the options of one table. taken may take a key before its option does.
func (c *converter) each(where string, path []string, table map[string]any, options []option, coll *collection, taken func(entry) bool) {
	first := map[string]string{}
	for _, name := range c.inOrder(path, table) {
		e := c.entry(path, name, table[name])
		key := where + name
		if taken != nil && taken(e) {
			continue
		}
		lower := strings.ToLower(name)
		if before, twice := first[lower]; twice {
			c.notice(Notice{Line: e.line, Key: key, Text: fmt.Sprintf("capitals make no difference here: %s is said already and holds", before), WayOut: "remove one of the two"})
			continue
		}
		first[lower] = name
		i := slices.IndexFunc(options, func(o option) bool { return strings.EqualFold(o.name, name) })
		if i < 0 {
			c.unknown(e, key, options)
			continue
		}
		o := options[i]
		v := value{c: c, coll: coll, option: o, key: key, line: e.line, raw: e.value}
		if o.standard(e.value) {
			if o.always != "" {
				v.notice(o.always, o.instead)
			}
			continue
		}
		if o.to != "" && control(e.value) {
			v.notice("the value holds control characters and is not used", "write it without them")
			continue
		}
		if o.read == nil {
			c.notice(Notice{Line: e.line, Key: key, Text: o.without, WayOut: o.instead, Lost: o.lost})
			continue
		}
		o.read(v)
	}
}

func (c *converter) unknown(e entry, key string, options []option) {
	n := Notice{Line: e.line, Key: key, Text: "this option is unknown and has no effect", WayOut: "drop it"}
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.name
	}
	if near := c.nearest(e.name, names); near != "" {
		n.WayOut = "did you mean " + near + "?"
	} else {
		for _, s := range Sections {
			if slices.ContainsFunc(s.options, func(o option) bool { return strings.EqualFold(o.name, e.name) }) {
				n.WayOut = e.name + " belongs under " + s.Place
				break
			}
		}
	}
	c.notice(n)
}

var collectionName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

// extension makes a collection of one extension.
func (c *converter) extension(e entry) {
	where := "Extensions." + e.name
	table, ok := e.value.(map[string]any)
	if !ok {
		c.fail(e.line, where, "an extension is a table of options", "write ["+where+"] and its options below")
		return
	}
	coll := &collection{name: "default", extension: e.name, Default: true, ShareHosts: "any", line: e.line}
	c.each(where+".", e.path, table, extensionOptions, coll, func(o entry) bool {
		if !strings.EqualFold(o.name, "Config") {
			return false
		}
		if config, ok := o.value.(map[string]any); ok {
			c.each(where+"."+o.name+".", o.path, config, proxyOptions, coll, nil)
			return true
		}
		c.notice(Notice{Line: o.line, Key: where + "." + o.name, Text: "this is no table of options and has no effect", WayOut: "write [" + where + ".Config]"})
		return true
	})
	coll.settle(c)
	switch first, twice := c.clusters[coll.name]; {
	case len(coll.name) > 128 || !collectionName.MatchString(coll.name):
		c.fail(cmp.Or(coll.clusterLine, e.line), where+".ServiceCluster", fmt.Sprintf("%q cannot name a collection", coll.name),
			"use lower case letters and digits, with . _ - only between them, here and in the service_cluster labels")
	case twice:
		c.fail(cmp.Or(coll.clusterLine, e.line), where+".ServiceCluster", fmt.Sprintf("Extensions.%s and Extensions.%s are both the collection %s", first, e.name, coll.name),
			"give each extension its own ServiceCluster")
	default:
		c.clusters[coll.name] = e.name
		c.add(coll, e.line)
	}
}

func (c *converter) add(coll *collection, line int) {
	c.file.order = append(c.file.order, coll)
	c.said("collections."+coll.name, line)
	for key, line := range coll.said {
		c.said("collections."+coll.name+"."+key, line)
	}
}

func (c *converter) said(key string, line int) {
	if line > 0 {
		c.doc.Lines[key] = line
	}
}

// parse reads TOML. Whatever the parser makes of broken input is an error with its line.
func parse(data []byte) (tree map[string]any, lines map[string]int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &Error{Reason: fmt.Sprintf("this is not valid TOML: the parser gives up: %v", p), WayOut: "write it without the part that was added last"}
		}
	}()
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if line := tooDeep(data); line > 0 {
		return nil, nil, &Error{Line: line, Reason: "brackets are nested too deeply here", WayOut: "write the options as tables"}
	}
	md, err := toml.Decode(string(data), &tree)
	if p, ok := errors.AsType[toml.ParseError](err); ok {
		return nil, nil, &Error{Line: p.Position.Line, Reason: "this is not valid TOML: " + strings.ReplaceAll(cmp.Or(p.Message, strings.TrimPrefix(p.Error(), "toml: ")), "\n", " "),
			WayOut: "look at the quotes, brackets and equals signs of this line and the one before"}
	}
	if err != nil {
		return nil, nil, &Error{Reason: "this is not valid TOML: " + err.Error(), WayOut: "compare it with `docker config inspect` of Interlock's own"}
	}
	return tree, linesOf(data, md.Keys()), nil
}

// file is the waggle.yml that comes out.
type file struct {
	xds   *xds
	swarm *swarm
	order []*collection
}

type xds struct {
	Address string `yaml:"address,omitempty"`
}

type swarm struct {
	Host         string `yaml:"host,omitempty"`
	PollInterval string `yaml:"poll_interval,omitempty"`
}

func (f *file) yaml() ([]byte, error) {
	collections := &yaml.Node{Kind: yaml.MappingNode}
	for _, coll := range f.order {
		var name, body yaml.Node
		name.SetString(coll.name)
		if err := body.Encode(coll); err != nil {
			return nil, err
		}
		collections.Content = append(collections.Content, &name, &body)
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err := e.Encode(struct {
		XDS         *xds       `yaml:"xds,omitempty"`
		Swarm       *swarm     `yaml:"swarm,omitempty"`
		Collections *yaml.Node `yaml:"collections"`
	}{f.xds, f.swarm, collections})
	return b.Bytes(), err
}
