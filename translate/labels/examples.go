package labels

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/translate/cases"
)

// Examples of the reference are the cases that the tests run: what is shown is what
// a real Envoy answers.

// examples writes those that explain a key of the section, in the order of its keys.
func (s section) examples(b *strings.Builder, all []cases.Case) {
	for _, k := range s.keys {
		for _, c := range all {
			if len(c.Keys) > 0 && c.Keys[0] == k.name {
				example(b, "`"+strings.Join(c.Keys, "`, `")+"`", c)
			}
		}
	}
}

// rules writes those that explain no key, but one of the sections that have examples.
func rules(b *strings.Builder, all []cases.Case) {
	for _, c := range all {
		room, name, _ := strings.Cut(c.Name, "/")
		if len(c.Keys) == 0 && !slices.Contains([]string{"interlock", "legacy", "diagnostics"}, room) {
			example(b, strings.ReplaceAll(name, "_", " "), c)
		}
	}
}

// example is one case: its sentence, the labels of its first service, and what is
// asked of that one. What other services of the file are for (bad values, mostly),
// its reader finds in the file.
func example(b *strings.Builder, title string, c cases.Case) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n", title, c.Shows)
	for _, key := range slices.Sorted(maps.Keys(c.Config)) {
		if c.Config[key] == false {
			continue // so it is anyway
		}
		raw, _ := yaml.Marshal(map[string]any{key: c.Config[key]}) // it came out of YAML
		fmt.Fprintf(b, "\nThe collection says `%s`.\n", strings.Join(strings.Fields(string(raw)), " "))
	}
	if text := yamlOf(c.Labels); text != "" {
		fmt.Fprintf(b, "\n```yaml\n%s```\n", text)
	}
	asked := slices.DeleteFunc(slices.Clone(c.Requests), func(r cases.Request) bool { return !concerns(c.Labels, r) })
	if len(asked) == 0 {
		asked = c.Requests
	}
	if len(asked) > 0 {
		b.WriteByte('\n')
	}
	for _, r := range asked {
		fmt.Fprintf(b, "- %s → %s\n", request(r), answered(r.Gives))
	}
	fmt.Fprintf(b, "\n<sub>[%s.yml](../translate/cases/%s.yml)</sub>\n", c.Name, c.Name)
}

func yamlOf(n yaml.Node) string {
	if n.IsZero() {
		return ""
	}
	raw, err := yaml.Marshal(&n)
	if err != nil {
		return ""
	}
	return string(raw)
}

// concerns reports whether the labels name the host of the request.
func concerns(labels yaml.Node, r cases.Request) bool {
	u, err := url.Parse(r.URL())
	if err != nil {
		return false
	}
	text := yamlOf(labels)
	host := u.Hostname()
	_, parent, _ := strings.Cut(host, ".")
	return strings.Contains(text, host) || strings.Contains(text, "*."+parent)
}

func request(r cases.Request) string {
	s := verbatim(r.Ask)
	if len(r.Headers) > 0 {
		s += " with " + headers(r.Headers)
	}
	switch r.SNI {
	case "":
	case "none":
		s += " asking for no server name"
	default:
		s += " asking for server " + verbatim(r.SNI)
	}
	if r.ClientCert != "" {
		s += " with client certificate " + verbatim(r.ClientCert)
	}
	if r.TLS != "" {
		s += " with no newer TLS than " + r.TLS
	}
	if r.Body != "" {
		s += fmt.Sprintf(" with a body of %d bytes", len(r.Body))
	}
	if r.Times > 1 {
		s += fmt.Sprintf(", %d times", r.Times)
	}
	return s
}

func answered(a cases.Answer) string {
	if a.Refused {
		return "refused in the handshake"
	}
	parts := []string{fmt.Sprint(a.Status)}
	if a.Service != "" {
		parts[0] += " from " + verbatim(a.Service)
	}
	if a.Reason != "" {
		parts[0] += " (" + verbatim(a.Reason) + ")"
	}
	if a.Location != "" {
		parts = append(parts, "to "+verbatim(a.Location))
	}
	if len(a.Certificate) > 0 {
		parts = append(parts, "with a certificate for "+verbatim(strings.Join(a.Certificate, ", ")))
	}
	if len(a.Headers) > 0 {
		parts = append(parts, "with "+headers(a.Headers))
	}
	if a.Body != "" {
		parts = append(parts, "saying "+verbatim(strings.TrimSpace(a.Body)))
	}
	var seen []string
	for _, f := range []struct{ what, value string }{
		{"method", a.Seen.Method}, {"host", a.Seen.Host}, {"path", a.Seen.Path}, {"query", a.Seen.Query},
	} {
		if f.value != "" {
			seen = append(seen, f.what+" "+verbatim(f.value))
		}
	}
	switch {
	case a.Seen.TLS == "none":
		seen = append(seen, "no TLS")
	case a.Seen.TLS != "":
		seen = append(seen, "TLS "+a.Seen.TLS)
	}
	if a.Seen.ServerName != "" && a.Seen.ServerName != "none" {
		seen = append(seen, "server name "+verbatim(a.Seen.ServerName))
	}
	if a.Seen.Protocol != "" {
		seen = append(seen, a.Seen.Protocol)
	}
	if len(a.Seen.Headers) > 0 {
		seen = append(seen, headers(a.Seen.Headers))
	}
	if len(seen) > 0 {
		parts = append(parts, "the task sees "+strings.Join(seen, ", "))
	}
	return strings.Join(parts, ", ")
}

// headers are shown by name; one that must be absent says so.
func headers(h map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		switch value := h[name]; value {
		case "":
			all = append(all, "no "+verbatim(http.CanonicalHeaderKey(name)))
		default:
			all = append(all, verbatim(http.CanonicalHeaderKey(name)+": "+value))
		}
	}
	return strings.Join(all, ", ")
}

// verbatim is a text as it was written, on one line.
func verbatim(text string) string {
	const most = 120
	text = strings.ReplaceAll(text, "\n", " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	fence := "`"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	if len(fence) > 1 {
		return fence + " " + text + " " + fence
	}
	return fence + cmp.Or(text, " ") + fence
}
