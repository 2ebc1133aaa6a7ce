package interlock

import (
	"fmt"
	"strings"
)

// Names lists the options of a section.
func (s Section) Names() []string {
	var out []string
	for _, o := range s.options {
		out = append(out, o.name)
	}
	return out
}

// Reference is the table of options in docs/migrating-from-interlock.md.
func Reference() string {
	var b strings.Builder
	for _, s := range Sections {
		fmt.Fprintf(&b, "\n### %s\n\n| option | counts as not said | becomes |\n|---|---|---|\n", strings.ToUpper(s.Place[:1])+s.Place[1:])
		for _, o := range s.options {
			var standards []string
			for _, v := range o.standards {
				standards = append(standards, "`"+strings.ReplaceAll(v, "|", `\|`)+"`")
			}
			if o.like != nil {
				standards = append(standards, "UCP's own")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", o.name, strings.Join(standards, ", "), o.becomes())
		}
	}
	return b.String()
}

func (o option) becomes() string {
	switch {
	case o.to != "":
		var keys []string
		for key := range strings.SplitSeq(o.to, ", ") {
			keys = append(keys, "`"+key+"`")
		}
		return strings.Join(keys, " and ")
	case o.without != "":
		return "– " + o.without + "; " + o.instead
	}
	return "– a notice for what it says"
}
