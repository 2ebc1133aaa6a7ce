package labels

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/translate/cases"
)

const preface = "# Labels\n\n" +
	"<!-- Generated from translate/labels/keys*.go: go generate ./translate/labels -->\n\n" +
	"Every key of the label language. A service publishes itself with two labels:\n\n" +
	"```yaml\n" +
	"services:\n" +
	"  app:\n" +
	"    image: registry.example.com/app\n" +
	"    deploy:\n" +
	"      labels:\n" +
	"        com.docker.lb.hosts: app.example.com\n" +
	"        com.docker.lb.port: \"8080\"\n" +
	"```\n\n" +
	"    com.docker.lb.<key>            the service's route\n" +
	"    com.docker.lb.<route>.<key>    a further, named route of the same service\n" +
	"    lb.<key>, lb.<route>.<key>     the same, short prefix\n\n" +
	"A named route needs its own `hosts` (or `default_backend`) and inherits nothing from the unnamed one except service-wide keys. " +
	"Route names are `[a-z0-9]([a-z0-9-]*[a-z0-9])?`. An empty value is \"not set\". At most 64 routes and 64 KiB of labels a service.\n\n" +
	"The same keys, without prefix and route, stand in a collection's `defaults` and `required` in `waggle.yml`: " +
	"`required` overrides the label, the label overrides `defaults`, and those the language's own default.\n\n" +
	"Values: *bool* `true`, `false`, `1`, `0`, `yes`, `no`; *duration* `5s`, `500ms`, `1h30m`, a bare number is seconds; " +
	"*size* `512KiB`, `32m`, `1GB`; *rate* `100/s`, `600/m`, `100/s,burst=20`; *percent* `10` or `10%`; " +
	"*list* comma separated, blanks trimmed, empties dropped. No value may hold a line break or NUL.\n\n" +
	"Column **F**: what becomes of the route when the value is bad, or the key is not built yet. Nothing else suffers, and the service is told.\n\n" +
	"| F | effect |\n|---|---|\n" +
	"| M | the route is not served; what it claims answers 503 |\n" +
	"| G | the route answers 503; a guard never opens |\n" +
	"| C | the key's default holds |\n" +
	"| – | the key's own effect is lost |\n\n" +
	"**I**: a key of Docker Enterprise's Interlock 2. **S**: service-wide, an error in a named route. " +
	"*Not built yet*: known and checked; a value other than the default costs what F says.\n\n" +
	"Below each table are examples: the labels of a service, and what requests then come to. They are files of the test suite, " +
	"each of them a stack that `waggle lab -f` runs; what is shown is what a real Envoy answers. Services in them answer with their name.\n"

// Reference is docs/labels.md: every key, from the same table that reads them, with
// the examples that explain it.
func Reference(examples []cases.Case) string {
	var b strings.Builder
	b.WriteString(preface)
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		if s.intro != "" {
			b.WriteString(s.intro + "\n\n")
		}
		b.WriteString("| key | F | value | default | meaning |\n|---|---|---|---|---|\n")
		for _, k := range s.keys {
			name := "`" + k.name + "`"
			switch k.takes {
			case headerName, shapedName:
				name = "`" + k.name + ".<Name>`"
			case parameterName:
				name = "`" + k.name + ".<name>`"
			}
			if k.interlock {
				name += " I"
			}
			if k.serviceWide {
				name += " S"
			}
			class := string(k.class)
			if k.class == None {
				class = "–"
			}
			meaning := k.meaning
			if !k.value.built {
				meaning += " *Not built yet.*"
			}
			standard := k.standardText
			if standard == "" && k.standard != "" {
				standard = "`" + k.standard + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, class,
				cell(k.value.doc), cell(standard), cell(meaning))
		}
		s.examples(&b, examples)
	}
	b.WriteString("\n## Together\n\nWhat keys come to beside each other, and services beside others.\n")
	rules(&b, examples)
	return b.String()
}

// cell is a text inside a table.
func cell(text string) string { return cmp.Or(strings.ReplaceAll(text, "|", `\|`), " ") }
