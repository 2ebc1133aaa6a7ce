package explain

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Text writes the answer for people: what happens first, then why, then what
// does not.
func (a *Answer) Text(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s %s in collection %s\n\n", a.Request.Method, a.Request.URL, a.Collection)
	fmt.Fprintf(out, "  %s\n", a.headline())
	if a.Virtual != "" {
		fmt.Fprintf(out, "  virtual host %s", a.Virtual)
		if a.Route != "" {
			fmt.Fprintf(out, ", route %s", a.Route)
		}
		fmt.Fprintln(out)
	}
	if len(a.Shares) > 1 {
		for _, s := range a.Shares {
			fmt.Fprintf(out, "\n  %s, weight %d\n", s.Cluster, s.Weight)
			targets(out, s.Endpoints)
		}
	} else if a.Cluster != "" {
		fmt.Fprintf(out, "\n  %s\n", a.Cluster)
		targets(out, a.Endpoints)
	}
	if len(a.Because) > 0 {
		fmt.Fprint(out, "\nBecause\n")
		for _, b := range a.Because {
			fmt.Fprintf(out, "  - %s\n", b)
		}
	}
	if len(a.Lost) > 0 {
		fmt.Fprint(out, "\nNot taken\n")
		for _, l := range a.Lost {
			name := l.Route
			if name == "" {
				name = l.Service
			} else if l.Service != "" && l.Service != serviceOf(l.Route) {
				name += " (" + l.Service + ")"
			}
			fmt.Fprintf(out, "  - %s: %s\n", name, l.Reason)
		}
	}
	return out.Flush()
}

// headline is the answer in one line.
func (a *Answer) headline() string {
	reason := ""
	if a.Reason != "" {
		reason = " (" + a.Reason + ")"
	}
	switch {
	case a.Action == Redirect:
		return fmt.Sprintf("→ %d, on to %s", a.Status, a.Location)
	case a.Action == Forward && a.Status != 0:
		return fmt.Sprintf("✗ %d%s: meant for %s, which cannot take it", a.Status, reason, a.Service)
	case a.Action == Forward && len(a.Shares) > 1:
		var names []string
		for _, s := range a.Shares {
			names = append(names, s.Service)
		}
		return "→ " + strings.Join(names, " or ")
	case a.Action == Forward:
		return "→ " + a.Service
	case a.Action == Respond:
		return fmt.Sprintf("→ %d, answered by the proxy", a.Status)
	case a.Status == 0:
		return "✗ refused"
	}
	return fmt.Sprintf("✗ %d%s, answered by the proxy", a.Status, reason)
}

func targets(out io.Writer, list []Target) {
	if len(list) == 0 {
		fmt.Fprint(out, "    no running task\n")
	}
	for _, t := range list {
		fmt.Fprintf(out, "    %s", t.Address)
		if t.Node != "" {
			fmt.Fprintf(out, "  node %s", t.Node)
		}
		if t.Slot > 0 {
			fmt.Fprintf(out, "  slot %d", t.Slot)
		}
		if t.Priority > 0 {
			fmt.Fprint(out, "  only when no other is left")
		}
		fmt.Fprintln(out)
	}
}
