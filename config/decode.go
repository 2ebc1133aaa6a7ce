package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Bounds of a document once its aliases are expanded.
const (
	maxNodes = 100_000
	maxDepth = 32
)

// reader fills a Config from a document and from the environment, remembering
// where each value was said and everything that is wrong.
type reader struct {
	file  string
	where map[string]string // key path -> "waggle.yml:12" or the variable's name
	order []string          // the collections' names as they come
	errs  []error
	nodes int
}

// maxErrors bounds how much is said about one file.
const maxErrors = 100

// fail notes an error about the value at a key path.
func (r *reader) fail(key, reason, wayOut string) { r.failAt(r.at(key), key, reason, wayOut) }

func (r *reader) failAt(where, key, reason, wayOut string) {
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, &Error{Where: where, Key: key, Reason: reason, WayOut: wayOut})
	}
}

// at is where the value at a key path was said: itself, or the nearest key around it.
func (r *reader) at(key string) string {
	for key != "" {
		if w, ok := r.where[key]; ok {
			return w
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return r.file
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// document reads a YAML document into c.
func (r *reader) document(data []byte, c *Config) {
	var doc yaml.Node
	err := parseYAML(data, &doc)
	if errors.Is(err, io.EOF) {
		return // an empty file: the defaults
	}
	if err != nil {
		where, reason := r.file, err.Error()
		if m := yamlLine.FindStringSubmatch(reason); m != nil {
			reason = m[2]
			if m[1] != "" {
				where += ":" + m[1]
			}
		}
		r.failAt(where, "", "this is not valid YAML: "+reason,
			"look at the indentation, colons and quotes of this line and the one before")
		return
	}
	if len(doc.Content) == 1 {
		r.value("", doc.Content[0], reflect.ValueOf(c).Elem(), 0)
	}
}

// parseYAML reads the only document of data. Whatever the parser makes of broken input is an error.
func parseYAML(data []byte, doc *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: the parser gives up: %v", p)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(doc); err != nil {
		return err
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return fmt.Errorf("yaml: line %d: a second document begins here, but a configuration is one", second.Line)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

var durationType = reflect.TypeFor[time.Duration]()

// value sets v from n. Null is "not said": the default stays.
func (r *reader) value(key string, n *yaml.Node, v reflect.Value, depth int) {
	if depth > maxDepth || !r.visit() {
		r.nodes = maxNodes // what follows is not looked at: a bomb is refused as a whole
		r.failAt(r.line(n), key, "the document is too large or too deep here once its aliases are expanded", "write it out without aliases (*name)")
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		r.value(key, n, v.Elem(), depth)
	case reflect.Struct:
		r.structure(key, n, v, depth)
	case reflect.Map:
		r.mapping(key, n, v, depth)
	case reflect.Slice:
		r.sequence(key, n, v, depth)
	case reflect.Interface:
		if x := r.any(key, n, depth); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	default:
		if n.Kind != yaml.ScalarNode {
			r.fail(key, fmt.Sprintf("this is %s, but one value is expected", kindName(n)), "write "+example(v))
			return
		}
		r.scalar(key, n.Value, v)
	}
}

func (r *reader) structure(key string, n *yaml.Node, v reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		r.fail(key, fmt.Sprintf("this is %s, but keys with values are expected", kindName(n)), "write one of "+strings.Join(keysOf(v.Type()), ", ")+", each followed by a colon")
		return
	}
	for _, p := range r.pairs(key, n) {
		at := join(key, p.name)
		r.where[at] = r.line(p.key)
		f, ok := fieldOf(v, p.name)
		if !ok {
			r.fail(at, "unknown key", suggestKey(p.name, v.Type()))
			continue
		}
		r.value(at, p.value, f, depth+1)
	}
}

func (r *reader) mapping(key string, n *yaml.Node, v reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		r.fail(key, fmt.Sprintf("this is %s, but keys with values are expected", kindName(n)), "write each as key: value")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, p := range r.pairs(key, n) {
		at := join(key, p.name)
		r.where[at] = r.line(p.key)
		e := reflect.New(v.Type().Elem()).Elem()
		if v.Type().Elem() == reflect.TypeFor[*Collection]() {
			e.Set(reflect.ValueOf(NewCollection(p.name)))
			r.order = append(r.order, p.name)
		}
		r.value(at, p.value, e, depth+1)
		if e.Kind() == reflect.Interface && e.IsNil() {
			continue
		}
		out.SetMapIndex(reflect.ValueOf(p.name), e)
	}
	v.Set(out)
}

func (r *reader) sequence(key string, n *yaml.Node, v reflect.Value, depth int) {
	if n.Kind != yaml.SequenceNode {
		wayOut := "write a list in brackets"
		if n.Kind == yaml.ScalarNode {
			wayOut = "write [" + n.Value + "]"
		}
		r.fail(key, fmt.Sprintf("this is %s, but a list is expected", kindName(n)), wayOut)
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, min(len(n.Content), maxNodes))
	for i, item := range n.Content {
		at := key + "[" + strconv.Itoa(i) + "]"
		r.where[at] = r.line(item)
		e := reflect.New(v.Type().Elem()).Elem()
		r.value(at, item, e, depth+1)
		out = reflect.Append(out, e)
	}
	v.Set(out)
}

// scalar sets v from the text of one value. Text stays as it is written: under
// defaults and required "retries: 2" is "2" and "true" is "true".
func (r *reader) scalar(key, text string, v reflect.Value) {
	switch {
	case v.Type() == durationType:
		d, err := parseDuration(text)
		if err != nil {
			r.fail(key, fmt.Sprintf("%q is not a duration", text), "write it as 500ms, 2s, 1m30s or in bare seconds")
			return
		}
		v.SetInt(int64(d))
	case v.Kind() == reflect.Bool:
		b, ok := parseBool(text)
		if !ok {
			r.fail(key, fmt.Sprintf("%q is neither true nor false", text), "write true or false")
			return
		}
		v.SetBool(b)
	case v.Kind() == reflect.Uint32:
		u, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			r.fail(key, fmt.Sprintf("%q is not a whole number", text), "write "+example(v))
			return
		}
		v.SetUint(u)
	default:
		if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			r.fail(key, "control characters (line breaks, tabs) are refused in values", "write it on one line")
			return
		}
		v.SetString(text)
	}
}

// any reads a value of no fixed shape: maps, lists, whole numbers, booleans and text.
func (r *reader) any(key string, n *yaml.Node, depth int) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		r.mapping(key, n, reflect.ValueOf(&m).Elem(), depth)
		return m
	case yaml.SequenceNode:
		l := []any{}
		r.sequence(key, n, reflect.ValueOf(&l).Elem(), depth)
		return l
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!bool":
			if b, ok := parseBool(n.Value); ok {
				return b
			}
		case "!!int":
			if i, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
				return i
			}
		}
		return n.Value
	}
	return nil
}

// visit counts a node; false when there were more than any honest file has.
func (r *reader) visit() bool {
	r.nodes++
	return r.nodes <= maxNodes
}

type pair struct {
	name       string
	key, value *yaml.Node
}

// pairs lists the keys of a mapping in the order of the file, those of merged
// mappings (<<) last. A key that stands there twice is refused.
func (r *reader) pairs(key string, n *yaml.Node) []pair {
	var own, merged []pair
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			r.failAt(r.line(k), key, "a key must be one word, this one is "+kindName(k), "write key: value")
			continue
		}
		if k.ShortTag() == "!!merge" {
			merged = append(merged, r.merge(key, v)...)
			continue
		}
		if line, twice := lines[k.Value]; twice {
			r.failAt(r.line(k), join(key, k.Value), fmt.Sprintf("this key is already given at line %d", line), "keep one of the two")
			continue
		}
		lines[k.Value] = k.Line
		own = append(own, pair{k.Value, k, v})
	}
	for _, p := range merged {
		if _, given := lines[p.name]; !given {
			lines[p.name] = p.key.Line
			own = append(own, p)
		}
	}
	return own
}

// merge lists the keys of what a << names: a mapping, or a list of them of which the first that has a key holds.
func (r *reader) merge(key string, n *yaml.Node) []pair {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	var own, further []pair
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content) && r.visit(); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			switch {
			case k.Kind != yaml.ScalarNode:
			case k.ShortTag() == "!!merge":
				further = append(further, r.merge(key, v)...)
			default:
				own = append(own, pair{k.Value, k, v})
			}
		}
	case yaml.SequenceNode:
		for i := 0; i < len(n.Content) && r.visit(); i++ {
			own = append(own, r.merge(key, n.Content[i])...)
		}
	default:
		r.failAt(r.line(n), join(key, "<<"), "only keys with values can be merged", "write <<: *name")
	}
	return append(own, further...)
}

func (r *reader) line(n *yaml.Node) string { return r.file + ":" + strconv.Itoa(n.Line) }

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("the single value %q", n.Value)
}

// example is what a value of v's type looks like.
func example(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return "a duration such as 1s"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.Kind() == reflect.Uint32:
		return "a number such as 8080"
	}
	return "text"
}

// parseDuration reads Go's syntax, or bare seconds.
func parseDuration(s string) (time.Duration, error) {
	if seconds, err := strconv.ParseUint(s, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	return time.ParseDuration(s)
}

func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true", "yes", "1":
		return true, true
	case "false", "no", "0":
		return false, true
	}
	return false, false
}
