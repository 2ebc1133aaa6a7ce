package diff

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	if len(r.Collections) == 0 {
		b.WriteString("Nothing changes.\n")
	}
	for _, c := range r.Collections {
		c.text(&b)
	}
	if len(r.Breaks) > 0 {
		b.WriteString("Would break\n")
	}
	for _, x := range r.Breaks {
		where := x.Collection
		for _, s := range []string{place(x.Table, x.Host), x.Route} {
			if s != "" {
				where += " " + s
			}
		}
		fmt.Fprintf(&b, "  ✗ %s: %s\n", where, x.Reason)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c Collection) text(b *strings.Builder) {
	fmt.Fprintf(b, "Collection %s\n", c.Name)
	section := titled(b)
	for _, h := range c.Hosts.Added {
		section("hosts", "+ %s (%s)", place(h.Table, h.Host), strings.Join(h.Services, ", "))
	}
	for _, h := range c.Hosts.Removed {
		section("hosts", "- %s (%s)", place(h.Table, h.Host), strings.Join(h.Services, ", "))
	}
	for _, h := range c.Hosts.Changed {
		section("hosts", "~ %s: %s → %s", place(h.Table, h.Host), strings.Join(h.Old, ", "), strings.Join(h.New, ", "))
	}
	// The routes of hosts that come or go are said with the host.
	whole := map[string]bool{}
	for _, h := range slices.Concat(c.Hosts.Added, c.Hosts.Removed) {
		whole[place(h.Table, h.Host)] = true
	}
	for _, r := range c.Routes.Added {
		if whole[place(r.Table, r.Host)] {
			continue
		}
		section("routes", "+ %s %s: %s", place(r.Table, r.Host), r.Route, r.Does)
	}
	for _, r := range c.Routes.Removed {
		if whole[place(r.Table, r.Host)] {
			continue
		}
		section("routes", "- %s %s: %s", place(r.Table, r.Host), r.Route, r.Does)
	}
	for _, r := range c.Routes.Changed {
		section("routes", "~ %s %s", place(r.Table, r.Host), r.Route)
		fields(b, r.Changes)
	}
	for _, x := range c.Clusters {
		section("clusters", "~ %s", x.Name)
		fields(b, x.Changes)
	}
	for _, x := range c.Shared {
		section("shared by all routes", "~ %s", x.Name)
		fields(b, x.Changes)
	}
	for _, x := range c.Endpoints.Clusters {
		section(fmt.Sprintf("endpoints: %d → %d", c.Endpoints.Old, c.Endpoints.New), "~ %s: %d → %d", x.Cluster, x.Old, x.New)
	}
}

// titled writes lines under titles, each title once.
func titled(b *strings.Builder) func(title, format string, args ...any) {
	last := ""
	return func(title, format string, args ...any) {
		if title != last {
			fmt.Fprintf(b, "  %s\n", title)
			last = title
		}
		fmt.Fprintf(b, "    "+format+"\n", args...)
	}
}

func fields(b *strings.Builder, all []Field) {
	for _, f := range all {
		if f.Old == "" && f.New == "" {
			fmt.Fprintf(b, "        … %s\n", f.Field)
			continue
		}
		fmt.Fprintf(b, "        %s: %s → %s\n", f.Field, cmp.Or(f.Old, "none"), cmp.Or(f.New, "none"))
	}
}

// place is a host as people know it; of plain HTTP nothing is said.
func place(table, host string) string {
	if table == "" || table == "http" {
		return host
	}
	return table + ": " + host
}
