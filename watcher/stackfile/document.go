package stackfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// document is a stack file's YAML: its tree, which knows lines and order, and the
// same as plain values for the Compose parser.
type document struct {
	file string
	root *yaml.Node // the top-level mapping
	dict map[string]any
	more bool // further documents follow, which nobody reads
}

// parse reads one YAML document. Its errors are sentences with a line.
func parse(file string, content []byte) (*document, error) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, &FileError{File: file, Reason: "has no content besides comments", Hint: "a stack file has at least `services:`"}
	case err != nil:
		return nil, yamlError(file, err)
	}
	d := &document{file: file, root: doc.Content[0]}
	if d.root.Kind == yaml.AliasNode {
		d.root = d.root.Alias
	}
	if d.root.Kind != yaml.MappingNode {
		return nil, &FileError{File: file, Line: d.root.Line, Reason: "is not a stack file: its top level is not a mapping", Hint: "it should begin with `services:`"}
	}
	var next yaml.Node
	d.more = dec.Decode(&next) == nil && len(next.Content) > 0 && next.Content[0].Tag != "!!null"

	plain(d.root)
	if err := d.root.Decode(&d.dict); err != nil {
		return nil, yamlError(file, err)
	}
	left := maxValues
	if !within(d.dict, &left) {
		return nil, &FileError{File: file, Reason: "has too many values once its aliases are written out", Hint: "split it into several files"}
	}
	return d, nil
}

// maxValues bounds what aliases of aliases can make out of a small file.
const maxValues = 200_000

// within counts the values in v down from left; false when there are more.
func within(v any, left *int) bool {
	*left--
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if !within(e, left) {
				return false
			}
		}
	case map[any]any:
		for _, e := range v {
			if !within(e, left) {
				return false
			}
		}
	case []any:
		for _, e := range v {
			if !within(e, left) {
				return false
			}
		}
	}
	return *left >= 0
}

// plain makes dates strings: a label's value is what its author wrote.
func plain(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
		n.Tag = "!!str"
	}
	for _, c := range n.Content { // aliases are not followed: their target is somewhere in the tree anyway
		plain(c)
	}
}

var yamlLine = regexp.MustCompile(`(?:^|\s)line (\d+): `)

// yamlError turns the YAML parser's message into one sentence with the line of its own.
func yamlError(file string, err error) *FileError {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	text, _, _ = strings.Cut(text, "\n")
	e := &FileError{File: file, Hint: "check the indentation and quotes there", Err: err}
	if m := yamlLine.FindStringSubmatchIndex(text); m != nil {
		e.Line, _ = strconv.Atoi(text[m[2]:m[3]])
		text = text[:m[0]] + text[m[1]:]
	}
	e.Reason = "is not valid YAML: " + strings.TrimSpace(text)
	return e
}

// keys lists the keys of a section in the order of the file. Keys that come in by
// a merge (<<) follow in no particular place and are not among them.
func (d *document) keys(path ...string) (names []string) {
	n := find(d.root, path)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		names = append(names, n.Content[i].Value)
	}
	return names
}

// line is where the deepest part of a path stands, 0 if none of it is found.
func (d *document) line(path ...string) int {
	n, line := d.root, 0
	for _, key := range path {
		k, v := child(n, key)
		if k == nil {
			break
		}
		n, line = v, k.Line
	}
	return line
}

func find(n *yaml.Node, path []string) *yaml.Node {
	for _, key := range path {
		if _, n = child(n, key); n == nil {
			return nil
		}
	}
	return resolved(n)
}

// child gives the key and value of a mapping's entry, or an element of a sequence by its number.
func child(n *yaml.Node, key string) (k, v *yaml.Node) {
	n = resolved(n)
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i], n.Content[i+1]
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].ShortTag() == "!!merge" && n.Content[i+1].Kind == yaml.AliasNode {
				if k, v := child(n.Content[i+1].Alias, key); k != nil {
					return k, v
				}
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(strings.Trim(key, "[]")); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}

func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// variable matches a reference without a default, and the escape $$ so that it is skipped.
var variable = regexp.MustCompile(`\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)`)

// unset finds the variables that have neither a value nor a default, each at its first place.
func (d *document) unset(env map[string]string, report func(name string, line int)) {
	seen := map[string]bool{}
	var walk func(n *yaml.Node, key bool)
	walk = func(n *yaml.Node, key bool) {
		if n.Kind == yaml.ScalarNode && !key {
			for _, m := range variable.FindAllStringSubmatch(n.Value, -1) {
				name := m[1] + m[2]
				if _, ok := env[name]; name != "" && !ok && !seen[name] {
					seen[name] = true
					report(name, n.Line)
				}
			}
		}
		for i, c := range n.Content {
			walk(c, n.Kind == yaml.MappingNode && i%2 == 0)
		}
	}
	walk(d.root, false)
}

// place finds the line of what a message of the Compose parser is about: messages
// name a dotted path below prefix, and sometimes a property in quotes.
func (d *document) place(message string, prefix ...string) int {
	path := prefix
	if _, rest, ok := strings.Cut(message, strings.Join(prefix, ".")+"."); ok {
		n := find(d.root, prefix)
		for n != nil && rest != "" {
			key, after := nextKey(n, rest)
			if key == "" {
				break
			}
			path = append(path[:len(path):len(path)], key)
			rest = after
			_, v := child(n, key)
			n = resolved(v)
		}
	}
	if m := quoted.FindStringSubmatch(message); m != nil {
		if n := find(d.root, path); n != nil {
			if k, _ := child(n, m[1]); k != nil {
				return k.Line
			}
		}
	}
	return d.line(path...)
}

var quoted = regexp.MustCompile(`properties? '([^']+)'`)

// nextKey finds which key of n the rest of a dotted path begins with (keys may hold dots themselves).
func nextKey(n *yaml.Node, rest string) (key, after string) {
	best := ""
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i].Value
			if len(k) > len(best) && strings.HasPrefix(rest, k) && ends(rest[len(k):]) {
				best = k
			}
		}
	case yaml.SequenceNode:
		for i := range n.Content {
			k := fmt.Sprint(i)
			if strings.HasPrefix(rest, k) && ends(rest[len(k):]) {
				best = k
			}
		}
	}
	if best == "" {
		return "", ""
	}
	return best, strings.TrimPrefix(rest[len(best):], ".")
}

func ends(rest string) bool {
	return rest == "" || strings.ContainsRune(". :'\"", rune(rest[0]))
}
