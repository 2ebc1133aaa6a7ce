package translate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/labels"
)

// TestEveryProblemHasAWayOut: what costs something says what to write instead.
func TestEveryProblemHasAWayOut(t *testing.T) {
	all, err := cases.Load("cases")
	require.NoError(t, err)
	var without []string
	for _, c := range all {
		for _, p := range buildCase(t, c).Problems() {
			require.NotEmpty(t, p.Reason, c.Name)
			require.NotEmpty(t, p.Service, c.Name)
			if p.Severity != labels.Info && strings.TrimSpace(p.Hint) == "" {
				without = append(without, fmt.Sprintf("%s: %s %s: %s", c.Name, p.Severity, p.Label, p.Reason))
			}
		}
	}
	slices.Sort(without)
	require.Empty(t, without)
}
