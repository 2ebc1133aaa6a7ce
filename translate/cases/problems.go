package cases

import (
	"fmt"
	"slices"
	"strings"
)

// Compare says how what was told of the case's services differs from what it says
// must be told, no more and no less; "" where it does not. Services of told have
// their full names.
func (c Case) Compare(told []Problem) string {
	left := slices.Clone(told)
	var b strings.Builder
	for _, want := range c.Problems {
		i := slices.IndexFunc(left, func(p Problem) bool { return c.is(want, p) })
		if i < 0 {
			fmt.Fprintf(&b, "was not told:\n%s", want)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, p := range left {
		fmt.Fprintf(&b, "was told, and the case does not say so:\n%s", p)
	}
	return b.String()
}

func (c Case) is(want, p Problem) bool {
	fits := func(want, got string) bool { return want == "" || want == got }
	return fits(want.Severity, p.Severity) && p.Service == c.Stack+"_"+want.Service &&
		fits(want.Label, p.Label) && fits(want.Value, p.Value) && strings.Contains(p.Reason, want.Reason) &&
		strings.Contains(p.Hint, want.Hint) && (want.Winner == "" || p.Winner == c.Stack+"_"+want.Winner)
}

// String is the problem as a case writes it.
func (p Problem) String() string {
	return fmt.Sprintf("    - {severity: %s, service: %s, label: %s, value: %q, reason: %q, hint: %q, winner: %q}\n",
		p.Severity, p.Service, p.Label, p.Value, p.Reason, p.Hint, p.Winner)
}
