package overview

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/translate/labels"
)

// Text writes the overview for an operator: what is wrong first, then who was asked,
// what is served, who gets it, and the problems of services (all: information too).
func (o *Overview) Text(w io.Writer, all bool) error {
	out := bufio.NewWriter(w)
	if len(o.Wrong) == 0 {
		fmt.Fprintln(out, o.fine())
	} else {
		fmt.Fprintln(out, "WRONG")
		for _, s := range o.Wrong {
			fmt.Fprintf(out, "  ✗ %s\n", plain(s))
		}
	}
	section(out, "CONTROL PLANES", "API\tREPLICA\tVERSION\tUP\tREADY\tSOURCE\tLAST READ", func(row func(...any)) {
		for _, r := range o.Replicas {
			s := r.Status
			if s == nil {
				row(r.API, "does not answer", "", "", "", "", "")
				continue
			}
			read, ready := "never", "yes"
			if s.Source.LastRead != nil {
				read = ago(s.Now.Sub(*s.Source.LastRead)) + " ago"
			}
			if s.Source.Stale {
				read += ", STALE"
			}
			if !s.Ready {
				ready = "NO"
			}
			source := s.Source.Name
			if s.Source.Via != "" && s.Source.Via != source {
				source += ": " + s.Source.Via
			}
			row(r.API, s.Replica, s.Version, ago(s.Now.Sub(s.Started)), ready, source, read)
		}
	})
	section(out, "COLLECTIONS", "NAME\tPORTS\tSERVICES\tENDPOINTS\tGENERATION\tPROXIES\tERRORS\tWARNINGS", func(row func(...any)) {
		for _, c := range o.Collections {
			name, generation := c.Name, c.Generation
			if c.Default {
				name += " (default)"
			}
			switch {
			case !c.Agree:
				generation = "DIFFERENT"
			case generation == "":
				generation = "nothing yet"
			}
			for _, replica := range slices.Sorted(maps.Keys(c.Canaries)) {
				generation += ", tried with " + some(c.Canaries[replica].Proxies)
			}
			row(name, ports(c.Collection), c.Services, c.Endpoints, generation, proxies(c.Proxies), c.Problems.Error, c.Problems.Warning)
		}
	})
	section(out, "PROXIES", "NODE ID\tENVOY\tCONNECTED\tTO\tACKED\tSTATE", func(row func(...any)) {
		for _, p := range o.Proxies {
			row(p.NodeID, p.Version, o.since(p), strings.Join(p.Replicas, ", "), acked(p.Proxy), state(p))
		}
	})
	if len(o.Proxies) == 0 {
		fmt.Fprint(out, "\nPROXIES\n  no proxy is connected\n")
	}
	o.certificateText(out, all)
	o.problemText(out, all)
	for _, r := range o.Replicas {
		if r.Status != nil && r.Status.Source.Fallback != "" {
			fmt.Fprintf(out, "\n%s lists tasks instead of having them pushed: %s\n", plain(r.API), plain(r.Status.Source.Fallback))
		}
		if r.Status != nil && r.Status.Insecure {
			fmt.Fprintf(out, "\n%s serves proxies without TLS (xds.insecure): they are believed what their node ID says.\n", plain(r.API))
		}
	}
	return out.Flush()
}

// fine is the one line for when nothing is wrong.
func (o *Overview) fine() string {
	current := 0
	for _, p := range o.Proxies {
		if p.Current {
			current++
		}
	}
	asked := "1 control plane"
	if n := len(o.Replicas); n > 1 {
		asked = fmt.Sprintf("%d control planes that agree", n)
	}
	return fmt.Sprintf("Nothing is wrong: %s, %d of %d proxies have everything.", asked, current, len(o.Proxies))
}

// section writes a table with a title, or nothing if it has no rows.
func section(out io.Writer, title, head string, rows func(row func(...any))) {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	n := 0
	fmt.Fprintf(table, "%s\n", head)
	rows(func(cells ...any) {
		n++
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(table, "\t")
			}
			fmt.Fprint(table, plain(fmt.Sprint(c)))
		}
		fmt.Fprintln(table)
	})
	if n == 0 {
		return
	}
	table.Flush() // a strings.Builder takes everything
	fmt.Fprintf(out, "\n%s\n", title)
	for line := range strings.Lines(text.String()) {
		fmt.Fprintf(out, "  %s\n", strings.TrimRight(line, " \n"))
	}
}

func ports(c api.Collection) string {
	var out []string
	add := func(kind string, ports ...uint32) {
		for _, p := range ports {
			if p != 0 {
				out = append(out, fmt.Sprintf("%s%d", kind, p))
			}
		}
	}
	add("", c.HTTPPort, c.HTTPSPort)
	add("tcp:", c.TCPPorts...)
	add("udp:", c.UDPPorts...)
	return strings.Join(out, " ")
}

func proxies(n api.ProxyCounts) string {
	switch {
	case n.Connected == 0:
		return "NONE"
	case n.Rejecting > 0:
		return fmt.Sprintf("%d, %d REJECTING", n.Connected, n.Rejecting)
	case n.Current < n.Connected:
		return fmt.Sprintf("%d, %d current", n.Connected, n.Current)
	}
	return fmt.Sprint(n.Connected)
}

// acked says how many of the kinds that the proxy asked for it has acknowledged.
func acked(p api.Proxy) string {
	n := 0
	for _, k := range p.Kinds {
		if k.Current {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, len(p.Kinds))
}

func state(p Proxy) string {
	var out []string
	switch {
	case p.Rejecting():
		out = append(out, "REJECTING")
	case p.Current:
		out = append(out, "current")
	default:
		var behind []string
		for _, k := range p.Kinds {
			if !k.Current {
				behind = append(behind, k.Kind)
			}
		}
		out = append(out, strings.TrimSpace("updating "+strings.Join(behind, ", ")))
	}
	if p.Retired {
		out = append(out, "its collection is configured no more")
	}
	if p.Connections > 1 {
		out = append(out, fmt.Sprintf("%d connections: it has just moved, or several proxies share this node ID", p.Connections))
	}
	return strings.Join(out, "; ")
}

// since is for how long a proxy is connected, by the clock of its replica.
func (o *Overview) since(p Proxy) string {
	for _, r := range o.Replicas {
		if r.Status != nil && r.API == p.Replicas[0] {
			return ago(r.Status.Now.Sub(p.Connected))
		}
	}
	return p.Connected.Format(time.RFC3339)
}

// mostCertificates is how many are shown if not all are asked for: those that end first.
const mostCertificates = 10

func (o *Overview) certificateText(out io.Writer, all bool) {
	shown := o.Certificates
	if !all && len(shown) > mostCertificates {
		shown = shown[:mostCertificates]
	}
	section(out, "CERTIFICATES", "NAME\tSOURCE\tCOLLECTION\tHOSTS\tENDS\tSTATE", func(row func(...any)) {
		for _, c := range shown {
			end, state := "-", "served since the start"
			if c.NotAfter != nil {
				end = c.NotAfter.UTC().Format(time.DateOnly)
			}
			if c.Rotated != nil {
				state = "rotated " + c.Rotated.UTC().Format(time.DateTime)
			}
			switch {
			case c.Error != "":
				state = "REFUSED: " + c.Error
			case c.Kept != "":
				state = "KEPT: " + c.Kept
			}
			row(c.Name, c.Source, cmp.Or(c.Collection, "all"), some(c.Hosts), end, state)
		}
	})
	if n := len(o.Certificates) - len(shown); n > 0 {
		fmt.Fprintf(out, "  and %d that end later: --all shows them\n", n)
	}
}

func (o *Overview) problemText(out io.Writer, all bool) {
	info, title := 0, false
	for _, p := range o.Problems {
		if p.Severity == labels.Info && !all {
			info++
			continue
		}
		if !title {
			fmt.Fprint(out, "\nPROBLEMS\n")
			title = true
		}
		where := p.Service
		switch {
		case p.Service == "" && p.Collection != "":
			where = "collection " + p.Collection
		case p.Collection != "":
			where += " in " + p.Collection
		}
		fmt.Fprintf(out, "  %s  %s", p.Severity, plain(where))
		if p.Label != "" {
			fmt.Fprintf(out, "  %s", plain(p.Label))
			if p.Value != "" {
				fmt.Fprintf(out, " %q", p.Value)
			}
		}
		fmt.Fprintf(out, "\n      %s", plain(p.Reason))
		if p.Hint != "" {
			fmt.Fprintf(out, "; %s", plain(p.Hint))
		}
		if p.Winner != "" && p.Winner != p.Service {
			fmt.Fprintf(out, " (%s has it)", plain(p.Winner))
		}
		fmt.Fprintln(out)
	}
	if info > 0 {
		fmt.Fprintf(out, "\n%d more for information: --all shows them.\n", info)
	}
}

// plain keeps what others wrote (labels, node IDs, messages) from steering a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf) {
			return ' '
		}
		return r
	}, s)
}
