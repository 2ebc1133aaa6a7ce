package labels

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/waggle-lb/waggle/config"
)

// AccessLabel is UCP's label for who may see a service.
const AccessLabel = "com.docker.ucp.access.label"

// Limits of one service.
const (
	maxRoutes = 64
	maxBytes  = 64 << 10
)

// HRMPrefix is UCP 2's HTTP routing mesh, the dialect before Interlock.
const HRMPrefix = "com.docker.ucp.mesh.http"

// written is one label under one of our prefixes, taken apart.
type written struct {
	label, text string
	prefix      int    // place of its prefix; the first holds
	head        string // what precedes route and key ("com.docker.lb.")
	route       string
	key         row // key.key is nil if it is unknown
	name        string
}

// Merge reads the grammar of a service's labels: everything that any of the
// prefixes says, as one set. Labels of foreign prefixes are none of ours. The
// result is the same for the same labels; it keeps nothing of lbls.
func Merge(prefixes []string, service string, lbls map[string]string) *Set {
	set := &Set{Routes: map[string]map[string]Value{}, AccessLabel: lbls[AccessLabel]}
	report := func(severity Severity, w written, reason, hint string) {
		set.Problems = append(set.Problems, Problem{
			Severity: severity, Service: service, Label: oneLine(w.label), Value: shown(w.text), Reason: oneLine(reason), Hint: oneLine(hint),
		})
	}

	all := takeApart(prefixes, lbls)
	ours := slices.ContainsFunc(all, func(w written) bool { return w.key.key != nil })
	if bytes := bytesOf(all); bytes > maxBytes && ours {
		set.Broken = true
		report(Error, written{label: all[0].label, text: all[0].text},
			fmt.Sprintf("the labels of the service take %d bytes, and at most %d are read: its routes answer 503", bytes, maxBytes),
			"write fewer or shorter labels")
		all = claims(all)
	}

	type origin struct {
		prefix int
		label  string
	}
	origins := map[[2]string]origin{} // by route and canonical key
	for _, w := range all {
		if w.key.key == nil {
			// Under a short prefix such as "lb." an unknown key may be another product's.
			if ours || strings.Contains(strings.TrimSuffix(w.head, "."), ".") {
				reason, hint := unknown(w)
				report(Warning, w, reason, hint)
			}
			continue
		}
		if w.text == "" {
			continue // not set
		}
		if w.key.serviceWide && w.route != "" {
			report(Error, w, fmt.Sprintf("`%s` holds for the whole service and cannot be set for one route; it is ignored", w.key.name),
				"write `"+w.head+w.key.name+"`")
			continue
		}
		if w.key.takes != unnamed && (w.name == "hosts" || w.name == "default_backend") {
			report(Warning, w, fmt.Sprintf("this is read as `%s` of the name `%s`: a route may not be called `%s`", w.key.name, w.name, w.key.name),
				"if a route is meant, give it another name")
		}
		canonical := w.key.canonical(w.name)
		at := [2]string{w.route, canonical}
		if first, twice := origins[at]; twice {
			held := set.Routes[w.route][canonical]
			switch {
			case first.prefix == w.prefix:
				report(Warning, w, fmt.Sprintf("header names are compared without case: `%s` says the same and holds", first.label), "remove one of the two")
			case held.Text != w.text:
				report(Warning, w, fmt.Sprintf("`%s` says `%s`, and the first prefix holds", first.label, shown(held.Text)), "remove one of the two")
			}
			continue
		}
		origins[at] = origin{w.prefix, w.label}
		route := set.Routes[w.route]
		if route == nil {
			route = map[string]Value{}
			set.Routes[w.route] = route
		}
		route[canonical] = Value{Label: w.label, Text: w.text}
	}

	readHRM(set, service, lbls)
	if n := len(set.Routes); n > maxRoutes {
		set.Broken = true
		kept := slices.Sorted(maps.Keys(set.Routes))
		for _, name := range kept[maxRoutes:] {
			delete(set.Routes, name)
		}
		set.Problems = append(set.Problems, Problem{
			Severity: Error, Service: service, Label: oneLine(all[0].label), Value: shown(all[0].text),
			Reason: fmt.Sprintf("the service has %d routes, and at most %d are read: all of them answer 503", n, maxRoutes),
			Hint:   "split the service, or put several hosts into one route",
		})
	}
	return set
}

// Lookup gives a key of a route ("" is the unnamed one). Service-wide keys are
// those of the unnamed route, whichever route is asked for.
func (s *Set) Lookup(route, key string) (Value, bool) {
	if k, name, known := splitKey(key); known {
		key = k.canonical(name)
		if k.serviceWide {
			route = ""
		}
	}
	v, ok := s.Routes[route][key]
	return v, ok
}

// ServiceCluster is the collection that the service asks for by name. It is
// readable before its collection, and with it defaults and required, is known.
func (s *Set) ServiceCluster() (Value, bool) { return s.Lookup("", "service_cluster") }

// Empty reports whether the labels ask for no route.
func (s *Set) Empty() bool {
	for name := range s.Routes {
		if s.publishes(name) {
			return false
		}
	}
	return true
}

// publishes reports whether a route of the set has any key but service-wide ones.
func (s *Set) publishes(route string) bool {
	for canonical := range s.Routes[route] {
		if k, _, known := splitKey(canonical); known && !k.serviceWide {
			return true
		}
	}
	return false
}

// takeApart finds the labels that are ours, sorted by prefix, then label.
func takeApart(prefixes []string, lbls map[string]string) []written {
	var all []written
	for label, text := range lbls {
		w := written{label: label, text: text}
		for i, p := range prefixes {
			p = strings.TrimSuffix(p, ".") + "."
			// The longest prefix that fits is meant: "com.docker" leaves com.docker.lb.… alone.
			if p != "." && utf8.ValidString(p) && len(p) > len(w.head) && strings.HasPrefix(label, p) {
				w.head, w.prefix = p, i
			}
		}
		if w.head != "" {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b written) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix), strings.Compare(a.label, b.label))
	})
	for i := range all {
		w := &all[i]
		// Names and problems become JSON and protobuf, which are UTF-8.
		w.label = strings.ToValidUTF8(w.label, "\uFFFD")
		w.route, w.key, w.name = split(w.label[len(w.head):])
	}
	return all
}

// split reads what stands after the prefix: "key", "key.Name", "route.key" or
// "route.key.Name". A route whose name is no valid one (dots, capitals) is kept
// as written: what it claims must not fall to a wider route.
func split(rest string) (route string, k row, name string) {
	if k, name, known := splitKey(rest); known {
		return "", k, name
	}
	first, after, dotted := strings.Cut(rest, ".")
	if !dotted {
		return "", row{}, ""
	}
	if k, name, known := splitKey(after); known {
		return cmp.Or(first, "."), k, name
	}
	i := strings.LastIndexByte(rest, '.')
	if k := keysByName[rest[i+1:]]; k.key != nil {
		return cmp.Or(rest[:i], "."), k, ""
	}
	return first, row{}, ""
}

// splitKey reads a key without prefix and route: "port", "match_header.X-Tenant".
func splitKey(text string) (k row, name string, known bool) {
	first, rest, dotted := strings.Cut(text, ".")
	k = keysByName[first]
	if k.key == nil || dotted && k.takes == unnamed {
		return row{}, "", false
	}
	return k, rest, true
}

// validRoute reports whether a name may be a route's: [a-z0-9]([a-z0-9-]*[a-z0-9])?
func validRoute(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(name)-1) {
			return false
		}
	}
	return name != ""
}

// unknown says what may be meant by a label that has no known key.
func unknown(w written) (reason, hint string) {
	rest := w.label[len(w.head):]
	first, after, dotted := strings.Cut(rest, ".")
	second, _, _ := strings.Cut(after, ".")
	hint = "the keys are listed in docs/labels.md"
	if look := strings.IndexFunc(rest, func(r rune) bool { return r > unicode.MaxASCII }); look >= 0 {
		r, _ := utf8.DecodeRuneInString(rest[look:])
		plain := strings.Map(func(r rune) rune {
			if r > unicode.MaxASCII {
				return '?'
			}
			return r
		}, rest[strings.LastIndexByte(rest, '.')+1:])
		if s := config.Nearest(plain, keyNames); s != "" {
			hint = "did you mean `" + s + "`?"
		}
		return fmt.Sprintf("`%s` is not a known key: the character %q (U+%04X) is in none, whatever it looks like", rest, r, r), hint
	}
	switch k := keysByName[first]; {
	case rest == "":
		return "nothing stands after the prefix", hint
	case dotted && k.key != nil:
		return fmt.Sprintf("`%s` takes no name, and `%s` is no key of a route called `%s`", first, after, first), "write `" + w.head + first + "`"
	case dotted:
		if s := config.Nearest(first, takingNames()); s != "" {
			return fmt.Sprintf("`%s` is not a known key", first), "did you mean `" + s + "." + after + "`?"
		}
		if s := config.Nearest(after, keyNames); s != "" {
			return fmt.Sprintf("`%s` is not a known key", after), "did you mean `" + s + "`?"
		}
		if s := config.Nearest(second, keyNames); s != "" {
			return fmt.Sprintf("`%s` is not a known key", after), "did you mean `" + s + "`?"
		}
		return fmt.Sprintf("`%s` is not a known key", after), hint
	}
	if s := config.Nearest(first, keyNames); s != "" {
		hint = "did you mean `" + s + "`?"
	}
	return fmt.Sprintf("`%s` is not a known key", first), hint
}

// takingNames lists the keys that take a name.
func takingNames() []string {
	var all []string
	for _, k := range keys {
		if k.takes != unnamed {
			all = append(all, k.name)
		}
	}
	return all
}

func bytesOf(all []written) (bytes int) {
	for _, w := range all {
		bytes += len(w.label) + len(w.text)
	}
	return bytes
}

// claims keeps, within the limit, the labels that say what a service claims and where.
func claims(all []written) []written {
	var kept []written
	bytes := 0
	for _, w := range all {
		if w.key.key == nil {
			continue
		}
		switch w.key.name {
		case "hosts", "default_backend", "context_root", "service_cluster":
			if bytes += len(w.label) + len(w.text); bytes > maxBytes {
				return kept
			}
			kept = append(kept, w)
		}
	}
	return kept
}

// shown is a value as problems show it: one line, not endless.
func shown(text string) string {
	const most = 200
	cut := text
	if len(cut) > most {
		cut = strings.ToValidUTF8(cut[:most], "") + "…"
	}
	return oneLine(cut)
}

// oneLine is a text as one line can show it.
func oneLine(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if !strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return text
	}
	quoted := fmt.Sprintf("%q", text)
	return quoted[1 : len(quoted)-1]
}
