// Package hrm writes the labels of UCP 2's HTTP routing mesh as com.docker.lb.*
// labels: the same routes, in the words that go on from there.
package hrm

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// stackLabel is the stack's name on its services.
const stackLabel = "com.docker.stack.namespace"

// prefix of the labels that are written.
const prefix = "com.docker.lb."

// Convert gives what changes in the stack files of the services, as YAML to merge
// into them, and what is wrong with the HRM labels or has no equivalent. The YAML
// is nil where no service has HRM labels that say anything.
func Convert(prefixes []string, services []*watcher.Service) ([]byte, []labels.Problem, error) {
	var problems []labels.Problem
	out := mapping()
	for _, s := range slices.SortedFunc(slices.Values(services), func(a, b *watcher.Service) int { return strings.Compare(a.Name, b.Name) }) {
		set := labels.Merge(prefixes, s.Name, s.Labels)
		for _, p := range set.Problems {
			if strings.HasPrefix(p.Label, labels.HRMPrefix) {
				problems = append(problems, p)
			}
		}
		lbls := mapping()
		for _, name := range slices.Sorted(maps.Keys(set.HRM)) {
			if from := set.HRM[name]; !from.Broken {
				add(lbls, from.Label, routeLabels(set, name))
			}
		}
		if len(lbls.Content) == 0 {
			continue
		}
		name := strings.TrimPrefix(s.Name, s.Labels[stackLabel]+"_")
		out.Content = append(out.Content, text(name), nest("deploy", nest("labels", lbls)))
	}
	if len(out.Content) == 0 {
		return nil, problems, nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err := e.Encode(nest("services", out))
	return b.Bytes(), problems, err
}

// Equivalent gives the labels that say the same as the HRM labels of a service.
func Equivalent(set *labels.Set) map[string]string {
	out := map[string]string{}
	for name, from := range set.HRM {
		if !from.Broken {
			maps.Copy(out, routeLabels(set, name))
		}
	}
	return out
}

// routeLabels are the labels of one route: unnamed where it is the only one.
func routeLabels(set *labels.Set, name string) map[string]string {
	from, route := set.HRM[name], set.Routes[name]
	head := prefix + name + "."
	whole := !slices.ContainsFunc(slices.Collect(maps.Values(route)), func(v labels.Value) bool { return v.Label != from.Label })
	if len(set.Routes) == 1 && whole {
		head = prefix
	}
	out := map[string]string{}
	for key, v := range route {
		if v.Label == from.Label {
			out[head+key] = v.Text
		}
	}
	return out
}

// order is how a person writes the keys.
var order = []string{"hosts", "default_backend", "port"}

func add(into *yaml.Node, from string, lbls map[string]string) {
	rank := func(label string) int {
		i := slices.Index(order, label[strings.LastIndexByte(label, '.')+1:])
		if i < 0 {
			return len(order)
		}
		return i
	}
	names := slices.SortedFunc(maps.Keys(lbls), func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b)) })
	for i, name := range names {
		key := text(name)
		if i == 0 {
			key.HeadComment = "in place of " + strings.Map(printable, from)
		}
		into.Content = append(into.Content, key, text(strings.ReplaceAll(lbls[name], "$", "$$"))) // stack files take $ for a variable
	}
}

// printable keeps a comment one line of text.
func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return '\uFFFD'
	}
	return r
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode} }

func nest(key string, v *yaml.Node) *yaml.Node {
	m := mapping()
	m.Content = []*yaml.Node{text(key), v}
	return m
}

func text(s string) *yaml.Node {
	var n yaml.Node
	n.SetString(s)
	if s != "" && strings.Trim(s, "0123456789.") == "" || s == "true" || s == "false" {
		n.Style = yaml.DoubleQuotedStyle // labels are texts
	}
	return &n
}
